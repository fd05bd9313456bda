"""A file of every platform, as its headers and habits are known: what is read, what is given back.

The files in `golden/` are invented. `name.csv` is what a platform gives, `name.graded.csv` what it
gets back; a change of either is a change of what teachers' platforms have to accept.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import openpyxl
import pytest

from llmarking.datasets.contents import whole_question
from llmarking.errors import DataError
from llmarking.protocol.bodies import WireQuestion
from llmarking.tables import files as tables
from llmarking.tables.files import Kind, Marking
from llmarking.tables.grid import TextForm

GOLDEN = Path(__file__).parent / "golden"
ICE = "block-v1:Example+ICE+2025+type@openassessment+block@ice"
GAS = "block-v1:Example+ICE+2025+type@openassessment+block@gas"
Place = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """What is known of a file.

    Attributes:
        answers: (line, student, question, text, a person's mark) of the first ones.
        count: of all answers.
        skipped: lines that are left out.
        written: headers of columns that may change.
    """

    name: str
    kind: Kind
    codes: tuple[str, ...]
    answers: tuple[tuple[int, str, str, str | None, float | None], ...]
    count: int
    skipped: tuple[int, ...] = ()
    written: tuple[str, ...] = ()


CASES = (
    Case(
        "moodle_responses.csv",
        Kind.MOODLE_RESPONSES,
        ("Q1", "Q2"),
        (
            (
                2,
                "ngozi.okafor@school.example",
                "Q1",
                "Ice is less dense than water,\nbecause its molecules are further apart.",
                None,
            ),
            (2, "ngozi.okafor@school.example", "Q2", "carbon dioxide", None),
            (
                5,
                "sean.obrien@school.example",
                "Q1",
                "=1+1 is what I'd say: it's \"lighter\"",
                None,
            ),
            (5, "sean.obrien@school.example", "Q2", "", None),
        ),
        4,
        (4, 6),
    ),
    Case(
        "moodle_responses_fi.csv",
        Kind.MOODLE_RESPONSES,
        ("Q1",),
        ((2, "aino.virtanen@koulu.example", "Q1", "Se on kevyempää kuin vesi.", None),),
        2,
        (3,),
    ),
    Case(
        "moodle_grades_de.csv",
        Kind.MOODLE_GRADES,
        ("1", "2"),
        (
            (2, "jonas.krueger@schule.example", "1", None, 1.5),
            (2, "jonas.krueger@schule.example", "2", None, 1),
            (3, "elif.yilmaz@schule.example", "2", None, 0),
        ),
        3,
    ),
    Case(
        "moodle_worksheet.csv",
        Kind.MOODLE_WORKSHEET,
        ("Q1",),
        (
            (
                2,
                "Participant 4711",
                "Q1",
                (
                    "Ice is less dense than water.\n\nSo it floats & stays on top:\n\n"
                    "- density of ice < density of water"
                ),
                None,
            ),
            (4, "Participant 4713", "Q1", 'It\'s "lighter",\nand water is heavy.', 7.5),
        ),
        3,
        (3, 5),
        ("Grade", "Feedback comments"),
    ),
    Case(
        "moodle_worksheet_de.csv",
        Kind.MOODLE_WORKSHEET,
        ("Q1",),
        ((2, "Teilnehmer/in 4711", "Q1", "Eis ist weniger dicht als Wasser.", None),),
        2,
        (3,),
        ("Bewertung", "Feedback als Kommentar"),
    ),
    Case(
        "moodle_worksheet_zh.csv",
        Kind.MOODLE_WORKSHEET,
        ("Q1",),
        ((2, "参与者4711", "Q1", "冰的密度比水小，所以浮在水上。", None),),
        1,
        (3,),
        ("成绩", "反馈评论"),
    ),
    Case(
        "canvas.csv",
        Kind.CANVAS,
        ("Q1", "Q2"),
        (
            (4, "1000000000000000123", "Q2", None, 18.5),
            (6, "125", "Q1", None, 4),
        ),
        2,
        written=("Ice and water (90210)", "Essay (90211)"),
    ),
    Case(
        "canvas_semicolon.csv",
        Kind.CANVAS,
        ("Q1",),
        ((4, "124", "Q1", None, 7.5),),
        1,
        written=("Eis und Wasser (90210)",),
    ),
    Case(
        "canvas_quiz.csv",
        Kind.CANVAS_QUIZ,
        ("Q1", "Q2"),
        (
            (3, "000815", "Q1", "Ice is less dense,\nso it floats.", None),
            (3, "000815", "Q2", "carbon dioxide", None),
            (5, "000817", "Q1", "", None),
        ),
        4,
    ),
    Case(
        "gradescope.csv",
        Kind.GRADESCOPE,
        ("1", "2"),
        ((2, "000815", "1", None, 2), (2, "000815", "2", None, 1), (4, "000817", "1", None, 0.5)),
        4,
    ),
    Case(
        "gradescope_course.csv",
        Kind.GRADESCOPE_COURSE,
        ("Ice", "Gases"),
        ((2, "000815", "Ice", None, 2),),
        1,
    ),
    Case(
        "gradescope_rubric.csv",
        Kind.GRADESCOPE_RUBRIC,
        ("Q1",),
        ((2, "000815", "Q1", None, 3), (3, "000817", "Q1", None, 2)),
        2,
    ),
    Case(
        "blackboard.xls",
        Kind.BLACKBOARD,
        ("Q1",),
        ((3, "sobrien", "Q1", None, 4),),
        1,
        written=("Ice and water [Total Pts: 10 Score] |60003",),
    ),
    Case(
        "ora2.csv",
        Kind.ORA2,
        (ICE, GAS),
        (
            (
                2,
                "nokafor",
                ICE,
                'Ice is less dense.\n\nIts molecules are "further apart"\nthan in water.',
                2,
            ),
            (7, "sobrien", ICE, "它比较轻。", None),
            (8, "sobrien", GAS, "carbon dioxide", None),
        ),
        3,
    ),
    Case(
        "answers_gb18030.csv",
        Kind.ANSWERS,
        ("Q1",),
        (
            (2, "007", "Q1", "冰的密度比水小", None),
            (3, "008", "Q1", "因为冷，\n所以浮", None),
            (5, "20250101000000000012", "Q1", "=不知道", None),
        ),
        3,
        written=("得分", "评语"),
    ),
    Case(
        "answers_excel_de.csv",
        Kind.ANSWERS,
        ("Q1",),
        (
            (3, "0815", "Q1", "Eis ist weniger dicht; Wasser dichter.", None),
            (4, "0816", "Q1", 'Weil\'s "kalt" ist,\nund fröhlich', None),
        ),
        2,
        written=("Punkte",),
    ),
    Case(
        "numbered_columns.tsv",
        Kind.ANSWERS,
        ("Q1", "Q2"),
        (
            (2, "nokafor", "Q1", "Ice is less dense.", None),
            (2, "nokafor", "Q2", "carbon dioxide", None),
            (3, "sobrien", "Q1", 'It is "lighter".', None),
            (3, "sobrien", "Q2", "", None),
        ),
        4,
        written=("Manual Score 1", "Manual Score 2"),
    ),
)
GRADEBOOKS = (Kind.CANVAS, Kind.BLACKBOARD)
MARKS = (1.5, 0.0, 2.0)


def taken(case: Case) -> tuple[tables.Upload, tables.Class]:
    upload = tables.detect((GOLDEN / case.name).read_bytes(), case.name)
    asked = [whole_question(code, f"Question {code}?", ["right"], 2.0) for code in case.codes]
    return upload, tables.class_from(upload, upload.columns, asked)


def marked(upload: tables.Upload, klass: tables.Class) -> Mapping[Place, Marking]:
    """Marks in turn; of a gradebook, which holds no answers, for every student and every item."""

    def marking(n: int) -> Marking:
        mark = MARKS[n % len(MARKS)]
        return Marking(mark, 2.0, {1: mark > 0}, f"Point 1: {mark:g} of 2 <ok>")

    if upload.kind not in GRADEBOOKS:
        return {answer.place: marking(n) for n, answer in enumerate(klass.answers)}
    items = range(len(upload.columns.items))
    places = [(at, item) for at, _ in upload.body for item in items]
    return {place: marking(n) for n, place in enumerate(places)}


def parsed(data: bytes, form: TextForm) -> list[list[str]]:
    """The cells by Python's own reader."""
    text = data[len(form.bom) :].decode(form.encoding)
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=form.delimiter))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_platforms_file_is_read(case: Case) -> None:
    upload, klass = taken(case)
    assert upload.kind is case.kind
    found = [(a.line, a.student, a.question, a.text, a.mark) for a in klass.answers]
    assert found[: len(case.answers)] == list(case.answers)
    assert len(found) == case.count
    assert [entry.line for entry in klass.skipped] == list(case.skipped)
    assert tables.columns_of(upload.columns.json(), upload) == upload.columns


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_platforms_file_is_given_back(case: Case) -> None:
    upload, klass = taken(case)
    before = (GOLDEN / case.name).read_bytes()
    assert tables.export(upload, upload.columns, {}).data == before
    out = tables.export(upload, upload.columns, marked(upload, klass))
    path = Path(case.name)
    assert out.name == f"{path.stem}_graded{path.suffix}"
    assert out.data == (GOLDEN / f"{path.stem}.graded{path.suffix}").read_bytes()
    # The same by another reader: only the columns for marks differ, and new ones stand at the end.
    assert isinstance(upload.grid.form, TextForm)
    old, new = parsed(before, upload.grid.form), parsed(out.data, upload.grid.form)
    assert len(old) == len(new)
    header = old[upload.header]
    for number, (was, now) in enumerate(zip(old, new, strict=True)):
        changed = {header[i] for i, cell in enumerate(was) if cell != now[i]}
        assert changed <= set(case.written)
        if number == upload.header:
            assert not changed
            assert all(title.startswith("LLMarking ") for title in now[len(was) :])
        # A person's marks, excuses and rows that are no student's stay.
        assert not any(was[header.index(title)].strip("- ") for title in changed)


def test_references_and_questions_come_with_moodles_responses() -> None:
    upload, _ = taken(CASES[0])
    first, second = tables.questions_from(upload, upload.columns)
    assert (first.code, first.text) == ("Q1", "Why does ice float on water?")
    assert (first.reference, first.line) == ("Ice is less dense than liquid water.", 2)
    assert (second.reference, second.full_mark) == ("Carbon dioxide", None)
    with pytest.raises(DataError, match=r"line 2, column Right answer 1: .*has no points"):
        first.question()


def test_questions_and_their_points_come_with_a_canvas_quiz() -> None:
    upload = tables.detect((GOLDEN / "canvas_quiz.csv").read_bytes(), "quiz.csv")
    assert [
        (d.code, d.text, d.full_mark) for d in tables.questions_from(upload, upload.columns)
    ] == [
        ("Q1", "Why does ice float on water?", 2),
        ("Q2", "Name the gas, that plants take in.", 1),
    ]


def test_rubric_items_are_points_and_verdicts() -> None:
    upload = tables.detect((GOLDEN / "gradescope_rubric.csv").read_bytes(), "r.csv")
    [draft] = tables.questions_from(upload, upload.columns)
    question = draft.question()
    assert [(p.id, p.mark, p.text) for p in question.points] == [
        (1, 2, "Says that ice is less dense"),
        (2, 1, "Says that molecules are further apart"),
    ]
    klass = tables.class_from(upload, upload.columns, [question])
    assert [a.verdicts for a in klass.answers] == [{1: True, 2: True}, {1: True, 2: False}]
    with pytest.raises(DataError, match="marks and no answers"):
        tables.wire(klass, [question])


def test_a_mark_of_another_scale_is_scaled_and_words_are_left_to_the_teacher() -> None:
    head = (GOLDEN / "moodle_worksheet.csv").read_bytes().splitlines()[0].decode() + "\n"
    row = 'Participant {0},A,1,a@b,x,,{1},Yes,"3 Nov, 9 AM",<p>yes</p>,-,\n'
    data = head + row.format(1, "100.00") + row.format(2, "Pass or fail")
    upload = tables.detect(data.encode(), "w.csv")
    assert upload.kind is Kind.MOODLE_WORKSHEET
    marks = {(1, 0): Marking(1, 3, {}, ""), (2, 0): Marking(1, 3, {}, "")}
    out = tables.export(upload, upload.columns, marks)
    assert [row[5] for row in parsed(out.data, TextForm("utf-8", b"\xef\xbb\xbf", ","))] == [
        *("Grade", "33.33", ""),
    ]
    assert "line 3" in out.notes[0]


def test_overwriting_is_asked_for_and_spares_excuses() -> None:
    upload, klass = taken(CASES[6])
    out = tables.export(upload, upload.columns, marked(upload, klass), overwrite=True)
    [_, _, _, first, excused, second, absent, _] = out.data.decode().splitlines()
    assert "18.50" not in first
    assert ",EX," in excused
    assert ",4.00," not in second
    assert ",N/A," in absent


def test_a_class_goes_over_the_wire() -> None:
    upload, klass = taken(CASES[0])
    asked = [whole_question(code, "?", ["x <y>"], 2.0) for code in ("Q1", "Q2")]
    body = tables.wire(klass, asked)
    sent = [WireQuestion.model_validate(question).question() for question in body["questions"]]
    assert [q.points for q in sent] == [q.points for q in asked]
    answer = body["answers"][1]
    assert answer == {
        "student": "ngozi.okafor@school.example",
        "name": "Ngozi Okafor",
        "question": "Q2",
        "text": "carbon dioxide",
        "source": {"row": 1, "item": 1, "line": 2, "column": "Response 2"},
    }
    place = answer["source"]["row"], answer["source"]["item"]
    out = tables.export(upload, upload.columns, {place: Marking(2, 2, {}, "")})
    assert parsed(out.data, TextForm("utf-8", b"\xef\xbb\xbf", ","))[1][-2:] == ["2", ""]


def test_a_spreadsheet_keeps_all_but_marks_and_feedback() -> None:
    data = (GOLDEN / "class.xlsx").read_bytes()
    upload = tables.detect(data, "class.xlsx")
    assert (upload.kind, upload.header) == (Kind.ANSWERS, 2)
    assert upload.sheets == ("Class 7b", "Notes")
    asked = [whole_question("Q1", "?", ["x"], 2.0)]
    klass = tables.class_from(upload, upload.columns, asked)
    assert [(a.line, a.student, a.text) for a in klass.answers] == [
        (4, "000815", "Ice is less dense.\nSo it floats."),
        (5, "000816", "=it is cold"),
        (6, "000817", "它比较轻"),
    ]
    assert tables.export(upload, upload.columns, {}).data == data
    marks = {
        klass.answers[0].place: Marking(1.5, 2, {}, "good"),
        klass.answers[2].place: Marking(2, 2, {}, "=HYPERLINK(1)\x07"),
    }
    out = tables.export(upload, upload.columns, marks)
    old, new = (openpyxl.load_workbook(io.BytesIO(d)) for d in (data, out.data))
    written = {"D4": 1.5, "E4": "good", "D6": 2, "E6": "'=HYPERLINK(1) "}
    for sheet in ("Class 7b", "Notes"):
        for row in old[sheet].iter_rows():
            for cell in row:
                now = new[sheet][cell.coordinate]
                if sheet == "Class 7b" and cell.coordinate in written:
                    assert now.value == written[cell.coordinate]
                else:
                    assert (now.value, now.data_type) == (cell.value, cell.data_type)
                for style in ("number_format", "font", "fill", "alignment", "border"):
                    assert repr(getattr(now, style)) == repr(getattr(cell, style))
    assert new["Class 7b"]["B4"].comment.text == "absent last week"
    assert new["Class 7b"].freeze_panes == "A4"
    assert new["Class 7b"].merged_cells.ranges == old["Class 7b"].merged_cells.ranges
    assert len(new["Class 7b"].data_validations.dataValidation) == 1
    with pytest.raises(DataError, match="no sheet 'x'"):
        tables.detect(data, "class.xlsx", sheet="x")


def test_columns_are_added_to_a_spreadsheet() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in (["id", "answer", "score"], [1, "yes", 2], [None, None, None], ["02", "no", None]):
        sheet.append(row)
    stream = io.BytesIO()
    book.save(stream)
    upload = tables.detect(stream.getvalue(), "a.xlsx")
    klass = tables.class_from(upload, upload.columns, [whole_question("Q1", "?", ["x"], 2.0)])
    assert [(a.student, a.line, a.mark) for a in klass.answers] == [("1", 2, 2), ("02", 4, None)]
    out = tables.export(upload, upload.columns, {klass.answers[1].place: Marking(0.5, 2, {}, "")})
    new = openpyxl.load_workbook(io.BytesIO(out.data)).active
    assert new is not None
    assert [cell.value for cell in new[1]] == [
        *("id", "answer", "score", "LLMarking mark", "LLMarking feedback")
    ]
    assert [cell.value for cell in new[4]] == ["02", "no", None, 0.5, None]
