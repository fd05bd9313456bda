"""Files that were made for a browser and wait to be downloaded, the last few, for an hour.

They go out through the route of exports; gradio's cache never holds them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from llmarking.ui.login import COOKIE

LASTS = 3600.0  # seconds
FILES = 4  # of one browser: a file for each of a few open pages


@dataclass(frozen=True, slots=True)
class Filled:
    """A file with marks in it."""

    data: bytes
    name: str


class Shelf:
    """Files by random tokens, each for the browser that had it made."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[str, tuple[str, Filled, float]] = {}  # in the order of their coming

    def put(self, connection: HTTPConnection, file: Filled) -> str:
        """Keep a file; returns the token that it is asked for by."""
        self._tidy()
        whose, token = _browser(connection), secrets.token_urlsafe(16)
        mine = [each for each, kept in self._kept.items() if kept[0] == whose]
        for old in mine[: max(0, len(mine) - FILES + 1)]:
            del self._kept[old]
        self._kept[token] = (whose, file, self._clock() + LASTS)
        return token

    def take(self, connection: HTTPConnection, token: str) -> Filled | None:
        """The file, as often as it is asked for; None when it is gone or somebody else's."""
        self._tidy()
        kept = self._kept.get(token)
        return kept[1] if kept is not None and kept[0] == _browser(connection) else None

    def drop(self, token: str) -> None:
        """Forget a file."""
        self._kept.pop(token, None)

    def _tidy(self) -> None:
        now = self._clock()
        self._kept = {token: kept for token, kept in self._kept.items() if kept[2] > now}


def _browser(connection: HTTPConnection) -> str:
    return connection.cookies.get(COOKIE, "")
