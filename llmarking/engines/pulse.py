"""Whether an engine that has work also gets on with it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pulse:
    """The requests an engine works on, and when it last said something.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests: set[str] = set()
        self._last = clock()

    def begin(self, request_id: str) -> None:
        """There is one more request to work on."""
        if not self._requests:
            # Silence without work does not count.
            self._last = self._clock()
        self._requests.add(request_id)

    def beat(self) -> None:
        """The engine has said something, to whomever."""
        self._last = self._clock()

    def end(self, request_id: str) -> None:
        """A request has ended, or has been given up."""
        self._requests.discard(request_id)

    def clear(self) -> None:
        """No request is left."""
        self._requests.clear()

    @property
    def running(self) -> int:
        """How many requests are being worked on."""
        return len(self._requests)

    @property
    def silent_seconds(self) -> float:
        """How long the engine has said nothing over its work; 0 if it has none."""
        return self._clock() - self._last if self._requests else 0.0
