"""A class before it is handed in: files understood, columns corrected, faults told."""

from __future__ import annotations

import json

import pytest

from llmarking.errors import DataError
from llmarking.ui.intake import SAMPLE, Intake, checked, preview, targets

QUESTIONS = b"""question_code,question,full_mark,scoring
Q1,What is a hash table?,3,<Point1:2>stores pairs<Point1:2> and <Point2:1>is fast<Point2:1>
"""
ANSWERS = b"""id,who,first try,second try
007,Ann,<b>pairs</b>,fast
008,Ben,,slow
"""


def intake() -> Intake:
    made = Intake()
    made.questions(QUESTIONS, "q.csv")
    return made


def test_the_sample_class_is_understood_as_it_is() -> None:
    made = Intake()
    made.sample()
    assert made.ready
    assert len(made.asked) == 10
    body = made.body("u1")
    assert len(body["answers"]) == 140
    assert {answer["source"]["upload"] for answer in body["answers"]} == {"u1"}
    assert [answer["source"]["row"] for answer in body["answers"]] == sorted(
        answer["source"]["row"] for answer in body["answers"]
    )
    said = checked(made, "en")
    assert "10 questions, 37 points" in said
    assert "140 answers" in said
    assert "6 empty answers get 0" in said
    assert made.data == (SAMPLE / "EXAMPLE_CSV2.csv").read_bytes()


def test_what_is_missing_is_said() -> None:
    assert "The questions are missing." in checked(Intake(), "en")
    assert "缺少答案文件" in checked(intake(), "zh")
    assert preview(Intake(), "en") == targets(Intake(), "en") == ""
    assert not intake().ready


def test_columns_are_corrected_by_the_teacher() -> None:
    made = intake()
    made.answers(ANSWERS, "class.csv")
    made.remap(student=0, names=[1], code=None, answers=[3])
    assert made.found is not None
    assert [(a.student, a.name, a.text) for a in made.found.answers] == [
        ("007", "Ann", "fast"),
        ("008", "Ben", "slow"),
    ]
    made.remap(student=0, names=[1], code=None, answers=[2])
    assert made.found is not None
    assert [a.text for a in made.found.answers] == ["<b>pairs</b>", ""]
    html = preview(made, "en")
    assert "&lt;b&gt;pairs&lt;/b&gt;" in html
    assert "<b>" not in html
    assert "007" in html


def test_no_column_of_answers_is_a_problem_and_no_crash() -> None:
    made = intake()
    made.answers(ANSWERS, "class.csv")
    made.remap(student=None, names=[], code=None, answers=[])
    assert not made.ready
    assert "lm-problem" in checked(made, "en")


def test_a_file_at_fault_is_refused_and_what_was_there_stays() -> None:
    made = intake()
    asked = made.asked
    with pytest.raises(DataError, match=r"bad\.csv"):
        made.questions(b"a,b\n1,2\n", "bad.csv")
    assert made.asked == asked
    with pytest.raises(DataError):
        made.answers(b"", "empty.csv")
    assert made.upload is None


def test_questions_may_come_as_a_course_in_json() -> None:
    course = {
        "format": "llmarking-course/1",
        "questions": [{"code": "Q1", "question": "Why?", "reference": "<Point1:1>so<Point1:1>"}],
    }
    made = Intake()
    made.questions(json.dumps(course).encode(), "course.json")
    assert [question.code for question in made.asked] == ["Q1"]
    with pytest.raises(DataError, match=r"course\.json"):
        made.questions(b"{", "course.json")


def test_a_platform_that_exports_questions_needs_no_second_file() -> None:
    """Moodle writes the question and the right answer beside each response."""
    data = b"""\
Surname,First name,Email address,State,Grade/3.00,Question 1,Response 1,Right answer 1
Lee,Ann,ann@example.org,Finished,-,What is a hash table?,It keeps pairs,It stores pairs
"""
    made = Intake()
    made.answers(data, "responses.csv")
    assert made.ready, checked(made, "en")
    assert made.body(None)["answers"][0]["text"] == "It keeps pairs"
    assert [point.text for point in made.asked[0].points] == ["It stores pairs"]
