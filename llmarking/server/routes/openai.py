"""`/v1`: vLLM's own OpenAI-compatible chat, on the engine that grades."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from llmarking.errors import UnknownModelError
from llmarking.protocol.bodies import ChatRequest
from llmarking.server import apidocs
from llmarking.server.service import service_of
from llmarking.server.streaming import streaming, until_disconnect

router = APIRouter()


@router.get("/v1/models", tags=["openai"], responses=apidocs.errors(404, 503))
async def openai_models(request: Request) -> Response:
    """vLLM's own model list, as OpenAI clients expect it."""
    return JSONResponse(await _openai(request).models())


@router.post(
    "/v1/chat/completions", tags=["openai"], responses=apidocs.or_streamed("text/event-stream")
)
async def openai_chat(body: ChatRequest, request: Request) -> Response:
    """vLLM's own chat completions on the same engine; tools, media and schemas are refused."""
    serving = _openai(request)
    service = service_of(request)
    chat = serving.check(body)
    if chat.stream:
        # Errors of a malformed request must come before the stream does.
        status, events = await serving.chat(chat)
        if isinstance(events, dict):
            return JSONResponse(events, status)
        return await streaming(request, chat.n, events, "text/event-stream")
    with service.gate.admit(chat.n):
        status, result = await until_disconnect(request, serving.chat(chat))
    return JSONResponse(result, status)


def _openai(request: Request) -> Any:
    service = service_of(request)
    service.require_ready()
    make = getattr(service.engine, "openai_serving", None)
    if make is None:
        raise UnknownModelError(f"{service.engine.info.model} has no OpenAI-compatible interface")
    return make()
