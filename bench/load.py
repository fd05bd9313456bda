"""Many requests at once from a few processes, so that what sends them is not what limits them."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import httpx

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Share:
    """What one process sends: bodies by POST to one path, so many at a time."""

    url: str
    path: str
    bodies: tuple[bytes, ...]
    at_once: int


class Senders:
    """Processes that stand ready to send everything, and then do.

    Args:
        at_once: requests of all processes together that are on their way at a time.
    """

    def __init__(
        self, url: str, path: str, bodies: Sequence[bytes], *, processes: int, at_once: int
    ) -> None:
        self._count = len(bodies)
        processes = max(1, min(processes, at_once, len(bodies)))
        self._shares = [
            # The first processes take what is left over of the places.
            Share(
                url, path, tuple(bodies[k::processes]), (at_once + processes - 1 - k) // processes
            )
            for k in range(processes)
        ]
        self._pipes: list[Connection] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start them; returns when each has its imports done and a connection open."""
        context = multiprocessing.get_context("spawn")
        with ExitStack() as stack:
            for share in self._shares:
                ours, theirs = context.Pipe()
                process = context.Process(target=_sender, args=(share, theirs))
                process.start()
                stack.callback(process.join)
                # So that its end is an error here and no silence; ours, that nobody waits for it.
                theirs.close()
                self._pipes.append(stack.enter_context(closing(ours)))
            for pipe in self._pipes:
                pipe.recv()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def send(self) -> float:
        """Send everything; the seconds until the last reply was there."""
        started = time.perf_counter()
        for pipe in self._pipes:
            pipe.send("go")
        for pipe in self._pipes:
            pipe.recv()
        return time.perf_counter() - started

    def replies(self) -> tuple[list[bytes], float]:
        """The bodies of all replies in order, and the processor seconds of the busiest process."""
        found: list[bytes] = [b""] * self._count
        busiest = 0.0
        for k, pipe in enumerate(self._pipes):
            found[k :: len(self._pipes)], busy = pipe.recv()
            busiest = max(busiest, busy)
        return found, busiest


def _sender(share: Share, pipe: Connection) -> None:
    asyncio.run(_send(share, pipe))


async def _send(share: Share, pipe: Connection) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=share.at_once)
    async with httpx.AsyncClient(
        base_url=share.url,
        timeout=None,
        limits=limits,
        headers={"content-type": "application/json"},
        trust_env=False,
    ) as http:
        (await http.get("/metrics")).raise_for_status()
        pipe.send("ready")
        pipe.recv()
        begun = time.process_time()
        waiting = iter(enumerate(share.bodies))
        replies = [b""] * len(share.bodies)

        async def one_after_another() -> None:
            for number, body in waiting:
                replies[number] = await _posted(http, share.path, body)

        await asyncio.gather(*(one_after_another() for _ in range(share.at_once)))
        busy = time.process_time() - begun
        pipe.send("done")
        pipe.send((replies, busy))


async def _posted(http: httpx.AsyncClient, path: str, body: bytes) -> bytes:
    """The body of the reply; a connection that breaks is no reason to lose a run of minutes."""
    for left in range(_TRIES - 1, -1, -1):
        try:
            return (await http.post(path, content=body)).raise_for_status().content
        except httpx.TransportError as error:
            if not left:
                raise
            print(f"sent again after {type(error).__name__}", file=sys.stderr)
    raise AssertionError("the last try returns or raises")
