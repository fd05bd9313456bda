"""Servers that are killed while they grade a class: the benchmark's runs, fewer of them."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from conftest import ServerFactory, wait_until

from bench.crash_jobs import (
    ROOT,
    Amiss,
    Run,
    Server,
    check_database,
    check_results,
    class_of,
    crash,
)
from llmarking.engines.scripted import ScriptedEngine
from llmarking.store.database import Store, open_store

FLAGS = ("--job-concurrency", "16", "--lease-seconds", "1")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_class_survives_kills_at_random_moments(any_url: str, tmp_path: Path, seed: int) -> None:
    body = class_of(120, seed)
    run = crash(any_url, tmp_path, "scripted", FLAGS, body, None, random.Random(seed), calm=2.0)
    assert run.killed


@pytest.mark.slow
def test_a_class_ends_whole_when_one_of_two_servers_is_killed(
    new_database: Callable[[], str], tmp_path: Path
) -> None:
    url = new_database()
    servers = [Server(url, "scripted", tmp_path, FLAGS) for _ in range(2)]
    body = class_of(400, 1)
    try:
        for server in servers:
            server.start()
        first, second = servers
        for server in servers:
            wait_until(lambda server=server: _ready(server), seconds=60)  # type: ignore[misc]
        job = httpx.post(f"{first.url}/jobs", json=body, timeout=30).json()["id"]
        # The one that did not take the class in is killed while both are at work.
        wait_until(lambda: _job(first, job)["counts"]["graded"] >= 64)
        second.kill()
        wait_until(lambda: _job(first, job)["state"] == "finished", seconds=60)
        run = Run(first, body, random.Random(0), kills=0, calm=0, job=job)
        check_results(body, run.results())
    finally:
        for server in servers:
            server.kill()
    check_database(url, 400)


def _ready(server: Server) -> bool:
    server.check()
    try:
        return httpx.get(f"{server.url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def _job(server: Server, job: str) -> dict[str, object]:
    found: dict[str, object] = httpx.get(f"{server.url}/jobs/{job}").raise_for_status().json()
    return found


@pytest.fixture
def stores(new_database: Callable[[], str]) -> Iterator[list[Store]]:
    """The same PostgreSQL database, opened twice."""
    url = new_database()
    opened = [open_store(url), open_store(url)]
    yield opened
    for store in opened:
        store.close()


def test_two_servers_share_the_blocks_of_a_class(
    stores: list[Store], live_server_factory: ServerFactory
) -> None:
    engines = [ScriptedEngine(delay=0.05), ScriptedEngine(delay=0.05)]
    read = [0, 0]
    servers = []
    for number, (engine, store) in enumerate(zip(engines, stores, strict=True)):
        reading = engine.read

        async def counted(*args, number=number, reading=reading, **kwargs):  # type: ignore[no-untyped-def]
            read[number] += 1
            return await reading(*args, **kwargs)

        engine.read = counted  # type: ignore[method-assign]
        servers.append(live_server_factory(engine, store, job_concurrency=16))
    job = httpx.post(f"{servers[0]}/jobs", json=class_of(300, 2), timeout=30).json()["id"]
    wait_until(
        lambda: httpx.get(f"{servers[1]}/jobs/{job}").json()["state"] == "finished", seconds=60
    )
    assert all(read), read


def test_a_second_server_in_the_same_folder_ends_with_a_message(
    store: Store, live_server_factory: ServerFactory
) -> None:
    url = store.name
    live_server_factory(store=store)
    command = [sys.executable, "vllm_server.py", "-m", "scripted", "--port", "0"]
    ended = subprocess.run(
        [*command, "--database-url", url],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "is in use by another server. Stop that one, name another folder" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("url", "said", "code"),
    [
        ("mysql://a/b", "--database-url: it must be", 2),
        ("postgresql://me:hidden@127.0.0.1:9/x", "can't be reached", 1),
        ("sqlite:////dev/null/x.db", "can't write in /dev/null", 1),
    ],
)
def test_a_database_that_can_not_be_used_ends_the_start(url: str, said: str, code: int) -> None:
    command = [sys.executable, "vllm_server.py", "-m", "scripted", "--port", "0"]
    ended = subprocess.run(
        [*command, "--database-url", url],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == code
    assert said in ended.stderr
    assert "hidden" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_is_amiss_is_seen() -> None:
    """The checks of the benchmark can fail."""
    body = class_of(3, 0)
    whole = [
        {**given, "position": n, "outcome": "graded", "mark": 1.0, "error": None}
        for n, given in enumerate(body["answers"])
    ]
    check_results(body, whole)
    swapped = [
        {**whole[1], "position": 0},
        {**whole[0], "position": 1},
        whole[2],
    ]
    for wrong in (whole[:2], swapped, [*whole[:2], {**whole[2], "mark": None}]):
        with pytest.raises(Amiss):
            check_results(body, wrong)


def test_a_server_that_ends_by_itself_is_noticed() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = Server("nonsense", "scripted", Path(folder))
        server.start()
        with pytest.raises(Amiss, match="ended by itself"):
            wait_until(lambda: server.check(), seconds=60)
        server.kill(signal.SIGTERM)
