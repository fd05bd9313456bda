"""How large a request body may be, and how slowly it may come."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmarking.protocol.problems import refuse
from llmarking.sentences import sentence

# What has arrived buys time: at this rate a large file may take as long as it needs.
SLOWEST_BODY = 64 << 10  # bytes a second


class BodyLimit:
    """Refuses a body above a size, by its declared length or as it arrives, and one that drips.

    Args:
        limit: bytes.
        seconds: for a body to arrive in, and one more for every `SLOWEST_BODY` bytes of it.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float) -> None:
        self._app = app
        self._limit = limit
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        too_large = sentence(
            "body_large", "a request body may be {limit} bytes long", limit=self._limit
        )
        declared = Headers(scope=scope).get("content-length", "0")
        # What is no number is refused by the HTTP parser, long before this.
        if declared.isdecimal() and int(declared) > self._limit:
            await refuse(scope, send, 413, too_large)
            return
        clock = asyncio.get_running_loop().time
        begun = clock()
        seen = 0
        whole = started = refused = False

        async def watched() -> Message:
            nonlocal seen, whole, refused
            if whole:
                # The next message is that the client has gone; that may take for ever.
                return await receive()
            status, reason = 0, ""
            try:
                deadline = begun + self._seconds + seen / SLOWEST_BODY
                async with asyncio.timeout(deadline - clock()):
                    message = await receive()
            except TimeoutError:
                status = 408
                reason = sentence(
                    "body_slow",
                    "the request body did not arrive: {seen} bytes in {seconds:.0f} s",
                    seen=seen,
                    seconds=clock() - begun,
                )
            else:
                if message["type"] == "http.request":
                    seen += len(message.get("body", b""))
                    whole = not message.get("more_body", False)
                if seen <= self._limit:
                    return message
                status, reason = 413, too_large
            if not started:
                refused = True
                # What is still to come of the body would be taken for the next request.
                await refuse(scope, send, status, reason, [(b"connection", b"close")])
            return {"type": "http.disconnect"}

        async def guarded(message: Message) -> None:
            nonlocal started
            started = True
            if not refused:
                await send(message)

        await self._app(scope, watched, guarded)
