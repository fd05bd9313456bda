"""The HTTP service: `create_app(engine, settings)` is everything a client can reach.

The engine is started and stopped in the lifespan; importing this module starts nothing. The app
knows HTTP, `grading` knows marking, the engine knows tokens. The routes are in `server_*.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI

from llmarking import __version__
from llmarking.engines.engine import Engine
from llmarking.protocol import problems
from llmarking.server import apidocs
from llmarking.server.bodies import BodyLimit
from llmarking.server.middleware import ApiKeys, LastResort, RequestId, SafeHeaders
from llmarking.server.routes import (
    adapters,
    courses,
    grading,
    info,
    jobs,
    openai,
    privacy,
    refits,
    regrades,
    releases,
    review,
    text,
)
from llmarking.server.service import Service
from llmarking.settings import ServerSettings
from llmarking.store.database import Store


def create_app(
    engine: Engine,
    settings: ServerSettings | None = None,
    store: Store | None = None,
    *,
    on_death: Callable[[str], None] = lambda reason: None,
) -> FastAPI:
    """The application around one engine.

    Args:
        store: where classes are kept; without one, only single answers can be graded.
        on_death: called once with the reason when the engine can't be started or dies.
    """
    settings = settings or ServerSettings()
    service = Service(engine, settings, on_death)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Loading takes minutes; the health checks answer meanwhile.
        watcher = asyncio.create_task(service.run())
        try:
            async with privacy.purging(app), jobs.working(app):
                yield
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
            await engine.stop()
            await service.close()

    app = FastAPI(
        title="LLMarking",
        version=__version__,
        description=apidocs.DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=apidocs.errors(401, 500),
    )
    app.state.service = service
    app.state.store = store
    for routes in (
        text,
        grading,
        courses,
        review,
        refits,
        regrades,
        releases,
        privacy,
        jobs,
        info,
        adapters,
        openai,
    ):
        app.include_router(routes.router)
    apidocs.attach(app)
    problems.install(app)
    if settings.api_keys:
        app.add_middleware(ApiKeys, keys=(*settings.api_keys, *settings.admin_keys))
    app.add_middleware(BodyLimit, limit=settings.max_body, seconds=settings.body_seconds)
    app.add_middleware(LastResort)
    app.add_middleware(RequestId)
    app.add_middleware(SafeHeaders)
    return app
