"""Errors as problem details (RFC 9457), and in OpenAI's shape under `/v1`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import Scope, Send

from llmarking.errors import (
    Conflict,
    EngineDead,
    EngineError,
    InputError,
    LLMarkingError,
    NotFound,
    Overloaded,
    StoreError,
    UnknownModelError,
)
from llmarking.sentences import Sentence, as_json, of_pydantic, sentence

INTERNAL = sentence(
    "internal", "something went wrong inside the server; its log has more under this request's id"
)

# Python 3.11 and 3.13 name these two differently.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}


def type_and_place(error: BaseException) -> str:
    """What a log may say about an unexpected exception, whose text may be a student's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    code = trace.tb_frame.f_code
    return f"{type(error).__name__} in {code.co_filename}, line {trace.tb_lineno}, {code.co_name}"


def body_of(status: int, detail: str) -> dict[str, Any]:
    """Problem details without more than every problem has: with a sentence also its name."""
    title = _TITLES.get(status) or HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": str(detail)}
    return body | (as_json(detail) if isinstance(detail, Sentence) else {})


def problem(error: Exception) -> dict[str, Any]:
    """Problem details for an error; what is not ours says nothing about its inside."""
    said: str = INTERNAL
    if isinstance(error, LLMarkingError):
        # What stands in a file has its place before it, which the sentence lacks.
        said = error.message if error.message == str(error) else str(error)
    body = body_of(_status(error), said)
    if isinstance(error, Overloaded):
        body["retry_after"] = error.retry_after
    if isinstance(error, InputError) and error.field:
        body["field"] = error.field
    for name in ("length", "limit", "point", "column"):
        if (value := getattr(error, name, None)) is not None:
            body[name] = value
    return body


def _status(error: Exception) -> int:
    if isinstance(error, UnknownModelError | NotFound):
        return 404
    if isinstance(error, Conflict):
        return 409
    if isinstance(error, InputError):
        return 422
    if isinstance(error, Overloaded):
        return 429
    if isinstance(error, EngineDead | StoreError):
        return 503
    if isinstance(error, EngineError):
        return 500
    return 400 if isinstance(error, LLMarkingError) else 500


def encoded(body: dict[str, Any], path: str) -> tuple[bytes, str]:
    """A problem as bytes, and their media type: OpenAI's clients look for an `error` object."""
    if not path.startswith("/v1/"):
        return _json({**body, "instance": path}), "application/problem+json"
    status = int(body["status"])
    error = {
        "message": body["detail"],
        "type": "invalid_request_error" if status < 500 else "server_error",
        "param": body.get("field"),
        "code": status,
    }
    return _json({"error": error}), "application/json"


async def refuse(
    scope: Scope, send: Send, status: int, detail: str, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Answer with a problem, below all routes."""
    content, media_type = encoded(body_of(status, detail), scope["path"])
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", media_type.encode()),
                (b"content-length", str(len(content)).encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": content})


def _json(body: dict[str, Any]) -> bytes:
    # In ASCII: a field that does not exist may have been named by half a character.
    return json.dumps(body).encode()


def install(app: FastAPI) -> None:
    """Make every error that a route raises a problem document."""

    def response(
        request: Request, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> Response:
        content, media_type = encoded(body, request.scope["path"])
        return Response(content, body["status"], headers, media_type=media_type)

    async def on_ours(request: Request, error: Exception) -> Response:
        body = problem(error)
        headers = {"Retry-After": str(body["retry_after"])} if "retry_after" in body else None
        return response(request, body, headers)

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return response(request, _faults(error))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        body = body_of(error.status_code, error.detail)
        if error.detail == HTTPStatus(error.status_code).phrase:
            body["detail"] = f"{request.method} {request.scope['path']}"
        return response(request, body, dict(error.headers or {}))

    app.add_exception_handler(LLMarkingError, on_ours)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)


def _faults(error: RequestValidationError) -> dict[str, Any]:
    """All faults of a request. What was sent is not repeated: it may be a student's answer."""
    faults: list[tuple[str, str]] = []
    for fault in error.errors():
        if fault["type"] == "json_invalid":
            reason = fault.get("ctx", {}).get("error", "it can't be read")
            message = sentence(
                "body_no_json",
                "the body is not JSON: {why} at character {at}",
                why=reason,
                at=fault["loc"][-1],
            )
            faults.append(("", message))
            continue
        field = ".".join(str(part) for part in fault["loc"] if part != "body")
        faults.append((field[:200], of_pydantic(fault)))
    field, detail = faults[0]
    if field:
        detail = sentence("at_field", "{field}: {why}", field=field, why=detail)
    if len(faults) > 1:
        detail = sentence("and_more", "{why} (and {count} more)", why=detail, count=len(faults) - 1)
    listed = [{"field": field, "message": str(message)} for field, message in faults[:20]]
    body = {**body_of(422, detail), "errors": listed}
    if faults[0][0]:
        body["field"] = faults[0][0]
    return body
