"""Work that runs at once: the same for many who ask, and many pieces heard of in order."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Hashable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class Shared:
    """Runs the same work once, for all who ask while it runs or while its result is remembered.

    Args:
        size: results remembered at most.
        seconds: how long each is remembered; None for as long as there is room.
    """

    def __init__(self, size: int, seconds: float | None = None) -> None:
        self._size, self._seconds = size, seconds
        self._done: OrderedDict[Hashable, Any] = OrderedDict()
        self._running: dict[Hashable, tuple[asyncio.Task[Any], list[int]]] = {}

    async def get(self, key: Hashable, work: Callable[[], Awaitable[Any]]) -> tuple[Any, bool]:
        """The result of `work`, and whether somebody else had already asked for it.

        The work is cancelled when the last of those who wait for it is.
        """
        if key in self._done:
            self._done.move_to_end(key)
            return self._done[key], True
        running = self._running.get(key)
        known = running is not None
        if running is None:
            task = asyncio.ensure_future(work())
            running = (task, [0])
            self._running[key] = running
            task.add_done_callback(lambda finished: self._finish(key, finished))
        task, waiting = running
        waiting[0] += 1
        try:
            return await asyncio.shield(task), known
        finally:
            waiting[0] -= 1
            if waiting[0] == 0 and not task.done():
                self._running.pop(key, None)
                task.cancel()

    def forget(self) -> None:
        """Remember no result any more; what runs goes on."""
        self._done.clear()

    def _finish(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        if self._running.get(key, (None,))[0] is task:
            del self._running[key]
        if task.cancelled() or task.exception() is not None:
            return
        result = self._done[key] = task.result()
        while len(self._done) > self._size:
            self._done.popitem(last=False)
        if self._seconds is not None:
            task.get_loop().call_later(self._seconds, self._expire, key, result)

    def _expire(self, key: Hashable, result: Any) -> None:
        if key in self._done and self._done[key] is result:
            del self._done[key]


async def in_order(work: Iterable[Coroutine[Any, Any, T]]) -> AsyncGenerator[T]:
    """Results in the order of `work`, which all runs at once.

    Whoever stops listening closes it, and what is still under way is given up, as it is when a
    piece fails.
    """
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()
        # Waited for, so that nothing runs on and no failure is left without a reader.
        await asyncio.gather(*tasks, return_exceptions=True)
