"""Counted words: what they are worth by themselves, and what they change in a grade."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, strategies as st

from llmarking.domain import Question
from llmarking.engines.scripted import ScriptedEngine
from llmarking.grading.grader import GradeOptions, Grader
from llmarking.marks.calibration import Calibration, Calibrations
from llmarking.marks.overlap import PointWords, words
from llmarking.rubric import parse

QUESTION = Question(
    code="Q",
    text="What is a stack?",
    reference="",
    full_mark=2.0,
    points=parse("A stack <Point1:1>takes the last element first<Point1:1> and "
                 "<Point2:1>holds the return addresses of calls<Point2:1>.").points,
)  # fmt: skip


def test_words_fold_case_and_take_chinese_signs_one_by_one() -> None:
    assert words("Hash-Tables, 2x O(n)!") == {"hash", "tables", "2x", "o", "n"}
    assert words("哈希表 STRASSE") == {"哈", "希", "表", "strasse"}


def test_a_share_is_that_of_the_distinct_words_of_a_point() -> None:
    """Point 1 has five words, point 2 six; 'the' is in both."""
    assert PointWords(QUESTION).shares("The last, the LAST!") == [2 / 5, 1 / 6]


def test_the_best_case_of_a_point_counts() -> None:
    rubric = "<Point1_case1:1>first in<Point1_case1:1> or <Point1_case2:1>a queue<Point1_case2:1>"
    question = replace(QUESTION, points=parse(rubric).points)
    assert PointWords(question).shares("queue") == [0.5]


def test_a_point_without_words_has_no_share() -> None:
    question = replace(QUESTION, points=parse("<Point1:1>≤<Point1:1>").points)
    assert PointWords(question).shares("≤") == [None]


@given(st.text(), st.text())
def test_shares_lie_between_none_and_all_and_more_text_never_lowers_them(
    text: str, more: str
) -> None:
    made = PointWords(QUESTION)
    before, after = made.shares(text), made.shares(f"{text} {more}")
    for one, other in zip(before, after, strict=True):
        assert one is not None
        assert other is not None
        assert 0 <= one <= other <= 1


class Known(Calibrations):
    """One calibration for everything."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration

    def find(self, model: str, adapter: str | None, prompt: str) -> Calibration:
        return self.calibration


async def probabilities(text: str, **numbers: float) -> list[float | None]:
    calibration = Calibration(model="scripted", prompt="", **numbers)
    grader = Grader(ScriptedEngine(), Known(calibration))
    graded = await grader.grade(QUESTION, text, GradeOptions())
    return [verdict.probability for verdict in graded.grade.verdicts]


async def test_words_raise_the_point_that_they_are_of_and_lower_the_other() -> None:
    text = "It takes the last element first."
    plain = await probabilities(text)
    weighed = await probabilities(text, overlap=2.0, usual=0.5)
    assert weighed[0] > plain[0]  # type: ignore[operator]
    assert weighed[1] < plain[1]  # type: ignore[operator]


async def test_words_say_nothing_about_an_answer_in_another_language() -> None:
    text = "后进先出的数据结构，可以保存函数调用的返回地址。"
    assert await probabilities(text, overlap=2.0, usual=0.5) == await probabilities(text)
