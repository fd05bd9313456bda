"""Grade a course over HTTP, keep every answer as it is done, and measure agreement in the end.

An answer that was graded is never graded again: a run that was stopped, by Ctrl-C, a crash or a
dead server, goes on with `resume`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import platform
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmarking import __version__
from llmarking.calls.attempts import Retry
from llmarking.client import AsyncClient, GradeOptions
from llmarking.datasets.finding import Course
from llmarking.domain import Question, StudentAnswer
from llmarking.errors import InputError, RequestRefused, ServerUnreachable
from llmarking.evaluation import report, report_files
from llmarking.evaluation.folder import Key, RunFolder, Sample, closed, folder_name
from llmarking.evaluation.plan import About, key_of, plan, sample, short_version, trial
from llmarking.evaluation.progress import progress
from llmarking.evaluation.run_metrics import measure
from llmarking.protocol.bodies import Method, ModelCard
from llmarking.sentences import counted
from llmarking.terminal import ExitCode, Terminal

FORMAT = "llmarking-run/1"
SILENCE = 1800.0  # seconds; on a slow machine the last of many answers waits for all before it


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """What is graded, how, and where the result goes.

    Attributes:
        urls: servers that share the work; none means the client's default.
        in_flight: answers asked for at once, over all servers.
        shots: graded examples that the model sees, as many as a question has; None means all.
        limit: answers to each question, drawn by `seed`; None means all.
        plots: draw them, and write the HTML page that shows them.
        command: what is written down as the way to repeat the run.
    """

    urls: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    in_flight: int = 10
    shots: int | None = 0
    method: Method = "verdict"
    adapter: str | None = None
    limit: int | None = None
    seed: int = 0
    resume: bool = False
    out: Path = Path("results")
    as_json: bool = False
    plots: bool = True
    command: str = ""
    retry: Retry = field(default_factory=lambda: Retry(connect=5.0, busy=120.0))


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that could not be graded, and why."""

    key: Key
    error: RequestRefused

    def as_json(self) -> dict[str, Any]:
        # The title is one of a few; a detail might repeat something of the request.
        title = str(self.error.problem.get("title") or "error")
        question, answer = self.key
        return {"question": question, "id": answer, "status": self.error.status, "title": title}


@dataclass(slots=True)
class _Server:
    client: AsyncClient
    busy: int = 0
    done: int = 0
    down: bool = False


class Evaluation:
    """One run over a course.

    Raises:
        DataError: two answers to a question go by one id.
        InputError: there is nothing to grade.
    """

    def __init__(self, settings: EvaluationSettings, course: Course, terminal: Terminal) -> None:
        self._settings = settings
        self._course = course
        self._terminal = terminal
        self._plan = plan(course, shots=settings.shots, limit=settings.limit, seed=settings.seed)
        if not self._plan:
            raise InputError(f"{course.name} holds no answers to grade")
        self._servers: list[_Server] = []
        self._identity: dict[int, About] = {}
        self._failures: list[Failure] = []

    def run(self) -> int:
        """Grade, measure, write and print; return the exit status."""
        return asyncio.run(self._run())

    async def _run(self) -> int:
        async with contextlib.AsyncExitStack() as stack:
            settings = self._settings
            for url in dict.fromkeys(settings.urls or (None,)):
                client = AsyncClient(url, settings.api_key, timeout=SILENCE, retry=settings.retry)
                self._servers.append(_Server(await stack.enter_async_context(client)))
            cards = [await self._meet(server) for server in self._servers]
            what = self._configuration(cards)
            path = settings.out / folder_name(self._course.name)
            path /= folder_name(what["model"]) + (f"+{what['adapter']}" if what["adapter"] else "")
            path /= folder_name(
                f"{settings.method}-{what['shots']}-{short_version(what['prompt_version'])}"
            )
            with RunFolder(path, what, resume=settings.resume) as folder:
                return await self._fill(folder, what, cards)

    async def _fill(self, folder: RunFolder, what: dict[str, Any], cards: list[ModelCard]) -> int:
        """Go on with what the folder holds, and report."""
        planned = {key_of(answer) for _, answer in self._plan}
        if extra := folder.samples.keys() - planned:
            raise InputError(
                f"{folder.path} holds {counted(len(extra), 'answer', 'answers')} that this run "
                "leaves out; resume with a larger --limit, or put this run elsewhere with --out"
            )
        run = {
            "format": FORMAT,
            "configuration": what,
            "limit": self._settings.limit,
            "answers": len(self._plan),
            "command": self._settings.command,
            "versions": _versions(),
            "servers": [card.model_dump(mode="json") for card in cards],
            "sessions": closed(folder.run.get("sessions", []), len(folder.samples)),
        }
        if kept := len(folder.samples):
            self._terminal.note(f"{kept} of {len(self._plan)} answers are there already")
        await self._session(folder, run)
        return self._report(folder, run)

    async def _session(self, folder: RunFolder, run: dict[str, Any]) -> None:
        """Grade what the folder lacks, and write down when, and what became of it."""
        kept, clock = len(folder.samples), time.monotonic()
        session: dict[str, Any] = {
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
            "ended": None,
            "seconds": None,
            "answers": 0,
            "failed": 0,
            "in_flight": self._settings.in_flight,
            "by_server": [],
            "served_with": [card["versions"] for card in run["servers"]],
        }
        # Written before anything is graded: a session that is killed was there too.
        folder.write("run.json", {**run, "sessions": [*run["sessions"], session]})
        try:
            await self._grade(folder)
        finally:
            session |= {
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - clock, 3),
                "answers": len(folder.samples) - kept,
                "failed": len(self._failures),
                "by_server": [server.done for server in self._servers],
            }
            if session["answers"] or session["failed"]:
                run["sessions"] = [*run["sessions"], session]
            folder.write("run.json", run)
            if len(folder.samples) + len(self._failures) < len(self._plan):
                self._terminal.note(
                    f"{len(folder.samples)} of {len(self._plan)} answers are kept in "
                    f"{folder.path}; --resume goes on with the others"
                )

    def _report(self, folder: RunFolder, run: dict[str, Any]) -> int:
        order = {key_of(answer): place for place, (_, answer) in enumerate(self._plan)}
        failures = sorted(self._failures, key=lambda failure: order[failure.key])
        numbers = measure(self._course, list(order), folder.samples, seed=self._settings.seed)
        numbers["failed"] = [failure.as_json() for failure in failures]
        folder.write("metrics.json", numbers)
        report_files.write(folder, run, numbers, plots=self._settings.plots)
        out = self._terminal.err if self._settings.as_json else self._terminal.out
        report.print_report(out, run, numbers)
        self._terminal.note(f"written to {folder.path}")
        for failure in failures:
            question, answer = failure.key
            self._terminal.complain(f"not graded: {question} {answer}: {failure.error}")
        if failures:
            self._terminal.complain("--resume tries these answers again")
        if self._settings.as_json:
            result = {"folder": str(folder.path), "run": run, "metrics": numbers}
            self._terminal.write(json.dumps(result, ensure_ascii=False) + "\n")
        return ExitCode.PARTIAL if failures else ExitCode.OK

    async def _meet(self, server: _Server) -> ModelCard:
        """Ask a server what it runs and what it grades with, for every number of examples."""
        card = (await server.client.models())[0]
        for shots in sorted({len(question.examples) for question, _ in self._plan}):
            about = About.of(await server.client.grade(trial(shots), "", **self._options(shots)))
            if self._identity.setdefault(shots, about) != about:
                raise InputError(
                    f"{server.client.url} grades with {about}, "
                    f"{self._servers[0].client.url} with {self._identity[shots]}; servers "
                    "that share a run must be alike"
                )
        return card

    def _configuration(self, cards: list[ModelCard]) -> dict[str, Any]:
        """What must be the same for answers to belong to one run."""
        alike = {(card.model, card.revision, card.dtype) for card in cards}
        if len({json.dumps(card.prompts, sort_keys=True) for card in cards}) > 1:
            raise InputError("servers that share a run must be alike; their prompts differ")
        if len(alike) > 1:
            raise InputError(
                "servers that share a run must be alike; they run "
                + " and ".join(sorted(" ".join(one).strip() for one in alike))
            )
        about = [self._identity[shots] for shots in sorted(self._identity)]
        prompts = dict.fromkeys(one.prompt for one in about)
        calibrations = dict.fromkeys(one.calibration or "none" for one in about)
        only_none = list(calibrations) == ["none"]
        return {
            "course": self._course.name,
            "source": self._course.source,
            "data_sha256": self._course.sha256,
            "model": cards[0].model,
            "revision": cards[0].revision,
            "dtype": cards[0].dtype,
            "adapter": about[0].adapter,
            "adapter_version": about[0].adapter_version,
            "method": self._settings.method,
            "shots": "all" if self._settings.shots is None else self._settings.shots,
            "prompt_version": ", ".join(prompts),
            "prompt_sha256": {name: cards[0].prompts.get(name) for name in prompts},
            "calibration": None if only_none else ", ".join(calibrations),
            "seed": self._settings.seed,
        }

    async def _grade(self, folder: RunFolder) -> None:
        """Grade every answer that is not there, so many at a time."""
        todo = [pair for pair in self._plan if key_of(pair[1]) not in folder.samples]
        work = iter(todo)
        with progress(self._terminal, len(self._plan), len(self._plan) - len(todo)) as tick:

            async def worker() -> None:
                for question, answer in work:
                    try:
                        folder.append(await self._one(question, answer))
                    except RequestRefused as error:
                        if error.status in (401, 403, 429):
                            raise
                        self._failures.append(Failure(key_of(answer), error))
                    tick()

            async with _together() as group:
                for _ in range(min(self._settings.in_flight, len(todo))):
                    group.create_task(worker())

    async def _one(self, question: Question, answer: StudentAnswer) -> Sample:
        """Grade one answer; where a server fails, by another one, or once more by the same."""
        tries = 0
        while True:
            up = [server for server in self._servers if not server.down]
            server = min(up or self._servers, key=lambda one: (one.busy, one.done))
            tries += 1
            server.busy += 1
            began = time.monotonic()
            try:
                shots = len(question.examples)
                grade = await server.client.grade(question, answer.text, **self._options(shots))
            except ServerUnreachable as error:
                if not server.down and len(self._servers) > 1:
                    self._terminal.complain(f"{error}; going on without it")
                server.down = True
                if all(one.down for one in self._servers):
                    raise
            except RequestRefused as error:
                if error.status < 500 or tries > 1:
                    raise
            else:
                server.done += 1
                if About.of(grade) != self._identity[shots]:
                    raise InputError(
                        f"{server.client.url} grades with {About.of(grade)} now; this run "
                        f"is with {self._identity[shots]}"
                    )
                return sample(question, answer, grade, time.monotonic() - began)
            finally:
                server.busy -= 1

    def _options(self, shots: int) -> GradeOptions:
        options = GradeOptions(method=self._settings.method, shots=shots)
        if self._settings.adapter is not None:
            options["adapter"] = self._settings.adapter
        return options


@contextlib.asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises the first error itself, not a group of all."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


def _versions() -> dict[str, str]:
    """Of what grades nothing but measures; the servers name what they run themselves."""
    measuring = ("numpy", "scipy", "scikit-learn")
    versions = {name: importlib.metadata.version(name) for name in measuring}
    return {"llmarking": __version__, "python": platform.python_version(), **versions}
