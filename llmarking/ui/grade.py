"""Grading as it goes on in the server, and its results in the order of the teacher's file.

The job lives on the server. This page only asks how far it is, so that it can be closed, reloaded
or opened a second time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple, cast

import gradio as gr

from llmarking.client import AsyncClient
from llmarking.protocol.courses import AnswerPage
from llmarking.protocol.jobs import Job
from llmarking.sharing import Shared
from llmarking.ui.charts import progress
from llmarking.ui.desk import Desk, headings, told
from llmarking.ui.panel import badges
from llmarking.ui.texts import Language, duration, say

PAGE = 50
EVERY = 1.5  # seconds between two looks at a job that runs
TABLE_EVERY = 6.0  # seconds between two tables of it
# For so long, pages that watch the same class make do with one reply of the server.
SHARED_SECONDS = 1.0
OVER = ("finished", "cancelled")
Seen = tuple[tuple[Any, ...], float]


class GradeParts(NamedTuple):
    """The components of the third step."""

    progress: gr.HTML
    pause: gr.Button
    resume: gr.Button
    cancel: gr.Button
    review: gr.Button
    table: gr.HTML
    place: gr.HTML
    earlier: gr.Button
    later: gr.Button
    offset: gr.State
    seen: gr.State
    timer: gr.Timer


class GradePage:
    """The functions behind the third step."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._jobs: Shared = Shared(64, SHARED_SECONDS)
        self._pages: Shared = Shared(64, TABLE_EVERY / 2)

    async def look(
        self, course: str, offset: int, seen: Seen | None, request: gr.Request
    ) -> list[Any]:
        """How far it is: progress, four buttons, table, place, what was seen, timer.

        Many pages may look at once, and what they see is the same for all who have the same key.
        """
        return await self._look(course, offset, seen, request)

    async def again(self, course: str, offset: int, request: gr.Request) -> list[Any]:
        """The same, everything fetched anew in any case."""
        self._jobs.forget()
        self._pages.forget()
        return await self._look(course, offset, None, request)

    @told
    async def _look(
        self, course: str, offset: int, seen: Seen | None, request: gr.Request
    ) -> list[Any]:
        language, client = self._desk.language(request), self._desk.client(request)
        job = await self._job(client, course) if course else None
        if job is None:
            hidden = [gr.Button(visible=False) for _ in range(3)]
            said = progress(0, 0, 0, say(language, "no_job"))
            return [said, *hidden, gr.skip(), "", "", None, gr.Timer(active=False)]
        now = (job.id, job.state, job.counts.graded, job.counts.failed, offset)
        table: list[Any] = [gr.skip(), gr.skip()]
        shown, since = seen or ((), -TABLE_EVERY)
        # Rows cost the server more than counts; nobody reads a table that changes all the time.
        due = job.state in OVER or time.monotonic() - since >= TABLE_EVERY
        if now != shown and due:
            shown, since = now, time.monotonic()
            page = await self._page(client, course, offset, over=job.state in OVER)
            table = [results(page, language), _page_of(page, offset, language)]
        running = job.state in ("queued", "running")
        return [
            progress(
                job.counts.graded, job.counts.failed, job.counts.total, how_far(job, language)
            ),
            gr.Button(visible=running),
            gr.Button(visible=job.state == "paused"),
            gr.Button(visible=job.state not in OVER),
            gr.Button(interactive=job.counts.graded > 0),
            *table,
            (shown, since),
            gr.Timer(active=job.state not in OVER),
        ]

    async def _job(self, client: AsyncClient, course: str) -> Job | None:
        async def ask() -> Job | None:
            return _current(await client.jobs(course))

        found, _ = await self._jobs.get((client, course), ask)
        return cast(Job | None, found)

    async def _page(
        self, client: AsyncClient, course: str, offset: int, *, over: bool
    ) -> AnswerPage:
        async def ask() -> AnswerPage:
            return await client.answers(course, order="upload", offset=offset, limit=PAGE)

        # What was read before the end must not stand for the end.
        found, _ = await self._pages.get((client, course, offset, over), ask)
        return cast(AnswerPage, found)

    @told
    async def pause(self, course: str, offset: int, request: gr.Request) -> list[Any]:
        """Let the server stop between two answers."""
        client = self._desk.client(request)
        if (job := _current(await client.jobs(course))) is not None:
            await client.pause_job(job.id)
        return await self.again(course, offset, request)

    @told
    async def resume(self, course: str, offset: int, request: gr.Request) -> list[Any]:
        """Let it go on."""
        client = self._desk.client(request)
        if (job := _current(await client.jobs(course))) is not None:
            await client.resume_job(job.id)
        return await self.again(course, offset, request)

    @told
    async def cancel(self, course: str, offset: int, request: gr.Request) -> list[Any]:
        """Grade no more; what is graded stays."""
        client = self._desk.client(request)
        if (job := _current(await client.jobs(course))) is not None:
            await client.cancel_job(job.id)
        return await self.again(course, offset, request)

    async def earlier(self, course: str, offset: int, request: gr.Request) -> list[Any]:
        """The page of the table before this one: what `again` returns, then the new offset."""
        moved = max(0, offset - PAGE)
        return [*await self.again(course, moved, request), moved]

    async def later(self, course: str, offset: int, request: gr.Request) -> list[Any]:
        """The page of the table behind this one."""
        page = await self._desk.client(request).course(course)
        moved = offset + PAGE if offset + PAGE < page.answers else offset
        return [*await self.again(course, moved, request), moved]


def _current(jobs: Sequence[Job]) -> Job | None:
    """The newest job that grades; a trial with other questions is not shown here."""
    return next((job for job in jobs if job.kind == "grade"), None)


def how_far(job: Job, language: Language) -> str:
    """Progress as a sentence."""
    counts = job.counts
    said = say(language, "progress", done=counts.graded, total=counts.total)
    if job.state == "running":
        if job.answers_per_second:
            rate = job.answers_per_second
            said += say(
                language, "progress_rate", rate=f"{rate:.1f}" if rate < 10 else f"{rate:.0f}"
            )
        if job.seconds_left is not None:
            said += say(language, "progress_left", left=duration(job.seconds_left, language))
    else:
        said += f" · {say(language, f'job_{job.state}')}"
    if counts.failed:
        said += say(language, "progress_failed", failed=counts.failed)
    return said


def results(page: AnswerPage, language: Language) -> str:
    """A page of answers as an HTML table, in the order of the upload."""
    rows = []
    for row in page.answers:
        mark = "" if row.mark is None else f"{row.mark:g} / {row.full_mark or 0:g}"
        state = f'<span class="lm-badge lm-{row.state}">{_t(language, row.state)}</span>'
        if row.contested:
            state += f' <span class="lm-badge lm-contested">{_t(language, "contested")}</span>'
        rows.append(
            f'<tr><td class="lm-number">{row.position + 1}</td><td>{escape(row.student or "")}</td>'
            f'<td>{escape(row.question)}</td><td class="lm-cut">{escape(row.text[:160])}</td>'
            f'<td class="lm-number">{mark}</td><td>{state} {badges(row.flags, language)}</td></tr>'
        )
    names = ("number", "student", "question", "answer", "mark", "state")
    heads = headings(language, *names, numbers=("number", "mark"))
    return (
        f'<div class="lm-scroll"><table class="lm-table"><thead>{heads}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _page_of(page: AnswerPage, offset: int, language: Language) -> str:
    last = offset + len(page.answers)
    first = min(offset + 1, last)
    text = say(language, "page_of", first=first, last=last, total=page.total)
    return f'<p class="lm-muted">{escape(text)}</p>'


def _t(language: Language, key: str) -> str:
    return escape(say(language, key))


def build_grade(i18n: gr.I18n) -> GradeParts:
    """The third step."""
    bar = gr.HTML(elem_id="progress")
    with gr.Row():
        pause = gr.Button(i18n("pause"), visible=False, elem_id="pause")
        resume = gr.Button(i18n("resume"), visible=False, elem_id="resume")
        cancel = gr.Button(i18n("cancel"), visible=False, variant="stop", elem_id="cancel")
        review = gr.Button(i18n("go_review"), variant="primary", elem_id="go-review")
    gr.Markdown(i18n("results"), elem_classes="lm-heading")
    table = gr.HTML(elem_id="results")
    with gr.Row(equal_height=True):
        earlier = gr.Button(i18n("earlier"), size="sm")
        place = gr.HTML(elem_id="place")
        later = gr.Button(i18n("later"), size="sm", elem_id="later")
    return GradeParts(
        bar,
        pause,
        resume,
        cancel,
        review,
        table,
        place,
        earlier,
        later,
        gr.State(0),
        gr.State(None),
        gr.Timer(EVERY, active=False),
    )
