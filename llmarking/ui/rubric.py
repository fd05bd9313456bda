"""A question is edited: first who would change and by how much, then apply or discard.

The trial lives on the server, so that it can be left and found again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from llmarking.client import AsyncClient
from llmarking.errors import RequestRefused
from llmarking.protocol.courses import Regrade, RegradeChange
from llmarking.ui.desk import Desk, note, told
from llmarking.ui.faults import explained
from llmarking.ui.texts import Language, say

EVERY = 1.5  # seconds between two looks at a trial that still reads
CHANGES_NAMED = 1000
PAGE = 1000
End = Callable[[AsyncClient, str], Awaitable[Regrade]]


class RubricParts(NamedTuple):
    """The components of the change of a question."""

    question: gr.Dropdown
    text: gr.Textbox
    reference: gr.Textbox
    attempt: gr.Button
    found: gr.HTML
    apply: gr.Button
    discard: gr.Button
    trial: gr.State
    timer: gr.Timer


class RubricPage:
    """The functions behind the change of a question.

    Those about a trial return its id, what it has found, two buttons and the timer.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @told
    async def questions(self, course: str, request: gr.Request) -> Any:
        """The questions of the class."""
        known = await self._desk.client(request).questions(course) if course else []
        return gr.Dropdown(choices=[question.code for question in known], value=None)

    @told
    async def chosen(self, course: str, code: str | None, request: gr.Request) -> list[Any]:
        """The version in use: its text, and its reference with the points marked in it."""
        known = await self._desk.client(request).questions(course) if course and code else []
        for question in known:
            if question.code == code:
                return [question.text, question.reference]
        return ["", ""]

    @told
    async def attempt(
        self, course: str, code: str | None, text: str, reference: str, request: gr.Request
    ) -> list[Any]:
        """Try the edited question; nothing is changed."""
        language, client = self._desk.language(request), self._desk.client(request)
        if not course or not code:
            return _over(note(say(language, "rubric_none"), "problem"))
        try:
            # The server keeps the subject and the examples of the version in use.
            edited = {"code": code, "text": text, "reference": reference}
            found = await client.regrade(course, [edited])
        except RequestRefused as error:  # as when a tag is not closed
            return _over(note(explained(language, error), "problem"))
        return await _shown(client, found, language)

    @told
    async def open(self, course: str, request: gr.Request) -> list[Any]:
        """A trial of the class that has not been decided on, from whichever visit."""
        language, client = self._desk.language(request), self._desk.client(request)
        for job in await client.jobs(course) if course else []:
            if job.kind == "regrade":
                return await _shown(client, await client.read_regrade(job.id), language)
        return _over("")

    @told
    async def look(self, trial: str | None, request: gr.Request) -> list[Any]:
        """How far the trial is."""
        language, client = self._desk.language(request), self._desk.client(request)
        if trial is None:
            return _over("")
        return await _shown(client, await client.read_regrade(trial), language)

    @told
    async def apply(self, trial: str | None, request: gr.Request) -> list[Any]:
        """Let the edited question count."""
        return await self._end(trial, AsyncClient.apply_regrade, "rubric_applied", request)

    @told
    async def discard(self, trial: str | None, request: gr.Request) -> list[Any]:
        """Forget it."""
        return await self._end(trial, AsyncClient.discard_regrade, "rubric_discarded", request)

    async def _end(self, trial: str | None, how: End, then: str, request: gr.Request) -> list[Any]:
        language, client = self._desk.language(request), self._desk.client(request)
        if trial is None:
            return _over("")
        try:
            await how(client, trial)
        except RequestRefused as error:
            if error.status != 409:
                raise
            # As while a job still grades by the old question: the trial can wait for it.
            found = await client.read_regrade(trial)
            shown = await _shown(client, found, language)
            return [shown[0], note(explained(language, error), "problem") + shown[1], *shown[2:]]
        return _over(note(say(language, then), "good"))


async def _shown(client: AsyncClient, found: Regrade, language: Language) -> list[Any]:
    if found.state == "reading":
        said = say(language, "rubric_reading", read=found.read, total=found.total)
        busy = gr.Button(visible=False)
        return [found.id, note(said), busy, gr.Button(visible=True), gr.Timer(active=True)]
    if found.state != "proposed":
        return _over("")
    return [
        found.id,
        proposal(found, await _places(client, found), language),
        gr.Button(visible=True),
        gr.Button(visible=True),
        gr.Timer(active=False),
    ]


async def _places(client: AsyncClient, found: Regrade) -> dict[str, int]:
    """The numbers in the class of the answers that would change, as far as they are listed."""
    left = {change.answer for change in found.changed[:CHANGES_NAMED]}
    places: dict[str, int] = {}
    for code in dict.fromkeys(change.question for change in found.changed):
        offset, total = 0, 1
        while offset < total and left:
            page = await client.answers(found.course, question=code, offset=offset, limit=PAGE)
            offset, total = offset + PAGE, page.total
            places |= {row.id: row.position + 1 for row in page.answers if row.id in left}
            left -= places.keys()
    return places


def proposal(found: Regrade, places: dict[str, int], language: Language) -> str:
    """Who would change and by how much, as HTML.

    Args:
        places: the number of an answer in the class, for those that are listed.
    """
    text = say(
        language,
        "rubric_found",
        question=", ".join(found.questions),
        touched=found.touched,
        changed=found.changed_count,
        kept=found.kept_count,
    )
    if found.failed:
        text += " " + say(language, "rubric_failed", failed=found.failed)
    rows = [
        _row(change, places[change.answer], language)
        for change in found.changed
        if change.answer in places
    ]
    more = len(found.changed) - len(rows)
    rest = f"<p>{escape(say(language, 'more_changes', count=more))}</p>" if more else ""
    if not rows:
        return note(text)
    heads = "".join(
        f'<th scope="col" class="{style}">{escape(say(language, key))}</th>'
        for key, style in (
            ("column_number", "lm-number"),
            ("column_student", ""),
            ("column_before", "lm-number"),
            ("column_after", "lm-number"),
            ("column_by", "lm-number"),
        )
    )
    return (
        f'{note(text)}<div class="lm-scroll"><table class="lm-table"><thead><tr>{heads}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>{rest}"
    )


def _row(change: RegradeChange, place: int, language: Language) -> str:
    by = change.mark_after - change.mark_before
    kept = ""
    if change.kept:
        said = escape(say(language, "rubric_kept"))
        kept = f' <span class="lm-badge lm-overridden">{said}</span>'
    return (
        f'<tr><td class="lm-number">{place}</td><td>{escape(change.student or "")}</td>'
        f'<td class="lm-number">{change.mark_before:g} / {change.full_mark_before:g}</td>'
        f'<td class="lm-number">{change.mark_after:g} / {change.full_mark_after:g}</td>'
        f'<td class="lm-number">{by:+g}{kept}</td></tr>'
    )


def _over(said: str) -> list[Any]:
    hidden = [gr.Button(visible=False), gr.Button(visible=False)]
    return [None, said, *hidden, gr.Timer(active=False)]


def build_rubric(i18n: gr.I18n) -> RubricParts:
    """The change of a question."""
    with gr.Accordion(i18n("rubric_title"), open=False, elem_id="rubric"):
        gr.Markdown(i18n("rubric_hint"))
        question = gr.Dropdown([], label=i18n("column_question"), elem_id="rubric-question")
        text = gr.Textbox(label=i18n("rubric_text"), lines=2, elem_id="rubric-text")
        reference = gr.Textbox(label=i18n("rubric_reference"), lines=5, elem_id="rubric-reference")
        attempt = gr.Button(i18n("rubric_try"), elem_id="rubric-try")
        found = gr.HTML(elem_id="rubric-found")
        with gr.Row():
            apply = gr.Button(
                i18n("apply"), visible=False, variant="primary", elem_id="rubric-apply"
            )
            discard = gr.Button(i18n("discard"), visible=False, elem_id="rubric-discard")
    trial, timer = gr.State(None), gr.Timer(EVERY, active=False)
    return RubricParts(question, text, reference, attempt, found, apply, discard, trial, timer)
