"""`/adapters`: which there are, and, with an admin key, loading and removing them."""

from __future__ import annotations

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from llmarking.models.adapters import Adapter
from llmarking.protocol.bodies import AdapterCard, AdapterRequest
from llmarking.server import apidocs
from llmarking.server.adapter_shelf import AdapterShelf
from llmarking.server.middleware import bearer_key, is_one_of
from llmarking.server.service import Service, service_of

router = APIRouter(tags=["server"])


async def require_admin(request: Request) -> None:
    """Let a request through that carries an admin key.

    Raises:
        HTTPException: 401 without a key, 403 with another one, 404 if the server has no admin key.
    """
    service = service_of(request)
    if not service.settings.admin_keys:
        raise HTTPException(
            404, "this server's adapters can't be changed: it was started without --admin-key"
        )
    key = bearer_key(request.headers.get("authorization", ""))
    if not key:
        raise HTTPException(
            401,
            "an admin key is needed: send the header Authorization: Bearer KEY",
            {"WWW-Authenticate": "Bearer"},
        )
    if not is_one_of(key, service.settings.admin_keys):
        raise HTTPException(403, "this needs an admin key; the one that was sent is none")


ADMIN = [Depends(require_admin)]


@router.get("/adapters", responses=apidocs.errors(503))
async def adapters(request: Request) -> dict[str, list[AdapterCard]]:
    """Adapters that `adapter` may name."""
    service = service_of(request)
    service.require_ready()
    known = service.engine.info.adapters.values()
    return {"adapters": [_card(service, adapter) for adapter in known]}


@router.post(
    "/adapters",
    response_model=AdapterCard,
    status_code=201,
    dependencies=ADMIN,
    responses=apidocs.errors(400, 403, 404, 409, 413, 422, 503) | {200: {"model": AdapterCard}},
)
async def load(body: AdapterRequest, request: Request, response: Response) -> AdapterCard:
    """Load an adapter of the server's folder, or load it anew when its files have changed.

    Requests that have begun end with the weights they began with. The reply is 200 where the name
    was known before.
    """
    service = service_of(request)
    adapter, new = await _shelf(service).load(body.name)
    response.status_code = 201 if new else 200
    return _card(service, adapter)


@router.delete(
    "/adapters/{name}",
    status_code=204,
    dependencies=ADMIN,
    responses=apidocs.errors(403, 404, 409, 503),
)
async def remove(name: str, request: Request) -> None:
    """Remove an adapter that was loaded with `POST /adapters`; its folder stays."""
    await _shelf(service_of(request)).unload(name)


def _shelf(service: Service) -> AdapterShelf:
    service.require_ready()
    assert service.shelf is not None  # made with the grader, before the service is ready
    return service.shelf


def _card(service: Service, adapter: Adapter) -> AdapterCard:
    grader = service.require_ready()
    return AdapterCard(
        name=adapter.name,
        base=adapter.base,
        rank=adapter.rank,
        version=adapter.version,
        calibrations=grader.calibrated_prompts(adapter.name),
        default=adapter.name == service.settings.default_adapter,
    )
