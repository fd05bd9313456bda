"""A class before it is handed in: the two files a teacher dropped, and how they are understood.

Lives in the memory of the page until the job is made; after that the server has everything. No
gradio and no HTTP here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmarking.datasets import courses
from llmarking.domain import Question
from llmarking.errors import DataError, LLMarkingError
from llmarking.tables import files as tables

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "short" / "EXAMPLE"


@dataclass(slots=True)
class Intake:
    """What one browser session has uploaded so far.

    Attributes:
        questions_from: the file that the questions came in.
        asked_upload: the file of questions, where it is a table of its own.
        asked_columns: how that table is read; the teacher may have corrected it.
        asked_problem: why there are no questions yet, where their file is at fault.
        data: the answers file, byte for byte; it is what the export fills in.
        columns: how the answers file is read; the teacher may have corrected it.
        problem: why there is no class yet, where the answers file is at fault.
    """

    asked: tuple[Question, ...] = ()
    questions_from: tuple[str, bytes] | None = None
    asked_upload: tables.Upload | None = None
    asked_columns: tables.Columns | None = None
    asked_problem: LLMarkingError | None = None
    data: bytes = b""
    upload: tables.Upload | None = None
    columns: tables.Columns | None = None
    found: tables.Class | None = None
    problem: LLMarkingError | None = None

    def questions(self, data: bytes, name: str) -> None:
        """Take the questions from a file: a course in JSON, or a table.

        Raises:
            DataError: the file can't be read; what was there before stays.
        """
        if name.lower().endswith(".json"):
            asked = courses.parse(data, name).questions
            self.asked_upload, self.asked_columns, self.asked_problem = None, None, None
            self.asked = asked
        else:
            upload = tables.detect(data, name)
            self.asked_upload, self.asked_columns = upload, _references(upload)
            self._ask()
        self.questions_from = (name, data)
        self._name_questions()
        self._match()

    def answers(self, data: bytes, name: str) -> None:
        """Take the answers from a file, and guess its columns.

        Raises:
            DataError: the file can't be read; what was there before stays.
        """
        upload = tables.detect(data, name)
        own = self.questions_from is not None and self.questions_from[1] is not self.data
        self.data, self.upload, self.columns = data, upload, upload.columns
        if not own:
            self._questions_inside(upload)
        self._name_questions()
        self._match()

    def sample(self) -> None:
        """Take the class that is shipped."""
        asked, answered = (SAMPLE / f"EXAMPLE_CSV{number}.csv" for number in (1, 2))
        self.questions(asked.read_bytes(), asked.name)
        self.answers(answered.read_bytes(), answered.name)

    def remap_questions(
        self, *, code: int | None, text: int | None, reference: int | None, full_mark: int | None
    ) -> None:
        """Read the table of questions as the teacher says."""
        if self.asked_upload is None or self.asked_columns is None:
            return
        items = self.asked_columns.items or (tables.Item(key=""),)
        item = replace(items[0], answer=None, text=text, reference=reference, full_mark=full_mark)
        self.asked_columns = replace(self.asked_columns, code=code, items=(item,))
        self._ask()
        self._name_questions()
        self._match()

    def remap(
        self,
        *,
        student: int | None,
        names: Sequence[int],
        code: int | None,
        answers: Sequence[int],
        mark: int | None,
        feedback: int | None,
    ) -> None:
        """Read the answers file as the teacher says.

        Where there is one column of answers, `mark` and `feedback` are the empty columns to fill;
        None is one that is added.
        """
        if self.upload is None or self.columns is None:
            return
        known = {item.answer: item for item in self.columns.items}
        headers = self.upload.headers
        items = tuple(
            known.get(place) or tables.Item(key=headers[place], answer=place) for place in answers
        )
        if len(items) == 1 and len(self.columns.items) == 1:
            # Another column of answers does not change where the marks go.
            items = (replace(self.columns.items[0], answer=items[0].answer),)
        self.columns = replace(
            self.columns, student=student, names=tuple(names), code=code, items=items
        )
        if free := self.free:
            item = replace(
                items[0],
                mark=_target(mark, items[0].mark, free),
                feedback=_target(feedback if feedback != mark else None, items[0].feedback, free),
            )
            self.columns = replace(self.columns, items=(item,))
        self._match()

    @property
    def free(self) -> tuple[int, ...]:
        """The columns among which the teacher chooses where marks go."""
        if self.upload is None or self.columns is None or len(self.columns.items) != 1:
            return ()
        [item] = self.columns.items
        taken = {self.columns.student, *self.columns.names, self.columns.code, item.answer}
        return tuple(place for place in tables.free_columns(self.upload) if place not in taken)

    @property
    def marks_only(self) -> bool:
        """Whether the file of answers is a gradebook, with columns of marks and none of answers."""
        items = () if self.columns is None else self.columns.items
        marks = [item for item in items if item.mark is not None or item.points]
        return bool(marks) and all(item.answer is None for item in items)

    @property
    def ready(self) -> bool:
        """Whether there is something to grade."""
        return self.found is not None

    def body(self, upload: str | None) -> dict[str, Any]:
        """Questions and answers as `POST /jobs` takes them, each with its place in the file."""
        assert self.found is not None
        body = tables.wire(self.found, self.asked)
        for answer in body["answers"]:
            answer["source"] = {**(answer.get("source") or {}), "upload": upload}
        return dict(body)

    def _ask(self) -> None:
        """The questions of their table, or what is wrong with it."""
        assert self.asked_upload is not None
        assert self.asked_columns is not None
        self.asked, self.asked_problem = (), None
        try:
            drafts = tables.questions_from(self.asked_upload, self.asked_columns)
            self.asked = tuple(draft.question() for draft in drafts)
        except DataError as error:
            self.asked_problem = error

    def _questions_inside(self, upload: tables.Upload) -> None:
        """Some platforms write questions and right answers beside the answers."""
        self.asked, self.questions_from = (), None
        try:
            drafts = tables.questions_from(upload, upload.columns)
            # A right answer without points and marks is one point, worth one mark.
            self.asked = tuple(
                (
                    draft if draft.full_mark or _tagged(draft) else replace(draft, full_mark=1.0)
                ).question()
                for draft in drafts
            )
        except LLMarkingError:
            return
        self.questions_from = (upload.file, self.data)

    def _name_questions(self) -> None:
        """Find the column that says which question a row answers, if its header does not tell."""
        if self.upload is not None and self.columns is not None:
            self.columns = tables.naming_questions(self.upload, self.columns, self.asked)

    def _match(self) -> None:
        self.found, self.problem = None, None
        if self.upload is None or self.columns is None or not self.asked or self.marks_only:
            return
        try:
            tables.targets(self.upload, self.columns)  # each mark has a place to go to
            self.found = tables.class_from(self.upload, self.columns, self.asked)
        except DataError as error:
            self.problem = error


def _references(upload: tables.Upload) -> tables.Columns:
    """The columns of a table of questions, in which an `answer` is no student's."""
    columns = upload.columns
    if upload.kind is tables.Kind.ANSWERS and columns.student is None and len(columns.items) == 1:
        [item] = columns.items
        if item.reference is None:
            item = replace(item, reference=item.answer, answer=None)
            return replace(columns, items=(item,))
    return columns


def _target(chosen: int | None, now: int | None, free: Sequence[int]) -> int | None:
    """The column to fill: a column that holds something stays what it was taken for."""
    return now if chosen is None and now is not None and now not in free else chosen


def _tagged(draft: tables.Draft) -> bool:
    return "<point" in "".join(draft.reference.split()).casefold()
