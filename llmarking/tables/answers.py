"""The questions and answers of a file, by its columns.

What is left out is told with its line: unfinished attempts, rows without a submission, and rows
that are no student's. Nothing is guessed: what can't be told is an error at its cell.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmarking.calls.call import question_body
from llmarking.datasets.contents import number, shown
from llmarking.datasets.tables import comparable
from llmarking.domain import Question
from llmarking.errors import DataError
from llmarking.protocol.bodies import MAX_TEXT
from llmarking.sentences import Sentence, sentence
from llmarking.tables import names
from llmarking.tables.columns import Columns, Item, Kind, Upload, check_cells, listed
from llmarking.tables.content import html_text, ora2_text
from llmarking.tables.grid import Row

MAX_NAME = 500
MAX_RAW = 5 * MAX_TEXT  # HTML is longer than its text

_VERDICT = re.compile(r"<\s*Point\s*(\d{1,4})\s*:\s*(True|False)\s*>", re.IGNORECASE)
_AN_ANSWER = sentence("an_answer", "an answer")
_A_PERSON = sentence("a_person", "a student's id or name")
_OUT_OF = re.compile(r"\s*([\d.,]{1,20})\s*/\s*([\d.,]{1,20})(?:\s*points?)?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """A student's answer to one question.

    Attributes:
        row: the number of its row in the grid; with `item`, the place where its mark goes.
        item: the number of its question among the items of the columns.
        line: where its row begins in the file, from 1.
        column: the header it stands under.
        text: what is graded; None where the file has marks only.
        raw: the cell as it stands.
        mark: a person's mark, where there is one.
        verdicts: a person's verdicts by point.
    """

    row: int
    item: int
    line: int
    column: str
    student: str
    name: str
    question: str
    text: str | None
    raw: str = ""
    mark: float | None = None
    full_mark: float | None = None
    verdicts: Mapping[int, bool] | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Where its mark goes."""
        return self.row, self.item


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that was left out, and why."""

    line: int
    student: str
    reason: str


@dataclass(frozen=True, slots=True)
class Class:
    """The answers in the order of the file, those of a row from left to right."""

    answers: tuple[Answer, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


def class_from(upload: Upload, columns: Columns, questions: Sequence[Question]) -> Class:
    """The answers of a file; where rows don't name their question, they answer the only one.

    Raises:
        DataError: a column is missing or can't be told, or a cell is wrong.
    """
    check_cells(upload, columns)
    items = _matched(upload, columns, questions)
    reader = _Reader(
        upload,
        replace(columns, items=items),
        upload.headers,
        {question.code.casefold(): question for question in questions},
        {comparable(question.text): question.code for question in questions},
    )
    answers: list[Answer] = []
    skipped: list[Skipped] = []
    for number_of_row, row in upload.body:
        who = _who(row, columns)
        if reason := reader.reason(row):
            skipped.append(Skipped(row.line, who[0], reason))
            continue
        for number_of_item in range(len(items)):
            answer = reader.answer(row, (number_of_row, number_of_item), who)
            if answer.text is not None or answer.mark is not None:
                answers.append(answer)
    if not answers:
        raise upload.fault(sentence("no_answers", "holds no answers below its headers"))
    return Class(tuple(answers), tuple(skipped), (*_left_out(skipped), *_twice(answers)))


def wire(klass: Class, questions: Sequence[Question]) -> dict[str, Any]:
    """The fields `questions` and `answers` of `POST /jobs`, as plain JSON values.

    Raises:
        DataError: the file has marks only.
    """
    sent = []
    for answer in klass.answers:
        if answer.text is None:
            raise DataError(
                sentence(
                    "marks_only", "the file has marks and no answers: there is nothing to grade"
                )
            )
        entry: dict[str, Any] = {
            "student": answer.student,
            "name": answer.name,
            "question": answer.question,
            "text": answer.text,
            "source": {
                "row": answer.row,
                "item": answer.item,
                "line": answer.line,
                "column": answer.column,
            },
        }
        if answer.verdicts is not None:
            entry["verdicts"] = {str(point): held for point, held in answer.verdicts.items()}
        sent.append(entry)
    return {"questions": [question_body(question) for question in questions], "answers": sent}


def _matched(upload: Upload, columns: Columns, questions: Sequence[Question]) -> tuple[Item, ...]:
    """The items with the codes of their questions, empty where each row names its own."""
    if "answer" in upload.unclear and not any(i.answer is not None for i in columns.items):
        raise upload.undecided("answer")
    if not any(i.answer is not None or i.mark is not None or i.points for i in columns.items):
        why = sentence("missing_answers", "is missing: no column is taken for answers")
        raise upload.missing("answer", why)
    asked = columns.items
    codes = {question.code.casefold(): question.code for question in questions}
    if not codes:
        raise DataError(
            sentence("no_questions_yet", "there are no questions yet"), file=upload.file
        )
    if len(asked) == 1 and not asked[0].question:
        by_text = asked[0].text is not None and len(questions) > 1
        if columns.code is not None or by_text:
            return asked
        if "code" in upload.unclear:
            raise upload.undecided("code")
        if len(questions) > 1:
            raise upload.missing(
                "question_code",
                sentence(
                    "missing_code",
                    "is missing: there are {count} questions, and no column says which one an "
                    "answer belongs to",
                    count=len(questions),
                ),
            )
        return (replace(asked[0], question=questions[0].code),)
    return _by_key(upload, asked, codes, questions)


def naming_questions(upload: Upload, columns: Columns, questions: Sequence[Question]) -> Columns:
    """The columns, with the one that says which question a row answers.

    Headers may call it anything; it is known by its cells. Where those of the column that was taken
    are not all codes of questions, it is the only column whose cells are.
    """
    codes = {question.code.casefold() for question in questions}
    if len(columns.items) > 1 or len(codes) < 2:
        return columns
    taken = {columns.student, *columns.names, *(item.answer for item in columns.items)}
    places = [place for place in range(len(upload.headers)) if place not in taken]
    fitting = [
        place
        for place in places
        if upload.body and all(row[place].strip().casefold() in codes for _, row in upload.body)
    ]
    if columns.code in fitting or len(fitting) != 1:
        return columns
    return replace(columns, code=fitting[0])


def _by_key(
    upload: Upload, asked: tuple[Item, ...], codes: Mapping[str, str], questions: Sequence[Question]
) -> tuple[Item, ...]:
    found = []
    for item in asked:
        digits = names.numbered(item.key)[1]
        tries = [item.question] if item.question else [item.key, digits, f"q{digits}"]
        code = next((codes[t.casefold()] for t in tries if t and t.casefold() in codes), "")
        found.append(code)
    if not all(found) and not any(found) and len(asked) == len(questions):
        found = [question.code for question in questions]  # by order
    for item, code in zip(asked, found, strict=True):
        if not code:
            place = item.answer if item.answer is not None else item.mark
            raise upload.fault(
                sentence(
                    "unmatched",
                    "can't be matched with a question: there are {known}. Call the column like one "
                    "of them",
                    known=listed(list(codes.values())),
                ),
                place=place,
            )
    return tuple(replace(item, question=code) for item, code in zip(asked, found, strict=True))


def _who(row: Row, columns: Columns) -> tuple[str, str]:
    """Id and name; without an id, the name or else the line stands for it."""
    name = " ".join(row[place].strip() for place in columns.names if row[place].strip())
    given = row[columns.student].strip() if columns.student is not None else ""
    return given or name or f"line {row.line}", name  # stored, so in one language


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the rows of one file."""

    upload: Upload
    columns: Columns
    titles: list[str]
    by_code: Mapping[str, Question]
    by_text: Mapping[str, str]

    def reason(self, row: Row) -> str:
        """Why a row is no answer to grade; empty if it is one."""
        columns, kind = self.columns, self.upload.kind

        def cell(place: int | None) -> str | None:
            return None if place is None else row[place].strip()

        completed, state = cell(columns.completed), cell(columns.state)
        if names.is_one(cell(columns.changeable) or "", names.LOCKED):
            return sentence("locked", "the platform takes no mark for it any more")
        if kind is Kind.MOODLE_WORKSHEET:
            texts = [row[item.answer].strip() for item in columns.items if item.answer is not None]
            blank = completed is not None and completed in names.NOTHING and not any(texts)
            return sentence("nothing_in", "nothing was handed in") if blank else ""
        unfinished = names.is_one(state or "", names.UNFINISHED)
        if kind is Kind.MOODLE_RESPONSES and not names.is_one(state or "", names.FINISHED):
            # A state in another language: an attempt that has no end is not finished.
            unfinished = unfinished or completed in names.NOTHING or state == ""
        return sentence("unfinished", "the attempt is not finished") if unfinished else ""

    def answer(self, row: Row, at: tuple[int, int], who: tuple[str, str]) -> Answer:
        """The answer in a row to the question of an item."""
        item = self.columns.items[at[1]]
        code = item.question or self._code(row, item)
        raw, text = "", None
        if item.answer is not None:
            raw = row[item.answer]
            text = raw if len(raw) > MAX_RAW else self._text(raw, item)
            self._fits(row, item.answer, text, MAX_TEXT, _AN_ANSWER)
        for place, said in zip((self.columns.student, None), who, strict=True):
            self._fits(row, place, said, MAX_NAME, _A_PERSON)
        mark, full, verdicts = _marked(row, item, self.by_code.get(code.casefold()))
        heading = item.answer if item.answer is not None else item.mark
        column = item.key if heading is None else self.titles[heading]
        return Answer(*at, row.line, column, *who, code, text, raw, mark, full, verdicts)

    def _code(self, row: Row, item: Item) -> str:
        """The question that a row names by its code, or by its text."""
        upload, place = self.upload, self.columns.code
        if place is None:
            assert item.text is not None  # or it would have been matched
            if code := self.by_text.get(comparable(row[item.text]), ""):
                return code
            fault = sentence("text_unknown", "is the text of none of the questions")
            raise upload.fault(fault, row, item.text)
        given = row[place].strip()
        if not given:
            fault = sentence("code_empty", "is empty; it has to name the question")
            raise upload.fault(fault, row, place)
        if (question := self.by_code.get(given.casefold())) is None:
            known = listed([q.code for q in self.by_code.values()])
            fault = sentence(
                "code_unknown",
                "{code} is no question; there are {known}",
                code=shown(given),
                known=known,
            )
            raise upload.fault(fault, row, place)
        return question.code

    def _text(self, raw: str, item: Item) -> str:
        """A cell as the text that is graded."""
        if item.form == "html":
            return html_text(raw)
        if item.form == "ora2":
            return ora2_text(raw)
        if self.upload.kind is Kind.MOODLE_RESPONSES and raw.strip() == "-":
            return ""  # Moodle's word for no answer
        return raw

    def _fits(self, row: Row, place: int | None, text: str, limit: int, what: Sentence) -> None:
        if len(text) > limit:
            fault = sentence(
                "too_long",
                "is {size:,} characters long; {what} has at most {limit:,}",
                size=len(text),
                what=what,
                limit=limit,
            )
            raise self.upload.fault(fault, row, place)


def _marked(
    row: Row, item: Item, question: Question | None
) -> tuple[float | None, float | None, dict[int, bool] | None]:
    """A person's mark, the most there is, and the verdicts, as far as the row has them."""
    cell = row[item.mark] if item.mark is not None else ""
    full = number(row[item.full_mark]) if item.full_mark is not None else item.worth
    if item.points:
        said = [row[place].strip().casefold() for place in item.points]
        verdicts = {i: held == "true" for i, held in enumerate(said, start=1) if held}
    else:
        verdicts = {int(i): held.casefold() == "true" for i, held in _VERDICT.findall(cell)}
    wanted = [point.id for point in question.points] if question else []
    known = verdicts if verdicts and sorted(verdicts) == wanted else None
    if total := _OUT_OF.match(cell):
        return number(total[1]), number(total[2]), known
    return number(cell), full, known


def _left_out(skipped: Sequence[Skipped]) -> list[str]:
    """How many rows are not graded for each reason, and in which lines."""
    lines: dict[str, list[str]] = {}
    for entry in skipped:
        lines.setdefault(entry.reason, []).append(str(entry.line))
    return [
        sentence(
            "left_out",
            "{count} left out because {reason}: line {lines}",
            count=len(at),
            reason=reason,
            lines=", ".join(at[:12]) + (" …" if at[12:] else ""),
        )
        for reason, at in lines.items()
    ]


def _twice(answers: Sequence[Answer]) -> list[str]:
    """Students with several answers to one question: attempts, or rows that were pasted twice."""
    counts = Counter((a.student, a.question) for a in answers)
    several = {student for (student, _), count in counts.items() if count > 1}
    if not several:
        return []
    return [
        sentence(
            "several_answers",
            "{count} students have more than one answer to a question; each one is graded: "
            "{students}",
            count=len(several),
            students=listed(sorted(several)),
        )
    ]
