"""Who may see the teacher's pages: a login by the server's keys, and headers that keep data here.

A key is checked by asking the server with it. The browser gets a random token in a cookie that no
script can read; which key it stands for is known to this process only, until it ends or a school
day has passed.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable
from html import escape
from urllib.parse import parse_qs, quote

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmarking.client import AsyncClient, Retry
from llmarking.errors import InputError, RequestRefused, ServerUnreachable
from llmarking.ui.faults import explained
from llmarking.ui.texts import Language, language_of, say

COOKIE = "llmarking_session"
LASTS = 12 * 3600.0  # seconds
WRONG_KEYS, WITHIN = 10, 60.0  # so many wrong keys in so many seconds, then nobody may try
MAX_FORM = 4096
LOOPBACK = ("127.0.0.1", "localhost", "::1")
IMPATIENT = Retry(busy=3.0)  # a teacher would rather be told than wait
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)


class Sessions:
    """Logged-in browsers, and one client of the server for each key among them.

    Args:
        url: the server; None as `AsyncClient` takes it.
        only_key: the one key that opens the pages; None means every key the server knows.
    """

    def __init__(
        self,
        url: str | None,
        only_key: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._only, self._clock = url, only_key, clock
        self._keys: dict[str, tuple[str, float]] = {}
        self._clients: dict[str, AsyncClient] = {}
        self._wrong: deque[float] = deque(maxlen=WRONG_KEYS)

    def client(self, connection: HTTPConnection) -> AsyncClient | None:
        """The client that works for this browser; None where nobody is logged in."""
        token = connection.cookies.get(COOKIE, "")
        key, ends = self._keys.get(token, ("", 0.0))
        if ends <= self._clock():
            self._keys.pop(token, None)
            return None
        if key not in self._clients:
            self._clients[key] = AsyncClient(self._url, key or None, retry=IMPATIENT)
        return self._clients[key]

    async def open(self, key: str) -> str:
        """Check a key with the server, the empty one too, and return a token for the cookie.

        Raises:
            RequestRefused: the key opens nothing.
            ServerUnreachable: nobody answers.
        """
        now = self._clock()
        if len(self._wrong) == WRONG_KEYS and now - self._wrong[0] < WITHIN:
            raise RequestRefused("too many wrong keys", status=429)
        try:
            await self._ask(key)
        except RequestRefused:
            if key:
                self._wrong.append(now)
            raise
        self._keys = {token: held for token, held in self._keys.items() if held[1] > now}
        token = secrets.token_urlsafe(32)
        self._keys[token] = (key, now + LASTS)
        return token

    async def _ask(self, key: str) -> None:
        if self._only is not None and not hmac.compare_digest(key.encode(), self._only.encode()):
            raise RequestRefused("another key opens these pages", status=401)
        async with AsyncClient(self._url, key or None, retry=IMPATIENT) as client:
            await client.models()

    def close(self, connection: HTTPConnection) -> None:
        """Log this browser out."""
        self._keys.pop(connection.cookies.get(COOKIE, ""), None)


class Guard:
    """Lets nobody past the login, and tells browsers to fetch and keep nothing elsewhere."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = POLICY
                headers["referrer-policy"] = "no-referrer"
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        connection = HTTPConnection(scope)
        if scope["path"] in ("/login", "/logout") or self._sessions.client(connection):
            await self._app(scope, receive, with_policy)
        else:
            await _turned_away(connection)(scope, receive, with_policy)


def _turned_away(connection: HTTPConnection) -> Response:
    path = connection.url.path
    if connection.scope.get("method") == "GET" and path in ("/", "/export"):
        query = f"?{connection.url.query}" if connection.url.query else ""
        return RedirectResponse(f"/login?next={quote(path + query, safe='')}", 303)
    return JSONResponse({"detail": "log in first"}, 401)


def login_routes(
    sessions: Sessions, *, local: bool = False
) -> list[tuple[str, list[str], Callable[..., object]]]:
    """Path, methods and endpoint of the login, for any Starlette application.

    Args:
        local: the pages are for this machine alone. Then nobody enters without a key under another
            name than one of its own: a page elsewhere could have its name lead here.
    """

    async def show(request: Request) -> Response:
        """The form; a server that wants no key is entered at once."""
        language = language_of(request.headers.get("accept-language"))
        if local and request.url.hostname not in LOOPBACK:
            return _form(language)
        try:
            token = await sessions.open("")
        except (RequestRefused, InputError):
            return _form(language)
        except ServerUnreachable as error:
            return _down(language, error)
        return _entered(request, token)

    async def enter(request: Request) -> Response:
        """Try the key of the form."""
        language = language_of(request.headers.get("accept-language"))
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM:
                return _form(language, say(language, "wrong_key"), 413)
        fields = parse_qs(body.decode("utf-8", "replace"))
        try:
            token = await sessions.open(fields.get("key", [""])[0].strip())
        except RequestRefused as error:
            if error.status == 429:
                return _form(language, say(language, "too_many_keys"), 429)
            return _form(language, say(language, "wrong_key"), 401)
        except InputError:
            return _form(language, say(language, "wrong_key"), 401)
        except ServerUnreachable as error:
            return _down(language, error)
        return _entered(request, token)

    async def leave(request: Request) -> Response:
        """Log out."""
        sessions.close(request)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE)
        return response

    return [
        ("/login", ["GET"], show),
        ("/login", ["POST"], enter),
        ("/logout", ["POST"], leave),
    ]


def _entered(request: Request, token: str) -> Response:
    wanted = request.query_params.get("next", "/")
    # Only back into these pages: //elsewhere would leave them.
    target = wanted if wanted.startswith(("/?", "/export?")) else "/"
    response = RedirectResponse(target, 303)
    response.set_cookie(
        COOKIE,
        token,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


def _down(language: Language, error: ServerUnreachable) -> Response:
    return _form(language, say(language, "unreachable", why=explained(language, error)), 503)


def _form(language: Language, problem: str = "", status: int = 200) -> Response:
    def told(key: str) -> str:
        return escape(say(language, key))

    said = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    html = f"""<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><title>LLMarking</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ display: grid; place-items: center; min-height: 90vh; margin: 0; padding: 1rem; }}
form {{ width: min(24rem, 100%); display: grid; gap: .75rem; }}
h1 {{ margin: 0; }} p {{ margin: 0; }} [role=alert] {{ color: light-dark(#b00020, #ff8a8a); }}
input, button {{ font: inherit; padding: .6rem .75rem; border-radius: .4rem;
  border: 1px solid color-mix(in srgb, currentColor 35%, transparent); }}
button {{ background: #1d4ed8; color: white; border: 0; cursor: pointer; }}
</style></head><body><form method="post">
<h1>LLMarking</h1><p>{told("login_for")}</p>{said}
<label for="key">{told("login_key")}</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
<button>{told("login")}</button></form></body></html>"""
    return HTMLResponse(html, status, headers={"cache-control": "no-store"})
