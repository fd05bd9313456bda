"""How many of a point's words an answer has, as evidence beside the model's.

A small model follows a paraphrase and loses sight of what a long answer plainly says; counted words
find the one and never the other. Each errs where the other does not, so both together rank verdicts
better than either (docs/grading.md has the figures).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from llmarking.domain import Question

# A word, or a single sign of a script that is written without spaces.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+")


def words(text: str) -> frozenset[str]:
    """The distinct words of a text, whatever their case."""
    return frozenset(_WORD.findall(text.casefold()))


class PointWords:
    """The words of a question's points, each with what finding it in an answer tells.

    A word that the question or another point has too tells less of this one: it counts one part
    in as many as have it.
    """

    def __init__(self, question: Question) -> None:
        cases = [[words(case) for case in point.cases] for point in question.points]
        # In how many points a word occurs, and once more if it is in the question.
        known = Counter(word for point in cases for word in frozenset().union(*point))
        known.update(words(question.text))
        self._weights = [[{word: 1 / known[word] for word in case} for case in point]
                         for point in cases]  # fmt: skip

    def shares(self, answer: str) -> list[float | None]:
        """For each point the weighed share of its words that an answer has, of its best case.

        None where a point has no words, only signs.
        """
        said = words(answer)
        return [_best(point, said) for point in self._weights]


def _best(cases: Sequence[dict[str, float]], said: frozenset[str]) -> float | None:
    found = [
        sum(weight for word, weight in case.items() if word in said) / sum(case.values())
        for case in cases
        if case
    ]
    return max(found, default=None)
