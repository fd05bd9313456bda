"""Debian's chromium for the tests of the teacher's pages, and the pages' own server."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import uvicorn
from conftest import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[1]


def load_walk() -> ModuleType:
    """The script that walks through the pages; its steps are those of the tests."""
    spec = importlib.util.spec_from_file_location("screenshots", ROOT / "scripts/screenshots.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


walk = load_walk()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a fresh profile; skips the test where there is none."""
    pytest.importorskip("playwright.sync_api")
    try:
        with walk.chromium() as browser:
            yield browser
    except FileNotFoundError as error:
        pytest.skip(str(error))


@contextlib.contextmanager
def serving_pages(url: str, folder: Path, key: str | None = None) -> Iterator[str]:
    """The teacher's pages in a thread, in front of the server at `url`."""
    from llmarking.ui import app as ui

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = ui.create_app(url, key, folder)
    running = uvicorn.Server(uvicorn.Config(app, log_level="info", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_until(lambda: running.started or not thread.is_alive())
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(timeout=15)
        listener.close()
