"""A teacher's file as rows of cells, whatever it was written as.

Text files keep every cell as it stands, so that they can be written again byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmarking.errors import DataError
from llmarking.sentences import sentence

MAX_BYTES = 64 * 2**20
MAX_ROWS = 250_000
MAX_CELLS = 3_000_000
MAX_COLUMNS = 2_000


@dataclass(frozen=True, slots=True)
class Row:
    """A record: its cells, and the line of the file (or row of the sheet) where it begins.

    Attributes:
        raw: the cells as they stand; in a text file with their quotes.
        end: the line break behind it, in a text file.
    """

    line: int
    raw: tuple[str, ...]
    end: str = ""

    def __getitem__(self, place: int) -> str:
        return self.raw[place]

    @property
    def values(self) -> list[str]:
        """What the cells say."""
        return [self[place] for place in range(len(self.raw))]

    @property
    def blank(self) -> bool:
        """Whether all cells are empty."""
        return not any(self[place].strip() for place in range(len(self.raw)))


class TextRow(Row):
    """A record of a text file, where a cell may stand in quotes."""

    __slots__ = ()

    def __getitem__(self, place: int) -> str:
        return unquoted(self.raw[place])


@dataclass(frozen=True, slots=True)
class TextForm:
    """How a text file is written. `bom` are the bytes before its text."""

    encoding: str
    bom: bytes
    delimiter: str


@dataclass(frozen=True, slots=True)
class SheetForm:
    """Where a sheet comes from, and the cells whose value can't be taken as it stands.

    Attributes:
        data: the whole workbook.
        formulas: (row number, column number) of every formula, both from 0.
        merged: first and last row and column of every merged range, from 0.
        numbers: (row number, column number) of every cell that holds a number.
    """

    data: bytes
    title: str
    sheets: tuple[str, ...]
    formulas: frozenset[tuple[int, int]] = frozenset()
    merged: tuple[tuple[int, int, int, int], ...] = ()
    numbers: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Grid:
    """The rows of a file and how it was written, in words for the teacher in `said`."""

    file: str
    rows: tuple[Row, ...]
    form: TextForm | SheetForm
    said: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What is written into a grid, by row and column number from 0.

    Attributes:
        cells: a number where the file holds numbers as such, text everywhere else.
        added: columns behind the last one: header, and the cells by row.
    """

    cells: Mapping[tuple[int, int], str | float] = field(default_factory=dict)
    added: Sequence[tuple[str, Mapping[int, str | float]]] = ()

    def __bool__(self) -> bool:
        return bool(self.cells) or bool(self.added)


def unquoted(raw: str) -> str:
    """What a cell of a text file says."""
    if len(raw) > 1 and raw[0] == raw[-1] == '"':
        return raw[1:-1].replace('""', '"')
    return raw


def check_size(file: str, *, size: int = 0, rows: int = 0, cells: int = 0, width: int = 0) -> None:
    """Refuse what is too big to be a class.

    Raises:
        DataError: says what there is too much of, and the limit.
    """
    for found, limit, what in (
        (size, MAX_BYTES, sentence("of_bytes", "bytes")),
        (rows, MAX_ROWS, sentence("of_rows", "rows")),
        (width, MAX_COLUMNS, sentence("of_columns", "columns")),
        (cells, MAX_CELLS, sentence("of_cells", "cells")),
    ):
        if found > limit:
            raise DataError(
                sentence(
                    "too_big",
                    "has more than {limit:,} {what}; split it, or delete what is not needed",
                    limit=limit,
                    what=what,
                ),
                file=file,
                line=limit + 1 if what == "rows" else None,
            )
