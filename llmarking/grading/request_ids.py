"""Names of requests, by which the engine tells them apart."""

from __future__ import annotations

from itertools import count

_NUMBERS = count()


def request_id(kind: str) -> str:
    """A name for the engine. Counted, not random: that is a call of the system for every answer."""
    return f"{kind}-{next(_NUMBERS)}"
