"""Class files: what is recognised, what comes out untouched, what is guarded, what is refused."""

from __future__ import annotations

import pytest

from llmarking import tables
from llmarking.datasets_contents import whole_question
from llmarking.errors import DataError
from llmarking.ui import SAMPLE

ASKED = (whole_question("Q1", "Why?", ["because"], 2.0),)
MARKING = tables.Marking(1.5, 2.0, {1: True}, "fine, really")


def test_the_originals_files_come_in_and_go_out() -> None:
    asked = tables.questions(tables.read((SAMPLE / "EXAMPLE_CSV1.csv").read_bytes(), "1.csv"))
    data = (SAMPLE / "EXAMPLE_CSV2.csv").read_bytes()
    table = tables.read(data, "2.csv")
    file = tables.answers(table, asked)
    assert (len(asked), len(file.answers)) == (10, 140)
    # The teacher's own marks stand: ours are added beside them.
    assert file.recognised["mark"] == "LLMarking mark (added)"
    out = tables.export(table, {3: MARKING})
    again = tables.read(out, "out.csv")
    assert [row.raw[:3] for row in again.rows] == [row.raw for row in table.rows]
    assert again.headers[3:] == ["LLMarking mark", "LLMarking feedback"]
    assert (again.rows[3][3], again.rows[3][4]) == ("1.5", "fine, really")
    assert again.rows[4][3] == ""


def test_an_empty_manual_score_is_filled_as_the_original_writes_it() -> None:
    table = tables.read(b"QuestionCode,StudentAns,ManualScore\nQ1,yes,\n", "a.csv")
    out = tables.export(table, {0: MARKING}).decode()
    assert '"1.5/2 points\n""<Point1:True>"""' in out


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_untouched_cells_keep_every_byte(delimiter: str, encoding: str, end: str) -> None:
    rows = [
        ['"ID"', "题号", "学生答案", "得分", "评语"],
        ["007", " q1 ", '"因为 ""x""\r\nnew line"', "", ""],
        ["1e5", "Q1", "it's so", "", ""],
    ]
    text = end + end.join(delimiter.join(row) for row in rows)
    table = tables.read(text.encode(encoding), "class.csv")
    file = tables.answers(table, ASKED)
    assert [a.text for a in file.answers] == ['因为 "x"\r\nnew line', "it's so"]
    assert file.recognised["mark"] == "得分"
    assert tables.export(table, {}) == text[len(end) :].encode(encoding)
    mark = "1,5" if delimiter == ";" else "1.5"
    rows[2][3:] = ['"1,5"' if delimiter == "," and mark == "1,5" else mark, MARKING.feedback]
    if delimiter == ",":
        rows[2][4] = f'"{MARKING.feedback}"'
    wanted = end.join(delimiter.join(row) for row in rows)
    assert tables.export(table, {1: MARKING}) == wanted.encode(encoding)


@pytest.mark.parametrize(
    "header",
    ["stu_answer", "Response", "Response 1", "answer", "Online text", "学生答案", "StudentAns"],
)
def test_answers_are_found_by_any_name(header: str) -> None:
    table = tables.read(f"Identifier,{header},Grade/10.00\nP 1,yes,\n".encode(), "a.csv")
    file = tables.answers(table, ASKED)
    assert (file.answers[0].text, file.recognised["mark"]) == ("yes", "Grade/10.00")


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ('"=HYPERLINK(""x"")"', '"\'=HYPERLINK(""x"")"'),
        ("+cmd|x", "'+cmd|x"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ('"\tx"', '"\'\tx"'),
        ('"\rx"', '"\'\rx"'),
        ("-2.5", "-2.5"),
        ("+1e-5", "+1e-5"),
        ("-", "-"),
        ("a=b", "a=b"),
    ],
)
def test_formulas_are_guarded_and_numbers_stay(cell: str, written: str) -> None:
    table = tables.read(f"answer,n\n{cell},1\n".encode(), "a.csv")
    assert tables.export(table, {}).decode().split("\n", 1)[1].startswith(f"{written},1")


def test_feedback_is_guarded_as_well() -> None:
    table = tables.read(b"answer\tfeedback\nx\t\n", "a.tsv")
    out = tables.export(table, {0: tables.Marking(1, 2, {}, "=1")})
    assert out.decode() == "answer\tfeedback\tLLMarking mark\nx\t'=1\t1\n"


def test_a_reference_without_tags_is_marked_as_a_whole() -> None:
    table = tables.read("题号,题目,参考答案,满分\nQ1,为什么?,因为,2\n".encode("gb18030"), "q.csv")
    (question,) = tables.questions(table)
    assert (question.full_mark, question.points[0].text) == (2, "因为")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"answer,q\nx\n", "line 2: 1 cells under 2 headers"),
        (b'answer,q\n"x"y,Q1\n', "line 2, column answer: a quote is not closed"),
        (b'answer,q\na,"x\n', "column q: a quote is not closed"),
        (b"answer,q\n\nx,Q9\n", "line 3, column q: 'Q9' is no question"),
        (b"name,q\nx,Q1\n", "column StudentAns: is missing"),
        (b"answer,response,q\nx,y,Q1\n", "could each be meant"),
        (b"\xff\xff\xff", "neither UTF-8"),
        (b"PK\x03\x04\0\0", "Save it as CSV"),
    ],
)
def test_faults_name_row_and_column(data: bytes, said: str) -> None:
    with pytest.raises(DataError) as caught:
        tables.answers(tables.read(data, "a.csv"), ASKED)
    assert said in str(caught.value)
    assert str(caught.value).startswith("a.csv")
