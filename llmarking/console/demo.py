"""Grade a course through a server and print every mark: what `make demo` does.

All verdicts come first, asked for at once; a few answers are then explained, because text takes a
model much longer than verdicts do.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from llmarking.client import AsyncClient
from llmarking.console.demo_report import Marked, Times, print_marked, print_summary, say, summarise
from llmarking.console.demo_server import started
from llmarking.console.feedback import print_question
from llmarking.datasets.courses import Course
from llmarking.domain import Question, StudentAnswer
from llmarking.errors import RequestRefused, ServerUnreachable
from llmarking.sentences import counted
from llmarking.sharing import in_order
from llmarking.terminal import ExitCode, Terminal

WIDTH = 80
# What to show of the few that are explained: half right first, as there is most to say about it.
EXPLAINED_QUALITIES = ("half", "right", "manipulative", "wrong")
EXPLAINING_AT_ONCE = 8
SILENCE = 1800.0  # seconds; on a slow machine the last of many answers waits for all before it


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """What the demo grades and with what.

    Attributes:
        url: a server that runs already; None starts one with `model` from `source`.
        limit: answers to each question; None means all.
        shots: graded examples the model sees.
        explain: answers that get evidence and reasons; None means all.
        as_json: the summary as one JSON object on standard output, all else on standard error.
    """

    model: str
    source: str = "auto"
    url: str | None = None
    api_key: str | None = None
    limit: int | None = None
    shots: int = 0
    explain: int | None = 3
    as_json: bool = False


class Demo:
    """One run over a course."""

    def __init__(self, settings: DemoSettings, course: Course, terminal: Terminal) -> None:
        self._settings = settings
        self._course = course
        self._terminal = terminal
        self._out = terminal.err if settings.as_json else terminal.out
        self._out.width = min(self._out.width, WIDTH)
        # Only the examples that the model is to see are sent.
        self._plan = [
            (replace(question, examples=question.examples[: settings.shots]), answer)
            for question in course.questions
            for answer in course.answers_to(question)[: settings.limit]
        ]

    def run(self) -> int:
        """Grade and print; return the exit status."""
        settings = self._settings
        if settings.url is not None:
            return asyncio.run(self._grade(settings.url, settings.api_key, None))
        with started(settings.model, settings.source) as server:
            loading = server.wait_ready(self._terminal)
            self._terminal.note(f"ready after {loading:.0f} s")
            try:
                return asyncio.run(self._grade(server.url, server.key, loading))
            except ServerUnreachable as error:
                raise server.explain(str(error)) from error

    async def _grade(self, url: str, key: str | None, loading: float | None) -> int:
        async with AsyncClient(url, key, timeout=SILENCE) as client:
            model = (await client.models())[0].model
            say(self._out, self._course.title or self._course.name, "bold")
            say(self._out, f"{counted(len(self._plan), 'answer', 'answers')}, graded by {model}")
            marked, verdict_seconds = await self._verdicts(client)
            explained, explaining_seconds = await self._explanations(client, marked)
        times = Times(loading, verdict_seconds, explaining_seconds)
        summary = summarise(marked, times, explained=len(explained))
        print_summary(self._out, summary)
        if len(explained) < len(marked):
            say(self._out, "For evidence and reasons of all answers: --explain all", "dim")
        if self._settings.as_json:
            self._terminal.write(json.dumps(summary, ensure_ascii=False) + "\n")
        return ExitCode.PARTIAL if summary["failed"] else ExitCode.OK

    async def _verdicts(self, client: AsyncClient) -> tuple[list[Marked], float]:
        """Grade all answers at once; print each as soon as it and those before it are done."""
        began = time.monotonic()
        marked: list[Marked] = []
        work = [self._one(client, question, answer) for question, answer in self._plan]
        async with aclosing(in_order(work)) as results:
            async for one in results:
                if not marked or marked[-1].question.code != one.question.code:
                    self._out.print()
                    self._out.rule(style="dim")
                    print_question(self._out, one.question)
                marked.append(one)
                print_marked(self._out, one)
        return marked, time.monotonic() - began

    async def _explanations(
        self, client: AsyncClient, marked: Sequence[Marked]
    ) -> tuple[list[Marked], float]:
        """Grade some answers again, this time with evidence and reasons."""
        chosen = choose(marked, self._settings.explain)
        if not chosen:
            return [], 0.0
        self._out.print()
        self._out.rule(style="dim")
        say(self._out, f"{len(chosen)} of them again, with evidence and reasons.", "bold")
        began = time.monotonic()
        explained = []
        places = asyncio.Semaphore(EXPLAINING_AT_ONCE)

        async def explain(one: Marked) -> Marked:
            async with places:
                return await self._one(client, one.question, one.answer, explain=True)

        with self._terminal.busy("the model is writing; Ctrl-C ends it"):
            async with aclosing(in_order([explain(one) for one in chosen])) as results:
                async for one in results:
                    explained.append(one)
                    print_marked(self._out, one)
        return explained, time.monotonic() - began

    async def _one(
        self,
        client: AsyncClient,
        question: Question,
        answer: StudentAnswer,
        *,
        explain: bool = False,
    ) -> Marked:
        shots = len(question.examples)
        try:
            grade = await client.grade(question, answer.text, shots=shots, explain=explain)
        except RequestRefused as error:
            # An answer may be at fault; for a wrong key or a full queue none is.
            if error.status not in (400, 413, 422):
                raise
            return Marked(question, answer, None, error)
        return Marked(question, answer, grade)


def choose(marked: Sequence[Marked], wanted: int | None) -> list[Marked]:
    """Answers to explain: in turn from each question, of a different quality each time."""
    left = [one for one in marked if one.grade]
    if wanted is None:
        return left
    codes = list(dict.fromkeys(one.question.code for one in left))
    chosen: list[Marked] = []
    while left and len(chosen) < wanted:
        turn, place = divmod(len(chosen), len(codes))
        quality = EXPLAINED_QUALITIES[(place + turn) % len(EXPLAINED_QUALITIES)]
        best = min(
            left,
            key=lambda one: (one.question.code != codes[place], one.answer.quality != quality),
        )
        left.remove(best)
        chosen.append(best)
    return chosen
