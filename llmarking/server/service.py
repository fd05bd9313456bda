"""What all routes share: the engine and its state, the grader, the queue, the counters."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Gauge

from llmarking.engines.engine import Engine
from llmarking.errors import EngineDead
from llmarking.grading.grader import Graded, Grader
from llmarking.grading.prompting import PLAIN_VERDICT
from llmarking.marks.calibration import Calibrations
from llmarking.models import adapters
from llmarking.protocol.problems import type_and_place
from llmarking.screening.screen import prepare
from llmarking.screening.screeners import Screeners
from llmarking.sentences import sentence
from llmarking.server.adapter_shelf import AdapterShelf, calibrations_of
from llmarking.server.admission import Gate
from llmarking.settings import ServerSettings

log = logging.getLogger("llmarking.server")
HEALTH_INTERVAL = 1.0


class NotReady(EngineDead):
    """The engine is still loading; like a dead one it answers 503, but it will come."""


class Stalled(EngineDead):
    """The engine has work and nothing comes of it: 503, and it may come round again."""


class Service:
    """What the routes share: the engine and its state, the grader, the gate, the counters."""

    def __init__(
        self, engine: Engine, settings: ServerSettings, on_death: Callable[[str], None]
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.gate = Gate(settings.max_queue)
        self.failure: str | None = None
        self.ready = asyncio.Event()
        self.grader: Grader | None = None
        self.shelf: AdapterShelf | None = None
        self.screeners = Screeners(settings.screeners)
        self._on_death = on_death
        self._stalled = False
        self.registry = CollectorRegistry()
        self.graded = Counter(
            "llmarking_answers_graded_total", "Answers graded.", ["method"], registry=self.registry
        )
        self.points = Counter(
            "llmarking_points_decided_total", "Points decided.", ["outcome"], registry=self.registry
        )
        self.prompt_tokens = Counter(
            "llmarking_prompt_tokens_total", "Prompt tokens.", ["cached"], registry=self.registry
        )
        Gauge(
            "llmarking_requests_held", "Accepted and unfinished.", registry=self.registry
        ).set_function(lambda: self.gate.held)
        Gauge(
            "llmarking_engine_silent_seconds",
            "Since the engine last produced something, while it has work.",
            registry=self.registry,
        ).set_function(engine.silent_seconds)

    async def run(self) -> None:
        """Load the engine, then watch it; says so once when it fails or dies."""
        # Beside the model, which takes longer: the first answer finds the rules read.
        rules = asyncio.gather(asyncio.to_thread(prepare), self.screeners.start())
        rules.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await self.engine.start()
            self.grader = self._prepare()
            if self.grader.calibration_for(0, None) is None:
                log.warning(
                    "no calibration for %s: its own probabilities are too lenient",
                    self.engine.info.model,
                )
            # What is there now stays: looking through it for garbage again and again takes time
            # from requests.
            gc.collect()
            gc.freeze()
            self.ready.set()
            log.info("ready: %s, context %d", self.engine.info.model, self.engine.info.context)
            while True:
                await asyncio.sleep(HEALTH_INTERVAL)
                await self.engine.check_health()
                self._tell_of_stalls()
        except Exception as error:
            self._fail(error)

    def _tell_of_stalls(self) -> None:
        """Say once in the log that a stall has begun, and once that it is over."""
        stalled = self.engine.silent_seconds() > self.settings.stall_seconds
        if stalled != self._stalled:
            self._stalled = stalled
            log.warning("the engine stalls" if stalled else "the engine goes on again")

    def _prepare(self) -> Grader:
        """The grader and the shelf, over calibrations that they share."""
        calibrations = Calibrations()
        info = self.engine.info
        for adapter in info.adapters.values():
            # Those of the adapters that ship with the package lie with all others that ship.
            if adapter.path.parent != adapters.SHIPPED:
                calibrations.put(adapter.name, calibrations_of(adapter, info.model))
        self.shelf = AdapterShelf(
            self.engine, calibrations, self.settings.adapter_folder, self.settings.max_adapter
        )
        return Grader(
            self.engine,
            calibrations,
            default_adapter=self.settings.default_adapter,
            prompt=self.settings.prompt or PLAIN_VERDICT,
            screeners=self.screeners,
        )

    async def close(self) -> None:
        """Give back what was held besides the engine, which has stopped."""
        # Else what an app has left would stay for ever in a process that makes another one. If
        # another is at work there, it loses nothing but time.
        gc.unfreeze()
        await self.screeners.close()
        if self.shelf is not None:
            await self.shelf.close()

    def _fail(self, error: Exception) -> None:
        self.failure = str(error) or type(error).__name__
        self.ready.clear()
        # An engine's traceback may show prompts, so only the place is logged.
        log.error("the engine has failed: %s (%s)", self.failure, type_and_place(error))
        self._on_death(self.failure)

    def require_ready(self) -> Grader:
        """The grader, once the engine can work.

        Raises:
            EngineDead: it cannot any more.
            NotReady: it cannot yet.
        """
        if self.failure is not None:
            raise EngineDead(
                sentence("engine_failed", "the engine has failed: {why}", why=self.failure)
            )
        if self.grader is None or not self.ready.is_set():
            raise NotReady(
                sentence(
                    "still_loading",
                    "the model is still being loaded; /health/ready tells when it is done",
                )
            )
        return self.grader

    def count_graded(self, graded: Graded, method: str) -> None:
        """Add a grade to the metrics."""
        self.graded.labels(method=method).inc()
        outcomes = collections.Counter(verdict.outcome for verdict in graded.grade.verdicts)
        for outcome, points in outcomes.items():
            self.points.labels(outcome=outcome.value).inc(points)
        self.count(graded.prompt_tokens, graded.cached_tokens)

    async def check_ready(self) -> None:
        """Return if the engine is loaded, alive, and gets on with its work.

        Raises:
            EngineDead: it does not.
        """
        self.require_ready()
        await self.engine.check_health()
        silent = self.engine.silent_seconds()
        if silent > self.settings.stall_seconds:
            raise Stalled(
                f"the engine stalls: {self.engine.running()} requests run and nothing has come of "
                f"them for {silent:.0f} s"
            )

    def count(self, prompt_tokens: int, cached_tokens: int) -> None:
        """Add to the metrics what a request has read."""
        self.prompt_tokens.labels(cached="yes").inc(cached_tokens)
        self.prompt_tokens.labels(cached="no").inc(max(0, prompt_tokens - cached_tokens))


def service_of(request: Request) -> Service:
    """The service of the app that answers a request."""
    service: Service = request.app.state.service
    return service


@contextlib.asynccontextmanager
async def running_beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` as a task while the block lasts; it is cancelled, and waited for, at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
