"""The file again, with marks and feedback where they belong and every other cell as it came.

What a person wrote is not written over unless asked. Text of ours that a spreadsheet would run as a
formula gets an apostrophe in front; numbers stay numbers.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmarking.datasets.contents import number
from llmarking.datasets.tables import comparable
from llmarking.errors import DataError
from llmarking.sentences import sentence
from llmarking.tables import csv_files, names, xlsx
from llmarking.tables.answers import Answer
from llmarking.tables.columns import FILLED_ONLY, Columns, Item, Kind, Upload, check_cells
from llmarking.tables.grid import Changes, Row, SheetForm, TextForm

Place = tuple[int, int]

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d+)*|[.,]\d+)(?:[eE][+-]?\d+)?%?")


@dataclass(frozen=True, slots=True)
class Marking:
    """What is written for an answer. A verdict of None is one that could not be read."""

    mark: float
    full_mark: float
    verdicts: Mapping[int, bool | None]
    feedback: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where the mark and the feedback of an item go, in words."""

    key: str
    mark: str
    feedback: str


@dataclass(frozen=True, slots=True)
class Export:
    """The file that is given back, under a name, and what a teacher should know about it."""

    data: bytes
    name: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Slot:
    """The columns of an item: a place among those of the file, or the title of a new one."""

    mark: int | str
    feedback: int | str | None


def targets(upload: Upload, columns: Columns) -> tuple[Target, ...]:
    """Where `export` would write, for each item."""

    def said(target: int | str | None) -> str:
        if target is None:
            return sentence("not_written", "not written: the platform takes none")
        if isinstance(target, str):
            return sentence("added", "{title} (added)", title=target)
        return sentence("column", "column {title}", title=upload.title(target))

    return tuple(
        Target(item.key, said(slot.mark), said(slot.feedback))
        for item, slot in zip(columns.items, _slots(upload, columns), strict=True)
    )


def free_columns(upload: Upload) -> tuple[int, ...]:
    """The columns that marks or feedback can go into because nothing stands in them.

    There are none in a platform's own file, where each column has its meaning.
    """
    if upload.kind in FILLED_ONLY:
        return ()
    return tuple(place for place in range(len(upload.headers)) if _is_empty(upload, place))


def standing(upload: Upload, columns: Columns, answers: Iterable[Answer]) -> list[str]:
    """The lines of the answers whose marks stand in the file already, and stay."""
    slots, rows = _slots(upload, columns), dict(upload.body)
    lines = []
    for answer in answers:
        place = slots[answer.item].mark
        if isinstance(place, int) and not _free(rows[answer.row][place], overwrite=False):
            lines.append(str(answer.line))
    return lines


def export(
    upload: Upload, columns: Columns, marks: Mapping[Place, Marking], *, overwrite: bool = False
) -> Export:
    """Write marks by (number of the row, number of the item), as answers carry them in `place`.

    Args:
        overwrite: also replace numbers that a person wrote into a file of a platform.

    Raises:
        DataError: a mark has no place in the file, or would go into a formula or a merged cell.
    """
    check_cells(upload, columns)
    slots = _slots(upload, columns)
    rows = dict(upload.body)
    cells: dict[Place, str | float] = {}
    added: dict[str, dict[int, str | float]] = {
        title: {}
        for slot in slots
        for title in (slot.mark, slot.feedback)
        if isinstance(title, str)
    }
    original = [_is_original(upload, slot) for slot in slots]
    kept: list[str] = []
    unscaled: list[str] = []
    for (at, index), given in sorted(marks.items()):
        if at not in rows or not 0 <= index < len(slots):
            fault = sentence(
                "no_place",
                "has no place for a mark in row {row}, item {item}",
                row=at,
                item=index,
            )
            raise DataError(fault, file=upload.file)
        row, item, slot = rows[at], columns.items[index], slots[index]
        value = _original(given) if original[index] else _value(upload, row, item, given)
        if value is None:
            unscaled.append(str(row.line))
            continue
        comment = _safe(given.feedback)
        if upload.kind is Kind.MOODLE_WORKSHEET:
            comment = html.escape(comment, quote=False)  # Moodle reads comments as HTML
        if isinstance(slot.mark, int) and not _free(row[slot.mark], overwrite=overwrite):
            kept.append(str(row.line))
            continue  # our words would be about another mark
        for target, text in ((slot.mark, value), (slot.feedback, comment)):
            if target is None or text == "":
                continue
            if isinstance(target, str):
                added[target][at] = text
            elif _free(row[target], overwrite=overwrite):
                cells[at, target] = text
            else:
                kept.append(str(row.line))
    changes = Changes(cells, tuple(added.items()) if marks else ())
    notes = [*_notes(upload, kept, unscaled)]
    return Export(write(upload, changes), graded_name(upload.file), tuple(notes))


def _slots(upload: Upload, columns: Columns) -> list[_Slot]:
    taken = set(upload.headers)
    slots = []
    for item in columns.items:
        if upload.kind in FILLED_ONLY:
            if item.mark is None:
                why = sentence("missing_mark", "is missing: no column is taken for the mark")
                raise upload.missing("grade", why)
            slots.append(_Slot(item.mark, item.feedback))
            continue
        targets: list[int | str] = []
        for what, place in (("mark", item.mark), ("feedback", item.feedback)):
            if place is not None and _is_empty(upload, place):
                targets.append(place)
                continue
            title = fresh_title(what, item.key if len(columns.items) > 1 else "", taken)
            taken.add(title)
            targets.append(title)
        slots.append(_Slot(*targets))
    return slots


def _is_empty(upload: Upload, place: int) -> bool:
    return not any(row[place].strip() for _, row in upload.body)


def fresh_title(what: str, about: str, taken: Collection[str]) -> str:
    """The header of a column of ours, numbered where the file has one of that name."""
    title = f"LLMarking {what}, {about}" if about else f"LLMarking {what}"
    numbered = (f"{title} {n}" for n in itertools.count(2))
    return next(each for each in itertools.chain([title], numbered) if each not in taken)


def _is_original(upload: Upload, slot: _Slot) -> bool:
    return isinstance(slot.mark, int) and comparable(upload.title(slot.mark)) == "manualscore"


def _original(given: Marking) -> str:
    """A mark with its verdicts, as the original writes it."""
    verdicts = ",".join(f"<Point{i}:{held is True}>" for i, held in given.verdicts.items())
    return f'{given.mark:g}/{given.full_mark:g} points\n"{verdicts}"'


def _value(upload: Upload, row: Row, item: Item, given: Marking) -> str | float | None:
    """The mark as the file writes marks; None where the file has another scale than numbers."""
    if upload.kind not in FILLED_ONLY:
        return cell_of(upload, given.mark)
    most = item.worth
    if item.full_mark is not None:
        most = number(row[item.full_mark])
        if most is None:
            return None
    return cell_of(upload, scaled(given.mark, given.full_mark, most))


def scaled(mark: float, full_mark: float, most: float | None) -> float:
    """A mark out of `full_mark` as one out of `most`, where that is known."""
    if not most or not full_mark or most == full_mark:
        return mark
    return round(mark / full_mark * most, 2)


def cell_of(upload: Upload, mark: float) -> str | float:
    """A mark as the file writes numbers."""
    mark = round(mark, 6)
    if isinstance(upload.grid.form, SheetForm):
        return int(mark) if float(mark).is_integer() else mark
    return f"{mark:.10g}".replace(".", upload.decimal)


def _free(cell: str, *, overwrite: bool) -> bool:
    """Whether a cell may be written: it is empty, or a number that the teacher gave up."""
    text = cell.strip()
    return text in names.NOTHING or (overwrite and text not in ("EX", "N/A"))


def _safe(text: str) -> str:
    """The text with an apostrophe where a spreadsheet would take it for a formula."""
    if text.lstrip(" ").startswith(_FORMULA) and not _NUMBER.fullmatch(text.strip()):
        return "'" + text
    return text


def _notes(upload: Upload, kept: list[str], unscaled: list[str]) -> Iterator[str]:
    if kept:
        yield sentence(
            "kept",
            "what a person had written was kept: line {lines}",
            lines=listed_lines(kept),
        )
    if unscaled:
        yield sentence(
            "in_words",
            "the platform grades line {lines} by a scale of words, which is left to you",
            lines=listed_lines(unscaled),
        )


def listed_lines(lines: list[str]) -> str:
    """The first lines of many, each once."""
    unique = list(dict.fromkeys(lines))
    return ", ".join(unique[:12]) + (" …" if unique[12:] else "")


def write(upload: Upload, changes: Changes) -> bytes:
    """The bytes of the file with these changes."""
    form = upload.grid.form
    if isinstance(form, TextForm):
        return csv_files.write(upload.grid, form, upload.header, changes)
    if not changes:
        return form.data
    return xlsx.write(upload.grid, form, upload.header, changes)


def graded_name(file: str) -> str:
    """What the file is called when it goes back."""
    path = Path(file)
    return f"{path.stem}_graded{path.suffix}"
