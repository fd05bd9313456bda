"""The questions that a file holds: a table of them, or what an export of answers says of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from llmarking import rubric
from llmarking.datasets import original
from llmarking.datasets.contents import number, shown, whole_question
from llmarking.datasets.tables import Row as OriginalRow
from llmarking.domain import GradedExample, Point, Question
from llmarking.errors import DataError, RubricError
from llmarking.sentences import sentence
from llmarking.tables import names
from llmarking.tables.columns import Columns, Item, Kind, Upload, check_cells
from llmarking.tables.grid import Row


@dataclass(frozen=True, slots=True)
class Draft:
    """A question as far as the file has it; a teacher fills in the rest.

    Attributes:
        reference: with or without point tags; empty where the file has none.
        line: where it stands, with `column`, the header of the reference.
    """

    code: str
    text: str
    reference: str
    full_mark: float | None
    examples: tuple[GradedExample, ...] = ()
    file: str = ""
    line: int | None = None
    column: str | None = None
    points: tuple[Point, ...] = ()

    def question(self) -> Question:
        """The question; a reference without point tags is marked as a whole.

        Raises:
            DataError: something is missing, or the tags are wrong.
        """
        if self.points:
            worth = round(sum(point.mark for point in self.points), 6)
            return Question(self.code, self.text, worth, self.reference, self.points)
        if not self.reference.strip():
            raise self._fault(
                sentence(
                    "no_reference",
                    "question {code} has no reference answer; write one",
                    code=self.code,
                )
            )
        tagged = "<point" in re.sub(r"\s", "", self.reference).casefold()
        if not tagged and self.full_mark is not None:
            return whole_question(self.code, self.text, [self.reference.strip()], self.full_mark)
        try:
            parsed = rubric.parse(self.reference, self.full_mark)
        except RubricError as error:
            raise self._fault(error.message) from error
        return Question(
            self.code,
            self.text,
            parsed.full_mark,
            parsed.prose.strip(),
            parsed.points,
            self.examples,
        )

    def _fault(self, message: str) -> DataError:
        return DataError(message, file=self.file, line=self.line, column=self.column)


def questions_from(upload: Upload, columns: Columns) -> tuple[Draft, ...]:
    """The questions of a file: one a row, or those that its columns ask.

    Raises:
        DataError: a cell is wrong, or there are no questions.
    """
    check_cells(upload, columns)
    if upload.kind is Kind.GRADESCOPE_RUBRIC:
        return (_from_rubric(upload, columns.items[0]),)
    by_row = [item for item in columns.items if item.reference is not None and item.answer is None]
    if by_row:
        return _by_row(upload, columns, by_row[0])
    if "reference" in upload.unclear and not any(item.answer for item in columns.items):
        raise upload.undecided("reference")
    if columns.code is not None and columns.items:
        return _by_code(upload, columns.code, columns.items[0])
    drafts = tuple(_by_item(upload, item, n) for n, item in enumerate(columns.items, start=1))
    if not drafts:
        raise upload.missing("reference_answer")
    return drafts


def _by_row(upload: Upload, columns: Columns, item: Item) -> tuple[Draft, ...]:
    for role, name, place in (
        ("code", "question_code", columns.code),
        ("text", "question", item.text),
    ):
        if place is None:
            raise upload.undecided(role) if role in upload.unclear else upload.missing(name)
    assert columns.code is not None
    assert item.text is not None
    assert item.reference is not None
    found: dict[str, Draft] = {}
    for _, row in upload.body:
        for place in (columns.code, item.text, item.reference):
            if not row[place].strip():
                fault = sentence("cell_empty", "is empty; it has to be filled in")
                raise upload.fault(fault, row, place)
        worth = item.worth
        if item.full_mark is not None and row[item.full_mark].strip():
            worth = number(row[item.full_mark])
            if not worth:
                fault = sentence(
                    "no_full_mark", "{cell} is no number above 0", cell=shown(row[item.full_mark])
                )
                raise upload.fault(fault, row, item.full_mark)
        code = row[columns.code].strip()
        if code.casefold() in found:
            fault = sentence("used_twice", "{what} is used twice", what=shown(code))
            raise upload.fault(fault, row, columns.code)
        draft = Draft(
            code,
            row[item.text].strip(),
            row[item.reference].strip(),
            worth,
            file=upload.file,
            line=row.line,
            column=upload.title(item.reference),
        )
        found[code.casefold()] = _with_examples(upload, row, draft)
    if not found:
        raise upload.fault(sentence("no_questions", "holds no questions below its headers"))
    return tuple(found.values())


def _with_examples(upload: Upload, row: Row, draft: Draft) -> Draft:
    """The graded examples in the original's columns, if the file has them."""
    titles = [header.casefold() for header in upload.headers]
    places = {
        name: titles.index(name.casefold())
        for name in original.EXAMPLES
        if titles.count(name.casefold()) == 1
    }
    filled = {name: place for name, place in places.items() if row[place].strip()}
    if not filled:
        return draft
    question = draft.question()
    cells = {name: row[place] for name, place in filled.items()}
    record = OriginalRow(Path(upload.file), row.line, {**cells, "code": draft.code}, {})
    examples = tuple(original.example(record, name, question.points, []) for name in filled)
    return replace(draft, examples=examples)


def _by_code(upload: Upload, place: int, item: Item) -> tuple[Draft, ...]:
    """The questions that the rows of answers name, with what the first row of each says of it."""
    found: dict[str, Draft] = {}
    for _, row in upload.body:
        code = row[place].strip()
        if code and code.casefold() not in found:
            text = row[item.text].strip() if item.text is not None else ""
            worth = number(row[item.full_mark]) if item.full_mark is not None else item.worth
            reference = row[item.reference].strip() if item.reference is not None else ""
            found[code.casefold()] = Draft(
                code, text, reference, worth or None, file=upload.file, line=row.line
            )
    return tuple(found.values())


def _by_item(upload: Upload, item: Item, count: int) -> Draft:
    """What the file says about a question that has columns of its own."""

    def said(place: int | None) -> tuple[str, int | None]:
        if place is None:
            return "", None
        rows = [row for _, row in upload.body if row[place].strip() not in names.NOTHING]
        if not rows:
            return "", None
        if any(row[place].strip() != rows[0][place].strip() for row in rows):
            raise upload.fault(
                sentence(
                    "differs",
                    "differs from row to row: students were asked different questions; grade each "
                    "question with a file of its own",
                ),
                next(r for r in rows if r[place].strip() != rows[0][place].strip()),
                place,
            )
        return rows[0][place].strip(), rows[0].line

    text, _ = said(item.text)
    reference, line = said(item.reference)
    worth = item.worth
    if worth is None and item.full_mark is not None:
        worth = number(said(item.full_mark)[0]) or None
    digits = names.numbered(item.key)[1]
    return Draft(
        item.question or (f"Q{digits}" if digits else f"Q{count}"),
        text or item.wording,
        reference,
        worth,
        file=upload.file,
        line=line,
        column=None if item.reference is None else upload.title(item.reference),
    )


def _from_rubric(upload: Upload, item: Item) -> Draft:
    """Points from the titles of rubric items, worth what the row of point values says, or 1."""
    values = next(
        (
            row
            for number, row in enumerate(upload.grid.rows)
            if number in upload.aside and "point value" in row[0].casefold()
        ),
        None,
    )
    points = []
    for i, place in enumerate(item.points, start=1):
        worth = (number(values[place]) if values else None) or 1.0
        points.append(Point(i, worth, (upload.title(place),)))
    prose = " ".join(point.text for point in points)
    return Draft(item.question or "Q1", "", prose, None, file=upload.file, points=tuple(points))
