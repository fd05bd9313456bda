"""Recognise a file by its headers, and where those are translated, by its structure.

Each recogniser gets the headers and the rows below them and says which columns hold what, or that
it is not its kind of file. The first that knows it is believed; the teacher has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llmarking.datasets.tables import comparable
from llmarking.tables import moodle, names, platforms
from llmarking.tables.columns import Item, Kind
from llmarking.tables.grid import Row
from llmarking.tables.guess import Guess, asked_in, people

_RECOGNISERS = (
    *(platforms.canvas, platforms.canvas_quiz, platforms.blackboard),
    *(platforms.gradescope, platforms.ora2, moodle.worksheet),
    *(moodle.quiz, platforms.rubric),
)


def recognise(headers: Sequence[str], rows: Sequence[Row]) -> Guess:
    """The best guess; one without items where nothing was recognised."""
    for recogniser in _RECOGNISERS:
        if guess := recogniser(headers, rows):
            return guess
    return _generic(headers, rows)


def known(headers: Sequence[str]) -> int:
    """How many of the cells look like headers."""
    every = (
        *(names.CODE, names.TEXT, names.REFERENCE, names.FULL_MARK, names.ANSWER, names.MARK),
        *(names.FEEDBACK, names.STUDENT, names.FULL_NAME, names.FIRST_NAME, names.LAST_NAME),
    )
    places = {place for group in every for place in names.found(headers, group)}
    places.update(
        place
        for family, columns in names.series(headers).items()
        if family in map(comparable, names.RESPONSES)
        for place in columns.values()
    )
    return len(places)


def _generic(headers: Sequence[str], rows: Sequence[Row]) -> Guess:
    """Any table, by the names of its columns."""
    places = {
        role: names.found(headers, known)
        for role, known in (
            *(("code", names.CODE), ("text", names.TEXT), ("reference", names.REFERENCE)),
            *(("full_mark", names.FULL_MARK), ("answer", names.ANSWER), ("mark", names.MARK)),
            ("feedback", names.FEEDBACK),
        )
    }
    unclear = {role: found for role, found in places.items() if len(found) > 1}
    one = {role: found[0] if len(found) == 1 else None for role, found in places.items()}
    who = replace(
        people(headers),
        code=one["code"],
        state=names.first(headers, names.STATE),
        completed=names.first(headers, names.COMPLETED),
    )
    items = asked_in(headers, rows)
    if len(items) > 1:
        return Guess(Kind.ANSWERS, replace(who, code=None, items=items))
    if len(items) == 1 and not places["answer"]:
        item = replace(items[0], mark=one["mark"], feedback=one["feedback"])
        return Guess(Kind.ANSWERS, replace(who, items=(item,)), unclear)
    answer = one["answer"]
    key = "" if answer is None else headers[answer].strip()
    item = Item(
        key,
        answer=answer,
        text=one["text"],
        reference=one["reference"],
        full_mark=one["full_mark"],
        mark=one["mark"],
        feedback=one["feedback"],
        form="html" if comparable(key) == "onlinetext" else "text",
    )
    kind = _kind(headers, places)
    items = () if kind is Kind.UNKNOWN else (item,)
    return Guess(kind, replace(who, items=items), unclear)


def _kind(headers: Sequence[str], places: Mapping[str, tuple[int, ...]]) -> Kind:
    keys = {comparable(header) for header in headers}
    if places["answer"]:
        ours = {"studentans", "studentans1", "stuanswer"} & keys and "questioncode" in keys
        return Kind.ORIGINAL_ANSWERS if ours else Kind.ANSWERS
    if places["reference"]:
        ours = {"scoring", "rightanswer"} & keys and {"questioncode", "fullmark"} <= keys
        return Kind.ORIGINAL_QUESTIONS if ours else Kind.QUESTIONS
    return Kind.UNKNOWN
