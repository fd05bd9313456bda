"""The panel of one answer: evidence is marked, and nothing that people wrote becomes markup."""

from __future__ import annotations

import re
from html import unescape
from typing import Any, Literal

import pytest
from hypothesis import given, strategies as st

from llmarking.domain import Flag
from llmarking.protocol.bodies import PointResult
from llmarking.protocol.courses import AnswerDetail, MarkRow, WireContest
from llmarking.ui.panel import highlighted, panel, percent

EVIL = '<img src=x onerror="alert(1)">&lt;\'"`${7*7}{{value}}'


def detail(**changes: Any) -> AnswerDetail:
    """An answer to a question of two points; the first is held."""
    fields: dict[str, Any] = {
        "id": "a1",
        "position": 0,
        "student": "s-17",
        "name": "",
        "question": "Q1",
        "text": "A hash table keeps pairs.",
        "mark": 2.0,
        "full_mark": 3.0,
        "marks_at_risk": 0.2,
        "confidence": 0.8,
        "needs_review": True,
        "flags": [Flag.UNSURE],
        "state": "proposed",
        "contested": False,
        "same_as": 0,
        "mark_id": 7,
        "source": None,
        "verdicts": {"1": True, "2": False},
        "question_text": "What is it?",
        "question_version": 1,
        "reference": "",
        "points": [
            PointResult(
                id=1,
                mark=2,
                text="stores pairs",
                held=True,
                probability=0.9,
                evidence="keeps pairs",
            ),
            PointResult(id=2, mark=1, text="is fast", held=False, probability=0.4),
        ],
        "model": None,
        "history": [],
        "contests": [],
    }
    return AnswerDetail(**(fields | changes))


def mark_row(id: int, kind: Literal["model", "human"], points: list[PointResult]) -> MarkRow:
    """A row of an answer's history."""
    return MarkRow(
        id=id,
        kind=kind,
        current=False,
        undone=False,
        question_version=1,
        mark=2,
        full_mark=3,
        points=points,
        flags=[],
        created_at="2026-01-01T00:00:00Z",
    )


def plain(html: str) -> str:
    """The text of some HTML, without the small numbers behind evidence."""
    return unescape(re.sub(r"<[^>]*>", "", re.sub(r"<sup>[\d,]+</sup>", "", html)))


def test_evidence_is_marked_with_the_number_of_its_point() -> None:
    html = highlighted("It keeps pairs under keys.", {1: "keeps pairs", 2: None, 3: "not there"})
    marked = '<mark data-points="1">keeps pairs<sup>1</sup></mark>'
    assert html == f"It {marked} under keys."


def test_evidence_of_several_points_may_overlap() -> None:
    html = highlighted("abcdef", {1: "abcd", 2: "cdef"})
    assert re.findall(r'<mark data-points="([\d ]+)">([a-f]+)', html) == [
        ("1", "ab"),
        ("1 2", "cd"),
        ("2", "ef"),
    ]


@given(
    st.text(max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4)
)
def test_highlighting_changes_no_character(text: str, cuts: list[tuple[int, int]]) -> None:
    quotes = {n: text[a:b] for n, (a, b) in enumerate(cuts, start=1)}
    assert plain(highlighted(text, quotes)) == text
    assert "<" not in re.sub(r"</?(?:mark|sup)[^>]*>", "", highlighted(text, quotes))


def test_nothing_that_people_wrote_becomes_markup() -> None:
    contest = WireContest(
        id="c1", answer="a1", point=1, text=EVIL, state="open", created_at="2026-01-01T00:00:00Z"
    )
    point = PointResult(
        id=1, mark=1, text=EVIL, held=True, probability=0.5, evidence=EVIL, reason=EVIL
    )
    html = panel(
        detail(
            text=f"so {EVIL}.",
            student=EVIL,
            name=EVIL,
            question=EVIL,
            question_text=EVIL,
            points=[point],
            contests=[contest],
        ),
        "en",
    )
    assert "<img" not in html
    assert html.count("&lt;img") >= 7
    assert not re.search(r"onerror=\"", html)


@pytest.mark.parametrize(("language", "words"), [("en", "proposed"), ("zh", "建议")])
def test_the_panel_tells_mark_state_flags_and_how_many_are_left(language: Any, words: str) -> None:
    html = panel(detail(), language, left=12)
    assert words in html
    assert "<output>2</output> / 3" in html
    assert "12" in html
    assert 'data-answer="a1" data-mark="7"' in html
    assert re.findall(r'aria-pressed="(\w+)"', html) == ["true", "false"]
    assert "lm-identical" not in html


def test_a_bulk_decision_is_offered_for_identical_answers_only() -> None:
    assert "lm-identical" in panel(detail(same_as=3), "en")


def test_a_teachers_mark_keeps_what_the_model_said_beside_it() -> None:
    verdicts = [
        PointResult(id=1, mark=2, text="stores pairs", held=False),
        PointResult(id=2, mark=1, text="is fast", held=False),
    ]
    model = mark_row(6, "model", detail().points)
    html = panel(detail(points=verdicts, model=model, state="overridden", mark=0.0), "en")
    assert "90 %" in html
    assert "<mark" in html
    assert re.findall(r'aria-pressed="(\w+)"', html) == ["false", "false"]


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({1: True, 2: False}, "confirmed; the model differs since"),
        ({1: False, 2: True}, "unlike the model"),
    ],
)
def test_a_mark_that_was_confirmed_is_not_said_to_differ_by_the_teachers_doing(
    first: dict[int, bool], said: str
) -> None:
    def read(held: dict[int, bool]) -> list[PointResult]:
        return [point.model_copy(update={"held": held[point.id]}) for point in detail().points]

    mine = {1: True, 2: False}
    history = [
        mark_row(5, "model", read({1: False, 2: False})),
        mark_row(6, "model", read(first)),
        mark_row(7, "human", read(mine)),
        mark_row(8, "model", read({1: True, 2: True})),
    ]
    html = panel(detail(points=read(mine), state="overridden", history=history), "en")
    assert said in plain(html)


def test_an_empty_answer_says_so() -> None:
    assert "Nothing was written." in panel(detail(text="  \n"), "en")


def test_certainty_is_never_claimed() -> None:
    assert [percent(p) for p in (0.0, 0.004, 0.5, 0.999, 1.0)] == [
        "1 %",
        "1 %",
        "50 %",
        "99 %",
        "99 %",
    ]
