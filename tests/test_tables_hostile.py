"""Files that are broken, huge, or made to harm: right rows, or a refusal that says where."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path

import openpyxl
import pytest
from hostile_files import BOMB, HEAD, PLAIN, SHEET, repacked, workbook
from hypothesis import given, settings, strategies as st

from llmarking.datasets.contents import whole_question
from llmarking.errors import DataError
from llmarking.tables import files as tables, grid, xlsx

ASKED = [whole_question("Q1", "Why?", ["because"], 2.0)]
MARKING = tables.Marking(1, 2, {1: True}, "=x")
GOLDEN = sorted(
    path for path in (Path(__file__).parent / "golden").iterdir() if ".graded" not in path.name
)


def graded(data: bytes, name: str = "a.csv") -> list[tuple[int, str, str | None]]:
    """Line, student and text of every answer, after a round trip with marks."""
    upload = tables.detect(data, name)
    klass = tables.class_from(upload, upload.columns, ASKED)
    marks = {answer.place: tables.Marking(1, 2, {}, "=x") for answer in klass.answers}
    again = tables.detect(tables.export(upload, upload.columns, marks).data, name)
    rows = [number for number, _ in again.body]
    assert rows == [number for number, _ in upload.body]
    return [(answer.line, answer.student, answer.text) for answer in klass.answers]


def refused(data: bytes, name: str = "a.csv") -> str:
    with pytest.raises(DataError) as caught:
        graded(data, name)
    assert str(caught.value).startswith(name)
    return str(caught.value).removeprefix(name)


def test_byte_order_marks_and_wide_text() -> None:
    text = HEAD + "01,naïve 冰,\n"
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030"):
        assert graded(text.replace("ï", "i").encode(encoding)) == [(2, "01", "naive 冰")]
    odd = text.encode("utf-16")[:-1]
    assert "is not UTF-16 here" in refused(odd)


def test_a_lone_carriage_return_ends_a_line() -> None:
    assert graded(b"id,answer,mark\r01,yes,\r02,no,") == [(2, "01", "yes"), (3, "02", "no")]
    assert graded(b'id,answer,mark\r\n01,"a\rb\nc",\r\n') == [(2, "01", "a\rb\nc")]


def test_a_quote_that_is_never_closed() -> None:
    said = refused((HEAD + '01,yes,\n02,"no,\n' + "03,x,\n" * 1000).encode())
    assert said.startswith(", line 3, column answer: a quote is opened and never closed")


def test_a_cell_of_a_megabyte() -> None:
    big = "x" * 2**20
    said = refused((HEAD + f"01,{big},\n").encode())
    assert said == (
        ", line 2, column answer: is 1,048,576 characters long; an answer has at most 200,000"
    )
    # Where nothing is graded it does no harm.
    assert graded(f"id,answer,mark,note\n01,yes,,{big}\n".encode()) == [(2, "01", "yes")]


def test_two_hundred_thousand_rows() -> None:
    rows = "".join(f"{n:06},because,\n" for n in range(200_000))
    upload = tables.detect((HEAD + rows).encode(), "a.csv")
    klass = tables.class_from(upload, upload.columns, ASKED)
    assert len(klass.answers) == 200_000
    assert (klass.answers[-1].line, klass.answers[-1].student) == (200_001, "199999")


def test_more_than_can_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "MAX_ROWS", 10)
    assert ", line 11: has more than 10 rows" in refused((HEAD + "01,yes,\n" * 10).encode())
    monkeypatch.setattr(grid, "MAX_CELLS", 12)
    assert "has more than 12 cells" in refused((HEAD + "01,yes,\n" * 5).encode())
    monkeypatch.setattr(grid, "MAX_BYTES", 50)
    assert "has more than 50 bytes" in refused((HEAD + "01,yes,\n" * 9).encode())
    monkeypatch.setattr(grid, "MAX_COLUMNS", 2)
    assert "has more than 2 columns" in refused(HEAD.encode())


def test_headers_that_stand_twice_are_asked_about() -> None:
    said = refused(b"id,answer,answer\n01,yes,no\n")
    assert said == (
        ", line 1, column answer: 'answer' (no. 2), 'answer' (no. 3) could each be the answer; say "
        "which one it is"
    )
    # Other columns may be named alike.
    assert graded(b"id,answer,note,note\n01,yes,a,b\n") == [(2, "01", "yes")]


def test_a_missing_column() -> None:
    assert refused(b"id,word\n01,yes\n").startswith(", line 1, column answer: is missing")


def test_merged_cells_matter_where_answers_stand() -> None:
    title = workbook(lambda sheet: (sheet.insert_rows(1), sheet.merge_cells("A1:C1")))
    assert graded(title, "a.xlsx") == [(3, "01", "yes"), (4, "02", "no")]
    for area, column, line in (("B2:B3", "answer", 2), ("C3:D3", "mark", 3), ("A1:B1", "id", 1)):
        data = workbook(lambda sheet, area=area: sheet.merge_cells(area))  # type: ignore[misc]
        said = refused(data, "a.xlsx")
        assert said.startswith(f", line {line}, column {column}: ")
        assert "merged" in said


def test_formulas_matter_where_answers_stand() -> None:
    def total(sheet: openpyxl.worksheet.worksheet.Worksheet) -> None:
        sheet["D2"] = "=1+1"

    assert len(graded(workbook(total), "a.xlsx")) == 2

    def answer(sheet: openpyxl.worksheet.worksheet.Worksheet) -> None:
        sheet["B3"] = "=1+1"

    said = refused(workbook(answer), "a.xlsx")
    assert said.startswith(", line 3, column answer: holds a formula")


def test_a_zip_bomb() -> None:
    zeros = repacked(PLAIN, "docProps/app.xml", lambda _: b" " * (xlsx.MAX_UNZIPPED + 1))
    assert len(zeros) < 2**19
    assert "unpacks to more than 200 MB" in refused(zeros, "a.xlsx")
    cells = repacked(
        PLAIN,
        SHEET,
        lambda xml: xml.replace(
            b"</sheetData>", b"<row>" + b"<c/>" * xlsx.MAX_CELLS + b"</row></sheetData>"
        ),
    )
    assert "has more than 600,000 cells" in refused(cells, "a.xlsx")
    far = repacked(PLAIN, SHEET, lambda xml: xml.replace(b'r="C2"', b'r="XFD2"'))
    assert len(graded(far, "a.xlsx")) == 2  # an empty cell far away


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_entity_bomb(encoding: str) -> None:
    bomb = BOMB.decode().encode(encoding)
    said = refused(repacked(PLAIN, SHEET, lambda _: bomb), "a.xlsx")
    assert f"declares entities in {SHEET}" in said
    shared = repacked(PLAIN, "xl/workbook.xml", lambda xml: b"<!DOCTYPE x>" + xml)
    assert "declares entities in xl/workbook.xml" in refused(shared, "a.xlsx")


def test_a_spreadsheet_in_name_only() -> None:
    page = b"<html><body><table><tr><td>answer</td></tr></table></body></html>"
    assert refused(page, "a.xlsx").startswith(", line 1: is a web page")
    assert refused(b"\xef\xbb\xbf\r\n<!DOCTYPE html>" + page, "a.xls").startswith(", line 1")
    assert graded((HEAD + "01,yes,\n").encode(), "a.xlsx") == [(2, "01", "yes")]
    assert any("is text" in n for n in tables.detect(HEAD.encode(), "a.xlsx").notes)
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("a.csv", HEAD)
    assert "is a zip file and no spreadsheet" in refused(other.getvalue(), "a.xlsx")
    assert "an old kind" in refused(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 99, "a.xls")
    assert "is a PDF" in refused(b"%PDF-1.7\n", "a.csv")


@pytest.mark.parametrize("part", [SHEET, "xl/workbook.xml", "[Content_Types].xml", "xl/styles.xml"])
def test_a_damaged_spreadsheet(part: str) -> None:
    for change in (lambda xml: xml[: len(xml) // 2], lambda xml: b"", lambda xml: b"<a/>"):
        damaged = repacked(PLAIN, part, change)
        try:
            graded(damaged, "a.xlsx")
        except DataError as error:
            assert str(error).startswith("a.xlsx")  # noqa: PT017
    assert "can't be read as a spreadsheet" in refused(PLAIN[:-100], "a.xlsx")


PIECES = (
    *(b'"', b",", b";", b"\t", b"\n", b"\n\n", b"\r", b"\0", b"\xff", b"\xe4\xb8", b"<p>", b"-"),
    *(b"=1", b'"",""', b"9" * 400, b"/10.00", b"Response 1", b" - Max Points", b"|12", b"TRUE"),
)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_damage_to_a_platforms_file_is_told(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([p for p in GOLDEN if p.suffix != ".xlsx"]))
    broken = path.read_bytes()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(broken)))
        piece = data.draw(st.sampled_from(PIECES) | st.binary(max_size=3))
        broken = broken[:at] + piece + broken[at + data.draw(st.integers(0, 30)) :]
    with contextlib.suppress(DataError):
        upload = tables.detect(broken, path.name)
        assert tables.columns_of(upload.columns.json(), upload) == upload.columns
        assert tables.export(upload, upload.columns, {}).data == broken
        with contextlib.suppress(DataError):
            tables.questions_from(upload, upload.columns)
        items = range(len(upload.columns.items))
        asked = [whole_question(f"Q{n + 1}", f"Why {n}?", ["because"], 2.0) for n in items]
        with contextlib.suppress(DataError):
            tables.class_from(upload, upload.columns, asked)
        places = [(row, item) for row, _ in upload.body for item in items]
        out = tables.export(upload, upload.columns, dict.fromkeys(places, MARKING))
        assert len(tables.detect(out.data, path.name).grid.rows) == len(upload.grid.rows)


def test_a_blank_line_is_no_row() -> None:
    for path in GOLDEN:
        if path.suffix != ".xlsx":
            whole = tables.detect(path.read_bytes(), path.name)
            form = whole.grid.form
            assert isinstance(form, grid.TextForm)
            line = whole.grid.rows[whole.header].end.encode(form.encoding)
            upload = tables.detect(path.read_bytes() + line, path.name)
            assert (upload.kind, upload.columns) == (whole.kind, whole.columns)
            assert len(upload.body) == len(whole.body)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_damage_to_a_spreadsheet_is_told(data: st.DataObject) -> None:
    part = data.draw(st.sampled_from([SHEET, "xl/workbook.xml", "xl/styles.xml", "zip"]))
    with zipfile.ZipFile(io.BytesIO(PLAIN)) as archive:
        whole = PLAIN if part == "zip" else archive.read(part)
    at = data.draw(st.integers(0, len(whole) - 1))
    piece = data.draw(st.binary(min_size=1, max_size=3) | st.sampled_from([b"<c/>", b"9" * 30]))
    end = at + data.draw(st.integers(0, 9))
    broken = whole[:at] + piece + whole[end:]
    if part != "zip":
        broken = repacked(PLAIN, part, lambda _: broken)
    with contextlib.suppress(DataError):
        graded(broken, "a.xlsx")
