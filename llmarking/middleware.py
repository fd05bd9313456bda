"""Small ASGI layers around every route: request ids, a last resort, a limit on bodies, API keys.

They look at `scope["path"]` and headers only: nothing here trusts what a Host header says.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmarking.problems import INTERNAL, body_of, encoded, type_and_place

log = logging.getLogger("llmarking.server")
OPEN_PATHS = frozenset({"/health/live", "/health/ready"})
# Students have no key: the rest of such a path is a secret of their own.
OPEN_PREFIX = "/results/"
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class RequestId:
    """Echoes `X-Request-ID`, or makes one up."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class LastResort:
    """Answers 500 to what nothing else has caught, and 503 when uvicorn's patience ends.

    What an exception says may be what a student wrote: neither the reply nor the log repeats it,
    they hold the request's id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            status, detail, failure = 503, "the server stops", "the server waits no longer"
        except Exception as error:
            status, detail, failure = 500, INTERNAL, type_and_place(error)
        else:
            return
        log.error("request %s failed: %s", scope["state"]["request_id"], failure)
        if not started:
            await _refuse(scope, send, status, detail)


class ApiKeys:
    """Lets a request through that carries one of the keys, or asks for a health check or with a
    student's own link."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope["path"]) or self._known(scope):
            await self._app(scope, receive, send)
            return
        await _refuse(
            scope,
            send,
            401,
            "this server wants an API key: send the header Authorization: Bearer KEY",
            [(b"www-authenticate", b"Bearer")],
        )

    def _known(self, scope: Scope) -> bool:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        given = key.strip().encode("utf-8", "replace")
        # All keys are compared, in constant time each: the answer's delay tells nothing.
        matches = [hmac.compare_digest(given, known) for known in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            return False
        # Who did what is written down by the key, of which nobody can make the key again.
        scope.setdefault("state", {})["actor"] = f"key {hashlib.sha256(given).hexdigest()[:8]}"
        return True


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


class BodyLimit:
    """Refuses bodies above a size, by their declared length or as they arrive."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        # What is no number is refused by the HTTP parser, long before this.
        if declared.isdecimal() and int(declared) > self._limit:
            await self._too_large(scope, send)
            return
        seen = 0
        started = refused = False

        async def counted() -> Message:
            nonlocal seen, refused
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._limit and not started:
                    refused = True
                    await self._too_large(scope, send)
                    return {"type": "http.disconnect"}
            return message

        async def guarded(message: Message) -> None:
            nonlocal started
            started = True
            if not refused:
                await send(message)

        await self._app(scope, counted, guarded)

    async def _too_large(self, scope: Scope, send: Send) -> None:
        await _refuse(scope, send, 413, f"a request body may be {self._limit} bytes long")


async def _refuse(
    scope: Scope, send: Send, status: int, detail: str, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    content, media_type = encoded(body_of(status, detail), scope["path"])
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", media_type.encode()),
                (b"content-length", str(len(content)).encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": content})
