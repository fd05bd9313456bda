"""How many of a point's words an answer has, as evidence beside the model's.

A small model follows a paraphrase and loses sight of what a long answer plainly says; counted words
find the one and never the other. Each errs where the other does not, so both together rank verdicts
better than either (docs/grading.md has the figures).
"""

from __future__ import annotations

import re

from llmarking.domain import Question

# A word, or a single sign of a script that is written without spaces.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+")


def words(text: str) -> frozenset[str]:
    """The distinct words of a text, whatever their case."""
    return frozenset(_WORD.findall(text.casefold()))


def share(wanted: frozenset[str], said: frozenset[str]) -> float | None:
    """The part of `wanted` that is in `said`; None where nothing is wanted."""
    return len(wanted & said) / len(wanted) if wanted else None


class PointWords:
    """The words of a question's points."""

    def __init__(self, question: Question) -> None:
        self._points = [[words(case) for case in point.cases] for point in question.points]

    def shares(self, answer: str, *, foreign: bool = False) -> list[float | None]:
        """For each point the share of its words that an answer has, of its best case.

        None where that says nothing: the point has no words, only signs, or the answer is in
        another language.
        """
        if foreign:
            return [None] * len(self._points)
        said = words(answer)
        return [
            max((x for case in point if (x := share(case, said)) is not None), default=None)
            for point in self._points
        ]
