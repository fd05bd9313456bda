"""Which mark stands, and what a decision or a new rubric makes of verdicts."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, strategies as st

from llmarking import rubric
from llmarking.domain import Flag, GradedExample, Question, Verdict
from llmarking.errors import InputError
from llmarking.marks.decisions import (
    Entry,
    Kind,
    Revision,
    State,
    Touch,
    carried_flags,
    decided,
    standing,
    state,
)


def question(markup: str, **fields: Any) -> Question:
    parsed = rubric.parse(markup)
    return Question(
        **(
            {
                "code": "Q1",
                "text": "What is a hash table?",
                "full_mark": parsed.full_mark,
                "reference": parsed.prose,
                "points": parsed.points,
            }
            | fields
        )
    )


HASH = question("<Point1:2>keys and values<Point1:2> <Point2:1>constant time<Point2:1>")


def verdicts(of: Question, *held: bool | None, **fields: Any) -> tuple[Verdict, ...]:
    return tuple(Verdict(p, h, **fields) for p, h in zip(of.points, held, strict=True))


# What stands


@pytest.mark.parametrize(
    ("log", "stands"),
    [
        ([], None),
        ([Entry(1, Kind.MODEL)], 1),
        ([Entry(1, Kind.MODEL), Entry(2, Kind.MODEL)], 2),
        ([Entry(1, Kind.HUMAN), Entry(2, Kind.MODEL)], 1),
        ([Entry(1, Kind.MODEL), Entry(2, Kind.HUMAN), Entry(3, Kind.HUMAN)], 3),
        ([Entry(1, Kind.MODEL), Entry(2, Kind.HUMAN), Entry(3, Kind.UNDO, 2)], 1),
        ([Entry(1, Kind.HUMAN), Entry(2, Kind.HUMAN), Entry(3, Kind.UNDO, 2)], 1),
        ([Entry(1, Kind.HUMAN), Entry(2, Kind.UNDO, 1)], None),
        ([Entry(1, Kind.MODEL), Entry(2, Kind.TRIAL)], 1),
        ([Entry(1, Kind.TRIAL)], None),
    ],
)
def test_what_stands(log: list[Entry], stands: int | None) -> None:
    assert standing(log) == stands
    random.Random(1).shuffle(log)
    assert standing(log) == stands


@given(st.lists(st.sampled_from(["model", "human", "undo", "trial"]), max_size=20))
def test_a_human_mark_stands_until_it_is_taken_back(steps: list[str]) -> None:
    """Against a plain simulation with a stack of human marks and the model's last one."""
    log: list[Entry] = []
    human: list[int] = []
    model: int | None = None
    for number, step in enumerate(steps):
        if step == "undo":
            if human:
                log.append(Entry(number, Kind.UNDO, human.pop()))
        else:
            log.append(Entry(number, Kind(step)))
            if step == "human":
                human.append(number)
            elif step == "model":
                model = number
        assert standing(log) == (human[-1] if human else model)


# Decisions


def test_a_decision_needs_a_verdict_for_every_point() -> None:
    with pytest.raises(InputError, match=r"for the points 1; .* 1, 2"):
        decided(HASH, {1: True})
    with pytest.raises(InputError, match="the question has 1, 2"):
        decided(HASH, {1: True, 2: True, 3: True})


def test_a_decision_keeps_the_words_of_the_model_only_where_it_agrees() -> None:
    model = verdicts(HASH, True, True, probability=0.9, raw=2.0, evidence="words", reason="why")
    first, second = decided(HASH, {1: True, 2: False}, model)
    assert (first.held, first.evidence, first.reason) == (True, "words", "why")
    assert (second.held, second.evidence, second.reason) == (False, None, None)
    assert first.probability is None, "a teacher's verdict is no probability"


@pytest.mark.parametrize(
    ("human", "model", "expected"),
    [
        (None, (True, True), State.PROPOSED),
        ((True, False), (True, False), State.CONFIRMED),
        ((True, False), (True, True), State.OVERRIDDEN),
        ((True, False), (True, None), State.OVERRIDDEN),
        ((True, False), None, State.OVERRIDDEN),
    ],
)
def test_states(
    human: tuple[bool, ...] | None, model: tuple[bool | None, ...] | None, expected: State
) -> None:
    def by_point(held: tuple[bool | None, ...] | None) -> dict[int, bool | None] | None:
        return None if held is None else dict(enumerate(held, start=1))

    assert state(by_point(human), by_point(model)) is expected


# A new rubric


@pytest.mark.parametrize(
    ("markup", "touch", "carried"),
    [
        (
            "<Point1:2>keys and values<Point1:2> <Point2:1>constant time<Point2:1>",
            Touch.NOTHING,
            {1: 1, 2: 2},
        ),
        (
            "Some prose. <Point1:3>keys and values<Point1:3> <Point2:1>constant time<Point2:1>",
            Touch.SUM,
            {1: 1, 2: 2},
        ),
        (
            "<Point1:1>constant time<Point1:1> <Point2:2>keys and values<Point2:2>",
            Touch.SUM,
            {1: 2, 2: 1},
        ),
        ("<Point1:1>constant time<Point1:1>", Touch.SUM, {1: 2}),
        (
            "<Point1:2>keys with values<Point1:2> <Point2:1>constant time<Point2:1>",
            Touch.READ,
            {2: 2},
        ),
        (
            "<Point1:2>keys and values<Point1:2> <Point2:1>keys and values<Point2:1>",
            Touch.READ,
            {1: 1},
        ),
        (
            """<Point1_case1:2>keys and values<Point1_case1:2><Point1_case2:2>map<Point1_case2:2>
            <Point2:1>constant time<Point2:1>""",
            Touch.READ,
            {2: 2},
        ),
    ],
)
def test_what_a_new_version_touches(markup: str, touch: Touch, carried: dict[int, int]) -> None:
    revision = Revision.between(HASH, question(markup))
    assert (revision.touch, dict(revision.carried)) == (touch, carried)


def test_another_question_touches_everything() -> None:
    other = question(
        "<Point1:2>keys and values<Point1:2> <Point2:1>constant time<Point2:1>", text="Why?"
    )
    assert Revision.between(HASH, other).touch is Touch.READ


def test_examples_count_only_where_the_model_saw_them() -> None:
    shown = question(
        "<Point1:2>keys and values<Point1:2> <Point2:1>constant time<Point2:1>",
        examples=(GradedExample("A map.", {1: True, 2: False}),),
    )
    assert Revision.between(HASH, shown).touch is Touch.NOTHING
    assert Revision.between(HASH, shown, shots=1).touch is Touch.READ


def test_verdicts_under_a_new_version() -> None:
    new = question("<Point1:1>constant time<Point1:1> <Point2:2>buckets<Point2:2>")
    revision = Revision.between(HASH, new)
    before = verdicts(HASH, False, True, probability=0.8)
    read = verdicts(new, False, True, probability=0.7)
    found = revision.verdicts(before, read)
    assert [(v.point, v.held, v.probability) for v in found] == [
        (new.points[0], True, 0.8),
        (new.points[1], True, 0.7),
    ]
    with pytest.raises(KeyError):
        revision.verdicts(before)


def test_flags_follow_the_verdicts() -> None:
    sure = verdicts(HASH, True, False, evidence="words")
    unsure = verdicts(HASH, True, False, needs_review=True)
    flags = (Flag.MANIPULATION, Flag.UNSURE, Flag.NO_EVIDENCE)
    assert carried_flags(flags, sure, explained=True) == (Flag.MANIPULATION,)
    assert carried_flags(flags, unsure, explained=True) == (
        Flag.MANIPULATION,
        Flag.NO_EVIDENCE,
        Flag.UNSURE,
    )
    assert carried_flags((), unsure, explained=False) == (Flag.UNSURE,)
