"""Cuts an answer into passages short enough to point at: its sentences, and the clauses in them."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

MIN_LETTERS = 2
# Each is looked at by itself, so a long answer is cut into longer ones and not into more.
MOST_PASSAGES = 24

_SENTENCE_END = re.compile(
    r"(?<=[.!?;])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bcf\.)(?<!\bvs\.)[\"'”’)\]]*\s+"
    r"|(?<=[。！？；])|\n+"
)
_CLAUSE_END = re.compile(r"(?<=[,:])\s+|(?<=[，：、])|→|⇒|->|=>|(?<=\s)[–—-]\s")
_EDGES = "\"'“”‘’«»「」…·•*.,;:!?。，、；：！？"
# A dash right before what follows may be the sign of a number.
_BEFORE = re.compile(rf"(?:[\s{_EDGES}]|[–—-](?=\s))*")
_AFTER = _EDGES + "–—-" + string.whitespace

Span = tuple[int, int]


def passages(answer: str) -> list[list[str]]:
    """Passages of an answer, verbatim: its clauses, then its whole sentences of several clauses.

    Returns:
        Lists of passages, the shorter kind first; no passage is in both.
    """
    sentences = list(_cut(answer, _SENTENCE_END, (0, len(answer))))
    clauses = [list(_cut(answer, _CLAUSE_END, sentence)) for sentence in sentences]
    short = [clause for parts in clauses for clause in parts]
    if not short and any(c.isalnum() for c in answer):
        short = [_trim(answer, 0, len(answer))]
    long = [s for s, parts in zip(sentences, clauses, strict=True) if len(parts) > 1]
    if len(short) > MOST_PASSAGES:
        short, long = sentences, []
    if len(short) > MOST_PASSAGES:
        size = -(-len(short) // MOST_PASSAGES)
        groups = [short[at : at + size] for at in range(0, len(short), size)]
        short = [(group[0][0], group[-1][1]) for group in groups]
    return [[answer[start:end] for start, end in kind] for kind in (short, long)]


def _cut(text: str, ends: re.Pattern[str], within: Span) -> Iterator[Span]:
    """The pieces between `ends`, without the marks around them; those that say nothing left out."""
    start, stop = within
    borders = [(m.start(), m.end()) for m in ends.finditer(text, start, stop)]
    for end, following in [*borders, (stop, stop)]:
        if sum(c.isalnum() for c in text[start:end]) >= MIN_LETTERS:
            yield _trim(text, start, end)
        start = following


def _trim(text: str, start: int, end: int) -> Span:
    before = _BEFORE.match(text, start, end)
    assert before  # it matches nothing, if need be
    return before.end(), start + len(text[start:end].rstrip(_AFTER))
