"""What shows a point is the passage that would earn it by itself, and nothing where none would."""

from __future__ import annotations

from collections.abc import Sequence

from llmarking.domain import Point, Verdict
from llmarking.grading import evidence

POINTS = [Point(1, 1, ("heat",)), Point(2, 1, ("light",)), Point(3, 1, ("both",))]


class Marker:
    """Gives each point the probability that a table has for a text, and remembers the texts."""

    def __init__(self, table: dict[str, tuple[float, float, float]]) -> None:
        self._table = table
        self.seen: list[str] = []

    def verdicts(self, text: str) -> list[Verdict]:
        row = self._table.get(text, (0.1, 0.1, 0.1))
        return [Verdict(p, held=x >= 0.5, probability=x) for p, x in zip(POINTS, row, strict=True)]

    async def __call__(self, text: str) -> Sequence[Verdict]:
        self.seen.append(text)
        return self.verdicts(text)


async def test_each_point_gets_the_passage_that_shows_it_best() -> None:
    answer = "It is hot. It is bright. The room is green."
    marker = Marker(
        {
            answer: (0.9, 0.9, 0.2),
            "It is hot": (0.6, 0.1, 0.4),
            "It is bright": (0.55, 0.8, 0.4),
            "The room is green": (0.2, 0.1, 0.45),
        }
    )
    found = await evidence.find(answer, marker.verdicts(answer), marker)
    assert found == ["It is hot", "It is bright", None]
    assert marker.seen == ["It is hot", "It is bright", "The room is green"]


async def test_a_sentence_shows_what_no_clause_of_it_does() -> None:
    answer = "It is hot, and so it glows. The end."
    whole = "It is hot, and so it glows"
    marker = Marker({answer: (0.9, 0.9, 0.1), whole: (0.9, 0.8, 0.1), "It is hot": (0.7, 0.1, 0.1)})
    found = await evidence.find(answer, marker.verdicts(answer), marker)
    assert found == ["It is hot", whole, None]


async def test_a_point_that_only_the_whole_answer_earns_has_no_evidence() -> None:
    answer = "It is hot. It is bright."
    marker = Marker({answer: (0.9, 0.1, 0.1)})
    assert await evidence.find(answer, marker.verdicts(answer), marker) == [None] * 3


async def test_an_answer_of_one_passage_is_not_marked_again() -> None:
    marker = Marker({"It is hot!": (0.9, 0.1, 0.1)})
    found = await evidence.find("It is hot!", marker.verdicts("It is hot!"), marker)
    assert found == ["It is hot!", None, None]
    assert marker.seen == []


async def test_where_nothing_is_held_nothing_is_looked_for() -> None:
    marker = Marker({})
    answer = "It is hot. It is bright, too."
    assert await evidence.find(answer, marker.verdicts(answer), marker) == [None] * 3
    assert marker.seen == []
