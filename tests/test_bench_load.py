"""The benchmarks' senders: every reply at the place of its request, and no silence on a failure."""

from __future__ import annotations

import json

import pytest
from conftest import Address

from bench.load import Senders


def body(prompt: str) -> bytes:
    return json.dumps({"prompt": prompt, "max_tokens": 1}).encode()


@pytest.mark.parametrize(("processes", "at_once"), [(1, 1), (2, 3), (3, 2)])
def test_replies_come_in_the_order_of_the_requests(
    processes: int, at_once: int, shared_server: Address
) -> None:
    lengths = [3, 1, 4, 1, 5]
    bodies = [body("a" * length) for length in lengths]
    url = str(shared_server)
    with Senders(url, "/generate", bodies, processes=processes, at_once=at_once) as senders:
        assert senders.send() > 0
        replies, busiest = senders.replies()
    read = [json.loads(reply)["usage"]["prompt_tokens"] for reply in replies]
    assert [tokens - read[1] for tokens in read] == [2, 0, 3, 0, 4]
    assert busiest > 0


def test_a_refused_request_ends_it(
    shared_server: Address, capfd: pytest.CaptureFixture[str]
) -> None:
    bodies = [body("a"), b"{}"]
    with (
        Senders(str(shared_server), "/generate", bodies, processes=1, at_once=1) as senders,
        pytest.raises(EOFError),
    ):
        senders.send()
    assert "422" in capfd.readouterr().err
