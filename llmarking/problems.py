"""Errors as problem details (RFC 9457), and in OpenAI's shape under `/v1`."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from llmarking.errors import (
    EngineDead,
    EngineError,
    InputError,
    LLMarkingError,
    Overloaded,
    UnknownModelError,
)

log = logging.getLogger("llmarking.server")


def problem(error: Exception) -> dict[str, Any]:
    """Problem details for an error; what is not ours says nothing about its inside."""
    body: dict[str, Any] = {"type": "about:blank"}
    status = 500
    detail = "something went wrong inside the server; its log has more under this request's id"
    if isinstance(error, UnknownModelError):
        status, detail = 404, str(error)
    elif isinstance(error, InputError):
        status, detail = 422, str(error)
    elif isinstance(error, Overloaded):
        status, detail = 429, str(error)
        body["retry_after"] = error.retry_after
    elif isinstance(error, EngineDead):
        status, detail = 503, str(error)
    elif isinstance(error, EngineError):
        status, detail = 500, str(error)
    elif isinstance(error, LLMarkingError):
        status, detail = 400, str(error)
    body |= {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if isinstance(error, InputError) and error.field:
        body["field"] = error.field
    for name in ("length", "limit", "point", "column"):
        if (value := getattr(error, name, None)) is not None:
            body[name] = value
    return body


def _response(request: Request, body: dict[str, Any]) -> JSONResponse:
    status = int(body["status"])
    headers = {"Retry-After": str(body["retry_after"])} if "retry_after" in body else None
    if request.scope["path"].startswith("/v1/"):
        content: dict[str, Any] = {
            "error": {
                "message": body["detail"],
                "type": "invalid_request_error" if status < 500 else "server_error",
                "param": body.get("field"),
                "code": status,
            }
        }
        return JSONResponse(content, status, headers)
    return JSONResponse(
        {**body, "instance": request.scope["path"]},
        status,
        headers,
        media_type="application/problem+json",
    )


def install(app: FastAPI) -> None:
    """Make every error of the app a problem document."""

    async def on_ours(request: Request, error: Exception) -> JSONResponse:
        return _response(request, problem(error))

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        # What was sent is not repeated: it may be a student's answer.
        faults = [
            {
                "field": ".".join(str(part) for part in fault["loc"] if part != "body"),
                "message": fault["msg"].removeprefix("Value error, "),
            }
            for fault in error.errors()
        ]
        first = faults[0]
        detail = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
        if len(faults) > 1:
            detail += f" (and {len(faults) - 1} more)"
        body = {"type": "about:blank", "title": "Unprocessable Content", "status": 422}
        body |= {"detail": detail, "errors": faults}
        if first["field"]:
            body["field"] = first["field"]
        return _response(request, body)

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        title = HTTPStatus(error.status_code).phrase
        detail = error.detail if error.detail != title else f"{request.method} {request.scope['path']}"
        body = {"type": "about:blank", "title": title, "status": error.status_code, "detail": detail}
        return _response(request, body)

    async def on_unknown(request: Request, error: Exception) -> JSONResponse:
        # The exception's text may hold what a student wrote; its type and place don't.
        log.error(
            "request %s failed with %s",
            request.scope.get("state", {}).get("request_id", "?"),
            type(error).__name__,
        )
        return _response(request, problem(error))

    app.add_exception_handler(LLMarkingError, on_ours)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_unknown)
