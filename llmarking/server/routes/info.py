"""What the server tells about itself: its model, its adapters, its health, its metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from llmarking import __version__
from llmarking.grading.prompting import digests
from llmarking.protocol.bodies import ModelCard
from llmarking.server import apidocs
from llmarking.server.service import service_of

router = APIRouter()


@router.get(
    "/models",
    response_model=dict[str, list[ModelCard]],
    tags=["server"],
    responses=apidocs.errors(503),
)
async def models(request: Request) -> dict[str, list[ModelCard]]:
    """What this server runs."""
    service = service_of(request)
    grader = service.require_ready()
    info = service.engine.info
    calibration = grader.calibration_for(0, None)
    return {
        "models": [
            ModelCard(
                model=info.model,
                context=info.context,
                revision=info.revision,
                dtype=info.dtype,
                adapters=list(info.adapters),
                versions={"llmarking": __version__, **info.versions},
                prompts=digests(),
                calibration=calibration.identity if calibration else None,
            )
        ]
    }


@router.get("/health/live", response_class=PlainTextResponse, tags=["server"])
async def live() -> str:
    """The process answers."""
    return "alive\n"


@router.get(
    "/health/ready",
    response_class=PlainTextResponse,
    tags=["server"],
    responses=apidocs.errors(503),
)
async def ready(request: Request) -> str:
    """The model is loaded and its engine gets on with its work; 503 otherwise."""
    await service_of(request).check_ready()
    return "ready\n"


@router.get("/metrics", response_class=PlainTextResponse, tags=["server"])
async def metrics(request: Request) -> Response:
    """Prometheus metrics: ours, then the engine's own."""
    service = service_of(request)
    body = generate_latest(service.registry) + service.engine.metrics()
    return Response(body, media_type=CONTENT_TYPE_LATEST)
