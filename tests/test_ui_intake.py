"""A class before it is handed in: files understood, columns corrected, faults told."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from llmarking.errors import DataError
from llmarking.ui.checking import asked_preview, checked, preview, targets
from llmarking.ui.intake import SAMPLE, Intake

GOLDEN = Path(__file__).parent / "golden"
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
    made.remap(student=0, names=[1], code=None, answers=[3], mark=None, feedback=None)
    assert made.found is not None
    assert [(a.student, a.name, a.text) for a in made.found.answers] == [
        ("007", "Ann", "fast"),
        ("008", "Ben", "slow"),
    ]
    made.remap(student=0, names=[1], code=None, answers=[2], mark=None, feedback=None)
    assert made.found is not None
    assert [a.text for a in made.found.answers] == ["<b>pairs</b>", ""]
    html = preview(made, "en")
    assert "&lt;b&gt;pairs&lt;/b&gt;" in html
    assert "<b>" not in html
    assert "007" in html


def book(rows: list[list[object]]) -> bytes:
    """A spreadsheet of these rows."""
    made = openpyxl.Workbook()
    assert made.active is not None
    for row in rows:
        made.active.append(row)
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


@pytest.fixture
def unknown() -> Intake:
    """Two files whose headers say nothing to anybody but their teacher."""
    asked = [
        ["Nr.", "Gefragt", "Höchstens", "So soll es sein"],
        ["A1", "What is a hash table?", 3, QUESTIONS.decode().rpartition(",")[2].strip()],
        ["A2", "What is a stack?", 2, "Last in, first out"],
    ]
    answered = [
        ["Kennung", "Wer", "Wozu", "Geschrieben", "Erreicht", "Dazu"],
        ["007", "Ann", "A1", "It stores <i>pairs</i>", None, None],
        ["008", "Ben", "a2", "a pile", None, None],
    ]
    made = Intake()
    made.questions(book(asked), "fragen.xlsx")
    made.answers(book(answered), "klasse.xlsx")
    return made


def test_a_table_of_questions_is_shown_and_its_columns_are_chosen(unknown: Intake) -> None:
    said = checked(unknown, "en")
    assert "fragen.xlsx" in said
    assert "choose another" in said
    assert '<th scope="col" class="">Höchstens</th>' in asked_preview(unknown, "en")
    assert "It stores &lt;i&gt;pairs" in preview(unknown, "en")
    unknown.remap_questions(code=0, text=1, reference=3, full_mark=None)
    # The second has no points, and now nothing says what it is worth.
    assert "line 3, column So soll es sein" in str(unknown.asked_problem)
    unknown.remap_questions(code=0, text=1, reference=3, full_mark=2)
    assert [(each.code, each.full_mark) for each in unknown.asked] == [("A1", 3), ("A2", 2)]
    assert "2: is fast" in asked_preview(unknown, "en")
    assert "2 questions, 3 points" in checked(unknown, "en")


def test_the_column_that_names_the_questions_is_known_by_its_cells(unknown: Intake) -> None:
    unknown.remap_questions(code=0, text=1, reference=3, full_mark=2)
    assert unknown.columns is not None
    assert unknown.columns.code == 2
    unknown.remap(student=0, names=[1], code=2, answers=[3], mark=None, feedback=None)
    assert unknown.found is not None
    assert [each.question for each in unknown.found.answers] == ["A1", "A2"]
    assert "read as: the columns you chose" in checked(unknown, "en")
    unknown.remap(student=0, names=[1], code=None, answers=[3], mark=None, feedback=None)
    assert unknown.problem is not None  # what the teacher says counts


def test_open_edx_blocks_may_go_by_their_problems_names() -> None:
    made = Intake()
    line = QUESTIONS.splitlines()[1]
    named = [line.replace(b"Q1", name, 1) for name in (b"Ice", b"Gas")]
    made.questions(b"\n".join([QUESTIONS.splitlines()[0], *named]), "q.csv")
    made.answers((GOLDEN / "ora2.csv").read_bytes(), "ora2.csv")
    assert made.found is not None, checked(made, "en")
    assert [each.question for each in made.found.answers] == ["Ice", "Ice", "Gas"]


def test_empty_columns_can_take_marks_and_feedback(unknown: Intake) -> None:
    unknown.remap_questions(code=0, text=1, reference=3, full_mark=2)
    chosen: dict[str, Any] = {"student": 0, "names": [1], "code": 2, "answers": [3]}
    unknown.remap(**chosen, mark=None, feedback=None)
    assert unknown.free == (4, 5)
    for mark, feedback, into in (
        (4, 5, "marks go into column Erreicht, feedback into column Dazu."),
        (4, None, "marks go into column Erreicht, feedback into LLMarking feedback (added)."),
        (5, 5, "marks go into column Dazu, feedback into LLMarking feedback (added)."),
    ):
        unknown.remap(**chosen, mark=mark, feedback=feedback)
        assert into in targets(unknown, "en")
    unknown.remap(**(chosen | {"names": [5]}), mark=4, feedback=None)
    assert unknown.free == (4,)
    unknown.remap(**(chosen | {"answers": [1, 3]}), mark=4, feedback=5)
    assert unknown.free == ()


def test_an_answer_in_the_file_of_questions_is_the_reference() -> None:
    made = Intake()
    made.questions(b"question_code,question,answer,full_mark\nQ1,Why?,Because,2\n", "q.csv")
    assert [(each.reference, each.full_mark) for each in made.asked] == [("Because", 2)]


@pytest.mark.parametrize(
    "file", ["blackboard.xls", "canvas.csv", "gradescope.csv", "gradescope_course.csv"]
)
def test_a_gradebook_has_nothing_to_grade_and_the_page_says_where_it_belongs(file: str) -> None:
    made = Intake()
    made.sample()
    made.answers((GOLDEN / file).read_bytes(), file)
    assert not made.ready
    assert "holds marks and no answers" in checked(made, "en")
    assert "最后一步" in checked(made, "zh")
    assert targets(made, "en") == ""
    assert made.upload is not None
    assert f"The first rows of {file}" in preview(made, "en")


def test_a_platforms_file_without_a_place_for_the_mark_is_not_handed_in() -> None:
    made = intake()
    made.answers((GOLDEN / "canvas.csv").read_bytes(), "canvas.csv")
    made.remap(student=1, names=[0], code=None, answers=[4], mark=None, feedback=None)
    assert not made.ready
    assert "no column is taken for the mark" in checked(made, "en")


def test_marks_that_stand_in_the_file_are_told_before_grading() -> None:
    made = intake()
    made.answers((GOLDEN / "moodle_worksheet.csv").read_bytes(), "worksheet.csv")
    assert "1 answer has a mark in the file already, which stays: line 4." in checked(made, "en")
    again = intake()
    again.answers((GOLDEN / "moodle_worksheet_de.csv").read_bytes(), "worksheet.csv")
    assert again.ready


def test_a_line_is_named_once() -> None:
    made = Intake()
    questions = QUESTIONS + QUESTIONS.splitlines()[1].replace(b"Q1", b"Q2") + b"\n"
    made.questions(questions, "q.csv")
    made.answers(b"id,Response 1,Response 2\n007,pairs,fast\n008,,\n", "class.csv")
    assert "2 empty answers get 0, and no model is asked: line 3." in checked(made, "en")


def test_questions_inside_a_file_of_answers_go_with_it() -> None:
    rows = "Surname,Email address,State,Grade/3.00,Question 1,Response 1,Right answer 1\n"
    made = Intake()
    for asked in ("Why?", "What for?"):
        data = f"{rows}Lee,ann@example.org,Finished,-,{asked},It keeps,It stores\n".encode()
        made.answers(data, "responses.csv")
        assert [question.text for question in made.asked] == [asked]
    made.questions(QUESTIONS, "q.csv")
    made.answers(data, "responses.csv")
    assert [question.text for question in made.asked] == ["What is a hash table?"]


def test_no_column_of_answers_is_a_problem_and_no_crash() -> None:
    made = intake()
    made.answers(ANSWERS, "class.csv")
    made.remap(student=None, names=[], code=None, answers=[], mark=None, feedback=None)
    assert not made.ready
    assert "lm-problem" in checked(made, "en")


def test_a_file_at_fault_is_refused_and_what_was_there_stays() -> None:
    made = intake()
    asked = made.asked
    with pytest.raises(DataError, match=r"bad\.csv"):
        made.questions(b"%PDF-1.7", "bad.csv")
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
