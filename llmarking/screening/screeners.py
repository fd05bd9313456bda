"""Screens answers in processes of its own, so that the server's one process has time for the rest.

Screening is most of what an answer costs the server besides HTTP, and it needs neither engine nor
store. Answers that wait go to the next process that is free, several at a time: under load a round
trip is shared by many, and a single answer waits for none. What a process does not deliver, because
it was killed or hangs, is screened here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import multiprocessing
import signal
from collections import deque
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection

from llmarking.domain import Question
from llmarking.screening.screen import Screening, prepare, screen

log = logging.getLogger("llmarking.screening")

# At a time to one process: what is shared is small by then, and the last of them waits for all.
_MOST = 32
# Processes that may be lost before no further one is started: then it is no accident any more.
_MOST_LOST = 8
# Longer than any number of answers takes; then the process is taken for stuck.
_PATIENCE = 60.0


def advised(cores: int) -> int:
    """How many processes a server with a GPU and so many cores does well to have."""
    return min(4, cores // 4)


class _Lost(Exception):
    """A process is gone, or might as well be."""


class _Screener:
    """One process and our end of the pipe to it. Its methods block."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        # Its own copy is the only one then: when it ends, we hear of it.
        theirs.close()
        self._answer()

    def ask(self, rows: Sequence[tuple[str, Question]]) -> list[Screening | None]:
        """What the process makes of answers; None for one at which it failed.

        Raises:
            _Lost: it is gone, or stuck.
        """
        try:
            self._pipe.send(rows)
        except Exception as error:  # whatever it is, half of it may have been sent
            self.end(patience=0)
            raise _Lost from error
        return self._answer()

    def _answer(self) -> list[Screening | None]:
        with contextlib.suppress(EOFError, OSError):
            if self._pipe.poll(_PATIENCE):
                found: list[Screening | None] = self._pipe.recv()
                return found
        self.end(patience=0)
        raise _Lost

    def end(self, patience: float = 5.0) -> None:
        """Let it end, which the closed pipe tells it to; kill it where it does not."""
        self._pipe.close()
        self._process.join(patience)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    answer: str
    question: Question
    done: asyncio.Future[Screening | None]


class Screeners:
    """Processes that screen.

    Args:
        processes: how many; with none, all is done in the process that asks.
    """

    def __init__(self, processes: int = 0) -> None:
        self._count = processes
        self._lost = 0
        self._idle: list[_Screener] = []
        self._busy = 0
        self._waiting: deque[_Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        # A thread for each, as talking to a process blocks.
        self._threads = ThreadPoolExecutor(max(1, processes), thread_name_prefix="screening")

    @property
    def working(self) -> int:
        """Processes that stand ready or are at work."""
        return len(self._idle) + self._busy

    async def start(self) -> None:
        """Start all of them; returns when they are ready. Until then, answers are screened here."""
        for _ in range(self._count):
            self._begin(self._add())
        if self._tasks:
            # They go on where nobody waits for them any more, and `close` finds them.
            await asyncio.wait(self._tasks)

    async def screen(self, answer: str, question: Question) -> Screening:
        """As `screening.screen.screen`."""
        if self._closed or not self.working:
            return screen(answer, question)
        waiting = _Waiting(answer, question, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if len(self._waiting) == 1:
            # When all that arrived together has come this far: they share a round trip.
            asyncio.get_running_loop().call_soon(self._hand_out)
        return await waiting.done or screen(answer, question)

    async def close(self) -> None:
        """End the processes; what is asked for from now on is done here."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        # Taken at once: nothing is handed to one that is about to end.
        idle, self._idle = self._idle, []
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._threads, each.end) for each in idle))
        self._threads.shutdown(wait=False)
        self._let_go()

    def _hand_out(self) -> None:
        while self._waiting and self._idle:
            # A burst is shared by all that are free.
            most = min(_MOST, math.ceil(len(self._waiting) / len(self._idle)))
            batch: list[_Waiting] = []
            while self._waiting and len(batch) < most:
                waiting = self._waiting.popleft()
                if not waiting.done.done():  # its client may have gone
                    batch.append(waiting)
            if batch:
                self._busy += 1
                self._begin(self._screened(self._idle.pop(), batch))
        if not self.working:
            self._let_go()

    async def _screened(self, screener: _Screener, batch: Sequence[_Waiting]) -> None:
        rows = [(waiting.answer, waiting.question) for waiting in batch]
        found: list[Screening | None] = [None] * len(batch)
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, screener.ask, rows)
            self._idle.append(screener)
        except _Lost:
            self._replace()
        finally:
            # Whatever was raised, nobody may wait for ever.
            self._busy -= 1
            for waiting, screening in zip(batch, found, strict=True):
                if not waiting.done.done():
                    waiting.done.set_result(screening)
            self._hand_out()

    def _let_go(self) -> None:
        """Nobody is left to screen what waits: each that asked does it."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done.done():
                waiting.done.set_result(None)

    def _replace(self) -> None:
        self._lost += 1
        if self._lost > _MOST_LOST:
            log.error("a process that screens answers was lost again; no other is started")
        elif not self._closed:
            log.warning("a process that screens answers was lost; another one is started")
            self._begin(self._add())

    async def _add(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            screener = await loop.run_in_executor(self._threads, _Screener)
        except (_Lost, OSError):
            self._replace()
            return
        self._idle.append(screener)
        self._hand_out()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _work(pipe: Connection) -> None:
    """What a process does: screens what comes until nobody is at the other end."""
    # Ctrl-C reaches every process of a terminal; it is the server that says when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare()
    with contextlib.suppress(EOFError, OSError):
        pipe.send([])
        while True:
            pipe.send([_screened(*row) for row in pipe.recv()])


def _screened(answer: str, question: Question) -> Screening | None:
    # Whoever asked does it again and meets the same failure, where it is handled.
    with contextlib.suppress(Exception):
        return screen(answer, question)
    return None
