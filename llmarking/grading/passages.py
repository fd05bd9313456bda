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
_EDGES = "\"'“”‘’«»「」…·•*.,;:?。，、；：！？"
# Not so what may belong to what follows: the point of .5, a dash as a sign, the ! of a program.
_BEFORE = re.compile(rf"(?:[\s{_EDGES.replace('.', '')}]|\.(?!\d)|!(?!\w)|[–—-](?=\s))*")
_AFTER = _EDGES + string.whitespace

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
    """The pieces between `ends`, without the marks around them.

    One that says next to nothing stays with the next, or the last with the one before it: "The
    result: 8" is one piece.
    """
    start, stop = within
    borders = [(m.start(), m.end()) for m in ends.finditer(text, start, stop)]
    pieces: list[Span] = []
    letters, seen = 0, start
    for end, following in [*borders, (stop, stop)]:
        letters += sum(c.isalnum() for c in text[seen:end])
        seen = following
        if letters >= MIN_LETTERS:
            pieces.append((start, end))
            letters, start = 0, following
    if pieces and letters:
        pieces[-1] = (pieces[-1][0], stop)
    for piece in pieces:
        yield _trim(text, *piece)


def _trim(text: str, start: int, end: int) -> Span:
    before = _BEFORE.match(text, start, end)
    assert before  # it matches nothing, if need be
    kept = text[start:end].rstrip(_AFTER)
    while kept.endswith(("–", "—", "-")) and kept[:-1] != kept[:-1].rstrip():
        kept = kept[:-1].rstrip(_AFTER)
    return before.end(), start + len(kept)
