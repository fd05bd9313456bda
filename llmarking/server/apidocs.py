"""What the routes say about themselves, and the page at `/docs` that shows it without internet."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from llmarking.protocol.bodies import Problem

DESCRIPTION = """
Marks short exam answers point by point with an open language model, on your own machine.

A reference answer carries its points in place: `A hash table <Point1:2>stores key-value
pairs<Point1:2>`. `POST /grade` says for every point whether the answer states it, how probable that
is, which words show it, and adds up the marks. Errors are problem details (RFC 9457) that name the
field and say what to do.

With API keys set, send `Authorization: Bearer KEY`; only the two health checks go without.
"""

ERRORS = {
    400: "The body can't be read",
    401: "A key is needed, and this is none",
    403: "This needs an admin key",
    404: "There is no adapter, model, course or job of that name",
    408: "The body did not arrive in time",
    409: "It has changed since, or is not in a state for that",
    413: "The body is too long",
    422: "Wrong input: which field, and what to do",
    429: "Busy; Retry-After says when to come back",
    500: "Something went wrong inside",
    503: "Loading, or the engine or the database can't be used",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer besides success, for its documentation."""
    return {status: {"model": Problem, "description": ERRORS[status]} for status in statuses}


TAKES_WORK = errors(400, 404, 413, 422, 429, 503)


def or_streamed(media_type: str) -> dict[int | str, dict[str, Any]]:
    """What a route that takes work may answer, where success may be a stream."""
    return TAKES_WORK | {200: {"content": {media_type: {}}}}


# The page starts Swagger UI with a line of its own and styles elements one by one.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)


def attach(app: FastAPI) -> None:
    """Add `/docs` and its assets: the Swagger UI that comes with vLLM."""
    make = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            _say_problem(make())
        return make()

    app.openapi = document  # type: ignore[method-assign]
    # Found without importing vLLM, which takes seconds. Without it the page stays empty.
    vllm = find_spec("vllm")
    root = Path(vllm.origin).parent if vllm and vllm.origin else Path()
    assets = root / "entrypoints/serve/instrumentator/static"
    app.mount("/docs/assets", StaticFiles(directory=assets, check_dir=False), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="LLMarking API",
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="data:,",
        )
        page.headers["content-security-policy"] = PAGE_POLICY
        return page


def _say_problem(document: dict[str, Any]) -> None:
    """Give errors the media type they have; FastAPI takes them for plain JSON."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) < 400:
                    continue
                schema = {"$ref": "#/components/schemas/Problem"}
                media = "application/problem+json"
                if path.startswith("/v1/"):
                    schema, media = {"type": "object"}, "application/json"
                response["content"] = {media: {"schema": schema}}
