"""Tables read by header: every record knows where in which file it stands."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmarking.datasets.contents import number, read_text, shown
from llmarking.errors import DataError


@dataclass(frozen=True, slots=True)
class Column:
    """A column by our name for it, and the headers it goes by, whatever their case and spacing."""

    name: str
    headers: tuple[str, ...]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a table. `line` is where it begins in the file."""

    file: Path
    line: int
    cells: Mapping[str, str]
    headers: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")

    def fault(self, message: str, column: str | None = None) -> DataError:
        """An error at this record, in the column by its header in the file."""
        title = self.headers.get(column, column) if column else None
        return DataError(message, file=str(self.file), line=self.line, column=title)

    def need(self, column: str) -> str:
        """The cell without outer space.

        Raises:
            DataError: it is empty.
        """
        if not (text := self[column].strip()):
            raise self.fault("is empty; it has to be filled in", column)
        return text

    def number(self, column: str) -> float:
        """The cell as a number, with a decimal point or comma.

        Raises:
            DataError: it is none, or below 0.
        """
        text = self.need(column)
        if (value := number(text)) is None:
            raise self.fault(f"{shown(text)} is no number; write it like 2 or 2.5", column)
        return value


def first_headers(path: Path) -> set[str]:
    """The headers of a table in comparable form; empty when the file is no table.

    One in another encoding has headers too: that it is not UTF-8 is said when it is read.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            line = file.readline(10_000)
        cells = next(csv.reader([line], delimiter=_delimiter(line)), [])
    except (OSError, csv.Error):
        return set()
    return {comparable(cell) for cell in cells}


def comparable(header: str) -> str:
    """A header without case, space and punctuation: “Question code” is “QuestionCode”."""
    return re.sub(r"[\W_]+", "", header).casefold()


def read_csv(path: Path, columns: Sequence[Column]) -> Iterator[Row]:
    """The records of a CSV file; cells are parted by comma, semicolon or tab, as in its first line.

    Raises:
        DataError: the file is no such table, or a record does not fit the headers.
    """
    text = read_text(path)
    # Strict, because otherwise one stray quote swallows the rest of the file into one answer.
    delimiter = _delimiter(text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)

    def records() -> Iterator[tuple[int, list[str]]]:
        while True:
            line = reader.line_num + 1
            try:
                yield line, next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(
                    f"no table: {error}; a cell with quotes, commas or line breaks stands in "
                    "double quotes, and quotes inside it are doubled",
                    file=str(path),
                    line=line,
                ) from None

    return _rows(path, records(), columns)


def read_tsv(path: Path, columns: Sequence[Column]) -> Iterator[Row]:
    """The records of a tab-separated file with one record a line, where quotes are nothing special.

    A cell that was written by a program which does quote, `"He said ""no""."`, is unquoted.

    Raises:
        DataError: the file is no such table, or a record does not fit the headers.
    """
    lines = re.split(r"\r?\n", read_text(path))
    cells = ([_unquoted(cell) for cell in line.split("\t")] for line in lines)
    return _rows(path, enumerate(cells, start=1), columns)


def _rows(
    path: Path, records: Iterator[tuple[int, list[str]]], columns: Sequence[Column]
) -> Iterator[Row]:
    places: dict[str, int] = {}
    names: list[str] = []
    for line, cells in records:
        if not any(cell.strip() for cell in cells):
            continue
        if not names:
            names, places = cells, _places(path, line, cells, columns)
            continue
        if len(cells) != len(names):
            raise DataError(
                f"{len(cells)} cells under {len(names)} headers; every record has a cell for every "
                "header, and cells with commas or line breaks stand in double quotes",
                file=str(path),
                line=line,
            )
        yield Row(
            path,
            line,
            {name: cells[place] for name, place in places.items()},
            {name: names[place].strip() for name, place in places.items()},
        )
    if not names:
        raise DataError("is empty; its first line has to hold the headers", file=str(path))


def _places(
    path: Path, line: int, cells: Sequence[str], columns: Sequence[Column]
) -> dict[str, int]:
    keys = [comparable(cell) for cell in cells]
    places = {}
    for column in columns:
        known = {comparable(title) for title in column.headers}
        found = [place for place, key in enumerate(keys) if key in known]
        if len(found) > 1:
            title = cells[found[1]].strip()
            raise DataError(
                "stands twice among the headers; keep one", file=str(path), line=line, column=title
            )
        if found:
            places[column.name] = found[0]
        elif column.required:
            there = ", ".join(shown(cell) for cell in cells[:12])
            raise DataError(
                f"is missing; the headers are {there}",
                file=str(path),
                line=line,
                column=column.headers[0],
            )
    return places


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _unquoted(cell: str) -> str:
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        inner = cell[1:-1]
        if '"' not in inner.replace('""', ""):
            return inner.replace('""', '"')
    return cell
