"""Which column holds what: the model that recognition fills in and a teacher may change.

All places are 0-based column numbers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from llmarking.datasets.contents import shown
from llmarking.errors import DataError
from llmarking.sentences import Sentence, sentence
from llmarking.tables.grid import Grid, Row, SheetForm

Form = Literal["text", "html", "ora2"]

_LISTED = 12
_STRANGE = ConfigDict(extra="forbid")
_MISSING = sentence("is_missing", "is missing")
# What a column could be, as it is called where that is not clear.
_ROLES = {
    "code": sentence("role_code", "code"),
    "text": sentence("role_text", "text"),
    "reference": sentence("role_reference", "reference"),
    "full_mark": sentence("role_full_mark", "full_mark"),
    "answer": sentence("role_answer", "answer"),
    "mark": sentence("role_mark", "mark"),
    "feedback": sentence("role_feedback", "feedback"),
}


class Kind(StrEnum):
    """Where a file comes from, as far as its headers tell."""

    ORIGINAL_QUESTIONS = "the original's questions"
    ORIGINAL_ANSWERS = "the original's answers"
    MOODLE_RESPONSES = "Moodle quiz, responses"
    MOODLE_GRADES = "Moodle quiz, grades"
    MOODLE_WORKSHEET = "Moodle assignment, offline grading worksheet"
    CANVAS = "Canvas gradebook"
    CANVAS_QUIZ = "Canvas quiz, student analysis"
    GRADESCOPE = "Gradescope, scores of an assignment"
    GRADESCOPE_COURSE = "Gradescope, scores of a course"
    GRADESCOPE_RUBRIC = "Gradescope, rubric items of a question"
    BLACKBOARD = "Blackboard, Grade Center"
    ORA2 = "Open edX, open response assessment"
    QUESTIONS = "questions"
    ANSWERS = "answers"
    UNKNOWN = "not recognised"

    @property
    def said(self) -> Sentence:
        """It in words."""
        return Sentence(self.value, f"kind_{self.name.lower()}", {})


# These are read back by the platform, which would take a column of ours for something else.
FILLED_ONLY = frozenset({Kind.MOODLE_WORKSHEET, Kind.CANVAS, Kind.BLACKBOARD})


@dataclass(frozen=True, slots=True)
class Item:
    """One question as the file has it: columns, or the whole file where rows name the question.

    Attributes:
        key: what the file calls it: a header or a title.
        question: the code of the question; empty: found by the key, then by order.
        wording: the question's text, where a header holds it.
        text: the column of the question's text.
        reference: the column of its reference answer.
        full_mark: the column of the most that can be had; `worth` is the same as a number.
        mark: the column of the mark, a person's where it is filled.
        points: for each point in order, the column that says TRUE or FALSE.
        form: how answers are written: text, HTML, or the JSON of Open edX.
    """

    __pydantic_config__ = _STRANGE

    key: str
    question: str = ""
    wording: str = ""
    answer: int | None = None
    text: int | None = None
    reference: int | None = None
    full_mark: int | None = None
    worth: float | None = None
    mark: int | None = None
    feedback: int | None = None
    points: tuple[int, ...] = ()
    form: Form = "text"

    @property
    def places(self) -> list[int]:
        """All columns that it uses."""
        own = (self.answer, self.text, self.reference, self.full_mark, self.mark, self.feedback)
        return [place for place in (*own, *self.points) if place is not None]


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a file.

    Attributes:
        student: the id of the student, in the words of the file.
        names: columns that make up the name, in the order in which it is said.
        code: the question's code, where each row is an answer to one question.
        state: what an attempt's state is; `completed`, when it was handed in.
        changeable: whether the platform still takes a mark, yes or no.
        items: one for each question that is asked in columns of its own; else just one.
    """

    __pydantic_config__ = _STRANGE

    student: int | None = None
    names: tuple[int, ...] = ()
    code: int | None = None
    state: int | None = None
    completed: int | None = None
    changeable: int | None = None
    items: tuple[Item, ...] = ()

    def json(self) -> dict[str, Any]:
        """As plain JSON values, for a store."""
        return dataclasses.asdict(self)

    @property
    def places(self) -> list[int]:
        """All columns in use."""
        own = [self.student, self.code, self.state, self.completed, self.changeable, *self.names]
        found = [place for place in own if place is not None]
        return found + [place for item in self.items for place in item.places]


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was taken apart and looked at.

    Attributes:
        header: the number of the row of headers in `grid.rows`.
        columns: what each column seems to be; the teacher may say otherwise.
        unclear: columns that could each be meant, by what they could be.
        decimal: the file's decimal sign.
        aside: numbers of rows below the headers that are no student's.
        notes: what a teacher should know, one sentence each.
    """

    grid: Grid
    header: int
    kind: Kind
    columns: Columns
    unclear: dict[str, tuple[int, ...]]
    decimal: str
    aside: frozenset[int]
    notes: tuple[str, ...]

    @property
    def file(self) -> str:
        """Its name."""
        return self.grid.file

    @property
    def form(self) -> str:
        """How it is written, in words."""
        return self.grid.said

    @property
    def headers(self) -> list[str]:
        """The headers without outer space."""
        return [value.strip() for value in self.grid.rows[self.header].values]

    @property
    def sheets(self) -> tuple[str, ...]:
        """The sheets of a spreadsheet."""
        return self.grid.form.sheets if isinstance(self.grid.form, SheetForm) else ()

    @property
    def body(self) -> list[tuple[int, Row]]:
        """The rows that can hold answers, with their numbers in the grid."""
        rows = self.grid.rows
        return [
            (number, rows[number])
            for number in range(self.header + 1, len(rows))
            if number not in self.aside and not rows[number].blank
        ]

    def sample(self, count: int = 5) -> list[list[str]]:
        """The first rows below the headers."""
        return [row.values for _, row in self.body[:count]]

    def title(self, place: int) -> str:
        """The header of a column, or its number where it has none."""
        headers = self.headers
        return (headers[place] if place < len(headers) else "") or untitled(place)

    def fault(self, message: str, row: Row | None = None, place: int | None = None) -> DataError:
        """An error with file, line and header."""
        line = self.grid.rows[self.header].line if row is None else row.line
        column = None if place is None else self.title(place)
        return DataError(message, file=self.file, line=line, column=column)

    def undecided(self, role: str) -> DataError:
        """An error where several columns could each hold what is needed."""
        places = self.unclear[role]
        named: Iterator[Sentence] = (
            sentence(
                "numbered",
                "{title} (no. {number})",
                title=shown(self.title(place)),
                number=place + 1,
            )
            for place in places
        )
        fault = sentence(
            "undecided",
            "{columns} could each be the {role}; say which one it is",
            columns=functools.reduce(_both, named),
            role=_ROLES[role],
        )
        return self.fault(fault, place=places[1])

    def missing(self, name: str, why: str = _MISSING) -> DataError:
        """An error where no column holds what is needed."""
        line = self.grid.rows[self.header].line
        message = sentence(
            "missing", "{why}; the headers are {headers}", why=why, headers=listed(self.headers)
        )
        return DataError(message, file=self.file, line=line, column=name)


def _both(first: Sentence, second: Sentence) -> Sentence:
    return sentence("both", "{first}, {second}", first=first, second=second)


def untitled(place: int) -> Sentence:
    """What stands for the header of a column that has none."""
    return sentence("untitled", "no. {number}", number=place + 1)


def listed(entries: Sequence[str]) -> str:
    """The first of many, for a message."""
    more = ", …" if len(entries) > _LISTED else ""
    return ", ".join(shown(entry) for entry in entries[:_LISTED]) + more


def check_cells(upload: Upload, columns: Columns) -> None:
    """Refuse formulas and merged cells where answers, ids or marks are read or written.

    Raises:
        DataError: names the cell.
    """
    form = upload.grid.form
    if not isinstance(form, SheetForm):
        return
    used = set(columns.places)
    rows = upload.grid.rows
    body = {number for number, _ in upload.body}
    for row, place in sorted(form.formulas):
        if place in used and row in body:
            raise upload.fault(
                sentence(
                    "formula",
                    "holds a formula; replace it by its value (copy, then paste values only)",
                ),
                rows[row],
                place,
            )
    for top, bottom, left, right in form.merged:
        reached = range(max(top, upload.header), min(bottom, len(rows) - 1) + 1)
        if reached and any(left <= place <= right for place in used):
            place = min(place for place in used if left <= place <= right)
            raise upload.fault(
                sentence(
                    "merged",
                    "belongs to merged cells; unmerge them, so that each row has cells of its own",
                ),
                rows[reached[0]],
                place,
            )


def columns_of(data: object, upload: Upload) -> Columns:
    """Columns from what `json()` gave, checked against the file.

    Raises:
        DataError: it is no such thing, or names columns that the file lacks.
    """
    try:
        columns = TypeAdapter(Columns).validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        fault = sentence(
            "columns_wrong",
            "the columns are wrong: {where}: {why}",
            where=".".join(map(str, first["loc"])),
            why=first["msg"],
        )
        raise DataError(fault, file=upload.file) from None
    width = len(upload.headers)
    for place in columns.places:
        if not 0 <= place < width:
            fault = sentence(
                "no_column_there",
                "has {width} columns, numbered from 0; there is no {place}",
                width=width,
                place=place,
            )
            raise DataError(fault, file=upload.file)
    return columns
