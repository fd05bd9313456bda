"""Text tables: comma, semicolon or tab; LF, CR or both; quoted cells that hold any of them.

Written again, every cell that nobody changed has the bytes it came with.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator

from llmarking.errors import DataError
from llmarking.sentences import Sentence, sentence
from llmarking.tables import grid as tables_grid
from llmarking.tables.grid import Changes, Grid, Row, TextForm, TextRow, check_size, unquoted
from llmarking.tables.text import breaks, decode, described

DELIMITERS = ",;\t"
_NAMES = {
    ",": sentence("commas", "commas"),
    ";": sentence("semicolons", "semicolons"),
    "\t": sentence("tabs", "tabs"),
}
_SEPARATOR = re.compile(r'\s*"?sep=([,;\t])"?[ \t]*(?:\r\n|\r|\n)')
_SAMPLE = 50
_SAMPLE_SIZE = 4 * 2**20


def read(data: bytes, file: str, encoding: str | None = None) -> Grid:
    """Take a text table apart.

    Raises:
        DataError: it is no such table; names the line, and the column where one is at fault.
    """
    check_size(file, size=len(data))
    text, encoding, bom = decode(data, file, encoding)
    delimiter = _delimiter(text)
    rows: list[Row] = []
    cells = 0
    for row in _rows(text, delimiter, file):
        cells += len(row.raw)
        check_size(file, rows=len(rows) + 1, cells=cells)
        rows.append(row)
    if not any(not row.blank for row in rows):
        empty = sentence("empty_text", "is empty; its first line has to hold the headers")
        raise DataError(empty, file=file, line=1)
    said = sentence(
        "form_text",
        "{encoding}, cells parted by {delimiter}",
        encoding=described(encoding, bom),
        delimiter=_NAMES[delimiter],
    )
    return Grid(file, tuple(rows), TextForm(encoding, bom, delimiter), said)


def write(grid: Grid, form: TextForm, header: int, changes: Changes) -> bytes:
    """The file with the changes; `header` is the number of the row of headers."""
    changed: dict[int, dict[int, str]] = {}
    for (at, place), value in changes.cells.items():
        changed.setdefault(at, {})[place] = str(value)
    lines = []
    for number, row in enumerate(grid.rows):
        cells: list[str] | tuple[str, ...] = row.raw
        if number in changed:
            cells = list(cells)
            for place, value in changed[number].items():
                cells[place] = _quoted(value, form.delimiter, like=cells[place])
        if changes.added and number == header:
            cells = [*cells, *(_quoted(title, form.delimiter) for title, _ in changes.added)]
        elif changes.added and number > header and not row.blank:
            added = (str(values.get(number, "")) for _, values in changes.added)
            cells = [*cells, *(_quoted(value, form.delimiter) for value in added)]
        lines.append(form.delimiter.join(cells) + row.end)
    # What came in can be written; of our own words a narrow encoding may lack a character.
    return form.bom + "".join(lines).encode(form.encoding, "replace")


def _quoted(text: str, delimiter: str, like: str = "") -> str:
    """A cell that says the text, in quotes if it needs them or the one it replaces had them."""
    needs = text != text.strip() or any(mark in text for mark in (delimiter, '"', "\n", "\r"))
    if needs or like.startswith('"'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _delimiter(text: str) -> str:
    """The delimiter under which the first records are most alike, then the one with most cells."""
    if named := _SEPARATOR.match(text):
        return named[1]
    text = text[:_SAMPLE_SIZE]
    best, best_score = ",", (0.0, 0)
    for delimiter in DELIMITERS:
        widths: list[int] = []
        with contextlib.suppress(DataError):  # told later, if this delimiter is the one
            sample = itertools.islice(_rows(text, delimiter, ""), _SAMPLE)
            widths.extend(len(row.raw) for row in sample if not row.blank)
        # Widths of 1 say nothing: the delimiter may not occur at all.
        wide = [width for width in widths if width > 1]
        usual = max(set(wide), key=wide.count, default=1)
        score = (wide.count(usual) / len(widths) if widths else 0.0, usual)
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _rows(text: str, delimiter: str, file: str) -> Iterator[Row]:
    plain = re.escape(delimiter)
    # Possessive, so that hostile text is gone through once.
    cell = re.compile(rf'"[^"]*+(?:""[^"]*+)*+"|[^"{plain}\r\n][^{plain}\r\n]*+|')
    between = re.compile(rf"{plain}|\r\n|\r|\n|\Z")
    at, line, begun = 0, 1, 1
    raw: list[str] = []
    headers: tuple[str, ...] = ()
    while at < len(text) or raw:
        match = cell.match(text, at)
        assert match is not None  # the pattern takes nothing at all, too
        found = match.group()
        raw.append(found)
        if len(raw) > tables_grid.MAX_COLUMNS:
            check_size(file, width=len(raw))
        inside = breaks(found) if found[:1] == '"' else 0
        end = between.match(text, match.end())
        if end is None:
            place = len(raw) - 1
            raise DataError(
                _quote_fault(text, match.end()),
                file=file,
                line=line + inside,
                column=unquoted(headers[place]).strip() if place < len(headers) else str(place + 1),
            )
        line += inside
        at = end.end()
        if end.group() == delimiter:
            continue
        row = TextRow(begun, tuple(raw), end.group())
        headers = headers or (() if row.blank else row.raw)
        yield row
        raw = []
        line += bool(end.group())
        begun = line


def _quote_fault(text: str, at: int) -> Sentence:
    if text[at : at + 1] == '"':
        return sentence(
            "quote_open",
            "a quote is opened and never closed; write quotes inside a quoted cell twice",
        )
    return sentence(
        "quote_followed",
        "text follows the closing quote of a cell; write quotes inside a quoted cell twice, and "
        "put the whole cell in quotes",
    )
