"""Keys, body limits, request ids, and errors that say nothing about a student."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from conftest import Address, ServerFactory, serving, wait_until
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route
from test_server import GRADE, QUESTION, Faulty, Words, connect, in_background, raw_request

from llmarking.domain import Reading
from llmarking.engines.scripted import ScriptedEngine
from llmarking.errors import EngineError
from llmarking.server.app import create_app
from llmarking.server.middleware import OPEN_PATHS, OPEN_PREFIX
from llmarking.settings import ServerSettings

KEY = "correct-horse-battery"
OTHER = "staple-of-the-teacher"


def routes() -> list[tuple[str, str]]:
    """Every method and path that the app answers, from the app itself."""
    found = []
    for route in create_app(ScriptedEngine()).routes:
        if isinstance(route, APIRoute | Route):
            found += [(method, route.path) for method in sorted(route.methods or ())]
        else:
            assert isinstance(route, Mount)
            found.append(("GET", f"{route.path}/swagger-ui.css"))
    return found


CLOSED = [
    (method, path)
    for method, path in routes()
    if path not in OPEN_PATHS and not path.startswith(OPEN_PREFIX)
]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Address]:
    with serving(ScriptedEngine(), ServerSettings(api_keys=(KEY, OTHER))) as address:
        yield address


def raw(address: Address, request: bytes) -> bytes:
    """The whole reply to bytes sent as they are."""
    with connect(address) as client:
        client.sendall(request)
        reply = b""
        while piece := client.recv(65536):
            reply += piece
        return reply


def status(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1]) if reply else 0


# Keys


def test_the_list_of_open_routes_is_the_one_we_know() -> None:
    """Another must be looked at here before it is let out; in the last two the token is the key."""
    closed = {path for _, path in CLOSED}
    assert sorted({path for _, path in routes()} - closed) == [
        "/health/live",
        "/health/ready",
        "/results/{token}",
        "/results/{token}/contest",
    ]


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong-key-entirely"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer \xff\xfe"},
        {"X-API-Key": KEY},
    ],
)
def test_no_route_answers_without_a_key(
    method: str, path: str, headers: dict[str, str], guarded: Address
) -> None:
    raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    reply = httpx.request(method, f"{guarded}{path}", headers=raw_headers)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    if method != "HEAD":
        problem = reply.json().get("error") or reply.json()
        assert "API key" in (problem.get("detail") or problem["message"])


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize("key", [KEY, OTHER])
def test_every_route_answers_with_any_of_the_keys(
    method: str, path: str, key: str, guarded: Address
) -> None:
    headers = {"Authorization": f"bearer  {key}"}
    assert httpx.request(method, f"{guarded}{path}", headers=headers).status_code != 401


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_the_two_health_checks_go_without_a_key(path: str, guarded: Address) -> None:
    assert httpx.get(f"{guarded}{path}").status_code == 200


HOSTS = [
    "127.0.0.1/health/live?", "x/health/live", "x/health/live#", "x:80/health/ready?a=",
    "health/live", "[::1]/health/live", "localhost@/health/live", "",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("path", ["/models", "/metrics", "/openapi.json", "/v1/models"])
def test_a_poisoned_host_opens_nothing(path: str, host: str, guarded: Address) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert status(raw(guarded, request.encode())) in (400, 401)


ODD = [
    "//models", "//generate", "/health/live/../models", "/health/live/..%2fmodels",
    "/health/live%2f..%2f..%2fmodels", "/health/live/", "/health//live", "/health/live/models",
    "/HEALTH/LIVE", "/health/live;x", "/health/live%00", "/./health/live", "/models?/health/live",
    "/models#/health/live", "/models%23/health/live", "http://x/models", "http://x//health/live/../m",
    "/docs/assets/../../health/live", "/docs/assets/%2e%2e/%2e%2e/server.py", "*", "/%2e",
]  # fmt: skip


@pytest.mark.parametrize("target", ODD)
def test_an_odd_path_opens_nothing(target: str, guarded: Address) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert status(raw(guarded, request.encode())) in (400, 401)


@pytest.mark.parametrize("target", ["/docs/assets/../apidocs.py", "/docs/assets/..%2f..%2fx.py"])
def test_assets_do_not_lead_to_other_files(target: str, guarded: Address) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    request += f"Authorization: Bearer {KEY}\r\n\r\n"
    assert status(raw(guarded, request.encode())) == 404


PLACES = [
    (method, path, place) for method, path in routes() for place in re.findall(r"\{(\w+)", path)
]
ELSEWHERE = [
    "..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "a%00b", "..%5c..%5cx", "%ff%fe",
    "'%20OR%201=1--", "%25252e", "x" * 3000,
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "place"), PLACES)
@pytest.mark.parametrize("value", ELSEWHERE)
def test_no_id_leads_elsewhere(
    method: str, path: str, place: str, value: str, guarded: Address
) -> None:
    target = re.sub(r"\{\w+(:\w+)?\}", lambda m: value if place in m[0] else "x", path)
    request = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    request += f"Authorization: Bearer {KEY}\r\nContent-Length: 0\r\n\r\n"
    assert status(raw(guarded, request.encode())) in (400, 404, 405, 409, 422, 503)


def test_without_keys_every_route_is_open(shared_server: Address) -> None:
    assert httpx.get(f"{shared_server}/models").status_code == 200


# Request ids


@pytest.mark.parametrize("given", ["abc-123", "a.b:c_d", "x" * 128])
def test_a_request_id_is_echoed(given: str, shared_server: Address) -> None:
    for path in ("/health/live", "/nothing"):
        reply = httpx.get(f"{shared_server}{path}", headers={"X-Request-ID": given})
        assert reply.headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\tb", "é", "<script>"])
def test_a_missing_or_crooked_request_id_is_replaced(
    given: str | None, shared_server: Address
) -> None:
    headers = [] if given is None else [(b"X-Request-ID", given.encode("latin-1"))]
    first = httpx.get(f"{shared_server}/health/live", headers=headers).headers["x-request-id"]
    second = httpx.get(f"{shared_server}/health/live", headers=headers).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second


def test_refusals_have_an_id_too(guarded: Address) -> None:
    assert httpx.get(f"{guarded}/models").headers["x-request-id"]


# Headers


SAFE = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@pytest.mark.parametrize("path", ["/health/live", "/models", "/nothing", "/docs/assets/x", "/docs"])
def test_every_answer_tells_browsers_what_not_to_do(path: str, shared_server: Address) -> None:
    headers = httpx.get(f"{shared_server}{path}").headers
    expected = dict(SAFE)
    if path == "/docs":
        # The page may run its own script and load its own files, and nothing from elsewhere.
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'"
        )
        assert "http" not in headers["content-security-policy"]
        del expected["content-security-policy"]
    assert {name: headers.get(name) for name in expected} == expected
    assert len(headers.get_list("cache-control")) == 1


def test_refusals_and_failures_have_the_headers_too(
    guarded: Address, live_server_factory: ServerFactory
) -> None:
    broken = live_server_factory(Faulty(RuntimeError("inside")))
    refused = httpx.get(f"{guarded}/models")
    failed = httpx.post(f"{broken}/generate", json={"prompt": "a"})
    assert (refused.status_code, failed.status_code) == (401, 500)
    for reply in (refused, failed):
        assert {name: reply.headers.get(name) for name in SAFE} == SAFE


# The last resort


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"prompt": "a"}),
        ("/generate", {"prompt": "a", "stream": True}),
        ("/grade", GRADE),
        ("/grade", GRADE | {"stream": True}),
    ],
)
def test_what_nobody_expected_is_a_500_with_an_id_that_the_log_has_too(
    path: str,
    body: dict[str, Any],
    live_server_factory: ServerFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = live_server_factory(Faulty(RuntimeError("secret inside")))
    reply = httpx.post(f"{address}{path}", json=body, headers={"X-Request-ID": "my-request"})
    assert reply.status_code == 500
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["x-request-id"] == "my-request"
    assert "secret" not in reply.text
    assert "request my-request failed: RuntimeError in" in caplog.text
    assert "secret" not in caplog.text
    assert httpx.get(f"{address}/health/ready").status_code == 200


# Students' words stay out of the logs

CANARY = "canaryofthestudent"


class Careless(ScriptedEngine):
    """Fails with the student's words in its message, as libraries do."""

    async def read(self, prompt: Sequence[int], *arguments: Any, **options: Any) -> Reading:
        raise ValueError(f"can't read {self.tokenizer.decode(prompt)}")


class HalfCareless(Careless):
    read = ScriptedEngine.read  # type: ignore[assignment]

    def __init__(self, error: type[Exception] = ValueError) -> None:
        super().__init__(reply=self._fail, odds=lambda prompt: 3.0)
        self._error = error

    def _fail(self, prompt: str) -> str:
        raise self._error(f"can't answer {prompt}")


class Heard(logging.Handler):
    """Everything that any logger of this process says."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # What the test's own client logs is not the server's.
        if not record.name.startswith(("httpx", "httpcore")):
            self.lines.append(f"{record.name} {self.format(record)}")


UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access")


@pytest.fixture
def heard() -> Iterator[Heard]:
    """All loggers at DEBUG, those that don't pass on what they hear included."""
    handler = Heard()
    names = [
        None,
        "uvicorn",
        "uvicorn.error",
        "uvicorn.access",
        "uvicorn.asgi",
        "asyncio",
        "llmarking",
    ]
    loggers = [logging.getLogger(name) for name in names]
    before = [(each, each.level, each.propagate) for each in loggers]
    yield_to = [each for each in loggers if each.name == "root" or each.name.startswith("uvicorn")]
    for each in yield_to:
        each.addHandler(handler)
    for each in loggers:
        each.setLevel(logging.DEBUG)
    yield handler
    for each, level, propagate in before:
        each.removeHandler(handler)
        each.setLevel(level)
        each.propagate = propagate


ANSWER = f"{CANARY} says that a stack is LIFO."
BODIES: list[tuple[str, Any]] = [
    ("/grade", GRADE | {"answer": ANSWER}),
    ("/grade", GRADE | {"answer": ANSWER, "explain": True}),
    ("/grade", GRADE | {"answer": ANSWER, "explain": True, "stream": True}),
    ("/grade", GRADE | {"answer": ANSWER, "method": "prose"}),
    ("/grade", GRADE | {"answer": [ANSWER]}),
    ("/grade", GRADE | {"answer": ANSWER, "shots": ANSWER}),
    ("/grade", GRADE | {"answer": ANSWER, "method": ANSWER}),
    ("/grade", GRADE | {"answer": ANSWER * 20_000}),
    ("/grade", GRADE | {"answer": ANSWER, "question": QUESTION | {"reference": "none"}}),
    ("/grade", ANSWER),
    ("/generate", {"prompt": ANSWER}),
    ("/generate", {"prompt": ANSWER, "stream": True}),
    ("/generate", {"prompt": ANSWER, "choices": ["Yes", "No"]}),
    ("/generate", {"messages": [{"role": "user", "content": ANSWER}]}),
    ("/generate", {"messages": [{"role": ANSWER, "content": "x"}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": ANSWER}]}),
]


@pytest.mark.parametrize(
    "engine", [ScriptedEngine, Careless, HalfCareless, lambda: HalfCareless(EngineError)]
)
def test_no_log_line_holds_what_a_student_wrote(
    engine: Any, heard: Heard, live_server_factory: ServerFactory
) -> None:
    address = live_server_factory(engine(), max_queue=4)
    for name in UVICORN:  # the server has set them to its own level
        logging.getLogger(name).setLevel(logging.DEBUG)
    for path, body in BODIES:
        reply = httpx.post(f"{address}{path}", json=body)
        # Nor does a refusal say it again.
        assert reply.status_code < 400 or reply.status_code >= 500 or CANARY not in reply.text
    broken = f'{{"answer": "{CANARY}'.encode()
    for content in (broken, broken + b"\xff", b"[" * 100_000 + CANARY.encode()):
        headers = {"Content-Type": "application/json"}
        httpx.post(f"{address}/grade", content=content, headers=headers)
    assert heard.lines
    assert [line for line in heard.lines if CANARY in line] == []


def test_a_disconnect_logs_nothing_of_the_answer(
    heard: Heard, live_server_factory: ServerFactory
) -> None:
    words = Words()
    address = live_server_factory(ScriptedEngine(sleep=words), max_queue=1)
    with connect(address) as client:
        client.sendall(raw_request("/grade", GRADE | {"answer": ANSWER}))
        words.wait()
        with in_background(lambda: httpx.post(f"{address}/grade", json=GRADE)) as refused:
            pass
        assert refused[0].result().status_code == 429
    wait_until(lambda: address.service.gate.held == 0)
    assert [line for line in heard.lines if CANARY in line] == []
