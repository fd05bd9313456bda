"""Moodle's files, in any language: their headers are translated and their structure is not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from llmarking.datasets.contents import number
from llmarking.datasets.tables import comparable
from llmarking.tables import names
from llmarking.tables.columns import Columns, Item, Kind
from llmarking.tables.grid import Row
from llmarking.tables.guess import NO_IMPORT, PEEK, Guess, asked_in, only, people

_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}")


def worksheet(headers: Sequence[str], rows: Sequence[Row]) -> Guess | None:
    """Moodle's worksheet in any language.

    Its rows begin with a word and a number, and two columns of dates share a name but for what is
    in brackets: the last change of the submission and of the grade. The text is between them.
    """
    pair = _dates(headers)
    if pair is None or not only(rows, 0, lambda cell: bool(re.fullmatch(r"\D+\d+", cell.strip()))):
        return None
    handed_in, graded = pair
    maximum = names.first(headers, ("maximum grade", *names.FULL_MARK))
    if maximum is None or maximum >= handed_in:
        constant = [
            place
            for place in range(2, handed_in)
            if only(rows, place, lambda cell: number(cell) is not None)
            and len({row[place].strip() for row in rows if not row.blank}) == 1
        ]
        maximum = constant[-1] if constant else None
    online = names.found(headers, ("online text",))
    text = online[0] if online else handed_in + 1 if graded == handed_in + 2 else None
    if maximum is None or text is None:
        return None
    comments = names.found(headers, ("feedback comments",))
    last = graded + 1 if graded + 1 < len(headers) else None
    item = Item(
        headers[text].strip(),
        answer=text,
        full_mark=maximum,
        mark=maximum - 1,
        feedback=comments[0] if comments else last,
        form="html",
    )
    columns = Columns(
        student=0, names=(1,), completed=handed_in, changeable=handed_in - 1, items=(item,)
    )
    return Guess(Kind.MOODLE_WORKSHEET, columns)


def _dates(headers: Sequence[str]) -> tuple[int, int] | None:
    """The two columns whose headers are alike but for what stands in brackets at the end."""
    seen: dict[str, int] = {}
    for place, header in enumerate(headers):
        name, bracket, _ = header.strip().replace("（", "(").partition("(")
        if bracket and header.strip().endswith((")", "）")) and comparable(name):
            if comparable(name) in seen:
                return seen[comparable(name)], place
            seen[comparable(name)] = place
    return None


def quiz(headers: Sequence[str], rows: Sequence[Row]) -> Guess | None:
    """Responses or grades of a quiz, told by `Grade/10.00` in any language."""
    split = [names.out_of(header) for header in headers]
    totals = [i for i, part in enumerate(split) if part and not names.numbered(part[0])[1]]
    if len(totals) != 1:
        return None
    who = replace(
        _attempts(people(headers), rows, totals[0]),
        state=names.first(headers, names.STATE),
        completed=names.first(headers, names.COMPLETED),
    )
    marks = [(i, part) for i, part in enumerate(split) if part and names.numbered(part[0])[1]]
    if marks:
        items = tuple(
            Item(headers[i].strip(), question=names.numbered(part[0])[1], mark=i, worth=part[1])
            for i, part in marks
        )
        return Guess(Kind.MOODLE_GRADES, replace(who, items=items), aside=_averages(rows, who))
    asked = asked_in(headers, rows, totals[0] + 1)
    if not asked:
        return None
    if who.completed is None:
        who = replace(who, completed=_handed_in(rows, totals[0]))
    return Guess(Kind.MOODLE_RESPONSES, replace(who, items=asked), notes=(NO_IMPORT,))


def _attempts(who: Columns, rows: Sequence[Row], total: int) -> Columns:
    """Whose attempts they are: the address, and before it surname and first name."""
    addressed = range(total)
    if who.student is None:
        found = (p for p in addressed if only(rows, p, lambda cell: bool(_EMAIL.fullmatch(cell))))
        who = replace(who, student=next(found, None))
    if not who.names and who.student is not None and who.student >= 2:
        who = replace(who, names=(1, 0))
    return who


def _averages(rows: Sequence[Row], who: Columns) -> frozenset[int]:
    """The last line of a report of grades is no student: it has no address."""
    if who.student is None:
        return frozenset()
    return frozenset(i for i, row in enumerate(rows) if not row[who.student].strip())


def _handed_in(rows: Sequence[Row], total: int) -> int | None:
    """Completed stands two columns before the grade, and time taken between them."""
    place = total - 2
    dated = [row for row in rows[:PEEK] if not row.blank and re.search(r"\d{4}", row[place])]
    return place if place > 0 and dated else None
