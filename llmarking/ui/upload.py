"""Upload and check: from two files, or the sample class, to a job on the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from llmarking.client import AsyncClient
from llmarking.errors import LLMarkingError
from llmarking.tables.files import Item, Upload
from llmarking.ui.checking import asked_preview, checked, preview, targets
from llmarking.ui.desk import Desk, headings, note, told
from llmarking.ui.faults import explained
from llmarking.ui.intake import Intake
from llmarking.ui.texts import Language, say

CLASSES = 50
Choices = list[tuple[str, int]]


class UploadParts(NamedTuple):
    """The components of the first step."""

    questions: gr.File
    answers: gr.File
    sample: gr.Button
    classes: gr.HTML
    problem: gr.HTML


class CheckParts(NamedTuple):
    """The components of the second step."""

    said: gr.HTML
    asked: gr.Accordion
    asked_columns: gr.Group
    asked_code: gr.Dropdown
    asked_text: gr.Dropdown
    asked_reference: gr.Dropdown
    asked_full_mark: gr.Dropdown
    asked_preview: gr.HTML
    student: gr.Dropdown
    names: gr.Dropdown
    code: gr.Dropdown
    columns: gr.Dropdown
    mark: gr.Dropdown
    feedback: gr.Dropdown
    preview: gr.HTML
    targets: gr.HTML
    name: gr.Textbox
    explain: gr.Checkbox
    shots: gr.Radio
    start: gr.Button
    problem: gr.HTML

    @property
    def understood(self) -> list[Any]:
        """What shows how the two files are read."""
        return [*self[: self._fields.index("explain")]]

    @property
    def of_questions(self) -> list[Any]:
        """The columns that `UploadPage.remap_questions` takes."""
        return [self.asked_code, self.asked_text, self.asked_reference, self.asked_full_mark]

    @property
    def of_answers(self) -> list[Any]:
        """The columns that `UploadPage.remap` takes."""
        return [self.student, self.names, self.code, self.columns, self.mark, self.feedback]


class UploadPage:
    """The functions behind the first two steps."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def classes(self, request: gr.Request) -> str:
        """The classes on the server, each with the address of its page."""
        language = self._desk.language(request)
        try:
            listed = await self._desk.client(request).courses()
        except LLMarkingError as error:
            return note(say(language, "problem", why=explained(language, error)), "problem")
        if not listed:
            return f'<p class="lm-muted">{escape(say(language, "no_classes"))}</p>'
        rows = []
        for course in listed[:CLASSES]:
            when = escape(course.created_at[:10])  # the day of an RFC 3339 time
            name = escape(course.name or say(language, "untitled"))
            contested = (
                f' <span class="lm-badge lm-contested">{course.contested} '
                f"{escape(say(language, 'contested'))}</span>"
                if course.contested
                else ""
            )
            rows.append(
                f'<tr><td><a href="/?course={escape(course.id)}">{name}</a>{contested}</td>'
                f'<td>{when}</td><td class="lm-number">{course.answers}</td>'
                f'<td class="lm-number">{course.decided}</td></tr>'
            )
        names, counts = ("class", "created"), ("answers", "decided")
        heads = headings(language, *names, *counts, numbers=counts)
        return (
            f'<div class="lm-scroll"><table class="lm-table"><thead>{heads}</thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )

    async def questions(self, path: str, intake: Intake, request: gr.Request) -> list[Any]:
        """Take the questions from an uploaded file."""
        return await self._taken(intake, request, lambda: intake.questions(*uploaded(path)))

    async def answers(self, path: str, intake: Intake, request: gr.Request) -> list[Any]:
        """Take the answers from an uploaded file."""
        return await self._taken(intake, request, lambda: intake.answers(*uploaded(path)))

    async def sample(self, intake: Intake, request: gr.Request) -> list[Any]:
        """Take the class that is shipped."""
        return await self._taken(intake, request, intake.sample)

    async def remap_questions(
        self,
        code: int | None,
        text: int | None,
        reference: int | None,
        full_mark: int | None,
        intake: Intake,
        request: gr.Request,
    ) -> list[Any]:
        """Read the table of questions as the teacher says."""

        def take() -> None:
            intake.remap_questions(
                code=_place(code),
                text=_place(text),
                reference=_place(reference),
                full_mark=_place(full_mark),
            )

        return await self._taken(intake, request, take)

    async def remap(
        self,
        student: int | None,
        names: list[int],
        code: int | None,
        columns: list[int],
        mark: int | None,
        feedback: int | None,
        intake: Intake,
        request: gr.Request,
    ) -> list[Any]:
        """Read the answers file as the teacher says."""

        def take() -> None:
            intake.remap(
                student=_place(student),
                names=names or (),
                code=_place(code),
                answers=columns or (),
                mark=_place(mark),
                feedback=_place(feedback),
            )

        return await self._taken(intake, request, take)

    @told
    async def _taken(
        self, intake: Intake, request: gr.Request, take: Callable[[], None]
    ) -> list[Any]:
        """Intake, problem, step, then everything on the second step that shows what was found."""
        language = self._desk.language(request)
        problem = ""
        try:
            # A big spreadsheet takes seconds to read; other pages go on meanwhile.
            await asyncio.to_thread(take)
        except LLMarkingError as error:
            problem = note(say(language, "problem", why=explained(language, error)), "problem")
        asked = bool(intake.asked) or intake.asked_upload is not None
        both = asked and intake.upload is not None
        step = gr.Walkthrough(selected=2) if both and not problem else gr.skip()
        said = checked(intake, language)
        return [intake, problem or ("" if both else said), step, *_shown(intake, language, said)]

    @told
    async def start(
        self, intake: Intake, name: str, explain: bool, shots: int, request: gr.Request
    ) -> list[Any]:
        """Hand the class in as a job; return the new course's id, the step, and no problem."""
        language = self._desk.language(request)
        if not intake.ready:
            return [
                gr.skip(),
                gr.skip(),
                note(say(language, "nothing_to_start"), "problem"),
                intake,
            ]
        title = name.strip() or _title(intake, language)
        course = await _hand_in(self._desk.client(request), intake, title, explain, int(shots))
        # The server has everything now: nothing of the class stays in this process.
        return [course, gr.Walkthrough(selected=3), "", Intake()]


async def _hand_in(
    client: AsyncClient, intake: Intake, title: str, explain: bool, shots: int
) -> str:
    assert intake.upload is not None
    assert intake.columns is not None
    course = (await client.create_course(name=title[:200])).id
    try:
        if intake.questions_from is not None:
            file, data = intake.questions_from
            await client.add_upload(course, data, filename=file, kind="questions")
        upload = await client.add_upload(
            course, intake.data, filename=intake.upload.file, kind="answers"
        )
        await client.set_mapping(upload.id, intake.columns.json())
        body = await asyncio.to_thread(intake.body, upload.id)
        body |= {"course": {"id": course}, "explain": explain, "shots": shots}
        # The key makes a lost reply harmless: asked again, the same job comes back.
        await client.create_job(body, idempotency_key=f"page-{course}")
    except BaseException:
        with contextlib.suppress(LLMarkingError):
            await client.delete_course(course)
        raise
    return course


def _title(intake: Intake, language: Language) -> str:
    stem = Path(intake.upload.file).stem if intake.upload else ""
    return stem or say(language, "untitled")


def uploaded(path: str) -> tuple[bytes, str]:
    """Content and name of a file in gradio's cache, which is deleted at once."""
    file = Path(path)
    try:
        return file.read_bytes(), file.name
    finally:
        file.unlink(missing_ok=True)


def _place(value: int | None) -> int | None:
    return None if value is None or value < 0 else int(value)


def _shown(intake: Intake, language: Language, said: str) -> list[Any]:
    """The values of `CheckParts.understood`."""
    return [said, *_shown_questions(intake, language), *_shown_answers(intake, language)]


def _shown_questions(intake: Intake, language: Language) -> list[Any]:
    upload, columns = intake.asked_upload, intake.asked_columns
    fields = [gr.skip() for _ in range(4)]
    if upload is not None and columns is not None:
        item = columns.items[0] if columns.items else Item(key="")
        places = (columns.code, item.text, item.reference, item.full_mark)
        fields = [_one_of(_choices(upload), place, language) for place in places]
    return [
        gr.Accordion(open=True) if intake.asked_problem else gr.skip(),
        gr.Group(visible=upload is not None),
        *fields,
        asked_preview(intake, language),
    ]


def _shown_answers(intake: Intake, language: Language) -> list[Any]:
    upload, columns = intake.upload, intake.columns
    if upload is None or columns is None:
        empty = [gr.Dropdown(choices=[], value=None) for _ in range(4)]
        hidden = [gr.Dropdown(visible=False) for _ in range(2)]
        return [*empty, *hidden, "", "", gr.skip()]
    choices = _choices(upload)
    answered = [item.answer for item in columns.items if item.answer is not None]
    free = intake.free if answered else ()
    item = columns.items[0] if columns.items else Item(key="")
    return [
        _one_of(choices, columns.student, language),
        gr.Dropdown(choices=choices, value=list(columns.names)),
        _one_of(choices, columns.code, language),
        gr.Dropdown(choices=choices, value=answered),
        _target(upload, item.mark, free, item.feedback, language),
        _target(upload, item.feedback, free, item.mark, language),
        preview(intake, language),
        targets(intake, language),
        gr.Textbox(placeholder=_title(intake, language)),
    ]


def _target(
    upload: Upload, place: int | None, free: Sequence[int], other: int | None, language: Language
) -> gr.Dropdown:
    """The column to fill, among those that are free and not the other's."""
    choices = [choice for choice in _choices(upload) if choice[1] in free and choice[1] != other]
    added: Choices = [(say(language, "new_column"), -1), *choices]
    return gr.Dropdown(choices=added, value=place if place in free else -1, visible=bool(free))


def _choices(upload: Upload) -> Choices:
    return [(title or f"({number + 1})", number) for number, title in enumerate(upload.headers)]


def _one_of(choices: Choices, place: int | None, language: Language) -> gr.Dropdown:
    none: Choices = [(say(language, "no_column"), -1), *choices]
    return gr.Dropdown(choices=none, value=-1 if place is None else place)


def build_upload(i18n: gr.I18n) -> UploadParts:
    """The first step."""
    gr.Markdown(i18n("upload_hint"))
    with gr.Row():
        questions = gr.File(
            label=i18n("questions_file"),
            file_types=[".csv", ".tsv", ".txt", ".xlsx", ".json"],
            elem_id="questions-file",
            height=150,
        )
        answers = gr.File(
            label=i18n("answers_file"),
            file_types=[".csv", ".tsv", ".txt", ".xls", ".xlsx"],
            elem_id="answers-file",
            height=150,
        )
    sample = gr.Button(i18n("sample"), elem_id="sample")
    problem = gr.HTML()
    gr.Markdown(i18n("classes"), elem_classes="lm-heading")
    classes = gr.HTML(elem_id="classes")
    return UploadParts(questions, answers, sample, classes, problem)


def build_check(i18n: gr.I18n) -> CheckParts:
    """The second step."""
    said = gr.HTML(elem_id="checked")
    with gr.Accordion(i18n("asked_columns"), open=False, elem_id="asked") as asked:
        with gr.Group(visible=False) as asked_columns:
            with gr.Row():
                reference = gr.Dropdown(label=i18n("use_reference"), elem_id="asked-reference")
                code = gr.Dropdown(label=i18n("use_question"), elem_id="asked-code")
            with gr.Row():
                text = gr.Dropdown(label=i18n("use_text"), elem_id="asked-text")
                full_mark = gr.Dropdown(label=i18n("use_full_mark"), elem_id="asked-full-mark")
        shown_questions = gr.HTML(elem_id="asked-preview")
    of_questions = (code, text, reference, full_mark)
    with gr.Accordion(i18n("columns"), open=True):
        with gr.Row():
            columns = gr.Dropdown(label=i18n("use_answer"), multiselect=True, elem_id="columns")
            named = gr.Dropdown(label=i18n("use_question"), elem_id="code-column")
        with gr.Row():
            student = gr.Dropdown(label=i18n("use_student"), elem_id="student-column")
            names = gr.Dropdown(label=i18n("use_name"), multiselect=True, elem_id="name-columns")
        with gr.Row():
            mark = gr.Dropdown(label=i18n("use_mark"), visible=False, elem_id="mark-column")
            feedback = gr.Dropdown(
                label=i18n("use_feedback"), visible=False, elem_id="feedback-column"
            )
        where = gr.HTML()
    shown = gr.HTML(elem_id="preview")
    with gr.Row():
        name = gr.Textbox(label=i18n("class_name"), max_length=200, elem_id="class-name")
        shots = gr.Radio([0, 1, 2, 3], value=0, label=i18n("shots"))
    explain = gr.Checkbox(value=False, label=i18n("explain"), elem_id="explain")
    problem = gr.HTML()
    gr.Markdown(i18n("start_hint"))
    start = gr.Button(i18n("start"), variant="primary", elem_id="start")
    return CheckParts(
        *(said, asked, asked_columns, *of_questions, shown_questions),
        *(student, names, named, columns, mark, feedback, shown, where),
        *(name, explain, shots, start, problem),
    )
