"""Files of Canvas, Blackboard, Gradescope and Open edX, whose headers are the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from llmarking.datasets.contents import number
from llmarking.datasets.tables import comparable
from llmarking.tables import names
from llmarking.tables.columns import Columns, Item, Kind
from llmarking.tables.grid import Row
from llmarking.tables.guess import NO_IMPORT, Guess, only, people

_BOOLEANS = {"true", "false"}


def canvas(headers: Sequence[str], rows: Sequence[Row]) -> Guess | None:
    keys = [comparable(header) for header in headers]
    if "id" not in keys or "section" not in keys or keys[0] not in ("student", "lastname"):
        return None
    possible = next(
        (i for i, row in enumerate(rows[:3]) if row[0].strip().casefold() == "points possible"),
        None,
    )
    if possible is None:
        return None
    limits = rows[possible]
    items = []
    for place, header in enumerate(headers):
        title = re.fullmatch(r"(.*\S) \((\d{1,20})\)", header.strip())
        if title and place > keys.index("section") and "(" not in limits[place]:
            items.append(Item(header.strip(), mark=place, worth=number(limits[place]) or None))
    aside = frozenset(
        i
        for i, row in enumerate(rows)
        if i <= possible or not row[keys.index("id")].strip() or comparable(row[0]) == "studenttest"
    )
    parts = (0,) if keys[0] == "student" else (1, 0)
    columns = Columns(student=keys.index("id"), names=parts, items=tuple(items))
    return Guess(Kind.CANVAS, columns, aside=aside)


def canvas_quiz(headers: Sequence[str], rows: Sequence[Row]) -> Guess | None:
    """Answers to a quiz: after each question's number and text comes a column of its points."""
    items: list[Item] = []
    for place, header in enumerate(headers[:-1]):
        title = re.fullmatch(r"(\d{1,20}): (.*)", header.strip(), re.DOTALL)
        worth = number(headers[place + 1])
        if title and worth is not None:
            key, wording = f"Question {len(items) + 1}", title[2].strip()
            items.append(Item(key, wording=wording, answer=place, worth=worth or None))
    if not items:
        return None
    columns = replace(people(headers), items=tuple(items))
    return Guess(Kind.CANVAS_QUIZ, columns, notes=(NO_IMPORT,))


def blackboard(headers: Sequence[str], rows: Sequence[Row]) -> Guess | None:
    items = []
    for place, header in enumerate(headers):
        title, bar, number_of_column = header.rpartition("|")
        if not bar or not number_of_column.strip().isdigit():
            continue
        name, _, about = title.partition("[")
        if re.match(r"(weighted )?total\b", name.strip(), re.IGNORECASE):
            continue  # worked out by the platform
        points = re.search(r"\d[\d.,]{0,15}", about)
        worth = number(points[0]) if points else None
        items.append(Item(name.strip(), mark=place, worth=worth or None))
    who = people(headers)
    if not items or who.student is None:
        return None
    own = names.first(headers, ("username", "user name", "benutzername"))
    student = who.student if own is None else own
    return Guess(Kind.BLACKBOARD, replace(who, student=student, items=tuple(items)))


def gradescope(headers: Sequence[str], rows: Sequence[Row]) -> Guess | None:
    who = people(headers)
    if names.first(headers, ("total score",)) is not None and names.found(headers, ("max points",)):
        items = []
        for place, header in enumerate(headers):
            match = re.fullmatch(r"([\d.]{1,20}): (.*) \(([\d.]+) pts?\)", header.strip())
            if match:
                worth = number(match[3]) or None
                items.append(Item(match[2], match[1], wording=match[2], mark=place, worth=worth))
        if not items:
            total, most = (
                names.first(headers, ("total score",)),
                names.first(headers, ("max points",)),
            )
            items = [Item("Total Score", mark=total, full_mark=most)]
        return Guess(Kind.GRADESCOPE, replace(who, items=tuple(items)))
    titles = {header.strip(): place for place, header in enumerate(headers)}
    items = [
        Item(title, mark=place, full_mark=titles[f"{title} - Max Points"])
        for title, place in titles.items()
        if f"{title} - Max Points" in titles
    ]
    return Guess(Kind.GRADESCOPE_COURSE, replace(who, items=tuple(items))) if items else None


def rubric(headers: Sequence[str], rows: Sequence[Row]) -> Guess | None:
    """One column of TRUE and FALSE for each item, as Gradescope writes evaluations."""
    if not names.found(headers, ("score",)) or not rows:
        return None
    who = people(headers)
    holding = [row for row in rows if not row.blank]
    persons = [i for i, row in enumerate(rows) if _is_person(row, who)]
    points = tuple(
        place
        for place, header in enumerate(headers)
        if header.strip()
        and only(
            [rows[i] for i in persons], place, lambda cell: cell.strip().casefold() in _BOOLEANS
        )
    )
    if not points or not persons:
        return None
    answer = names.found(headers, names.ANSWER)
    item = Item(
        "rubric",
        answer=answer[0] if len(answer) == 1 else None,
        mark=names.first(headers, ("score",)),
        points=points,
    )
    aside = (
        frozenset(range(len(rows))) - set(persons) if len(persons) < len(holding) else frozenset()
    )
    return Guess(Kind.GRADESCOPE_RUBRIC, replace(who, items=(item,)), aside=aside)


def _is_person(row: Row, who: Columns) -> bool:
    places = [place for place in (who.student, *who.names) if place is not None]
    return any(row[place].strip() for place in places) if places else not row.blank


def ora2(headers: Sequence[str], rows: Sequence[Row]) -> Guess | None:
    keys = [comparable(header) for header in headers]
    needed = ("submissionid", "anonymizedstudentid", "response")
    if any(keys.count(name) != 1 for name in needed):
        return None
    # In newer files the item is another number in every row, and the location says which block.
    places = [keys.index(name) for name in ("location", "itemid") if name in keys]
    code = next((place for place in places if _repeats(rows, place)), None)
    item = Item(
        "Response",
        answer=keys.index("response"),
        mark=names.first(headers, ("final score points earned",)),
        full_mark=names.first(headers, ("final score points possible",)),
        form="ora2",
    )
    student = names.first(headers, ("username", "anonymized student id"))
    columns = Columns(student=student, code=code, items=(item,))
    return Guess(Kind.ORA2, columns, notes=(NO_IMPORT,))


def _repeats(rows: Sequence[Row], place: int) -> bool:
    cells = [row[place].strip() for row in rows if not row.blank]
    return 0 < len(set(cells)) < len(cells)
