"""A class before it is handed in: the two files a teacher dropped, and how they are understood.

Lives in the memory of the page until the job is made; after that the server has everything. No
gradio and no HTTP here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from llmarking.datasets import courses
from llmarking.domain import Question
from llmarking.errors import DataError, LLMarkingError
from llmarking.tables import files as tables
from llmarking.ui.faults import explained, put
from llmarking.ui.texts import Language, say

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "short" / "EXAMPLE"
SHOWN = 8
LINES_NAMED = 12


@dataclass(slots=True)
class Intake:
    """What one browser session has uploaded so far.

    Attributes:
        questions_from: the file that the questions came in.
        data: the answers file, byte for byte; it is what the export fills in.
        columns: how the answers file is read; the teacher may have corrected it.
        problem: why there is no class yet, where a file is at fault.
    """

    asked: tuple[Question, ...] = ()
    questions_from: tuple[str, bytes] | None = None
    data: bytes = b""
    upload: tables.Upload | None = None
    columns: tables.Columns | None = None
    found: tables.Class | None = None
    problem: LLMarkingError | None = None

    def questions(self, data: bytes, name: str) -> None:
        """Take the questions from a file: a course in JSON, or a table.

        Raises:
            DataError: the file is at fault; what was there before stays.
        """
        if name.lower().endswith(".json"):
            self.asked = courses.parse(data, name).questions
        else:
            upload = tables.detect(data, name)
            drafts = tables.questions_from(upload, upload.columns)
            self.asked = tuple(draft.question() for draft in drafts)
        self.questions_from = (name, data)
        self._match()

    def answers(self, data: bytes, name: str) -> None:
        """Take the answers from a file, and guess its columns.

        Raises:
            DataError: the file is at fault; what was there before stays.
        """
        upload = tables.detect(data, name)
        self.data, self.upload, self.columns = data, upload, upload.columns
        if not self.asked:
            self._questions_inside(upload)
        self._match()

    def sample(self) -> None:
        """Take the class that is shipped."""
        asked, answered = (SAMPLE / f"EXAMPLE_CSV{number}.csv" for number in (1, 2))
        self.questions(asked.read_bytes(), asked.name)
        self.answers(answered.read_bytes(), answered.name)

    def remap(
        self,
        *,
        student: int | None,
        names: Sequence[int],
        code: int | None,
        answers: Sequence[int],
    ) -> None:
        """Read the answers file as the teacher says."""
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
        self._match()

    def _questions_inside(self, upload: tables.Upload) -> None:
        """Some platforms write questions and right answers beside the answers."""
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

    def _match(self) -> None:
        self.found, self.problem = None, None
        if self.upload is None or self.columns is None or not self.asked:
            return
        try:
            self.found = tables.class_from(self.upload, self.columns, self.asked)
        except DataError as error:
            self.problem = error

    @property
    def ready(self) -> bool:
        """Whether there is something to grade."""
        return self.found is not None and any(a.text is not None for a in self.found.answers)

    def body(self, upload: str | None) -> dict[str, Any]:
        """Questions and answers as `POST /jobs` takes them, each with its place in the file."""
        assert self.found is not None
        body = tables.wire(self.found, self.asked)
        for answer in body["answers"]:
            answer["source"] = {**(answer.get("source") or {}), "upload": upload}
        return dict(body)


def _tagged(draft: tables.Draft) -> bool:
    return "<point" in "".join(draft.reference.split()).casefold()


def checked(intake: Intake, language: Language) -> str:
    """What was recognised, as HTML."""

    def line(kind: str, key: str, **values: object) -> str:
        return f'<p class="lm-{kind}">{escape(say(language, key, **values))}</p>'

    said = []
    if intake.asked and intake.questions_from:
        points = sum(len(question.points) for question in intake.asked)
        name = intake.questions_from[0]
        said.append(
            line("good", "questions_read", count=len(intake.asked), points=points, file=name)
        )
    else:
        said.append(line("note", "questions_missing"))
    if intake.upload is None:
        said.append(line("note", "answers_missing"))
    elif intake.found is not None:
        said += _found(intake, language, line)
    if intake.problem is not None:
        why = explained(language, intake.problem)
        said.append(f'<p class="lm-problem">{escape(why)}</p>')
    if intake.upload is not None:
        notes = dict.fromkeys((*intake.upload.notes, *(intake.found.notes if intake.found else ())))
        said += [f'<p class="lm-note">{escape(put(language, text))}</p>' for text in notes]
    return "".join(said)


def _found(intake: Intake, language: Language, line: Callable[..., str]) -> list[str]:
    assert intake.found is not None
    assert intake.upload is not None
    answers = [answer for answer in intake.found.answers if answer.text is not None]
    said = [
        line(
            "good" if answers else "problem",
            "answers_read",
            count=len(answers),
            students=len({answer.student or answer.row for answer in answers}),
            file=intake.upload.file,
            source=put(language, intake.upload.kind.said),
            form=put(language, intake.upload.form),
        )
    ]
    empty = [str(answer.line) for answer in answers if not (answer.text or "").strip()]
    if empty:
        said.append(line("note", "empty_answers", count=len(empty), lines=_some(empty)))
    return said


def _some(lines: Sequence[str]) -> str:
    """The first few of them."""
    return ", ".join(lines[:LINES_NAMED]) + (" …" if len(lines) > LINES_NAMED else "")


def preview(intake: Intake, language: Language) -> str:
    """The first answers as they are understood, as an HTML table."""
    if intake.found is None:
        return ""
    rows = "".join(
        f'<tr><td class="lm-number">{answer.line}</td>'
        f"<td class='lm-name'>{escape(answer.student or '')}</td>"
        f"<td class='lm-name'>{escape(answer.name or '')}</td><td>{escape(answer.question)}</td>"
        f'<td class="lm-cut">{escape((answer.text or "")[:200])}</td></tr>'
        for answer in intake.found.answers[:SHOWN]
    )
    heads = "".join(
        f'<th scope="col">{escape(say(language, key))}</th>'
        for key in ("column_line", "column_student", "column_name", "column_question", "answer")
    )
    return (
        f'<div class="lm-scroll"><table class="lm-table"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def targets(intake: Intake, language: Language) -> str:
    """Where marks and feedback will be written, as HTML."""
    if intake.upload is None or intake.columns is None:
        return ""
    said = [
        say(
            language,
            "goes_into",
            what=target.key,
            mark=put(language, target.mark),
            feedback=put(language, target.feedback),
        )
        for target in tables.targets(intake.upload, intake.columns)
    ]
    more = [f"… (+{len(said) - SHOWN})"] if len(said) > SHOWN else []
    return "".join(f'<p class="lm-muted">{escape(text)}</p>' for text in said[:SHOWN] + more)
