"""The OpenAPI page at `/docs`, from files of an installed package: no internet needed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

DESCRIPTION = """
Marks short exam answers point by point with an open language model, on your own machine.

A reference answer carries its points in place: `A hash table <Point1:2>stores key-value
pairs<Point1:2>`. `POST /grade` says for every point whether the answer states it, how probable that
is, which words show it, and adds up the marks. Errors are problem details (RFC 9457) that name the
field and say what to do.

With API keys set, send `Authorization: Bearer KEY`; only the two health checks go without.
"""


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
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="LLMarking API",
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="data:,",
        )


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
