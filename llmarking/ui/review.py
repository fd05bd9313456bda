"""The review queue: answers with the most marks at risk first, decided by keyboard, one by one.

The queue is a snapshot, so that `j` and `k` lead where one expects while marks change below it.
What is decided is remembered, for `u`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import gradio as gr

from llmarking.client import AsyncClient
from llmarking.domain import Flag
from llmarking.errors import RequestRefused
from llmarking.protocol.courses import AnswerDetail, AnswerRow
from llmarking.ui.desk import Desk, headings, note, told
from llmarking.ui.panel import badges, nothing, panel
from llmarking.ui.texts import Language, say

LENGTH = 100
UNDOS = 200
Which = Literal["undecided", "decided", "contested", "all"]
STATES: tuple[Which, ...] = ("undecided", "decided", "contested", "all")
_SCRIPT = (Path(__file__).parent / "review.js").read_text(encoding="utf-8")
_LIST_SCRIPT = """
element.addEventListener("click", (event) => {
  const row = event.target.closest("[data-row]");
  if (row) trigger("open", { row: Number(row.dataset.row) });
});
watch("value", () => {
  element.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
});
"""


@dataclass(slots=True)
class Queue:
    """What a teacher goes through. `done` holds the answers decided so far, the last one last."""

    which: Which = "undecided"
    flag: str | None = None
    question: str | None = None
    rows: list[AnswerRow] = field(default_factory=list)
    total: int = 0
    at: int = 0
    shown: AnswerDetail | None = None
    done: list[str] = field(default_factory=list)

    @property
    def current(self) -> str | None:
        """The answer that is to be shown."""
        return self.rows[self.at].id if self.at < len(self.rows) else None

    def settled(self, row: AnswerRow) -> bool:
        """Whether this row needs no more of the teacher, under the filter that is chosen."""
        decided = row.state in ("confirmed", "overridden") and not row.contested
        return self.which == "undecided" and decided

    def step(self, by: int) -> None:
        """Move, passing over what is settled, and stay inside."""
        to = self.at + by
        while 0 <= to < len(self.rows) and self.settled(self.rows[to]):
            to += by
        if 0 <= to < len(self.rows):
            self.at = to

    def update(self, detail: AnswerDetail) -> None:
        """Let the list show what is known by now."""
        known = {name: getattr(detail, name) for name in AnswerRow.model_fields}
        for place, row in enumerate(self.rows):
            if row.id == detail.id:
                self.rows[place] = AnswerRow(**known)


class ReviewParts(NamedTuple):
    """The components of the fourth step."""

    which: gr.Dropdown
    flag: gr.Dropdown
    question: gr.Dropdown
    message: gr.HTML
    rows: gr.HTML
    panel: gr.HTML
    queue: gr.State


class ReviewPage:
    """The functions behind the review."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @told
    async def fill(
        self,
        course: str,
        which: Which,
        flag: str | None,
        question: str | None,
        queue: Queue,
        request: gr.Request,
    ) -> list[Any]:
        """Fetch the queue anew under these filters; return queue, message, list and panel."""
        fresh = Queue(which or "undecided", flag or None, question or None, done=queue.done)
        if course:
            await _fetch(self._desk.client(request), course, fresh)
        return await self._drawn(fresh, request)

    @told
    async def questions(self, course: str, request: gr.Request) -> Any:
        """The choices of the filter by question."""
        language = self._desk.language(request)
        listed = await self._desk.client(request).questions(course) if course else []
        codes = [(question.code, question.code) for question in listed]
        return gr.Dropdown(choices=[(say(language, "any"), ""), *codes], value="")

    @told
    async def choices(self, request: gr.Request) -> list[Any]:
        """The choices of the filters by state and flag, in the visitor's language."""
        language = self._desk.language(request)
        states = [(say(language, f"state_{state}"), state) for state in STATES]
        flags = [(say(language, f"flag_{flag}"), flag.value) for flag in Flag]
        return [
            gr.Dropdown(choices=states, value="undecided"),
            gr.Dropdown(choices=[(say(language, "any"), ""), *flags], value=""),
        ]

    @told
    async def open(self, queue: Queue, event: gr.EventData, request: gr.Request) -> list[Any]:
        """Show the row that was clicked."""
        row = int(event._data.get("row", 0))
        if 0 <= row < len(queue.rows):
            queue.at = row
        return await self._drawn(queue, request)

    @told
    async def act(
        self, course: str, queue: Queue, event: gr.EventData, request: gr.Request
    ) -> list[Any]:
        """Accept, undo, or move; return queue, message, list and panel."""
        language = self._desk.language(request)
        client = self._desk.client(request)
        asked: dict[str, Any] = event._data
        said = ""
        try:
            match asked.get("name"):
                case "accept":
                    said = await _accept(client, queue, asked, language)
                    queue.step(1)
                    if queue.current is None or queue.settled(queue.rows[queue.at]):
                        await _fetch(client, course, queue)
                case "undo":
                    said = await _undo(client, queue, language)
                case "next":
                    queue.step(1)
                case "previous":
                    queue.step(-1)
        except RequestRefused as error:
            if error.status != 409:
                raise
            said = note(say(language, "changed_meanwhile"))
        return await self._drawn(queue, request, said)

    async def _drawn(self, queue: Queue, request: gr.Request, said: str = "") -> list[Any]:
        language = self._desk.language(request)
        if queue.current is None:
            queue.shown = None
            key = "queue_empty" if queue.which != "all" else "queue_waiting"
            drawn = nothing(language, key, undo=bool(queue.done))
            return [queue, said, listed(queue, language), drawn]
        queue.shown = await self._desk.client(request).answer(queue.current)
        queue.update(queue.shown)
        drawn = panel(queue.shown, language, queue.total)
        return [queue, said, listed(queue, language), drawn]


async def _fetch(client: AsyncClient, course: str, queue: Queue) -> None:
    page = await client.answers(
        course,
        order="risk",
        flag=queue.flag,
        question=queue.question,
        state=queue.which,
        offset=0,
        limit=LENGTH,
    )
    queue.rows = [row for row in page.answers if row.mark_id is not None]
    queue.total, queue.at = page.total, 0


async def _accept(
    client: AsyncClient, queue: Queue, asked: dict[str, Any], language: Language
) -> str:
    """Make the verdicts on the screen the teacher's own."""
    shown = queue.shown
    if shown is None or asked.get("answer") != shown.id:
        # The screen shows another answer than we believe: decide nothing.
        return note(say(language, "changed_meanwhile"))
    verdicts = {str(point): bool(held) for point, held in asked.get("verdicts", {}).items()}
    made = await client.decide(
        shown.id,
        verdicts,
        expected_mark_id=int(asked.get("mark") or 0) or None,
        apply_to_identical=bool(asked.get("identical")),
    )
    queue.done = [*queue.done[1 - UNDOS :], shown.id]
    for contest in shown.contests:
        if contest.state == "open":
            await client.decide_contest(
                contest.id, "upheld" if made.mark == shown.mark else "changed"
            )
    for place, row in enumerate(queue.rows):
        if row.id in made.answers:
            decided = {"state": made.state, "mark": made.mark, "contested": False}
            queue.rows[place] = row.model_copy(update=decided)
    if queue.which == "undecided":
        queue.total = max(0, queue.total - len(made.answers))
    more = len(made.answers) - 1
    key = "decided_many" if more else "decided_one"
    return note(say(language, key, number=shown.position + 1, count=more), "good")


async def _undo(client: AsyncClient, queue: Queue, language: Language) -> str:
    """Take the last decision of this page back, or else the one on the answer that is shown."""
    answer = queue.done[-1] if queue.done else ""
    if not answer and queue.shown is not None and queue.shown.state != "proposed":
        answer = queue.shown.id
    if not answer:
        return note(say(language, "nothing_to_undo"))
    before = await client.answer(answer)
    back: list[str] = []
    if before.mark_id is not None and before.state in ("confirmed", "overridden"):
        undone = await client.undo(answer, expected_mark_id=before.mark_id, apply_to_identical=True)
        back = undone.answers
    if queue.done:
        queue.done.pop()
    detail = await client.answer(answer)
    for place, row in enumerate(queue.rows):
        if row.id in back:
            again = {"state": detail.state, "mark": detail.mark, "mark_id": None}
            queue.rows[place] = row.model_copy(update=again)
    _return_to(queue, detail)
    queue.update(detail)
    if queue.which == "undecided":
        queue.total += len(back)
    return note(say(language, "undone", number=detail.position + 1), "good")


def _return_to(queue: Queue, detail: AnswerDetail) -> None:
    """Show this answer next, and let the list hold it."""
    for place, row in enumerate(queue.rows):
        if row.id == detail.id:
            queue.at = place
            return
    known = {name: getattr(detail, name) for name in AnswerRow.model_fields}
    queue.rows.insert(queue.at, AnswerRow(**known))


def listed(queue: Queue, language: Language) -> str:
    """The queue as an HTML table; a click opens a row."""
    if not queue.rows:
        return ""
    rows = []
    for place, row in enumerate(queue.rows):
        here = ' aria-current="true"' if place == queue.at else ""
        state = f'<span class="lm-badge lm-{row.state}">{_t(language, row.state)}</span>'
        if row.contested:
            state += f' <span class="lm-badge lm-contested">{_t(language, "contested")}</span>'
        rows.append(
            f'<tr data-row="{place}"{here}><td class="lm-number">{row.position + 1}</td>'
            f'<td>{escape(row.question)}</td><td class="lm-cut">{escape(row.text[:120])}</td>'
            f'<td class="lm-number">{row.mark or 0:g} / {row.full_mark or 0:g}</td>'
            f'<td class="lm-number">{row.marks_at_risk:.2f}</td>'
            f"<td>{state} {badges(row.flags, language)}</td></tr>"
        )
    names = ("number", "question", "answer", "mark", "risk", "state")
    titles = headings(language, *names, numbers=("number", "mark", "risk"))
    return (
        '<div class="lm-queue"><div class="lm-scroll"><table class="lm-table"><thead>'
        f"{titles}</thead><tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def _t(language: Language, key: str) -> str:
    return escape(say(language, key))


def build_filters(i18n: gr.I18n) -> tuple[gr.Dropdown, gr.Dropdown, gr.Dropdown]:
    """What the queue holds: by state, by flag, by question."""
    return (
        gr.Dropdown(label=i18n("filter_state"), elem_id="which", min_width=260),
        gr.Dropdown(label=i18n("filter_flag"), elem_id="flag", min_width=260),
        gr.Dropdown(label=i18n("filter_question"), elem_id="question", min_width=260),
    )


def build_review(
    i18n: gr.I18n, filters: tuple[gr.Dropdown, gr.Dropdown, gr.Dropdown]
) -> ReviewParts:
    """The queue and the panel below it."""
    rows = gr.HTML(elem_id="queue", js_on_load=_LIST_SCRIPT)
    message = gr.HTML(elem_id="message")
    shown = gr.HTML(elem_id="panel", js_on_load=_SCRIPT)
    return ReviewParts(*filters, message, rows, shown, gr.State(Queue()))


def listener(component: gr.HTML, event: str) -> Callable[..., Any]:
    """The listener of an event that a component's own script triggers."""
    return cast(Callable[..., Any], getattr(component, event))
