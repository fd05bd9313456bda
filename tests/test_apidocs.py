"""The OpenAPI document is valid, its examples work, and its page needs no other host."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from conftest import Address

from llmarking.engines.scripted import ScriptedEngine
from llmarking.server import apidocs
from llmarking.server.app import create_app

DOCUMENT: dict[str, Any] = create_app(ScriptedEngine()).openapi()


def worked_examples() -> list[tuple[str, dict[str, Any]]]:
    """Every example of a request body, with the path it is for."""
    found = []
    for path, operations in DOCUMENT["paths"].items():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            name = schema.get("$ref", "").rpartition("/")[2]
            examples = DOCUMENT["components"]["schemas"].get(name, {}).get("examples", [])
            found += [(path, example) for example in examples]
    return found


def test_the_document_is_valid() -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(DOCUMENT)


def test_every_route_is_described_in_words_and_every_error_as_a_problem() -> None:
    for path, operations in DOCUMENT["paths"].items():
        for operation in operations.values():
            assert len(operation["description"]) > 10, path
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    (media,) = response["content"]
                    assert media == "application/problem+json" or path.startswith("/v1/")


def test_the_routes_that_take_a_body_have_worked_examples() -> None:
    assert {path for path, _ in worked_examples()} == {
        "/generate",
        "/grade",
        "/jobs",
        "/v1/chat/completions",
    }


@pytest.mark.parametrize(("path", "example"), worked_examples())
def test_every_worked_example_works(
    path: str, example: dict[str, Any], shared_server: Address
) -> None:
    reply = httpx.post(f"{shared_server}{path}", json=example)
    # The scripted engine has no OpenAI-compatible interface; the tests of the real one ask it.
    expected = 404 if path.startswith("/v1/") else 202 if path == "/jobs" else 200
    assert reply.status_code == expected, reply.text


def test_the_page_and_its_assets_come_from_this_host_alone(shared_server: Address) -> None:
    page = httpx.get(f"{shared_server}/docs")
    assert page.status_code == 200
    links = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page.text)
    assert {"/openapi.json", "/docs/assets/swagger-ui-bundle.js"} <= set(links)
    for link in links:
        assert link.startswith(("/", "data:")), link
        assert link.startswith("data:") or httpx.get(f"{shared_server}{link}").status_code == 200
    assert "//" not in page.text.replace("<!--", "").replace("-->", "").replace("data:", "")


def test_the_page_can_show_the_version_of_the_document(shared_server: Address) -> None:
    """Swagger UI shows OpenAPI 3.1 from its fifth version on."""
    assert DOCUMENT["openapi"].startswith("3.1")
    bundle = httpx.get(f"{shared_server}/docs/assets/swagger-ui-bundle.js").text
    versions = re.findall(r'PACKAGE_VERSION:"(\d+)\.', bundle)
    assert versions
    assert int(versions[0]) >= 5


def test_the_document_is_served_as_it_is(shared_server: Address) -> None:
    assert httpx.get(f"{shared_server}/openapi.json").json() == DOCUMENT
    assert DOCUMENT["info"]["description"] == apidocs.DESCRIPTION


def test_a_flood_of_ranges_costs_no_more_than_the_file(shared_server: Address) -> None:
    ranges = ",".join(f"{i}-{i + 1}" for i in range(0, 4000, 2))
    headers = {"Range": f"bytes={ranges}"}
    reply = httpx.get(f"{shared_server}/docs/assets/swagger-ui.css", headers=headers)
    assert reply.status_code in (200, 206, 416, 431)
    assert len(reply.content) < 1_000_000
