"""Passages are the student's words letter by letter, and few however long the answer is."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from llmarking.grading.passages import MOST_PASSAGES, passages


@pytest.mark.parametrize(
    ("answer", "clauses", "sentences"),
    [
        ("It is LIFO.", ["It is LIFO"], []),
        ("It is LIFO. Push takes O(1)!", ["It is LIFO", "Push takes O(1)!"], []),
        (
            "Weight wins, so she falls; drag grows.",
            ["Weight wins", "so she falls", "drag grows"],
            ["Weight wins, so she falls"],
        ),
        ("Lower ψ outside → water out", ["Lower ψ outside", "water out"], None),
        ("Ids, e.g. a name, grow by 3.5 %", ["Ids", "e.g. a name", "grow by 3.5 %"], None),
        ("He said “it is\nLIFO.” Then he left", ["He said “it is", "LIFO", "Then he left"], []),
        ("路面储热，夜里放；楼密挡风。", ["路面储热", "夜里放", "楼密挡风"], ["路面储热，夜里放"]),
        ("1. heat\n2. - light", ["1. heat", "2. - light"], None),
        # What says next to nothing by itself is not lost.
        ("The result: 8", ["The result: 8"], []),
        ("B, because heat rises. So it goes up.", ["B, because heat rises", "So it goes up"], []),
        ("是，因为水流出", ["是，因为水流出"], []),
        ("It holds, for x. y", ["It holds", "for x. y"], ["It holds, for x. y"]),
        # Signs that change what it says stay.
        (".5 mol, !found", [".5 mol", "!found"], None),
        ("The complexity is n!", ["The complexity is n!"], []),
        ("ions of 2-, say", ["ions of 2-", "say"], None),
        ("It falls to -15 degrees: -15", ["It falls to -15 degrees", "-15"], None),
        ("5", ["5"], []),
        (" (B).", ["(B)"], []),
        ("热。", ["热"], []),
        ("?! …", [], []),
        ("", [], []),
    ],
)
def test_an_answer_is_cut_into_clauses_and_the_sentences_that_have_several(
    answer: str, clauses: list[str], sentences: list[str] | None
) -> None:
    found = passages(answer)
    assert found[0] == clauses
    if sentences is not None:
        assert found[1] == sentences


@given(st.text('ab，。 .,;:!?\n"”→-1', max_size=200))
def test_every_passage_stands_in_the_answer_and_says_something(answer: str) -> None:
    clauses, sentences = passages(answer)
    for passage in (*clauses, *sentences):
        assert passage in answer
        assert any(c.isalnum() for c in passage)
        assert passage == passage.strip()
    assert bool(clauses) == any(c.isalnum() for c in answer)


@pytest.mark.parametrize("unit", ["heat, light. ", "word. ", "地热，阳光。", "line\n"])
def test_a_long_answer_is_cut_into_longer_passages_and_not_into_more(unit: str) -> None:
    clauses, sentences = passages(unit * 500)
    assert 1 < len(clauses) <= MOST_PASSAGES
    assert len(sentences) <= MOST_PASSAGES
    text = "".join(clauses)
    assert len(text) > 0.9 * len((unit * 500).strip())


@pytest.mark.parametrize("flood", [" ", "\n", ".", "- ", ".)", ",", "→", "a. ", "a"])
def test_a_flood_is_cut_too(flood: str) -> None:
    clauses, _ = passages("It is hot. " + flood * 20_000 + "It is bright.")
    assert clauses[0].startswith("It is hot")
    assert clauses[-1].endswith("It is bright")
