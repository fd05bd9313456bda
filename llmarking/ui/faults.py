"""What is wrong, in the visitor's language: where in which file, and what to do about it."""

from __future__ import annotations

from llmarking.errors import DataError, LLMarkingError
from llmarking.sentences import Sentence, chinese
from llmarking.ui.texts import Language, say


def put(language: Language, text: str) -> str:
    """A sentence of the package in this language; any other text as it is."""
    return chinese(text) if language == "zh" else str(text)


def explained(language: Language, error: LLMarkingError) -> str:
    """What an error says, with its place in a file where it has one."""
    if language == "en":
        return str(error)
    said = put(language, error.message)
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
