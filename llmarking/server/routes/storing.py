"""What routes do with the store: one transaction, and who asked for it.

Transactions block, so routes that use them are plain functions, which FastAPI runs in threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
from fastapi import Request

from llmarking.server.routes.jobs import store_of

T = TypeVar("T")


def reading(request: Request, work: Callable[[sa.Connection], T]) -> T:
    """The result of `work` in a transaction that changes nothing."""
    with store_of(request).read() as tx:
        return work(tx)


def writing(request: Request, work: Callable[[sa.Connection], T]) -> T:
    """The result of `work` in a transaction that happens as a whole or not at all."""
    with store_of(request).write() as tx:
        return work(tx)


def actor(request: Request) -> str:
    """Who asks: the key that was used, as far as it may be written down."""
    named: str = getattr(request.state, "actor", "anyone")
    return named
