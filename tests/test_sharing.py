"""Work that many ask for is done once, and remembered for as long as was said."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

import pytest

from llmarking.sharing import Shared


class Work:
    """Counts how often it is done, and can be held up."""

    def __init__(self) -> None:
        self.done = 0
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.done += 1
        await self.go.wait()
        return self.done


async def test_all_who_ask_while_it_runs_get_one_result() -> None:
    shared, work = Shared(4), Work()
    asked = [asyncio.create_task(shared.get("key", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.go.set()
    assert sorted(await asyncio.gather(*asked)) == [(1, False), (1, True), (1, True)]
    assert await shared.get("key", work) == (1, True)
    assert await shared.get("other", work) == (2, False)


async def test_a_result_is_remembered_for_its_own_time_or_until_it_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timers: list[Callable[[], object]] = []
    later = lambda _, call, *given: timers.append(functools.partial(call, *given))  # noqa: E731
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", later)
    shared, work = Shared(4, seconds=1), Work()
    work.go.set()
    await shared.get("key", work)
    shared.forget()
    assert await shared.get("key", work) == (2, False)
    first, second = timers
    first()
    assert await shared.get("key", work) == (2, True)
    second()
    assert await shared.get("key", work) == (3, False)


async def test_the_work_ends_with_the_last_of_those_who_wait() -> None:
    shared, work = Shared(4), Work()
    one, other = (asyncio.create_task(shared.get("key", work)) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.sleep(0)
    assert not other.done()
    other.cancel()
    await asyncio.gather(one, other, return_exceptions=True)
    work.go.set()
    assert await shared.get("key", work) == (2, False)
