"""What routes do with the store: one transaction, and who asked for it.

Transactions block, so routes that use them are plain functions, which FastAPI runs in threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
from fastapi import Request

from llmarking.errors import StoreError
from llmarking.sentences import sentence
from llmarking.store.database import Store

T = TypeVar("T")


def store_of(request: Request) -> Store:
    """The store of the app that answers a request.

    Raises:
        StoreError: it has none.
    """
    store: Store | None = request.app.state.store
    if store is None:
        raise StoreError(
            sentence(
                "no_database", "this server keeps no classes: it was started without a database"
            )
        )
    return store


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
