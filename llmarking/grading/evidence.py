"""Finds a quotation in the answer it claims to come from. What is not there is no evidence."""

from __future__ import annotations

import unicodedata

MIN_LETTERS = 2
# More accents than a letter carries; composing an endless pile of them takes quadratic time.
MAX_MARKS = 8


def locate(quote: str, answer: str) -> str | None:
    """The words of `answer` that `quote` repeats, as they stand there, or None.

    Runs of white space count as one space; the case of the first letter, the quotation marks around
    the quote and dots for an omission at its ends are forgiven. Everything else must be the same.
    """
    wanted = _trim(quote)
    if sum(c.isalnum() for c in wanted) < MIN_LETTERS:
        return None
    folded, spans = _fold(answer)
    needle, _ = _fold(wanted)
    at = folded.find(needle)
    if at < 0 and needle:
        at = folded.find(needle[0].swapcase() + needle[1:])
    if at < 0:
        return None
    return answer[spans[at][0] : spans[at + len(needle) - 1][1]]


def _trim(quote: str) -> str:
    return quote.strip(" \t\r\n\"'“”‘’«»「」….")


def _fold(text: str) -> tuple[str, list[tuple[int, int]]]:
    """White space collapsed and characters composed; for each character, where it stood."""
    out: list[str] = []
    spans: list[tuple[int, int]] = []
    start = 0
    while start < len(text):
        end = start + 1
        if text[start].isspace():
            while end < len(text) and text[end].isspace():
                end += 1
            piece = " "
        else:
            while end < min(len(text), start + MAX_MARKS) and unicodedata.combining(text[end]):
                end += 1
            piece = unicodedata.normalize("NFC", text[start:end])
        for character in piece:
            out.append(character)
            spans.append((start, end))
        start = end
    return "".join(out), spans
