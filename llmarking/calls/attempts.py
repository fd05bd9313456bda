"""Where a server is, when a request to it is tried again, and which error a failure becomes.

No I/O here: the clients report what happened, and are told how long to pause or get an exception.
A request is tried again only while no part of its answer has arrived, and only where that is safe.
"""

from __future__ import annotations

import email.utils
import ipaddress
import os
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

import httpx

from llmarking import __version__
from llmarking.errors import InputError, RequestRefused, ServerUnreachable
from llmarking.sentences import from_json, sentence

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_TIMEOUT = 5.0
# A class may be graded by as many threads as its owner likes; the server's queue is the limit.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64)


class Unreadable(Exception):
    """What arrived is not what an LLMarking server sends."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to pause in all, in seconds, before giving up where trying again is safe.

    Attributes:
        connect: nobody listens, or the connection broke before an answer began.
        busy: the server says 429 or 503.
        first: the first pause; each one after it is twice as long, up to `longest`.
    """

    connect: float = 1.0
    busy: float = 60.0
    first: float = 0.2
    longest: float = 8.0


@dataclass(frozen=True, slots=True)
class Site:
    """The address of a server and how to talk to it."""

    url: str
    api_key: str | None = field(repr=False)
    timeout: float
    retry: Retry
    loopback: bool

    @classmethod
    def of(cls, url: str | None, api_key: str | None, timeout: float, retry: Retry | None) -> Site:
        """Fill what is not given from the environment, and check it.

        Raises:
            InputError: no such address or key can be.
        """
        address = (url or os.environ.get("LLMARKING_URL") or DEFAULT_URL).strip()
        if "://" not in address:
            address = f"http://{address}"
        address = address.rstrip("/")
        try:
            parsed = httpx.URL(address)
        except httpx.InvalidURL as error:
            raise InputError(f"{address!r} is no server address: {error}", field="url") from None
        well_formed = parsed.scheme in ("http", "https") and parsed.host and not parsed.query
        if not well_formed or not 0 < (parsed.port or 80) < 65_536:
            raise InputError(
                f"{address!r} is no server address; one looks like {DEFAULT_URL}", field="url"
            )
        key = (api_key or os.environ.get("LLMARKING_API_KEY") or "").strip() or None
        if key and not (key.isascii() and key.isprintable()):
            raise InputError("the API key contains characters that no key has", field="api_key")
        return cls(address, key, timeout, retry or Retry(), _is_loopback(parsed.host))

    def options(self) -> dict[str, Any]:
        """Arguments for either of httpx's clients."""
        headers = {"User-Agent": f"llmarking/{__version__}"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return {
            "base_url": self.url,
            "headers": headers,
            "limits": _LIMITS,
            # A proxy from the environment can't reach a server on this machine.
            "trust_env": not self.loopback,
        }


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


class Attempts:
    """Decides after each failure of one call how long to pause before the next try, or raises.

    Args:
        stream: the answer is a stream, of which nothing is asked twice once the server took it up.
        patient: whether to try again at all.
    """

    def __init__(self, site: Site, *, stream: bool, patient: bool) -> None:
        self._site = site
        self._stream = stream
        self._patient = patient
        self._count = 0
        self._waited = 0.0

    def refused(self, response: httpx.Response) -> float:
        """The server answered with something other than success, and its body has been read."""
        status = response.status_code
        if status == 429 or (status == 503 and not self._stream):
            pause = self._pause(self._site.retry.busy, _retry_after(response))
            if pause is not None:
                return pause
        if response.is_redirect:
            raise RequestRefused(
                sentence(
                    "redirects",
                    "{url} redirects to {to}; give the final address",
                    url=self._site.url,
                    to=response.headers.get("location", "nowhere"),
                ),
                status=status,
            )
        problem = _problem(response)
        said = f"{status} {response.reason_phrase}".strip()
        if status in (502, 503, 504):
            raise ServerUnreachable(
                sentence(
                    "not_ready",
                    "the server at {url} is not ready: {why}",
                    url=self._site.url,
                    why=from_json(str(problem.get("detail", said)), problem),
                )
            )
        if status == 401:
            raise RequestRefused(
                sentence("key_unknown", "the server does not know this API key")
                if self._site.api_key
                else sentence(
                    "key_wanted",
                    "the server wants an API key; give it with --api-key or LLMARKING_API_KEY",
                ),
                status=status,
                problem=problem,
            )
        if not problem:
            raise RequestRefused(
                sentence(
                    "not_ours",
                    "{url} answered {said}; is it an LLMarking server?",
                    url=self._site.url,
                    said=said,
                ),
                status=status,
            )
        raise refusal(problem, status)

    def failed(self, error: httpx.RequestError, *, began: bool) -> float:
        """No whole answer came; `began` tells whether its first part did."""
        unsent = isinstance(error, httpx.ConnectError)
        lost = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
        if not began and (unsent or (lost and not self._stream)):
            pause = self._pause(self._site.retry.connect)
            if pause is not None:
                return pause
        raise ServerUnreachable(self._explain(error, began)) from error

    def unreadable(self, error: Unreadable) -> NoReturn:
        """An answer came that no LLMarking server gives."""
        raise ServerUnreachable(
            sentence(
                "unreadable",
                "what {url} sent is no LLMarking answer, or only a part of one: {why}",
                url=self._site.url,
                why=str(error),
            )
        ) from error

    def _pause(self, budget: float, wanted: float | None = None) -> float | None:
        if not self._patient:
            return None
        retry = self._site.retry
        pause = min(retry.longest, retry.first * 2.0**self._count) * random.uniform(0.75, 1.25)
        if wanted is not None:
            # A little later than asked for, and never all clients at once.
            pause = wanted + pause * 0.1
        if self._waited + pause > budget:
            return None
        self._count += 1
        self._waited += pause
        return pause

    def _explain(self, error: httpx.RequestError, began: bool) -> str:
        url = self._site.url
        match error:
            case httpx.ProxyError():
                return sentence(
                    "proxy",
                    "the proxy on the way to {url} refused: {why} (NO_PROXY avoids it)",
                    url=url,
                    why=str(error),
                )
            case httpx.ConnectTimeout():
                return sentence(
                    "no_connection",
                    "nothing at {url} took the connection within {seconds:g} s; is the address "
                    "right?",
                    url=url,
                    seconds=CONNECT_TIMEOUT,
                )
            case httpx.ConnectError():
                return sentence(
                    "nobody_answers",
                    "no server answers at {url} ({why}); start it with `python vllm_server.py`, "
                    "or give its address with --url or LLMARKING_URL",
                    url=url,
                    why=str(error),
                )
            case httpx.TimeoutException():
                return sentence(
                    "silent",
                    "the server at {url} was silent for too long; it may be overloaded",
                    url=url,
                )
        if began:
            return sentence(
                "broke_off", "the server at {url} broke off in the middle of an answer", url=url
            )
        return sentence(
            "lost_before",
            "the connection to {url} was lost before an answer ({why})",
            url=url,
            why=type(error).__name__,
        )


class Deadline:
    """Growing pauses that end at a point in time."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._end = time.monotonic() + timeout
        self._pause = 0.1

    def next_pause(self, why: ServerUnreachable) -> float:
        """Seconds to wait before looking again.

        Raises:
            ServerUnreachable: the time is over.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise ServerUnreachable(f"after {self._timeout:g} s, {why}") from why
        self._pause = min(self._pause * 1.5, 2.0)
        return min(self._pause, left)


def refusal(problem: object, status: int = 500) -> RequestRefused:
    """The exception for a problem-details object; its own status stands where it has one."""
    said = problem if isinstance(problem, dict) else {"detail": str(problem)}
    given = said.get("status")
    message = from_json(str(said.get("detail") or said.get("title") or f"status {status}"), said)
    field = said.get("field")
    if field and str(field) not in message:
        message = sentence("at_field", "{field}: {why}", field=field, why=message)
    return RequestRefused(message, status=given if isinstance(given, int) else status, problem=said)


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        problem = response.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds asked for by a Retry-After header, which holds a number or a date."""
    value = str(response.headers.get("retry-after", "")).strip()
    if value.isdecimal():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    seconds: float = (date.astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds)
