"""Class files: what is recognised, what comes out untouched, what is guarded, what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from llmarking.datasets.contents import whole_question
from llmarking.errors import DataError
from llmarking.tables import files as tables
from llmarking.tables.files import Kind, Marking
from llmarking.tables.grid import unquoted

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "short" / "EXAMPLE"
ASKED = (whole_question("Q1", "Why?", ["because"], 2.0),)
MARKING = Marking(1.5, 2.0, {1: True}, "fine, really")


def taken(data: bytes | str, name: str = "a.csv") -> tuple[tables.Upload, tables.Class]:
    """A file and the answers in it to the one question."""
    upload = tables.detect(data.encode() if isinstance(data, str) else data, name)
    return upload, tables.class_from(upload, upload.columns, ASKED)


def given_back(data: bytes | str, marking: Marking = MARKING, name: str = "a.csv") -> bytes:
    """The file with the same marking for every answer."""
    upload, klass = taken(data, name)
    marks = {answer.place: marking for answer in klass.answers}
    return tables.export(upload, upload.columns, marks).data


def test_the_originals_files_come_in_and_go_out() -> None:
    first, second = (SAMPLE / f"EXAMPLE_CSV{n}.csv" for n in (1, 2))
    upload = tables.detect(first.read_bytes(), first.name)
    assert upload.kind is Kind.ORIGINAL_QUESTIONS
    asked = [draft.question() for draft in tables.questions_from(upload, upload.columns)]
    assert len(asked) == 10
    assert len(asked[0].examples) == 3
    assert set(asked[0].examples[0].verdicts) == {1, 2, 3}
    upload = tables.detect(second.read_bytes(), second.name)
    assert upload.kind is Kind.ORIGINAL_ANSWERS
    klass = tables.class_from(upload, upload.columns, asked)
    assert len(klass.answers) == 140
    assert klass.answers[0].verdicts == {1: False, 2: True, 3: False}
    assert (klass.answers[0].mark, klass.answers[0].full_mark) == (2, 4)
    # The teacher's own marks stand: ours are added beside them.
    [target] = tables.targets(upload, upload.columns)
    assert target.mark == "LLMarking mark (added)"
    out = tables.export(upload, upload.columns, {klass.answers[3].place: MARKING})
    assert out.name == "EXAMPLE_CSV2_graded.csv"
    again, before = tables.detect(out.data, "out.csv").grid.rows, upload.grid.rows
    assert [row.raw[:3] for row in again] == [row.raw for row in before]
    assert again[0].values[3:] == ["LLMarking mark", "LLMarking feedback"]
    assert again[4].values[3:] == ["1.5", "fine, really"]
    assert again[5].values[3:] == ["", ""]


def test_an_empty_manual_score_is_filled_as_the_original_writes_it() -> None:
    out = given_back("QuestionCode,StudentAns,ManualScore\nQ1,yes,\n").decode()
    assert '"1.5/2 points\n""<Point1:True>"""' in out


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_untouched_cells_keep_every_byte(delimiter: str, encoding: str, end: str) -> None:
    rows = [
        ['"ID"', "题号", "学生答案", "得分", "评语"],
        ["007", " q1 ", '"因为 ""x""\r\nnew line"', "", ""],
        ["1e5", "Q1", "it's so", "", ""],
    ]
    text = end + end.join(delimiter.join(row) for row in rows)
    upload, klass = taken(text.encode(encoding), "class.csv")
    assert [a.text for a in klass.answers] == ['因为 "x"\r\nnew line', "it's so"]
    assert [a.student for a in klass.answers] == ["007", "1e5"]
    lines = {"\n": [3, 5], "\r\n": [3, 5], "\r": [3, 5]}
    assert [a.line for a in klass.answers] == lines[end]
    assert tables.export(upload, upload.columns, {}).data == text.encode(encoding)
    mark = "1,5" if delimiter == ";" else "1.5"
    rows[2][3:] = [mark, f'"{MARKING.feedback}"' if delimiter == "," else MARKING.feedback]
    wanted = end + end.join(delimiter.join(row) for row in rows)
    out = tables.export(upload, upload.columns, {klass.answers[1].place: MARKING})
    assert out.data == wanted.encode(encoding)


@pytest.mark.parametrize(
    "header",
    ["stu_answer", "Response", "Response 1", "answer", "Online text", "学生答案", "StudentAns"],
)
def test_answers_are_found_by_any_name(header: str) -> None:
    upload, klass = taken(f"Identifier,{header},Grade/10.00\nP 1,yes,\n")
    assert (klass.answers[0].text, klass.answers[0].student) == ("yes", "P 1")
    assert tables.targets(upload, upload.columns)[0].mark == "column Grade/10.00"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1", "'=1+1"),
        ('=HYPERLINK("x")', '"\'=HYPERLINK(""x"")"'),
        ("+cmd|x", "'+cmd|x"),
        ("-2+3", "'-2+3"),
        ("  =1", "'  =1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("＝1", "'＝1"),
        ("\tx", "'\tx"),
        ("\rx", '"\'\rx"'),
        ("-2.5", "-2.5"),
        ("+1e-5", "+1e-5"),
        ("a=b", "a=b"),
    ],
)
def test_our_text_is_no_formula_and_numbers_stay(text: str, written: str) -> None:
    out = given_back("answer,feedback\nx,\n", Marking(1, 2, {}, text)).decode()
    assert out == f"answer,feedback,LLMarking mark\nx,{written},1\n"


def test_what_students_wrote_comes_back_as_it_came() -> None:
    data = 'answer;n;mark\n=1+1;-1,5;\n"@x";+2;\n'
    assert given_back(data, Marking(0.5, 1, {}, "")).decode() == (
        'answer;n;mark;LLMarking feedback\n=1+1;-1,5;0,5;\n"@x";+2;0,5;\n'
    )


def test_a_reference_without_tags_is_marked_as_a_whole() -> None:
    data = "题号,题目,参考答案,满分\nQ1,为什么?,因为,2\n".encode("gb18030")
    upload = tables.detect(data, "q.csv")
    assert upload.form == "GB18030, cells parted by commas"
    [draft] = tables.questions_from(upload, upload.columns)
    question = draft.question()
    assert (question.full_mark, question.points[0].text) == (2, "因为")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"answer,q\nx\n", "line 2, column q: 1 cells under 2 headers"),
        (b"answer,q\nx,y,z\n", "line 2, column no. 3: 3 cells under 2 headers"),
        (b'answer,q\n"x"y,Q1\n', "line 2, column answer: text follows"),
        (b'answer,q\na,"x\n', "line 2, column q: a quote is opened and never closed"),
        (b"answer,q\n\nx,Q9\n", "line 3, column q: 'Q9' is no question"),
        (b"name,q\nx,Q1\n", "line 1, column answer: is missing"),
        (b"answer,response,q\nx,y,Q1\n", "line 1, column response: 'answer' (no. 1), 'response'"),
        (b"answer,q\n", "line 1: holds no answers"),
        (b"\x81\xff\x8d", "neither UTF-8"),
        (b"answer,q\na\0,Q1\n", "line 2: holds a zero byte"),
    ],
)
def test_faults_name_row_and_column(data: bytes, said: str) -> None:
    with pytest.raises(DataError) as caught:
        taken(data)
    assert said in str(caught.value)
    assert str(caught.value).startswith("a.csv")


def test_every_column_can_be_mapped_anew() -> None:
    data = "who,what,how much\nA1,because,\nA2,no,\n"
    upload = tables.detect(data.encode(), "a.csv")
    assert upload.kind is Kind.UNKNOWN
    item = tables.Item("what", answer=1, mark=2)
    columns = dataclasses.replace(upload.columns, student=0, items=(item,))
    assert tables.columns_of(columns.json(), upload) == columns
    klass = tables.class_from(upload, columns, ASKED)
    assert [(a.student, a.text) for a in klass.answers] == [("A1", "because"), ("A2", "no")]
    out = tables.export(upload, columns, {klass.answers[1].place: Marking(2, 2, {}, "")})
    assert out.data.decode().startswith("who,what,how much,LLMarking feedback\nA1,because,,")
    assert "A2,no,2," in out.data.decode()
    for wrong in ({"student": 3}, {"items": [{"key": "x", "answer": -1}]}, {"x": 1}, [], None):
        with pytest.raises(DataError, match=r"a\.csv"):
            tables.columns_of(wrong, upload)


DELIMITERS = st.sampled_from(",;\t")
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def files(draw: st.DrawFn) -> tuple[str, str, list[list[str]]]:
    """Any table: its text, its delimiter, and its raw cells."""
    delimiter, end = draw(DELIMITERS), draw(ENDS)
    anything = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
    quoted = anything.map(lambda text: '"' + text.replace('"', '""') + '"')
    plain = anything.filter(
        lambda text: not text.startswith('"') and not set(text) & {delimiter, "\r", "\n"}
    )
    width = draw(st.integers(2, 5))
    cells = st.lists(st.one_of(plain, quoted), min_size=width, max_size=width)
    rows = draw(st.lists(cells, min_size=1, max_size=6))
    header = ["id", "answer", "grade", "feedback", "other"][:width]
    table = [header, *rows]
    last = draw(st.sampled_from(["", end]))
    return end.join(delimiter.join(row) for row in table) + last, delimiter, table


@settings(deadline=None, max_examples=100)
@given(files(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), st.data())
def test_any_table_comes_back_byte_for_byte(
    file: tuple[str, str, list[list[str]]], encoding: str, data: st.DataObject
) -> None:
    text, _, table = file
    raw = text.encode(encoding)
    upload = tables.detect(raw, "a.csv")
    read = [row for row in upload.grid.rows if len(row.raw) > 1]
    assert [list(row.raw) for row in read] == table
    assert [row.values for row in read] == [[unquoted(cell) for cell in row] for row in table]
    assert tables.export(upload, upload.columns, {}).data == raw
    rows = [number for number, _ in upload.body]
    chosen = data.draw(st.sets(st.sampled_from(rows))) if rows else set()
    marks = {(number, 0): MARKING for number in chosen}
    again = tables.detect(tables.export(upload, upload.columns, marks).data, "a.csv")
    targets = {upload.columns.items[0].mark, upload.columns.items[0].feedback}
    for number, (before, after) in enumerate(zip(upload.grid.rows, again.grid.rows, strict=True)):
        for place, cell in enumerate(before.raw):
            if number not in chosen or place not in targets:
                assert after.raw[place] == cell
        assert (before.line <= after.line, before.end) == (True, after.end)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-16")))
def test_any_bytes_are_a_table_or_a_fault(data: bytes) -> None:
    for prefix in (b"", b"q,answer,grade\nQ1,", b"answer;x\n", b"PK\x03\x04"):
        with contextlib.suppress(DataError):
            upload, klass = taken(prefix + data)
            tables.export(upload, upload.columns, {a.place: MARKING for a in klass.answers})
            tables.questions_from(upload, upload.columns)
