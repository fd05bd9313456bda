"""What is wrong, in the visitor's language: file, line and column first, then what to do about it.

The English sentences stand where faults are raised; faults.toml has a Chinese one for each of their
names. What has none is said in English.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from llmarking.errors import DataError, LLMarkingError, RequestRefused
from llmarking.sentences import Sentence
from llmarking.ui.texts import Language, say

CHINESE: Mapping[str, str] = tomllib.loads(
    (Path(__file__).parent / "faults.toml").read_text(encoding="utf-8")
)


def put(language: Language, text: str) -> str:
    """A sentence of the package in this language; any other text as it is."""
    if language == "en" or not isinstance(text, Sentence) or text.code not in CHINESE:
        return str(text)
    values = {
        name: put(language, value) if isinstance(value, str) else value
        for name, value in text.values.items()
    }
    try:
        return CHINESE[text.code].format(**values)
    except (KeyError, ValueError):  # values of a server that is older or newer than this page
        return str(text)


def explained(language: Language, error: LLMarkingError) -> str:
    """What an error says, with its place in a file where it has one."""
    if language == "en":
        return str(error)
    said = put(language, error.message)
    if isinstance(error, RequestRefused):
        return said
    if not isinstance(error, DataError):
        return said
    where = [
        *([error.file] if error.file else []),
        *([say(language, "fault_line", line=error.line)] if error.line is not None else []),
        *([_column(language, error.column)] if error.column is not None else []),
    ]
    return say(language, "fault", where=" ".join(where), why=said) if where else said


def _column(language: Language, column: str) -> str:
    if isinstance(column, Sentence):  # of a column without a title
        return put(language, column)
    key = "fault_place" if column.isdecimal() else "fault_column"
    return say(language, key, column=column)
