"""The markup of reference answers: what goes in comes out, and every fault says where it is."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from llmarking import rubric
from llmarking.domain import Point
from llmarking.errors import RubricError

TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
    .map(str.strip)
    # What looks like a tag is one, so it can't be the text of a point.
    .filter(lambda text: text and not rubric._TAG_LIKE.search(text + " 1:") and text[-1] != "<")
)
MARKS = st.decimals("0.01", "1000", places=2).map(float)


@st.composite
def points(draw: st.DrawFn) -> tuple[Point, ...]:
    count = draw(st.integers(1, 6))
    return tuple(
        Point(i, draw(MARKS), tuple(draw(st.lists(TEXTS, min_size=1, max_size=3))))
        for i in range(1, count + 1)
    )


@given(points(), st.sampled_from([" ", "\n", "", " and then ", '", "', "。"]))
def test_points_come_back_from_the_markup_they_were_rendered_to(
    given_points: tuple[Point, ...], separator: str
) -> None:
    parsed = rubric.parse(rubric.render(given_points, separator))
    assert parsed.points == given_points


@given(points())
def test_the_points_add_up_to_the_full_mark_without_rounding_errors(
    given_points: tuple[Point, ...],
) -> None:
    exact = float(sum(Decimal(str(p.mark)) for p in given_points))
    parsed = rubric.parse(rubric.render(given_points), full_mark=exact)
    assert parsed.full_mark == exact


@given(points())
def test_the_prose_is_the_markup_without_its_tags(given_points: tuple[Point, ...]) -> None:
    markup = rubric.render(given_points)
    prose = rubric.parse(markup).prose
    assert prose == " ".join(case for p in given_points for case in p.cases)
    assert rubric.strip(markup) == prose


PIECES = st.sampled_from(["<Point1:1>", "<Point2:1>", "<Point", "a", " ", "<", "1", ":"])


@given(st.text(max_size=200) | st.lists(PIECES).map("".join))
def test_any_text_either_parses_into_points_in_order_or_is_refused(text: str) -> None:
    try:
        ids = [p.id for p in rubric.parse(text).points]
    except RubricError:
        ids = []
    assert ids == list(range(1, len(ids) + 1))


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<Point1:2>a<Point1:2>", [(1, 2.0, ("a",))]),
        ("<Point1:0.5>a<Point1:0.5>", [(1, 0.5, ("a",))]),
        ("<Point1:.5>a<Point1:0.5>", [(1, 0.5, ("a",))]),
        ("<Point1:1,5>a<Point1:1.5>", [(1, 1.5, ("a",))]),
        ("< Point 1 : 2 >a<point1:2.0>", [(1, 2.0, ("a",))]),
        ("<POINT1:2>\n a\n b <POINT1:2>", [(1, 2.0, ("a\n b",))]),
        ('<Point1:1>he said "it\'s “so”"<Point1:1>', [(1, 1.0, ('he said "it\'s “so”"',))]),
        ("<Point2:1>b<Point2:1><Point1:1>a<Point1:1>", [(1, 1.0, ("a",)), (2, 1.0, ("b",))]),
        ("<Point1:1>x < y <= z, f<T>(x)<Point1:1>", [(1, 1.0, ("x < y <= z, f<T>(x)",))]),
        ("<Point1:1>vector<Point> p<Point1:1>", [(1, 1.0, ("vector<Point> p",))]),
        ("<Point1:1><pointer.h><Point1:1>", [(1, 1.0, ("<pointer.h>",))]),
        ("<Point1_case1:2>a<Point1_case1:2> or <Point1_case2:2>b<Point1_case2:2>",
         [(1, 2.0, ("a", "b"))]),
        ("<Point1_case2:2>b<Point1_case2:2><Point1_case1:2>a<Point1_case1:2>",
         [(1, 2.0, ("a", "b"))]),
        ("< Point1 _ case 7 : 2 >only<Point1_case7:2>", [(1, 2.0, ("only",))]),
    ],
)  # fmt: skip
def test_tags_are_read_whatever_their_spacing_case_and_order(
    markup: str, expected: list[tuple[int, float, tuple[str, ...]]]
) -> None:
    assert [(p.id, p.mark, p.cases) for p in rubric.parse(markup).points] == expected


@pytest.mark.parametrize(
    ("markup", "point", "column", "words"),
    [
        ("", None, 1, "has no points"),
        ("no tags at all", None, 1, "has no points"),
        ("<Point1:2>a", "Point1", 1, "is not closed"),
        ("ab <Point1:2>a<Point2:2>", "Point1", 4, "Point2 comes first, at column 15"),
        ("<Point1:2>a<Point2:1>b<Point1:2><Point2:1>", "Point1", 1, "Point2 comes first"),
        ("<Point1:2>a<Point1:2> <Point2:1>b", "Point2", 23, "is not closed"),
        ("<Point1:2>a<Point1:3>", "Point1", 12, "opens with mark 2 and closes with 3"),
        ("<Point1:2> <Point1:2>", "Point1", 1, "is empty"),
        ("<Point1:1>a<Point1:1><Point1:1>b<Point1:1>", "Point1", 22, "marked twice"),
        ("<Point1:1>a<Point1:1><Point3:1>b<Point3:1>", "Point2", 22, "missing before Point3"),
        ("<Point2:1>a<Point2:1>", "Point1", 1, "missing before Point2"),
        ("<Point0:1>a<Point0:1>", "Point0", 1, "ids start at 1"),
        ("<Point1:0>a<Point1:0>", "Point1", 1, "marks are above 0"),
        ("<Point1>a<Point1>", "<Point1>", 1, "is no point tag"),
        ("<Point:2>a<Point:2>", "<Point:2>", 1, "is no point tag"),
        ("<Point1:two>a<Point1:2>", "<Point1:two>", 1, "is no point tag"),
        ("<Point1:-1>a<Point1:-1>", "<Point1:-1>", 1, "is no point tag"),
        ("<Point1:2>a</Point1:2>", "</Point1:2>", 12, "is no point tag"),
        ("<Point1:2>a<Point1:2", "<Point1:2", 12, "is no point tag"),
        ("<Point1_case1:1>a<Point1_case1:1><Point1:1>b<Point1:1>", "Point1", 34,
         "with and without _case"),
        ("<Point1:1>b<Point1:1><Point1_case1:1>a<Point1_case1:1>", "Point1_case1", 22,
         "with and without _case"),
        ("<Point1_case1:1>a<Point1_case1:1><Point1_case1:1>b<Point1_case1:1>", "Point1_case1", 34,
         "marked twice"),
        ("<Point1_case1:1>a<Point1_case1:1><Point1_case2:2>b<Point1_case2:2>", "Point1_case2", 34,
         "must be worth the same"),
        ("<Point1_case1:1>a<Point1_case2:1>", "Point1_case1", 1, "Point1_case2 comes first"),
    ],
)  # fmt: skip
def test_each_fault_names_its_point_and_its_column(
    markup: str, point: str | None, column: int, words: str
) -> None:
    with pytest.raises(RubricError, match=re.escape(words)) as caught:
        rubric.parse(markup)
    assert (caught.value.point, caught.value.column) == (point, column)


@pytest.mark.parametrize("full_mark", [3, 4.0, 2.99])
def test_points_that_do_not_add_up_are_refused_with_the_sum(full_mark: float) -> None:
    markup = "<Point1:2>a<Point1:2><Point2:1.5>b<Point2:1.5>"
    with pytest.raises(RubricError, match=r"2 \+ 1\.5 = 3\.5, but the full mark is"):
        rubric.parse(markup, full_mark=full_mark)
    assert rubric.parse(markup, full_mark=3.5).full_mark == 3.5


def test_an_alternative_counts_once_in_the_full_mark() -> None:
    markup = "<Point1_case1:2>a<Point1_case1:2><Point1_case2:2>b<Point1_case2:2>"
    parsed = rubric.parse(markup, full_mark=2)
    assert parsed.points[0].text == "a — or: b"


@pytest.mark.parametrize("piece", ["<", "<Point", "<Point1", "<Point1:", " ", "<Point1_case"])
def test_a_hostile_text_does_not_take_quadratic_time(piece: str) -> None:
    """With backtracking each of these would take minutes; the test hangs if it comes back."""
    text = piece + " " * 200_000
    rubric.strip(text)
    with pytest.raises(RubricError):
        rubric.parse(text)
