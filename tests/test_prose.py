"""Verdicts read from free text: tolerant in form, strict in counting, never raising."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from llmarking.domain import Outcome
from llmarking.grading import prose

D, M, DOUBLED, U = Outcome.DECIDED, Outcome.MISSING, Outcome.DUPLICATED, Outcome.UNREADABLE


@pytest.mark.parametrize(
    ("line", "held", "reason"),
    [
        ("<Point1:2> *True* (the student says so)", True, "the student says so"),
        ("<Point1:2> *False* (it is missing)", False, "it is missing"),
        ("<Point1:2> *True*", True, None),
        ("<Point1:mark> *True* (a placeholder for the mark)", True, "a placeholder for the mark"),
        ("<Point1:2.5>*true*(glued)", True, "glued"),
        ("<Point1> False", False, None),
        ("<Point 1 : 2 >  **FALSE**  -  because", False, "because"),
        ("**<Point1:2>**: **True** (bold)", True, "bold"),
        ("- `<Point1:2>` — *False*: a dash", False, "a dash"),
        ("1. Point1: True", True, None),
        ("Point1:2 True (no brackets)", True, "no brackets"),
        ("<point1:2>\n*True*\n(on the next line)", True, "on the next line"),
        ("<Point1:2> *True* (brackets (nested) inside)", True, "brackets (nested) inside"),
        ("<Point1:2> *True* (left open", True, "left open"),
        ("<Point1:2> *True* (closed twice)<Point1:2>", True, "closed twice)<Point1:2>"),
        ("<Point1：2> *True* （全角）", True, "（全角）"),
        ("<Point1:2> *False* (True would need the word stack)", False,
         "True would need the word stack"),
    ],
)  # fmt: skip
def test_a_verdict_is_read_in_whatever_dress(line: str, held: bool, reason: str | None) -> None:
    reading = prose.parse(f"Here is my marking:\n{line}\nThank you.", [1])
    found = reading.verdicts[1]
    assert (found.outcome, found.held) == (D, held)
    assert found.reason == reason
    assert (reading.surplus, reading.failures) == ((), 0)


@pytest.mark.parametrize(
    ("reply", "outcomes", "surplus"),
    [
        ("", [M, M], ()),
        ("I can't mark this.", [M, M], ()),
        ("<Point1:2> *True*", [D, M], ()),
        ("<Point2:1> *True*\n<Point1:2> *False*", [D, D], ()),
        ("<Point1:2> *True*\n<Point1:2> *True*\n<Point2:1> *True*", [DOUBLED, D], ()),
        ("<Point1:2> *True*\n<Point2:1> *False*\n<Point1:2> *False*", [DOUBLED, D], ()),
        ("<Point1:2> *True*\n<Point2:1> *True*\n<Point3:1> *True*", [D, D], (3,)),
        ("<Point0:2> *True*\n<Point9:1> *True*", [M, M], (0, 9)),
        ("<Point1:2> *Maybe*\n<Point2:1> partly true", [U, U], ()),
        ("<Point1:2> *True|False* (reason)\n<Point2:1> *True* / *False*", [U, U], ()),
        ("<Point1:2> True or False?\n<Point2:1> *Not True*", [U, U], ()),
        ("<Point1:2> Truely\n<Point2:1> falsehood", [U, U], ()),
        ("<Point1:2>\n<Point2:1> *True*", [U, D], ()),
        ("<PointK:mark> *True* (the form, repeated)", [M, M], ()),
        ("<Point12:1> *True*\n<Point21:1> *True*", [M, M], (12, 21)),
        ("<Point11111:1> *True*", [M, M], ()),
        ("Endpoint1: True\nViewPoint2: False", [M, M], ()),
        ("<Point1:2> *False* (unlike <Point2:1> *True*)", [D, U], ()),
        ("True\nFalse", [M, M], ()),
    ],
)
def test_what_is_missing_doubled_surplus_or_unreadable_has_its_own_name(
    reply: str, outcomes: list[Outcome], surplus: tuple[int, ...]
) -> None:
    reading = prose.parse(reply, [1, 2])
    assert [reading.verdicts[i].outcome for i in (1, 2)] == outcomes
    assert reading.surplus == surplus
    assert reading.failures == sum(o is not D for o in outcomes) + len(surplus)
    for verdict in reading.verdicts.values():
        assert (verdict.held is None) == (verdict.outcome is not D)


@given(st.text(max_size=300), st.lists(st.integers(1, 12), unique=True, max_size=6))
def test_no_reply_makes_it_raise_or_answer_for_other_points(reply: str, ids: list[int]) -> None:
    assert list(prose.parse(reply, ids).verdicts) == ids


PIECES = st.sampled_from(
    ["<Point1:2>", "<Point2:mark>", "Point3", "*True*", "False", "True|False", " ", "\n", "(", ")",
     ":", "*", "because"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=20))
def test_a_verdict_is_never_made_of_nothing(pieces: list[str]) -> None:
    reading = prose.parse("".join(pieces), [1, 2, 3])
    decided = [v for v in reading.verdicts.values() if v.outcome is D]
    assert len(decided) <= sum(piece in ("*True*", "False", "True|False") for piece in pieces)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_the_order_of_the_lines_does_not_matter(held: list[bool], shuffler: object) -> None:
    lines = [f"<Point{i}:1> *{h}* (r{i})" for i, h in enumerate(held, start=1)]
    shuffler.shuffle(lines)  # type: ignore[attr-defined]
    reading = prose.parse("\n".join(lines), range(1, len(held) + 1))
    assert [reading.verdicts[i].held for i in range(1, len(held) + 1)] == held
    assert [reading.verdicts[i].reason for i in range(1, len(held) + 1)] == [
        f"r{i}" for i in range(1, len(held) + 1)
    ]


@pytest.mark.parametrize("piece", ["", "<", "<Point1:", "Point1", "<Point1:2> *True*", "Point1:\n"])
@pytest.mark.parametrize("filler", [" ", "\n", "*", "<", "Point1"])
def test_a_hostile_reply_does_not_take_quadratic_time(piece: str, filler: str) -> None:
    """With backtracking some of these would take minutes; the test hangs if it comes back."""
    prose.parse(piece + filler * (100_000 // len(filler)), [1])
