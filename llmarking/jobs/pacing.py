"""How many answers of classes to hold at once: some seconds' worth, as measured."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

# Enough that the engine never waits for the database; what is more, others could be doing.
_SECONDS = 5.0
_FIRST = 32


class Pace:
    """Follows how fast answers come back.

    Args:
        most: answers that may be held, however fast they are.
        clock: seconds that only go forward.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._held = 0
        self._done: deque[tuple[float, int]] = deque(maxlen=256)
        self._busy_since = 0.0

    @property
    def held(self) -> int:
        """Answers that have begun and not ended."""
        return self._held

    def room(self) -> bool:
        """Whether more should be begun."""
        return self._held < min(self._most, max(_FIRST, self._rate() * _SECONDS))

    def began(self, answers: int) -> None:
        """So many more are held."""
        if not self._held:
            # What was idle time must not count as slowness.
            self._done.clear()
            self._busy_since = self._clock()
        self._held += answers

    def ended(self, answers: int, *, done: bool) -> None:
        """So many are held no longer; with `done`, because they are graded."""
        self._held -= answers
        if done:
            self._done.append((self._clock(), answers))

    def _rate(self) -> float:
        if not self._done:
            return 0.0
        since = self._busy_since if len(self._done) < 256 else self._done[0][0]
        span = max(self._clock() - max(since, self._clock() - 10), 0.1)
        recent = sum(count for when, count in self._done if when >= self._clock() - 10)
        return recent / span
