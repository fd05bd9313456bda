"""A bounded queue in front of the engine: what doesn't fit is refused, with a time to come back."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmarking.errors import Overloaded


class Gate:
    """Counts the work that has been accepted and not yet finished.

    Args:
        limit: how many units (an answer or a sample each) may be in progress or waiting.
        clock: seconds that only go forward.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._held = 0
        # When units finished lately: the rate at which the queue drains.
        self._finished: deque[tuple[float, int]] = deque(maxlen=256)

    @property
    def held(self) -> int:
        """Units accepted and not yet finished."""
        return self._held

    @contextmanager
    def admit(self, units: int = 1) -> Iterator[None]:
        """Hold a place until the block ends.

        Raises:
            Overloaded: there is no room; a single request larger than the whole queue still gets in
                when nothing else is going on.
        """
        if self._held and self._held + units > self._limit:
            raise Overloaded(self._retry_after(units))
        self._held += units
        try:
            yield
        finally:
            self._held -= units
            self._finished.append((self._clock(), units))

    def _retry_after(self, units: int) -> int:
        """Seconds until as much has drained as is asked for, from 1 to 60."""
        now = self._clock()
        recent = [(when, count) for when, count in self._finished if now - when < 60]
        if not recent:
            return 5
        span = max(now - recent[0][0], 0.1)
        rate = sum(count for _, count in recent) / span
        excess = self._held + units - self._limit
        return min(60, max(1, math.ceil(excess / rate)))
