"""The teacher's page over a real server on the engine without a model, through its HTTP API."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from conftest import ServerFactory, wait_until
from gradio_client import Client, handle_file

from llmarking import tables, ui

pytestmark = pytest.mark.filterwarnings("default")  # gradio's own warnings

KEY = "a-key-of-this-test"


@pytest.fixture
def page(live_server_factory: ServerFactory, tmp_path: Path) -> Iterator[str]:
    """The page's address; it and the server want the key."""
    server = live_server_factory(api_keys=(KEY,))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = ui.create_app(str(server), KEY, tmp_path)
    running = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_until(lambda: running.started or not thread.is_alive())
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join(timeout=15)
    listener.close()


def test_the_page_wants_the_key_and_nothing_from_elsewhere(page: str) -> None:
    with httpx.Client(base_url=page, follow_redirects=True) as http:
        assert http.get("/config").status_code == 401
        assert http.post("/login", data={"username": "x", "password": "no"}).status_code == 400
        assert http.post("/login", data={"username": "x", "password": KEY}).status_code == 200
        html = http.get("/")
        assert html.status_code == 200
        assert "LLMarking" in html.text
        tags = re.findall(r"<(?:script|link)\b[^>]*>", html.text)
        outside = [tag for tag in tags if re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag)]
        assert [tag for tag in outside if page not in tag] == []
        assert "default-src 'self'" in html.headers["content-security-policy"]
        assert http.get("/theme.css").status_code == 200
        assert "fonts.googleapis" not in html.text + http.get("/theme.css").text


def test_a_class_is_graded_reviewed_and_exported(page: str, tmp_path: Path) -> None:
    client = Client(page, auth=("teacher", KEY), verbose=False, analytics_enabled=False)
    first, second = (ui.SAMPLE / f"EXAMPLE_CSV{n}.csv" for n in (1, 2))
    assert "10 questions" in client.predict(handle_file(first), api_name="/questions")
    said = client.predict(handle_file(second), api_name="/answers")
    assert "140 answers in EXAMPLE_CSV2.csv" in said
    job = client.submit(api_name="/grade")
    progress, table = job.result(timeout=120)
    assert progress == "140 of 140 graded"
    assert len(table["data"]) == 140
    text, _, mark = client.predict(table["data"][0][0], api_name="/open")
    assert text
    assert mark.startswith(f"No. {table['data'][0][0]}: ")
    client.predict([], api_name="/override")
    exported = client.predict(api_name="/export")
    out = tables.detect(Path(exported).read_bytes(), "out.csv").grid.rows
    before = tables.detect(second.read_bytes(), "in.csv").grid.rows
    assert [row.raw[:3] for row in out] == [row.raw for row in before]
    assert all(row[3] for row in out)
    changed = out[int(table["data"][0][0])]
    assert changed[3] == "0"
    assert changed[4].endswith("decided by the teacher")
    assert not [path for path in tmp_path.rglob("EXAMPLE_CSV[12].csv") if path.is_file()]


async def test_problems_and_stopping_are_told(
    live_server_factory: ServerFactory, tmp_path: Path
) -> None:
    page = ui.Page(str(live_server_factory()), None, tmp_path)
    session = ui.Session()
    wrong = tmp_path / "a.csv"
    wrong.write_text("QuestionCode,StudentAns\nNONE,x\n")
    assert "140 answers" in page.sample(session)
    assert "Problem: a.csv, line 2, column QuestionCode" in page.answers(str(wrong), session)
    assert not wrong.exists()
    assert [said async for said, _ in page.grade(session)] == ["Upload a class first."]
    page.sample(session)
    async for _ in page.grade(session):
        page.stop(session)
    assert not session.running
    last = [said async for said, _ in page.grade(session)][-1]
    assert last == "140 of 140 graded"
    assert list(ui.Session().results) == []


async def test_a_refused_key_ends_grading(
    live_server_factory: ServerFactory, tmp_path: Path
) -> None:
    page = ui.Page(str(live_server_factory(api_keys=(KEY,))), "wrong", tmp_path)
    session = ui.Session()
    page.sample(session)
    said = [said async for said, _ in page.grade(session)][-1]
    assert said.startswith("0 of 140 graded; ")
    assert len(session.failures) <= ui.AT_ONCE
