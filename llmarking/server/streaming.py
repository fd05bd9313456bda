"""Replies that take time: clients that go away, streams, errors after the status line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, MutableMapping, Sequence
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from llmarking.errors import EngineError, LLMarkingError
from llmarking.protocol.problems import problem, type_and_place
from llmarking.server.service import service_of

log = logging.getLogger("llmarking.server")
T = TypeVar("T")
SLOWEST_READ = 60.0


class ClientGone(EngineError):
    """The client closed the connection; nobody reads the answer."""


async def until_disconnect(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled as soon as the client is gone.

    Raises:
        ClientGone: it went first.
    """
    # Only the watcher is a task of its own: `work` runs in the request's, which it interrupts.
    working = asyncio.current_task()
    assert working is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        working.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        # The watcher's own call is one; with another the server stops, and that goes on.
        if gone and working.cancelling() <= 1:
            raise ClientGone("the client closed the connection") from None
        raise
    finally:
        watcher.cancel()
        if gone:
            working.uncancel()


async def all_of(work: Sequence[Awaitable[T]]) -> list[T]:
    """All results in order; if one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


class Stream(StreamingResponse):
    """A streamed response that closes what it streams however it ends.

    Starlette leaves that to the garbage collector when the client is gone between two chunks. A
    client that stops reading is let go after `SLOWEST_READ` seconds: it would hold its place in the
    queue for ever.
    """

    def __init__(self, first: str, rest: AsyncGenerator[str], media_type: str) -> None:
        async def chunks() -> AsyncIterator[str]:
            yield first
            async for chunk in rest:
                yield chunk

        super().__init__(chunks(), media_type=media_type)
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: MutableMapping[str, Any]) -> None:
            async with asyncio.timeout(SLOWEST_READ):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            log.warning("a client stopped reading; its stream was ended")
        finally:
            await self._rest.aclose()


async def streaming(
    request: Request, units: int, chunks: AsyncIterator[str], media_type: str
) -> Stream:
    """A streamed response that holds its place in the queue until it ends.

    The first chunk is awaited before the status line goes out: until then an error can still be a
    status.
    """
    service = service_of(request)

    async def admitted() -> AsyncGenerator[str]:
        with service.gate.admit(units):
            async with contextlib.aclosing(chunks) as closing:  # type: ignore[type-var]
                async for chunk in closing:
                    yield chunk

    stream = admitted()
    try:
        first = await until_disconnect(request, anext(stream))
    except StopAsyncIteration:
        first = ""
    return Stream(first, stream, media_type)


def too_late(error: Exception) -> dict[str, Any]:
    """The problem that ends a stream; logged here where nobody else will see it."""
    if not isinstance(error, LLMarkingError):
        log.error("a stream failed: %s", type_and_place(error))
    return problem(error)


def sse(event: str, data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"event: {event}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
