"""Results of a job as files that a spreadsheet opens and never runs: CSV and XLSX."""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from llmarking.protocol.jobs import JobResult

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
# What XML, and so a sheet, can't hold.
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_LONGEST_CELL = 32_767
_ROWS_AT_ONCE = 200


def header(points: int) -> list[str]:
    """The columns, for questions of up to so many points."""
    fixed = [
        "position", "id", "student", "name", "question", "answer", "mark", "full_mark", "state",
        "needs_review", "flags", "error",
    ]  # fmt: skip
    each = [f"{what}_{n}" for n in range(1, points + 1) for what in ("point", "probability")]
    return fixed + each


def cells(result: JobResult, points: int) -> list[Any]:
    """One row; points that its question does not have are empty."""
    by_id = {point.id: point for point in result.points}
    row: list[Any] = [
        result.position,
        result.id,
        result.student,
        result.name,
        result.question,
        result.text,
        result.mark,
        result.full_mark,
        result.state,
        result.needs_review,
        " ".join(flag.value for flag in result.flags),
        result.error,
    ]
    for number in range(1, points + 1):
        point = by_id.get(number)
        row += [point.held, point.probability] if point else [None, None]
    return row


def inert(value: Any) -> Any:
    """Text with an apostrophe before it where a spreadsheet would take it for a formula."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value


def csv_chunks(results: Iterable[JobResult], points: int) -> Iterator[bytes]:
    """CSV in UTF-8, with the mark at its beginning by which Excel knows."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(header(points))
    yield b"\xef\xbb\xbf"
    for number, result in enumerate(results, start=1):
        writer.writerow([inert(cell) for cell in cells(result, points)])
        if number % _ROWS_AT_ONCE == 0:
            yield _drained(buffer)
    yield _drained(buffer)


def _drained(buffer: io.StringIO) -> bytes:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.encode()


def xlsx_chunks(results: Iterable[JobResult], points: int) -> Iterator[bytes]:
    """A workbook of one sheet, written to disk row by row and then sent."""
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell

    book = Workbook(write_only=True)
    sheet = book.create_sheet("Marks")

    def cell(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        made = WriteOnlyCell(sheet, _NOT_IN_XML.sub("\ufffd", value)[:_LONGEST_CELL])
        # Text, whatever it begins with.
        made.data_type = "s"
        return made

    sheet.append(header(points))
    for result in results:
        sheet.append([cell(value) for value in cells(result, points)])
    with tempfile.TemporaryFile() as file:
        book.save(file)
        file.seek(0)
        while chunk := file.read(1 << 16):
            yield chunk
