"""The class as a whole: what is left to read, how it did, and what the corrections would change."""

from __future__ import annotations

from html import escape
from typing import Any, NamedTuple

import gradio as gr

from llmarking.client import AsyncClient
from llmarking.errors import RequestRefused
from llmarking.protocol.courses import Refit, Summary
from llmarking.ui.charts import agreement, difficulty, histogram
from llmarking.ui.desk import Desk, note, told
from llmarking.ui.faults import explained
from llmarking.ui.texts import Language, say

RISK = 5  # percent, until a course or its teacher says otherwise
CHANGES_NAMED = 20


class OverviewParts(NamedTuple):
    """The components around the queue."""

    risk: gr.Slider
    load: gr.HTML
    marks: gr.HTML
    difficulty: gr.HTML
    agreement: gr.HTML
    entered: gr.State


class RefitParts(NamedTuple):
    """The components of the refit."""

    refit: gr.Button
    found: gr.HTML
    apply: gr.Button
    discard: gr.Button
    proposal: gr.State


class OverviewPage:
    """The functions behind the slider, the pictures and the refit."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @told
    async def enter(self, course: str, risk: float, entered: str, request: gr.Request) -> list[Any]:
        """The class is opened: the slider, whose class it stands for, and what `look` returns.

        It stands where the course says, until the teacher moves it.
        """
        if course and course != entered:
            chosen = (await self._desk.client(request).course(course)).risk
            risk = RISK if chosen is None else 100 * chosen
        return [risk, course, *await self.look(course, risk, request)]

    @told
    async def look(self, course: str, risk: float, request: gr.Request) -> list[Any]:
        """What is left to read, marks, difficulty, agreement."""
        language = self._desk.language(request)
        if not course:
            return ["", "", "", ""]
        summary = await self._desk.client(request).summary(course, risk=_share(risk))
        return [
            left_to_read(summary, _share(risk), language),
            histogram(summary.histogram, language),
            difficulty(summary.questions, language),
            agreement(summary.agreement, language),
        ]

    @told
    async def refit(self, course: str, request: gr.Request) -> list[Any]:
        """Propose a calibration; return the proposal, what it says, and two buttons."""
        language = self._desk.language(request)
        client = self._desk.client(request)
        try:
            proposal = await client.refit(course)
        except RequestRefused as error:  # as when there are too few verdicts yet
            return _over(note(explained(language, error)))
        said = await _found(client, course, proposal, language)
        return [proposal.id, said, gr.Button(visible=True), gr.Button(visible=True)]

    @told
    async def apply(self, course: str, proposal: str | None, request: gr.Request) -> list[Any]:
        """Let it count."""
        language = self._desk.language(request)
        if proposal is not None:
            await self._desk.client(request).apply_calibration(course, proposal)
        return _over(note(say(language, "refit_applied"), "good"))

    @told
    async def discard(self, course: str, proposal: str | None, request: gr.Request) -> list[Any]:
        """Forget it."""
        language = self._desk.language(request)
        if proposal is not None:
            await self._desk.client(request).discard_calibration(course, proposal)
        return _over(note(say(language, "refit_discarded"), "good"))


def _share(percent: float) -> float:
    return min(0.49, max(0.001, percent / 100))


def left_to_read(summary: Summary, risk: float, language: Language) -> str:
    """What the slider's promise costs, as HTML."""
    undecided = summary.states.get("proposed", 0)
    nearest = min(summary.review, key=lambda load: abs(load.risk - risk), default=None)
    if nearest is None:
        return ""
    text = say(
        language, "load", risk=f"{100 * nearest.risk:g} %", left=nearest.answers, total=undecided
    )
    hint = escape(say(language, "review_hint"))
    return f'<p><strong>{escape(text)}</strong> <span class="lm-muted">{hint}</span></p>'


async def _found(client: AsyncClient, course: str, proposal: Refit, language: Language) -> str:
    text = say(
        language,
        "refit_found",
        verdicts=proposal.verdicts,
        changed=proposal.changed_count,
        before=proposal.review_before,
        after=proposal.review_after,
    )
    lines = []
    for turned in proposal.changed[:CHANGES_NAMED]:
        answer = await client.answer(turned.answer)
        line = say(
            language,
            "refit_change",
            number=answer.position + 1,
            question=answer.question,
            point=turned.point,
            before=_word(turned.before),
            after=_word(turned.after),
        )
        lines.append(f"<li>{escape(line)}</li>")
    if proposal.changed_count > len(lines):
        more = say(language, "more_changes", count=proposal.changed_count - len(lines))
        lines.append(f"<li>{escape(more)}</li>")
    listed = f"<ul>{''.join(lines)}</ul>" if lines else ""
    return f'<div class="lm-note"><p>{escape(text)}</p>{listed}</div>'


def _word(held: bool | None) -> str:
    return "?" if held is None else "✓" if held else "✗"


def _over(said: str) -> list[Any]:
    return [None, said, gr.Button(visible=False), gr.Button(visible=False)]


def build_load(i18n: gr.I18n) -> gr.Slider:
    """The slider of accepted errors."""
    return gr.Slider(
        1, 20, value=RISK, step=1, label=i18n("risk"), elem_id="risk", scale=2, min_width=280
    )


def build_overview(i18n: gr.I18n, risk: gr.Slider, load: gr.HTML) -> OverviewParts:
    """Marks, difficulty, agreement."""
    with gr.Accordion(i18n("overview"), open=True, elem_id="overview"):
        gr.Markdown(i18n("agreement_title"), elem_classes="lm-heading")
        agreed = gr.HTML(elem_id="agreement")
        gr.Markdown(i18n("histogram"), elem_classes="lm-heading")
        marks = gr.HTML(elem_id="histogram")
        gr.Markdown(i18n("difficulty"), elem_classes="lm-heading")
        hard = gr.HTML(elem_id="difficulty")
    return OverviewParts(risk, load, marks, hard, agreed, gr.State(""))


def build_refit(i18n: gr.I18n) -> RefitParts:
    """The refit from corrections."""
    with gr.Accordion(i18n("refit_title"), open=True, elem_id="corrections"):
        gr.Markdown(i18n("refit_hint"))
        refit = gr.Button(i18n("refit"), elem_id="refit")
        found = gr.HTML(elem_id="refit-found")
        with gr.Row():
            apply = gr.Button(i18n("apply"), visible=False, variant="primary", elem_id="apply")
            discard = gr.Button(i18n("discard"), visible=False, elem_id="discard")
    return RefitParts(refit, found, apply, discard, gr.State(None))
