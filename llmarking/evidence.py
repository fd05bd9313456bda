"""Finds a quotation in the answer it claims to come from. A quote that is not there is no evidence."""

from __future__ import annotations

import re
import unicodedata

MIN_LETTERS = 2


def locate(quote: str, answer: str) -> str | None:
    """The words of `answer` that `quote` repeats, as they stand there, or None.

    Runs of white space count as one space; the case of the first letter, the quotation marks around the
    quote and dots for an omission at its ends are forgiven. Everything else must be the same.
    """
    wanted = _trim(quote)
    if sum(c.isalnum() for c in wanted) < MIN_LETTERS:
        return None
    folded, origin = _fold(answer)
    needle, _ = _fold(wanted)
    at = folded.find(needle)
    if at < 0 and needle:
        at = folded.find(needle[0].swapcase() + needle[1:])
    if at < 0:
        return None
    return answer[origin[at] : origin[at + len(needle) - 1] + 1]


def _trim(quote: str) -> str:
    return quote.strip().strip("\"'“”‘’«»「」").strip().strip("….").strip()


def _fold(text: str) -> tuple[str, list[int]]:
    """White space collapsed and characters composed; for each character, where it stood."""
    out: list[str] = []
    origin: list[int] = []
    for match in re.finditer(r"\s+|\S", text):
        piece = " " if match.group().isspace() else unicodedata.normalize("NFC", match.group())
        for character in piece:
            out.append(character)
            origin.append(match.start())
    return "".join(out), origin
