"""Numbers about a class, by arithmetic."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from llmarking.marks.decisions import State
from llmarking.marks.summaries import (
    Marked,
    agreement,
    difficulty,
    histogram,
    reading,
    unsettled,
)


def marked(**given: Any) -> Marked:
    fields: dict[str, Any] = {"code": "Q1", "mark": 1, "full_mark": 2, "state": State.PROPOSED}
    return Marked(**(fields | given))


@pytest.mark.parametrize(
    ("mark", "full", "place"),
    [(0, 5, 0), (0.49, 5, 0), (0.5, 5, 1), (3, 10, 3), (0.3, 1, 3), (4.99, 5, 9), (5, 5, 9)],
)
def test_histogram_puts_a_mark_into_its_bin(mark: float, full: float, place: int) -> None:
    assert histogram([marked(mark=mark, full_mark=full)]) == [int(i == place) for i in range(10)]


def test_histogram_counts_every_answer_once() -> None:
    marks = [marked(mark=m, full_mark=7) for m in range(8)]
    assert sum(histogram(marks)) == 8
    assert histogram([]) == [0] * 10


def test_difficulty_by_question_and_point() -> None:
    rows = [
        marked(code="B", mark=3, full_mark=3, held={1: True, 2: True}),
        marked(code="A", mark=0, full_mark=1, held={1: False}),
        marked(
            code="B",
            mark=1,
            full_mark=3,
            state=State.OVERRIDDEN,
            held={1: True, 2: False},
            model={1: True, 2: True},
        ),
    ]
    b, a = difficulty(rows)
    assert (b.code, b.answers, b.mean) == ("B", 2, pytest.approx(2 / 3))
    assert [(p.id, p.held, p.disagreed) for p in b.points] == [(1, 1.0, 0.0), (2, 0.5, 1.0)]
    assert (a.code, a.mean, a.points[0].held, a.points[0].disagreed) == ("A", 0, 0, None)


def test_a_verdict_nobody_could_read_is_not_held() -> None:
    [question] = difficulty([marked(held={1: None})])
    assert question.points[0].held == 0


def test_agreement_counts_only_what_a_teacher_decided() -> None:
    rows = [
        marked(held={1: True}, model={1: True}),
        marked(state=State.CONFIRMED, held={1: True, 2: False}, model={1: True, 2: False}),
        marked(state=State.OVERRIDDEN, held={1: False, 2: False}, model={1: True}),
    ]
    found = agreement(rows)
    assert (found.verdicts, found.agree) == (3, 2)
    assert found.kappa == pytest.approx(0.4)


@pytest.mark.parametrize(
    "rows", [[], [marked(state=State.CONFIRMED, held={1: True}, model={1: True})]]
)
def test_kappa_is_not_defined_without_two_kinds(rows: list[Marked]) -> None:
    assert agreement(rows).kappa is None


def test_kappa_is_that_of_scikit_learn() -> None:
    draw = random.Random(7)
    theirs = [draw.random() < 0.6 for _ in range(300)]
    ours = [t if draw.random() < 0.7 else draw.choice([True, False, None]) for t in theirs]
    rows = [
        marked(state=State.OVERRIDDEN, held={1: t}, model={1: o})
        for t, o in zip(theirs, ours, strict=True)
    ]
    expected = cohen_kappa_score(theirs, [2 if o is None else int(o) for o in ours])
    assert agreement(rows).kappa == pytest.approx(expected)


def test_what_is_left_to_read() -> None:
    sure, unsure = marked(confidence=0.97), marked(confidence=0.7, flags=["unsure"])
    flagged = marked(confidence=0.99, flags=["manipulation"])
    settled = marked(confidence=0.6, state=State.CONFIRMED)
    other = marked(confidence=0.8)
    left = reading([sure, unsure, flagged, settled, other])
    assert [left(bar) for bar in (0.6, 0.75, 0.8, 0.9, 0.98)] == [1, 2, 2, 3, 4]


def test_without_probabilities_a_mark_speaks_for_itself() -> None:
    assert unsettled(marked(needs_review=True), 0.5)
    assert not unsettled(marked(), 1.0)
