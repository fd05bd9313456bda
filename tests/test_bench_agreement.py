"""Graded examples that a question of a benchmark lends, where it has none of its own."""

from __future__ import annotations

from bench.bench_agreement import with_lent
from llmarking.datasets import finding as datasets


def test_lent_examples_are_not_asked_about_and_are_the_same_every_time() -> None:
    course = datasets.load("data/training/part_e1.json")
    assert not any(question.examples for question in course.questions)
    for shots in (1, 3):
        for group, again in zip(with_lent(course, shots), with_lent(course, shots), strict=True):
            shown = {example.answer for example in group.question.examples}
            assert len(shown) == shots
            assert shown.isdisjoint(answer.text for answer in group.answers)
            assert group == again


def test_examples_of_the_course_come_before_lent_ones() -> None:
    course = datasets.load("data/training/part_c1.json")
    for group in with_lent(course, 3):
        assert group.question in course.questions
        assert group.answers == tuple(a for a in course.answers_to(group.question) if a.verdicts)
