"""Gradebooks without answers, filled by the ids of students; nobody is left out in silence."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import openpyxl
import pytest

from llmarking.errors import DataError
from llmarking.tables import files as tables
from llmarking.tables.gradebook import (
    NEW,
    SUM,
    ClassMarks,
    Filling,
    Left,
    Mark,
    Plan,
    choices,
    class_marks,
    fill,
    propose,
)
from llmarking.tables.grid import TextForm

GOLDEN = Path(__file__).parent / "golden"
QUESTIONS = {"Q1": 2.0, "Q2": 3.0}


def klass(*students: str, questions: dict[str, float] = QUESTIONS) -> ClassMarks:
    """A class in which everybody has half of each full mark."""
    marks = [
        Mark(student, f"Name of {student}", code, full / 2, full)
        for student in students
        for code, full in questions.items()
    ]
    return class_marks(questions, marks)


def taken(data: str | bytes, name: str = "book.csv") -> tables.Upload:
    return tables.detect(data.encode() if isinstance(data, str) else data, name)


def left(filling: Filling, reason: Left, target: str = SUM) -> list[tuple[str, int | None]]:
    return [(each.student, each.line) for each in filling.left.get((reason, target), ())]


def cells(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def test_the_sum_goes_into_one_column_and_every_other_byte_stays() -> None:
    before = (
        "\ufeffStudent,ID,SIS User ID,SIS Login ID,Section,Ice (7),Essay (8),Final Grade\r\n"
        "    Points Possible,,,,,5.00,20,(read only)\r\n"
        '"Okafor, Ngozi",123,000815,nokafor,"7b ",,18.50,A-\r\n'
        '"Lindqvist, ""Maja""",124,000816,mlindqvist,7b,,,\r\n'
        '"Student, Test",127,,8e1c,7b,,,\r\n'
    )
    upload = taken(before)
    plan = propose(upload, klass("000815", "000816"))
    assert plan == Plan(2, {SUM: 5})  # the SIS id; the essay has marks, so only one is empty
    out = fill(upload, klass("000815", "000816"), plan)
    after = before.replace('"7b ",,18', '"7b ",2.5,18').replace(
        "mlindqvist,7b,,", "mlindqvist,7b,2.5,"
    )
    assert out.export.data.decode() == after
    assert out.export.name == "book_graded.csv"
    assert out.written == {SUM: 2}
    assert not out.left
    assert not out.scales


def test_ids_are_text_and_whoever_is_missing_is_named() -> None:
    upload = taken("student id,name,grade\n0815,A,\n815,B,\n00815,C,\n,D,\nx-1,E,\n")
    out = fill(upload, klass("0815", "0816", "X-1"), Plan(0, {SUM: 2}))
    assert [row[2] for row in cells(out.export.data)] == ["grade", "2.5", "", "", "", "2.5"]
    assert left(out, Left.ABSENT) == [("0816", None)]
    assert out.left[Left.ABSENT, SUM][0].name == "Name of 0816"
    assert left(out, Left.STRANGER) == [("815", 3), ("00815", 4), ("", 5)]


def test_case_tells_students_apart_only_where_nothing_else_does() -> None:
    upload = taken("student id,grade\nab,\nAB,\n")
    out = fill(upload, klass("ab", "AB"), Plan(0, {SUM: 1}))
    assert out.written == {SUM: 2}
    with pytest.raises(DataError, match=r"line 3, column student id: stands in two rows"):
        fill(upload, klass("ab"), Plan(0, {SUM: 1}))


def test_each_question_has_a_column_of_its_own() -> None:
    upload = taken("username;Q1 (11);q2/6;note\nann;;;x\nbob;1,5;;y\n")
    plan = propose(upload, klass("ann", "bob"))
    assert plan == Plan(0, {"Q1": 1, "Q2": 2})
    out = fill(upload, klass("ann", "bob"), plan)
    assert out.export.data.decode() == "username;Q1 (11);q2/6;note\nann;1;3;x\nbob;1,5;3;y\n"
    assert out.written == {"Q1": 1, "Q2": 2}
    assert out.scales == {"Q2": (3.0, 6.0)}
    assert left(out, Left.KEPT, "Q1") == [("bob", 3)]


def test_what_stands_there_is_replaced_only_when_asked_and_only_numbers_are() -> None:
    upload = taken("username,mark\nann,1\nbob,EX\ncid,-\n")
    given = klass("ann", "bob", "cid", questions={"Q1": 2.0})
    assert given.targets == {"Q1": 2.0}
    kept = fill(upload, given, Plan(0, {"Q1": 1}))
    assert kept.export.data.decode() == "username,mark\nann,1\nbob,EX\ncid,1\n"
    assert left(kept, Left.KEPT, "Q1") == [("ann", 2), ("bob", 3)]
    given = class_marks({"Q1": 2.0}, [Mark(s, "", "Q1", 2.0, 2.0) for s in ("ann", "bob")])
    out = fill(upload, given, Plan(0, {"Q1": 1}, overwrite=True))
    assert out.export.data.decode() == "username,mark\nann,2\nbob,EX\ncid,-\n"
    assert left(out, Left.KEPT, "Q1") == [("bob", 3)]


def test_nothing_is_summed_that_is_not_whole() -> None:
    upload = taken("username,mark\n" + "".join(f"s{n},\n" for n in range(4)))
    marks = [
        Mark("s0", "", "Q1", 2.0, 2.0),  # no answer to Q2
        *(Mark("s1", "", "Q1", 2.0, 2.0), Mark("s1", "", "Q2", None, None)),  # not graded yet
        *(Mark("s2", "", "Q1", 2.0, 2.0), Mark("s2", "", "Q1", 1.0, 2.0)),  # two attempts
        *(Mark("s3", "", "Q1", 1.0, 2.0), Mark("s3", "", "Q2", 0.0, 3.0)),
        *(Mark(None, "", "Q1", 1.0, 2.0), Mark(" ", "", "Q1", 1.0, 2.0)),
    ]
    given = class_marks(QUESTIONS, marks)
    assert given.without_id == 2
    out = fill(upload, given, Plan(0, {SUM: 1}))
    assert out.export.data.decode() == "username,mark\ns0,2\ns1,\ns2,\ns3,1\n"
    assert [each.student for each in out.in_part] == ["s0"]
    assert left(out, Left.WAITING) == [("s1", 3)]
    assert left(out, Left.SEVERAL) == [("s2", 4)]
    apart = fill(upload, given, Plan(0, {"Q2": 1}))
    assert apart.export.data.decode() == "username,mark\ns0,\ns1,\ns2,\ns3,0\n"
    assert left(apart, Left.UNANSWERED, "Q2") == [("s0", 2), ("s2", 4)]


def test_a_column_is_added_where_no_platform_minds() -> None:
    upload = taken("sid,LLMarking mark\n007,by hand\n008,\n")
    assert choices(upload, 0) == [1, NEW]
    out = fill(upload, klass("007"), Plan(0, {SUM: NEW, "Q1": NEW}))
    assert cells(out.export.data) == [
        ["sid", "LLMarking mark", "LLMarking mark 2", "LLMarking mark, Q1"],
        ["007", "by hand", "2.5", "1"],
        ["008", "", "", ""],
    ]
    nobody = fill(upload, klass("9"), Plan(0, {SUM: NEW}))
    assert nobody.export.data == b"sid,LLMarking mark\n007,by hand\n008,\n"
    canvas = tables.detect((GOLDEN / "canvas.csv").read_bytes(), "canvas.csv")
    assert choices(canvas, 1) == [5, 6]  # not those that Canvas works out
    with pytest.raises(DataError, match="column Final Grade: is no column for marks"):
        fill(canvas, klass("000815"), Plan(2, {SUM: 9}))
    with pytest.raises(DataError, match="is no column for marks"):
        fill(canvas, klass("000815"), Plan(2, {SUM: NEW}))


@pytest.mark.parametrize(
    ("name", "students", "student", "column"),
    [
        ("canvas.csv", ("000815", "000816", "000817"), "SIS User ID", "Ice and water (90210)"),
        ("canvas.csv", ("NOKAFOR", "nobody"), "SIS Login ID", "Ice and water (90210)"),
        ("blackboard.xls", ("nokafor",), "Username", None),
        ("moodle_worksheet.csv", ("Participant 4711",), "Identifier", "Grade"),
    ],
)
def test_platforms_are_matched_by_the_id_that_the_class_has(
    name: str, students: tuple[str, ...], student: str, column: str | None
) -> None:
    upload = tables.detect((GOLDEN / name).read_bytes(), name)
    given = klass(*students, questions={"Q1": 2.0})
    plan = propose(upload, given)
    assert plan.student is not None
    assert upload.title(plan.student) == student
    places = [item.mark for item in upload.columns.items if item.mark is not None]
    titles = [upload.title(place) for place in places]
    assert column is None or column in titles
    place = places[titles.index(column) if column else 0]
    out = fill(upload, given, Plan(plan.student, {"Q1": place}))
    assert isinstance(upload.grid.form, TextForm)
    form = upload.grid.form
    old, new = (
        [
            list(row)
            for row in csv.reader(
                io.StringIO(data[len(form.bom) :].decode(form.encoding), newline=""),
                delimiter=form.delimiter,
            )
        ]
        for data in ((GOLDEN / name).read_bytes(), out.export.data)
    )
    changed = {
        (n, place)
        for n, (was, now) in enumerate(zip(old, new, strict=True))
        for place, (a, b) in enumerate(zip(was, now, strict=True))
        if a != b
    }
    assert {at for _, at in changed} == {place}
    assert len(changed) == sum(out.written.values())
    told = sum(len(entries) for entries in out.left.values())
    absent = len(out.left.get((Left.ABSENT, SUM), ()))
    # Every row of a student and every student of the class is either written or told of.
    assert sum(out.written.values()) + told - absent == len(upload.body)
    assert sum(out.written.values()) + told - len(out.left.get((Left.STRANGER, SUM), ())) == len(
        given.students
    )


def test_a_worksheet_is_scaled_by_the_row_and_words_and_locks_are_left() -> None:
    head = (GOLDEN / "moodle_worksheet.csv").read_bytes().splitlines()[0].decode() + "\n"
    row = 'Participant {0},A,{0},a@b,x,,{1},{2},"3 Nov, 9 AM",<p>yes</p>,-,\n'
    data = head + row.format(1, "100.00", "Yes") + row.format(2, "Pass", "Yes")
    upload = taken(data + row.format(3, "100.00", "No"), "w.csv")
    out = fill(upload, klass("1", "2", "3"), Plan(2, {SUM: 5}))
    assert [row[5] for row in cells(out.export.data)] == ["Grade", "50", "", ""]
    assert left(out, Left.WORDS) == [("2", 3)]
    assert left(out, Left.LOCKED) == [("3", 4)]


def test_refusals_say_row_and_column() -> None:
    upload = taken("student id,grade,more\n1,,\n2,,\n1,,\n")
    with pytest.raises(DataError, match=r"book.csv, line 4, column student id: stands in two rows"):
        fill(upload, klass("1"), Plan(0, {SUM: 1}))
    assert fill(upload, klass("2"), Plan(0, {SUM: 1})).written == {SUM: 1}
    with pytest.raises(DataError, match=r"line 1, column grade: is chosen for two marks"):
        fill(upload, klass("2"), Plan(0, {"Q1": 1, "Q2": 1}))
    with pytest.raises(DataError, match=r"column student id: is missing"):
        fill(upload, klass("2"), Plan(None, {SUM: 1}))


def test_a_spreadsheet_gets_numbers_and_keeps_zeros_and_refuses_formulas() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in (["Student ID", "Test", "Total"], ["0007", None, "=B2"], ["0008", None, "=B3"]):
        sheet.append(row)

    def saved() -> bytes:
        out = io.BytesIO()
        book.save(out)
        return out.getvalue()

    upload = taken(saved(), "book.xlsx")
    out = fill(upload, klass("0007", "7"), Plan(0, {SUM: 1}))
    filled = openpyxl.load_workbook(io.BytesIO(out.export.data)).active
    assert filled is not None
    assert [[cell.value for cell in row] for row in filled.iter_rows()] == [
        ["Student ID", "Test", "Total"],
        ["0007", 2.5, "=B2"],
        ["0008", None, "=B3"],
    ]
    assert left(out, Left.ABSENT) == [("7", None)]
    with pytest.raises(DataError, match=r"line 2, column Total: holds a formula"):
        fill(upload, klass("0007"), Plan(0, {SUM: 2}))


def test_nothing_is_proposed_where_two_columns_could_be_meant() -> None:
    upload = taken("student id,mark,score\n1,,\n")
    assert propose(upload, klass("1")) == Plan(0, {})
    # A column of ids need not be called so; one that names nobody is no guess.
    upload = taken("who,mark\nann,\n")
    assert propose(upload, klass("ann")) == Plan(0, {SUM: 1})
    assert propose(upload, klass("bob")).student is None
