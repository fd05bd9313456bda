"""Class files in and out: what a teacher has comes in, and the same file with marks goes back.

    upload = detect(data, "quiz.csv")           which kind of file, which column is what
    klass = class_from(upload, upload.columns, questions)
    out = export(upload, upload.columns, {answer.place: Marking(…) for answer in …})

A file comes as its platform wrote it: text in any of the usual encodings, or a spreadsheet. Faults
are `DataError`s that name file, line and column; nothing else is raised, whatever the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmarking.errors import DataError
from llmarking.sentences import sentence
from llmarking.tables import csv_files, xlsx
from llmarking.tables.answers import Answer, Class, Skipped, class_from, naming_questions, wire
from llmarking.tables.columns import Columns, Item, Kind, Upload, columns_of, untitled
from llmarking.tables.export import (
    Export,
    Marking,
    Target,
    export,
    free_columns,
    standing,
    targets,
)
from llmarking.tables.formats import known, recognise
from llmarking.tables.grid import Grid, Row, TextForm, check_size
from llmarking.tables.questions import Draft, questions_from

__all__ = [
    "Answer",
    "Class",
    "Columns",
    "Draft",
    "Export",
    "Item",
    "Kind",
    "Marking",
    "Skipped",
    "Target",
    "Upload",
    "class_from",
    "columns_of",
    "detect",
    "export",
    "free_columns",
    "naming_questions",
    "questions_from",
    "standing",
    "targets",
    "wire",
]

_HEADERS_WITHIN = 20  # rows; titles and notes stand above them
_LONGEST_HEADER = 10_000
_PICTURE = sentence("picture", "is a picture; export the table as CSV or .xlsx")
_OTHERS = (
    (
        b"\xd0\xcf\x11\xe0",
        sentence("xls", "is a spreadsheet of an old kind (.xls); save it as .xlsx or CSV"),
    ),
    (b"%PDF", sentence("pdf", "is a PDF; export the table as CSV or .xlsx")),
    (b"\x89PNG", _PICTURE),
    (b"\xff\xd8\xff", _PICTURE),
)
_HTML = re.compile(rb"\s*<(?:!doctype|html|head|body|table|meta|\?xml)", re.IGNORECASE)
_COMMA = re.compile(r"-?\d{1,9},\d{1,6}")
_POINT = re.compile(r"-?\d{1,9}\.\d{1,6}")


def detect(
    data: bytes, filename: str, *, sheet: str | None = None, encoding: str | None = None
) -> Upload:
    """Take a file apart and tell what its columns hold.

    Args:
        sheet: of a spreadsheet, by its title; the first that holds something otherwise.
        encoding: of a text file, where the guess was wrong.

    Raises:
        DataError: it is no table that can be read.
    """
    grid = _grid(data, Path(filename).name, sheet, encoding)
    header = _header(grid)
    headers = [cell.strip() for cell in grid.rows[header].values]
    _check_shape(grid, header)
    # A blank line has one cell; recognisers look at any place of any row.
    nothing = ("",) * len(headers)
    below = [Row(row.line, nothing) if row.blank else row for row in grid.rows[header + 1 :]]
    guess = recognise(headers, below)
    notes = [*grid.notes, *guess.notes]
    if header > 0 and any(not row.blank for row in grid.rows[:header]):
        notes.append(
            sentence(
                "headers_below",
                "the headers stand in line {line}; what is above them stays",
                line=grid.rows[header].line,
            )
        )
    return Upload(
        grid,
        header,
        guess.kind,
        guess.columns,
        guess.unclear,
        _decimal(grid, header, guess.columns),
        frozenset(header + 1 + row for row in guess.aside),
        tuple(notes),
    )


def _grid(data: bytes, file: str, sheet: str | None, encoding: str | None) -> Grid:
    check_size(file, size=len(data))
    if data.startswith(b"PK\x03\x04"):
        return xlsx.read(data, file, sheet)
    for begin, fault in _OTHERS:
        if data.startswith(begin):
            raise DataError(fault, file=file)
    if _HTML.match(
        data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip(b"\xff\xfe").replace(b"\0", b"")
    ):
        raise DataError(
            sentence(
                "web_page",
                "is a web page, whatever its name says; open it in a spreadsheet program and save "
                "it as .xlsx or CSV",
            ),
            file=file,
            line=1,
        )
    grid = csv_files.read(data, file, encoding)
    if Path(file).suffix.casefold() in (".xlsx", ".xlsm"):
        note = sentence(
            "text_in_fact",
            "its name says spreadsheet and it is text ({form}); it goes back as text",
            form=grid.said,
        )
        return Grid(grid.file, grid.rows, grid.form, grid.said, (*grid.notes, note))
    return grid


def _header(grid: Grid) -> int:
    """The row of headers: the first row, unless a later one is much more like it."""
    filled = [number for number, row in _first_rows(grid) if not row.blank]
    best, most = filled[0], known(grid.rows[filled[0]].values)
    for number in filled[1:]:
        count = known(grid.rows[number].values)
        if most == 0 and count >= 2:
            best, most = number, count
    return best


def _first_rows(grid: Grid) -> Iterator[tuple[int, Row]]:
    seen = 0
    for number, row in enumerate(grid.rows):
        if seen >= _HEADERS_WITHIN:
            return
        seen += not row.blank
        yield number, row


def _check_shape(grid: Grid, header: int) -> None:
    """Every record has a cell for every header, or cells have slipped into other columns."""
    top = grid.rows[header]
    width = len(top.raw)
    for place in range(width):
        if len(top.raw[place]) > _LONGEST_HEADER:
            raise DataError(
                sentence(
                    "header_long",
                    "is {size:,} characters long, which no header is; the first row has to hold "
                    "the headers",
                    size=len(top.raw[place]),
                ),
                file=grid.file,
                line=top.line,
                column=untitled(place),
            )
    for row in grid.rows[header + 1 :]:
        if len(row.raw) != width and not row.blank:
            slipped = min(len(row.raw), width)
            title = top[slipped].strip() if slipped < width else untitled(slipped)
            raise DataError(
                sentence(
                    "cells_slipped",
                    "{cells} cells under {headers} headers; cells with separators or line breaks "
                    "stand in double quotes",
                    cells=len(row.raw),
                    headers=width,
                ),
                file=grid.file,
                line=row.line,
                column=title,
            )


def _decimal(grid: Grid, header: int, columns: Columns) -> str:
    """The file's decimal sign: that of its marks, or what goes with its separator."""
    places = {
        place
        for item in columns.items
        for place in (item.mark, item.full_mark)
        if place is not None
    }
    cells = [cell.strip().rpartition("/")[2] for cell in grid.rows[header].values]
    cells += [
        row[place].strip() for row in grid.rows[header + 1 :] if not row.blank for place in places
    ]
    commas, points = _count(cells, _COMMA), _count(cells, _POINT)
    if commas != points:
        return "," if commas > points else "."
    form = grid.form
    return "," if isinstance(form, TextForm) and form.delimiter == ";" else "."


def _count(cells: Sequence[str], pattern: re.Pattern[str]) -> int:
    return sum(1 for cell in cells if pattern.fullmatch(cell))
