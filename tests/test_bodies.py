"""Request bodies that are too large, or come too slowly, over a real socket."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Sequence

import httpx
import pytest
from conftest import Address, ServerFactory, wait_until
from test_middleware import raw, status
from test_server import Words, connect, idle, in_background, raw_request

from llmarking.engines.scripted import ScriptedEngine
from llmarking.server import bodies


def chunked(path: str, pieces: Sequence[bytes]) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += "Content-Type: application/json\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + body + b"0\r\n\r\n"


@pytest.fixture
def small(live_server_factory: ServerFactory) -> Address:
    return live_server_factory(max_body=1000)


@pytest.mark.parametrize("path", ["/generate", "/grade", "/v1/chat/completions"])
def test_a_body_that_says_it_is_too_long_is_refused_before_it_comes(
    path: str, small: Address
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
    with connect(small) as client:
        client.sendall(head.encode())
        assert b" 413 " in client.recv(65536).split(b"\r\n")[0]


def test_a_body_in_chunks_is_refused_when_it_has_grown_too_long(small: Address) -> None:
    fits = json.dumps({"prompt": "a" * 900}).encode()
    pieces = [fits[:300], fits[300:600], fits[600:]]
    assert b'"finish_reasons":["stop"]' in raw(small, chunked("/generate", pieces))
    reply = raw(small, chunked("/generate", [*pieces, b" " * 500]))
    assert status(reply) == 413
    assert b"a request body may be 1000 bytes long" in reply
    assert reply.count(b"HTTP/1.1") == 1


def test_the_limit_itself_is_allowed(small: Address) -> None:
    body = json.dumps({"prompt": ""}).encode()
    body = json.dumps({"prompt": "a" * (1000 - len(body))}).encode()
    headers = {"Content-Type": "application/json"}
    assert len(body) == 1000
    for content, expected in ((body, 200), (body + b" ", 413)):
        reply = httpx.post(f"{small}/generate", content=content, headers=headers)
        assert reply.status_code == expected


# Slow ones


@pytest.fixture
def hasty(live_server_factory: ServerFactory) -> Address:
    return live_server_factory(body_seconds=0.2)


POSTS = ["/generate", "/grade", "/v1/chat/completions", "/adapters"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("sent", [b"", b'{"prompt": "it go'])
def test_a_body_that_does_not_come_is_given_up(path: str, sent: bytes, hasty: Address) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with connect(hasty) as client:
        client.sendall(f"{head}Content-Length: 500\r\n\r\n".encode() + sent)
        reply = b""
        while piece := client.recv(65536):  # ends: the connection is closed
            reply += piece
    assert status(reply) == 408
    assert re.search(rb"the request body did not arrive: %d bytes in \d+ s" % len(sent), reply)
    assert reply.count(b"HTTP/1.1") == 1
    wait_until(lambda: idle(hasty))


def test_drops_do_not_keep_a_connection_alive(hasty: Address) -> None:
    """Every byte comes in time; the body as a whole does not."""
    content = json.dumps({"prompt": "a" * 500}).encode()
    with connect(hasty) as client:
        client.sendall(raw_request("/generate", {})[:-2].replace(b": 2\r", b": 520\r"))
        sent = 0
        with contextlib.suppress(OSError):  # it is closed while they still come
            for byte in content:
                client.sendall(bytes([byte]))
                time.sleep(0.01)
                sent += 1
        assert sent < len(content)


def test_what_arrives_buys_time(
    live_server_factory: ServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "SLOWEST_BODY", 10)
    address = live_server_factory(body_seconds=0.3)
    request = raw_request("/generate", {"prompt": "a" * 3000, "max_tokens": 1})
    with connect(address) as client:
        for start in range(0, len(request), 500):
            client.sendall(request[start : start + 500])
            time.sleep(0.1)
        assert status(client.recv(65536)) == 200


@pytest.mark.parametrize("path", ["/generate", "/health/live"])
def test_a_request_may_take_longer_than_its_body(
    path: str, live_server_factory: ServerFactory
) -> None:
    words = Words()
    address = live_server_factory(ScriptedEngine(sleep=words), body_seconds=0.05)
    if path == "/health/live":
        assert httpx.get(f"{address}{path}").status_code == 200
        return
    with in_background(lambda: httpx.post(f"{address}{path}", json={"prompt": "a"})) as replies:
        words.wait()
        time.sleep(0.2)
        words.let()
    assert replies[0].result().status_code == 200


# Other ways to make a server busy


def test_a_flood_of_ranges_gets_one_file(shared_server: Address) -> None:
    """Starlette once took quadratic time over them."""
    path = f"{shared_server}/docs/assets/swagger-ui.css"
    whole = len(httpx.get(path).content)
    ranges = ",".join(f"{i}-{i + 1}" for i in range(0, 5000, 2))
    reply = httpx.get(path, headers={"Range": f"bytes={ranges}"})
    assert reply.status_code in (200, 206, 400, 416)
    assert len(reply.content) <= whole
    assert httpx.get(f"{shared_server}/health/ready").status_code == 200
