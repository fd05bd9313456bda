"""One student goes: first what is stored, then its deletion, confirmed by typing the id again."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from llmarking.errors import RequestRefused
from llmarking.ui.desk import Desk, note, told
from llmarking.ui.texts import say


class LeavingParts(NamedTuple):
    """The components of the deletion of a student."""

    student: gr.Textbox
    look: gr.Button
    found: gr.HTML
    again: gr.Textbox
    delete: gr.Button


class LeavingPage:
    """The functions behind the deletion of a student; they return text and the last two parts."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @told
    async def look(self, course: str, student: str, request: gr.Request) -> list[Any]:
        """What is stored about a student, and so would go."""
        language, client = self._desk.language(request), self._desk.client(request)
        if not course or not student.strip():
            return _closed("")
        try:
            known = await client.student(course, student.strip())
        except RequestRefused as error:
            if error.status != 404:
                raise
            said = say(language, "student_unknown", student=student.strip())
            return _closed(note(said, "problem"))
        said = say(
            language,
            "student_found",
            student=known.student,
            name=known.name or "–",
            answers=len(known.answers),
            files=len(await client.uploads(course)),
        )
        shown = [gr.Textbox(visible=True, value=""), gr.Button(visible=True)]
        return [note(said), *shown]

    @told
    async def delete(self, course: str, student: str, again: str, request: gr.Request) -> list[Any]:
        """Delete the student whose id was typed a second time."""
        language, client = self._desk.language(request), self._desk.client(request)
        wanted = student.strip()
        if not wanted or again.strip() != wanted:
            return [note(say(language, "student_wrong"), "problem"), gr.skip(), gr.skip()]
        gone = await client.delete_student(course, wanted)
        said = say(
            language,
            "student_deleted",
            student=wanted,
            answers=gone.answers,
            files=gone.uploads,
        )
        return _closed(note(said, "good"))


def _closed(said: str) -> list[Any]:
    return [said, gr.Textbox(visible=False, value=""), gr.Button(visible=False)]


def build_leaving(i18n: gr.I18n) -> LeavingParts:
    """The deletion of one student."""
    with gr.Accordion(i18n("student_title"), open=False, elem_id="leaving"):
        gr.Markdown(i18n("student_hint"))
        with gr.Row(elem_classes="lm-form"):
            student = gr.Textbox(label=i18n("student_id"), max_length=200, elem_id="student-id")
            look = gr.Button(i18n("student_look"), elem_id="student-look")
        found = gr.HTML(elem_id="student-found")
        with gr.Row(elem_classes="lm-form"):
            again = gr.Textbox(
                label=i18n("student_again"), max_length=200, visible=False, elem_id="student-again"
            )
            delete = gr.Button(
                i18n("delete"), variant="stop", visible=False, elem_id="student-delete"
            )
    return LeavingParts(student, look, found, again, delete)
