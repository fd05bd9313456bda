"""The teacher's gradebook at export: it is dropped, shown where marks would go, and given back.

It stays in the memory of this process and never reaches the server: it may name other students and
hold other marks than those of this class.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple
from urllib.parse import urlencode

import gradio as gr

from llmarking.client import AsyncClient
from llmarking.errors import DataError
from llmarking.tables import files as tables
from llmarking.tables.gradebook import (
    NEW,
    SUM,
    ClassMarks,
    Entry,
    Filling,
    Mark,
    Plan,
    choices,
    class_marks,
    fill,
    propose,
)
from llmarking.ui.desk import Desk, headings, note, told
from llmarking.ui.export import all_answers
from llmarking.ui.faults import explained, put
from llmarking.ui.shelf import Filled
from llmarking.ui.texts import Language, say
from llmarking.ui.upload import uploaded

NOWHERE = -2  # stands where a column does, for marks that are not written
_SCRIPT = """
element.addEventListener("change", (event) => {
  const select = event.target.closest("select[data-target]");
  if (select) {
    trigger("into", { target: Number(select.dataset.target), place: Number(select.value) });
  }
});
"""


@dataclass(slots=True)
class Dropped:
    """The gradebook of one browser session and what the teacher chose.

    `token` is what the file that was made of it last is asked for by.
    """

    upload: tables.Upload | None = None
    student: int | None = None
    into: dict[str, int] = field(default_factory=dict)
    overwrite: bool = False
    token: str = ""


class GradebookParts(NamedTuple):
    """The components of the gradebook."""

    file: gr.File
    student: gr.Dropdown
    overwrite: gr.Checkbox
    into: gr.HTML
    said: gr.HTML
    dropped: gr.State

    @property
    def shown(self) -> list[Any]:
        """What `GradebookPage.drop` and `clear` return values for."""
        return [self.dropped, self.student, self.overwrite, self.into, self.said]


class GradebookPage:
    """The functions behind the gradebook."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @told
    async def drop(self, path: str, course: str, before: Dropped, request: gr.Request) -> list[Any]:
        """Take a gradebook and propose what goes where."""
        language, client = self._desk.language(request), self._desk.client(request)
        self._desk.unshelve(before.token)
        try:
            upload = await asyncio.to_thread(lambda: tables.detect(*uploaded(path)))
        except DataError as error:
            return _hidden(_problem(language, error))
        klass = await _class_of(client, course)
        plan = await asyncio.to_thread(propose, upload, klass)
        dropped = Dropped(upload, plan.student, dict(plan.into))
        columns = [(upload.title(place), place) for place in range(len(upload.headers))]
        return [
            dropped,
            gr.Dropdown(choices=columns, value=plan.student, visible=True),
            gr.Checkbox(value=False, visible=True),
            _table(dropped, klass, language),
            await self._result(dropped, klass, request),
        ]

    @told
    async def choose(
        self,
        course: str,
        student: int | None,
        overwrite: bool,
        dropped: Dropped,
        request: gr.Request,
    ) -> list[Any]:
        """Take another column of ids, or replace marks; return the state, table and result."""
        klass = await _class_of(self._desk.client(request), course)
        dropped.student, dropped.overwrite = student, bool(overwrite)
        dropped.into.update(
            {target: NOWHERE for target, place in dropped.into.items() if place == student}
        )
        table = _table(dropped, klass, self._desk.language(request))
        return [dropped, table, await self._result(dropped, klass, request)]

    @told
    async def place(
        self, course: str, dropped: Dropped, event: gr.EventData, request: gr.Request
    ) -> list[Any]:
        """Write a mark into another column; return the state and the result."""
        klass = await _class_of(self._desk.client(request), course)
        targets, at = list(klass.targets), int(event._data.get("target", -1))
        if 0 <= at < len(targets):
            dropped.into[targets[at]] = int(event._data.get("place", NOWHERE))
        return [dropped, await self._result(dropped, klass, request)]

    async def clear(self, dropped: Dropped) -> list[Any]:
        """Forget the gradebook and what was made of it."""
        self._desk.unshelve(dropped.token)
        return _hidden("")

    async def _result(self, dropped: Dropped, klass: ClassMarks, request: gr.Request) -> str:
        """What would be written and what not, with a link to the file."""
        language, upload = self._desk.language(request), dropped.upload
        if upload is None:
            return ""
        into = {
            target: place
            for target, place in dropped.into.items()
            if place != NOWHERE and target in klass.targets
        }
        self._desk.unshelve(dropped.token)
        if not into:
            return note(say(language, "gradebook_choose"))
        plan = Plan(dropped.student, into, dropped.overwrite)
        try:
            filling = await asyncio.to_thread(fill, upload, klass, plan)
        except DataError as error:
            return _problem(language, error)
        link = ""
        if any(filling.written.values()):
            made = Filled(filling.export.data, filling.export.name)
            dropped.token = self._desk.shelve(request, made)
            address = escape(f"/export?{urlencode({'made': dropped.token})}")
            text = escape(say(language, "download", file=made.name))
            link = (
                '<ul class="lm-downloads"><li class="lm-own">'
                f'<a class="lm-download" href="{address}" download>{text}</a></li></ul>'
            )
        return _told(filling, upload, klass, plan, language) + link


async def _class_of(client: AsyncClient, course: str) -> ClassMarks:
    worth = {question.code: question.full_mark for question in await client.questions(course)}
    given = [
        Mark(row.student, row.name, row.question, row.mark, row.full_mark)
        async for row in all_answers(client, course)
    ]
    return class_marks(worth, given)


def _problem(language: Language, error: DataError) -> str:
    return note(say(language, "problem", why=explained(language, error)), "problem")


def _hidden(said: str) -> list[Any]:
    return [
        Dropped(),
        gr.Dropdown(choices=[], value=None, visible=False),
        gr.Checkbox(value=False, visible=False),
        "",
        said,
    ]


def _named(target: str, language: Language) -> str:
    return say(language, "gradebook_sum") if target == SUM else target


def _table(dropped: Dropped, klass: ClassMarks, language: Language) -> str:
    """For each mark that can be written a choice of columns, as HTML."""
    upload = dropped.upload
    if upload is None:
        return ""
    added = say(language, "new_column")
    columns = [
        (place, added if place == NEW else upload.title(place))
        for place in choices(upload, dropped.student)
    ]
    options = [(NOWHERE, say(language, "gradebook_nowhere")), *columns]
    rows = []
    for at, (target, full) in enumerate(klass.targets.items()):
        chosen = dropped.into.get(target, NOWHERE)
        listed = "".join(
            f'<option value="{place}"{" selected" if place == chosen else ""}>'
            f"{escape(title)}</option>"
            for place, title in options
        )
        name = escape(_named(target, language))
        rows.append(
            f'<tr><th scope="row">{name}</th><td class="lm-number">{full:g}</td>'
            f'<td><select data-target="{at}" aria-label="{name}">{listed}</select></td></tr>'
        )
    heads = headings(language, "what", "full", "into", numbers=("full",))
    return (
        '<div class="lm-scroll lm-into"><table class="lm-table"><thead>'
        f"{heads}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _told(
    filling: Filling, upload: tables.Upload, klass: ClassMarks, plan: Plan, language: Language
) -> str:
    """What is written, where, and everybody who gets nothing, as HTML."""
    said = [note(put(language, text)) for text in upload.notes]
    for target, count in filling.written.items():
        place = plan.into[target]
        column = (
            say(language, "new_column")
            if place == NEW
            else say(language, "column_called", title=upload.title(place))
        )
        key = "gradebook_sum_into" if target == SUM else "gradebook_into"
        text = say(
            language, key, count=count, what=target, column=column, questions=len(klass.questions)
        )
        said.append(note(text, "good" if count else "note"))
        if target in filling.scales:
            ours, theirs = filling.scales[target]
            said.append(
                note(
                    say(
                        language,
                        "gradebook_scaled",
                        what=_named(target, language),
                        ours=f"{ours:g}",
                        theirs=f"{theirs:g}",
                    )
                )
            )
    for (reason, target), entries in filling.left.items():
        what = _named(target, language)
        said.append(_listed(say(language, f"left_{reason}", what=what), entries, language))
    if filling.in_part:
        said.append(_listed(say(language, "gradebook_in_part"), filling.in_part, language))
    if klass.without_id:
        said.append(note(say(language, "gradebook_without_id", count=klass.without_id)))
    return "".join(said)


def _listed(text: str, entries: Iterable[Entry], language: Language) -> str:
    """A sentence with how many it is about, which opens to all of them."""
    rows = []
    for entry in entries:
        where = say(language, "gradebook_line", line=entry.line) if entry.line else ""
        who = " ".join(filter(None, (entry.student, entry.name)))
        rows.append(f"<li>{escape(where)}{escape(who or '–')}</li>")
    return (
        f'<details class="lm-note"><summary>{escape(text)} ({len(rows)})</summary>'
        f'<ul class="lm-entries">{"".join(rows)}</ul></details>'
    )


def build_gradebook(i18n: gr.I18n) -> GradebookParts:
    """The part of the last step where a gradebook is filled."""
    with gr.Accordion(i18n("gradebook_title"), open=True, elem_id="gradebook"):
        gr.Markdown(i18n("gradebook_hint"))
        file = gr.File(
            label=i18n("gradebook_file"),
            file_types=[".csv", ".tsv", ".txt", ".xls", ".xlsx"],
            elem_id="gradebook-file",
            height=150,
        )
        with gr.Row(equal_height=True):
            student = gr.Dropdown(
                label=i18n("use_student"), visible=False, elem_id="gradebook-student"
            )
            overwrite = gr.Checkbox(
                label=i18n("gradebook_overwrite"), visible=False, elem_id="gradebook-overwrite"
            )
        into = gr.HTML(elem_id="gradebook-into", js_on_load=_SCRIPT)
        said = gr.HTML(elem_id="gradebook-said")
    return GradebookParts(file, student, overwrite, into, said, gr.State(Dropped()))
