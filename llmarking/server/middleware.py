"""Small ASGI layers around every route: request ids, headers, a last resort, API keys.

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

from llmarking.protocol.problems import INTERNAL, refuse, type_and_place

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


class SafeHeaders:
    """Headers that keep browsers from guessing, framing, keeping or passing on what they get.

    A route that sends one of them itself has the last word.
    """

    HEADERS = (
        ("cache-control", "no-store"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_them(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.HEADERS:
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_them if scope["type"] == "http" else send)


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
            await refuse(scope, send, status, detail)


class ApiKeys:
    """Lets a request through that carries one of the keys, or asks for a health check or with a
    student's own link."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope["path"]) or self._known(scope):
            await self._app(scope, receive, send)
            return
        await refuse(
            scope,
            send,
            401,
            "this server wants an API key: send the header Authorization: Bearer KEY",
            [(b"www-authenticate", b"Bearer")],
        )

    def _known(self, scope: Scope) -> bool:
        given = bearer_key(Headers(scope=scope).get("authorization", ""))
        if not is_one_of(given, self._keys):
            return False
        # Who did what is written down by the key, of which nobody can make the key again.
        scope.setdefault("state", {})["actor"] = f"key {hashlib.sha256(given).hexdigest()[:8]}"
        return True


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


def bearer_key(authorization: str) -> bytes:
    """The key in an Authorization header; empty if there is none."""
    scheme, _, key = authorization.partition(" ")
    return key.strip().encode("utf-8", "replace") if scheme.lower() == "bearer" else b""


def is_one_of(given: bytes, keys: Sequence[str]) -> bool:
    """Whether it is one of the keys."""
    # All are compared, in constant time each: the answer's delay tells nothing.
    matches = [hmac.compare_digest(given, key.encode()) for key in keys]
    return any(matches)
