"""Where in a JSON text a value stands, for messages about what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def place(text: str, path: Sequence[str | int]) -> tuple[int, int]:
    """Line and column, from 1, of the value at a path of keys and indices.

    Where the path leads to nothing, as for a key that is missing, it is the place of the last value
    on the way. The text has to be JSON.
    """
    at = _skip(text, 0)
    for step in path:
        found = _item(text, at, step) if isinstance(step, int) else _member(text, at, step)
        if found is None:
            break
        at = found
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def steps(path: str) -> list[str | int]:
    """The steps of a path that is written like `questions[3].answers[0].id`."""
    parts = re.findall(r"\[(\d+)\]|([^.\[\]]+)", path)
    return [int(index) if index else key for index, key in parts]


def written(path: Sequence[str | int]) -> str:
    """A path as `steps` reads it."""
    parts = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(parts).removeprefix(".")


def _item(text: str, at: int, index: int) -> int | None:
    """Where an element of the array that begins here begins."""
    if text[at] != "[":
        return None
    at = _skip(text, at + 1)
    for _ in range(index):
        if text[at] == "]":
            return None
        at = _after(text, at)
        if text[at] != ",":
            return None
        at = _skip(text, at + 1)
    return None if text[at] == "]" else at


def _member(text: str, at: int, key: str) -> int | None:
    """Where the value of a key of the object that begins here begins; the last one counts."""
    if text[at] != "{":
        return None
    found = None
    at = _skip(text, at + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)  # the colon
        if name == key:
            found = at
        at = _after(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def _after(text: str, at: int) -> int:
    """The first sign behind the value that begins here."""
    return _skip(text, _DECODER.raw_decode(text, at)[1])


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
