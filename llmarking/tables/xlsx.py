"""Spreadsheets (.xlsx) through openpyxl, which is loaded only when one comes.

Before it sees a file, the zip is measured and searched for document type declarations: a workbook
needs none, and every entity bomb does.
"""

from __future__ import annotations

import datetime as dt
import io
import re
import warnings
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmarking.errors import DataError
from llmarking.sentences import Sentence, sentence
from llmarking.tables.grid import Changes, Grid, Row, SheetForm, check_size

if TYPE_CHECKING:
    from openpyxl.workbook import Workbook
    from openpyxl.worksheet.worksheet import Worksheet

MAX_UNZIPPED = 200 * 2**20
MAX_MEMBERS = 5_000
MAX_CELLS = 600_000  # openpyxl keeps an object for each
MAX_OTHERS = 400_000  # rows among them
MAX_CELL_TEXT = 32_767  # the format's own limit
_LOST = (
    ("xl/charts/", sentence("charts", "charts")),
    ("xl/media/", sentence("pictures", "pictures")),
    ("xl/pivotTables/", sentence("pivot_tables", "pivot tables")),
    ("xl/vbaProject", sentence("macros", "macros")),
)
_CELL = re.compile(rb"<(?:\w+:)?c[\s/>]")
# Of all other elements a class list has few, and openpyxl keeps an object for many of them.
_OTHER = re.compile(rb"<(?![/!?])(?!(?:\w+:)?(?:c|v|t|si|is|r|f)[\s/>])")
_DECLARATION = re.compile(rb"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_ILLEGAL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_WHOLE = 10**15  # doubles hold every whole number up to here


def read(data: bytes, file: str, sheet: str | None = None) -> Grid:
    """Take a sheet apart: the named one, or the first that holds something.

    Raises:
        DataError: it is no workbook, too big, or made to harm.
    """
    check_size(file, size=len(data))
    names = _inspect(data, file)
    book = _open(data, file)
    titles = tuple(ws.title for ws in book.worksheets)
    if sheet is not None and sheet not in titles:
        fault = sentence(
            "no_sheet",
            "has no sheet {sheet}; there are {known}",
            sheet=repr(sheet),
            known=", ".join(titles),
        )
        raise DataError(fault, file=file)
    filled = [ws for ws in book.worksheets if _filled(ws)]
    chosen = book[sheet] if sheet is not None else next(iter(filled), None)
    if chosen is None or chosen not in filled:
        empty = sentence("empty_sheet", "is empty; its first row has to hold the headers")
        raise DataError(empty, file=file, line=1)
    rows, formulas, numbers, notes = _rows(chosen, file)
    if sheet is None and len(filled) > 1:
        notes.append(
            sentence(
                "other_sheets",
                "sheet {sheet} is read; there are also {others}",
                sheet=repr(chosen.title),
                others=_others(filled, chosen),
            )
        )
    notes += [
        sentence(
            "lost", "{what} in the workbook will be missing in the file we give back", what=what
        )
        for start, what in _LOST
        if any(name.startswith(start) for name in names)
    ]
    merged = tuple(
        (area.min_row - 1, area.max_row - 1, area.min_col - 1, area.max_col - 1)
        for area in chosen.merged_cells.ranges
    )
    form = SheetForm(data, chosen.title, titles, formulas, merged, numbers)
    said = sentence("form_sheet", "spreadsheet, sheet {sheet}", sheet=repr(chosen.title))
    return Grid(file, rows, form, said, tuple(notes))


def write(grid: Grid, form: SheetForm, header: int, changes: Changes) -> bytes:
    """The workbook with the changes; styles, other sheets and other cells stay."""
    book = _open(form.data, grid.file)
    ws = book[form.title]
    for (row, place), value in changes.cells.items():
        _set(ws, row, place, value)
    for offset, (title, values) in enumerate(changes.added):
        place = len(grid.rows[header].raw) + offset
        _set(ws, header, place, title)
        for row, value in values.items():
            _set(ws, row, place, value)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        book.save(out)
    return out.getvalue()


def _set(ws: Worksheet, row: int, place: int, value: str | float) -> None:
    cell: Any = ws.cell(row + 1, place + 1)
    if isinstance(value, str):
        value = _ILLEGAL.sub(" ", value)
        if len(value) > MAX_CELL_TEXT:
            value = value[: MAX_CELL_TEXT - 1] + "…"
    cell.value = value
    if isinstance(value, str):
        cell.data_type = "s"  # openpyxl takes what begins with = for a formula


def _inspect(data: bytes, file: str) -> list[str]:
    """Measure the zip and search its parts; the names of what is in it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            fault = _measured(names, sum(member.file_size for member in members))
            cells = others = 0
            for member in [] if fault else members:
                # Without its zeros, text in UTF-16 can be searched as well.
                part = archive.read(member).replace(b"\0", b"")
                cells += sum(1 for _ in _CELL.finditer(part))
                others += sum(1 for _ in _OTHER.finditer(part))
                if _DECLARATION.search(part):
                    fault = sentence(
                        "entities",
                        "declares entities in {part}, as no spreadsheet does and attacks do; copy "
                        "the table into a new workbook",
                        part=member.filename,
                    )
                elif cells > MAX_CELLS or others > MAX_OTHERS:
                    fault = sentence(
                        "too_full",
                        "has more than {cells:,} cells or {others:,} other elements, reached in "
                        "{part}; delete what is not needed, or save the table as CSV",
                        cells=MAX_CELLS,
                        others=MAX_OTHERS,
                        part=member.filename,
                    )
                if fault:
                    break
    except Exception as error:  # zip files break in many ways, each with an error of its own
        raise _damaged(error, file) from None
    if fault:
        raise DataError(fault, file=file)
    return names


def _measured(names: Sequence[str], size: int) -> Sentence | None:
    """What is wrong with a zip as a whole."""
    if size > MAX_UNZIPPED or len(names) > MAX_MEMBERS:
        return sentence(
            "unpacks",
            "unpacks to more than {size} MB or {parts:,} parts, which no class list does; copy "
            "the table into a new workbook",
            size=MAX_UNZIPPED >> 20,
            parts=MAX_MEMBERS,
        )
    if "[Content_Types].xml" not in names:
        return sentence(
            "zip",
            "is a zip file and no spreadsheet; unpack it, and save the table as .xlsx or CSV",
        )
    return None


def _open(data: bytes, file: str) -> Workbook:
    import openpyxl  # takes a while, and most files are text
    from openpyxl import DEFUSEDXML

    if not DEFUSEDXML:
        raise DataError(
            sentence(
                "not_defused",
                "is a spreadsheet, and defusedxml, which makes reading one safe, is not "
                "installed; install it, or save the file as CSV",
            ),
            file=file,
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about extensions that are not kept
            return openpyxl.load_workbook(io.BytesIO(data), rich_text=True)
    except Exception as error:  # every malformed part fails in its own way
        raise _damaged(error, file) from None


def _damaged(error: Exception, file: str) -> DataError:
    return DataError(
        sentence(
            "damaged_sheet",
            "can't be read as a spreadsheet ({why}); open it in a spreadsheet program and save it "
            "as .xlsx or CSV",
            why=type(error).__name__,
        ),
        file=file,
    )


def _filled(ws: Worksheet) -> bool:
    return any(cell.value is not None for cell in _cells(ws))


def _cells(ws: Worksheet) -> Any:
    return ws._cells.values()  # iter_rows() would make up every cell in between


def _others(filled: Sequence[Any], chosen: Any) -> str:
    return ", ".join(repr(ws.title) for ws in filled if ws is not chosen)


def _rows(
    ws: Worksheet, file: str
) -> tuple[tuple[Row, ...], frozenset[tuple[int, int]], frozenset[tuple[int, int]], list[str]]:
    """The rows up to the last filled cell, the places of formulas and numbers, and oddities."""
    found: dict[int, dict[int, str]] = {}
    formulas, numbers = set(), set()
    long: list[str] = []
    width = height = size = 0
    for cell in _cells(ws):
        if cell.value is None:
            continue
        row, place = cell.row - 1, cell.column - 1
        text = _text(cell)
        found.setdefault(row, {})[place] = text
        width, height = max(width, place + 1), max(height, row + 1)
        size += len(text)
        check_size(file, rows=height, cells=len(found) * width, width=width, size=size)
        if cell.data_type == "f":
            formulas.add((row, place))
        elif cell.data_type == "n":
            numbers.add((row, place))
            if isinstance(cell.value, float | int) and abs(cell.value) >= _WHOLE:
                long.append(cell.coordinate)
    notes: list[str] = []
    if formulas:
        notes.append(
            sentence("formulas_stay", "formulas stay; their results appear when the file is opened")
        )
    if long:
        notes.append(
            sentence(
                "long_numbers",
                "{cells}: a number of more than 15 digits, of which the spreadsheet has lost the "
                "last ones; format ids as text",
                cells=", ".join(long[:5]),
            )
        )
    empty = ("",) * width
    rows = tuple(
        Row(row + 1, tuple(found[row].get(place, "") for place in range(width)))
        if row in found
        else Row(row + 1, empty)
        for row in range(height)
    )
    return rows, frozenset(formulas), frozenset(numbers), notes


def _text(cell: Any) -> str:
    """A cell as text: ids keep the zeros that their number format shows, whole numbers no point."""
    value = cell.value
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        if float(value).is_integer():
            shown = str(int(value))
            form = cell.number_format
            return shown.zfill(len(form)) if form.strip("0") == "" and value >= 0 else shown
        return repr(value)
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if hasattr(value, "text") and not isinstance(value, str):
        return f"={value.text}".replace("==", "=", 1)  # an array formula
    return str(value)
