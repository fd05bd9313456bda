"""The worker that grades classes: it claims blocks of answers, grades them, and writes the marks.

Any number of servers may work on one database. A worker holds as many blocks as keep its engine
busy for some seconds, and no more: the rest is for the others, or for the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from llmarking.domain import Question
from llmarking.engines.engine import in_background
from llmarking.errors import EngineDead, InputError, LLMarkingError, StoreError
from llmarking.grading.grader import Graded, GradeOptions, Grader
from llmarking.jobs.pacing import Pace
from llmarking.protocol.problems import type_and_place
from llmarking.store.blocks import (
    Claim,
    LeaseLost,
    Outcome,
    claim,
    finish,
    recover,
    release,
    renew,
)
from llmarking.store.courses import question_of
from llmarking.store.database import Store
from llmarking.store.job_marks import configuration, mark_row, options_of, still_holds

log = logging.getLogger("llmarking.jobs")
P = ParamSpec("P")
T = TypeVar("T")

# Tries of one answer, when it is the engine that fails.
TRIES = 3
# Claims of one block that end without a word: then it may well be one of its answers that kills us.
MOST_CLAIMS = 10
# How often to look for work that another server has accepted or given up.
LOOK_SECONDS = 1.0
# What the user reads about an answer whose failure is not one of ours.
_UNKNOWN = "something went wrong inside the server; its log has more"


class Worker:
    """Grades what jobs of its model are waiting.

    Args:
        lease_seconds: how long a block is ours without a sign of life.
        concurrency: answers in the engine at once, at most.
        on_graded: told about every grade, for the metrics.
    """

    def __init__(
        self,
        store: Store,
        grader: Grader,
        model: str,
        *,
        lease_seconds: float = 30.0,
        concurrency: int = 1024,
        on_graded: Callable[[Graded, str], None] = lambda graded, method: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._grader = grader
        self._model = model
        self._lease = lease_seconds
        self._pace = Pace(concurrency)
        self._on_graded = on_graded
        self._sleep = sleep
        self._owner = uuid.uuid4().hex
        self._held: dict[asyncio.Task[None], Claim] = {}
        self._wake = asyncio.Event()
        self._starting = asyncio.Lock()
        self._look_at_held = False
        self._dead = False
        # Few, as SQLite has one writer; our own, so that routes never wait for the worker.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="jobs")

    def wake(self) -> None:
        """There may be work, or some of it may have been paused or cancelled."""
        self._look_at_held = True
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled, or the engine is dead; then give back what is not done."""
        in_background.set(True)
        renewing = asyncio.create_task(self._renew_in_time())
        try:
            await self._patiently(self._thread(recover, self._store))
            while not self._dead:
                self._wake.clear()
                if self._look_at_held:
                    self._look_at_held = False
                    await self._patiently(self._drop_lost())
                while self._pace.room() and await self._start_one():
                    pass
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._wake.wait()
        finally:
            renewing.cancel()
            await self._stop()

    async def _start_one(self) -> bool:
        """Claim a block and start on it; false where there is none."""
        claimed = await self._patiently(
            self._thread(claim, self._store, self._owner, self._model, self._lease)
        )
        if claimed is None:
            return False
        task = asyncio.create_task(self._work(claimed))
        self._held[task] = claimed
        self._pace.began(len(claimed.answers))
        task.add_done_callback(self._ended)
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        claimed = self._held.pop(task)
        done = not task.cancelled() and task.exception() is None
        self._pace.ended(len(claimed.answers), done=done)
        self._wake.set()

    async def _work(self, claimed: Claim) -> None:
        try:
            await self._finish(claimed, await self._grade_all(claimed))
        except LeaseLost as error:
            log.info("%s", error)
        except EngineDead:
            self._dead = True
            with contextlib.suppress(StoreError):
                await self._thread(release, self._store, [claimed])
        except Exception as error:
            # The lease runs out, and somebody tries again; its attempts are counted.
            log.error("block %s failed: %s", claimed.block, type_and_place(error))  # noqa: TRY400

    async def _finish(self, claimed: Claim, outcomes: list[Outcome]) -> None:
        while True:
            try:
                finished = await self._thread(finish, self._store, claimed, outcomes)
            except StoreError as error:
                # A full disk or a lost connection: what has been graded is kept until it works.
                log.error("can't write marks, will try again: %s", error)  # noqa: TRY400
                await self._sleep(LOOK_SECONDS)
            else:
                break
        if finished:
            log.info("job %s is finished", claimed.job)

    async def _grade_all(self, claimed: Claim) -> list[Outcome]:
        if claimed.attempt > MOST_CLAIMS:
            why = f"the server stopped {MOST_CLAIMS} times while it graded this block of answers"
            return [Outcome(answer, error=why) for answer, _ in claimed.answers]
        question = question_of(claimed.question)
        config = await self._thread(self._config, claimed)
        options = options_of(config)
        tasks: list[asyncio.Task[Outcome]] = []
        try:
            # One at a time: each begins with milliseconds of reading by rules, and between any two
            # the loop gets to answer requests.
            async with self._starting:
                for answer, text in claimed.answers:
                    grading = self._grade(claimed, config, question, answer, text, options)
                    tasks.append(asyncio.create_task(grading))
                    await asyncio.sleep(0)
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _config(self, claimed: Claim) -> Mapping[str, Any]:
        """The job's configuration, or today's where the server can't grade as it did then."""
        if still_holds(claimed.config, self._grader):
            return claimed.config
        log.warning("job %s goes on with another model revision or prompt", claimed.job)
        options = replace(options_of(claimed.config), calibration=None)
        with self._store.read() as tx:
            return configuration(tx, claimed.course, self._grader, options)

    async def _grade(
        self,
        claimed: Claim,
        config: Mapping[str, Any],
        question: Question,
        answer: str,
        text: str,
        options: GradeOptions,
    ) -> Outcome:
        """Grade one answer; a failure of the engine is tried again, one of the input is not."""
        why = ""
        for attempt in range(1, TRIES + 1):
            try:
                graded = await self._grader.grade(question, text, options)
            except EngineDead:
                raise
            except InputError as error:
                return Outcome(answer, error=str(error), attempts=attempt)
            except Exception as error:
                why = str(error) if isinstance(error, LLMarkingError) else _UNKNOWN
                log.warning("answer %s, try %d: %s", answer, attempt, type_and_place(error))
            else:
                self._on_graded(graded, options.method)
                row = mark_row(graded, config, claimed.question.content_hash)
                return Outcome(answer, row, attempts=attempt)
            if attempt < TRIES:
                await self._sleep(0.1 * 4**attempt)
        return Outcome(answer, error=why, attempts=TRIES)

    async def _renew_in_time(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                await self._drop_lost()
            except StoreError as error:
                log.warning("can't renew leases: %s", error)

    async def _drop_lost(self) -> None:
        """Renew all leases; stop the work on blocks of paused and cancelled jobs and give them
        back."""
        held = dict(self._held)
        if not held:
            return
        claims = list(held.values())
        kept = await self._thread(renew, self._store, self._owner, claims, self._lease)
        lost = [task for task, claimed in held.items() if claimed.block not in kept]
        for task in lost:
            task.cancel()
        await asyncio.gather(*lost, return_exceptions=True)
        if lost:
            await self._thread(release, self._store, [held[task] for task in lost])

    async def _stop(self) -> None:
        held = dict(self._held)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        with contextlib.suppress(StoreError):
            await self._thread(release, self._store, list(held.values()))
        await asyncio.to_thread(self._threads.shutdown)

    async def _patiently(self, work: Awaitable[T]) -> T | None:
        """The result of work on the store, or None where the store is in trouble."""
        try:
            return await work
        except StoreError as error:
            log.error("%s", error)  # noqa: TRY400 - its traceback says no more
            return None

    def _thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))
