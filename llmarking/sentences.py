"""Sentences for people that can be said in another language where they are shown.

The English one stands where it is raised, with a name; chinese.toml has a Chinese one of that name,
into which the same values are put. What has none is said in English.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

_LONGEST = 100  # characters of a name that came from elsewhere
_DEEPEST = 4  # sentences in sentences


class Sentence(str):
    """An English sentence that knows its name and what was filled into it.

    Attributes:
        code: its name; every text of one name is the same but for the values.
        values: what was filled in, by place; may be sentences themselves.
    """

    __slots__ = ("code", "values")
    code: str
    values: Mapping[str, object]

    def __new__(cls, text: str, code: str, values: Mapping[str, object]) -> Sentence:
        made = super().__new__(cls, text)
        made.code, made.values = code, dict(values)
        return made

    def __getnewargs__(self) -> tuple[str, str, Mapping[str, object]]:  # type: ignore[override]
        return str(self), self.code, self.values


def sentence(code: str, english: str, /, **values: object) -> Sentence:
    """A sentence by its name and its English text, whose `{places}` are filled in."""
    return Sentence(english.format(**values), code, values)


@lru_cache
def chinese_texts() -> Mapping[str, str]:
    """The Chinese sentences by their names."""
    path = Path(__file__).parent / "chinese.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def chinese(text: str) -> str:
    """A sentence in Chinese, those inside of it too; any other text as it is."""
    if not isinstance(text, Sentence) or text.code not in chinese_texts():
        return str(text)
    values = {
        name: chinese(value) if isinstance(value, str) else value
        for name, value in text.values.items()
    }
    try:
        return chinese_texts()[text.code].format(**values)
    except (KeyError, ValueError):  # values of a server that is older or newer than this side
        return str(text)


def of_pydantic(fault: Mapping[str, Any]) -> Sentence:
    """What pydantic says is wrong, named by its type of error: one of `errors()`."""
    text = str(fault["msg"]).removeprefix("Value error, ")
    values = {name: value for name, value in fault.get("ctx", {}).items() if name != "error"}
    return Sentence(text, f"value_{fault['type']}", values)


def counted(count: float, one: str, several: str) -> str:
    """A number with its word: `1 answer`, `1,200 answers`, `2.5 marks`."""
    shown = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{shown} {one if count == 1 else several}"


def word(state: str) -> Sentence:
    """A word for the state something is in, which names itself."""
    return Sentence(state, f"state_{state}", {})


def as_json(said: Sentence) -> dict[str, Any]:
    """Name and values as plain JSON values."""
    return {"code": said.code, "values": {name: _plain(v) for name, v in said.values.items()}}


def from_json(text: str, data: Mapping[str, Any], depth: int = 0) -> str:
    """The sentence again; the bare text where `data` does not name one."""
    code, values = data.get("code"), data.get("values")
    if not isinstance(code, str) or not isinstance(values, dict) or depth > _DEEPEST:
        return text
    read: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            value = from_json(str(value.get("text", "")), value, depth + 1)
        read[str(name)] = value
    return Sentence(text, code[:_LONGEST], read)


def _plain(value: object) -> object:
    if isinstance(value, Sentence):
        return {"text": str(value), **as_json(value)}
    return value if isinstance(value, int | float | str) else str(value)
