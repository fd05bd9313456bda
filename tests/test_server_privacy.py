"""What is deleted leaves no byte behind; what is known can be had; what is due goes by itself."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from class_in_store import ClassInStore, wire_question
from conftest import wait_until
from starlette.testclient import TestClient

from llmarking.engines.scripted import ScriptedEngine
from llmarking.errors import StoreError
from llmarking.server.app import create_app
from llmarking.settings import ServerSettings
from llmarking.store import privacy as store_privacy
from llmarking.store.database import Store, open_store
from llmarking.store.schema import METADATA, courses, events, jobs

CANARY = "canary"


@pytest.fixture
def client(any_store: Store) -> Iterator[TestClient]:
    with TestClient(create_app(ScriptedEngine(), ServerSettings(), any_store)) as made:
        wait_until(lambda: made.get("/health/ready").status_code == 200)
        yield made


def traces(store: Store) -> list[str]:
    """Where a canary still sings: in any file of SQLite, or in any table."""
    found = []
    if store.engine.dialect.name == "sqlite":
        file = Path(str(store.engine.url.database))
        # Long texts are cut at page ends, so the word alone is looked for, as often as it was told.
        found = [p.name for p in file.parent.glob(f"{file.name}*") if b"canary" in p.read_bytes()]
    with store.read() as tx:
        for table in METADATA.sorted_tables:
            for row in tx.execute(sa.select(table)):
                if CANARY in " ".join(
                    bytes(v).decode("latin-1") if isinstance(v, bytes | memoryview) else str(v)
                    for v in row
                ):
                    found.append(table.name)
    return sorted(set(found))


def sing(client: TestClient, others: int = 40) -> str:
    """A class in which one student's every word is a canary, through every route there is."""
    given = [
        {"student": f"s{n}", "question": "Q1", "text": f"Answer {n} " * 60} for n in range(others)
    ]
    hers = {
        "id": "row-canary",
        "student": "canary/7",
        "name": "Canary Bird canary",
        "question": "Q1",
        "text": "canary sings " * 900,
        "source": {"sheet": "canary"},
        "quality": "canary",
        "verdicts": {"1": True},
    }
    body = {
        "course": {"id": "c", "name": "C"},
        "questions": [wire_question()],
        "answers": [*given[: others // 2], hers, *given[others // 2 :]],
        "explain": True,
    }
    job = client.post("/jobs", json=body)
    assert job.status_code == 202, job.text
    wait_until(lambda: client.get(f"/jobs/{job.json()['id']}").json()["state"] == "finished")
    client.post(
        "/courses/c/uploads",
        params={"filename": "canary.csv", "kind": "csv"},
        content=b"canary;" * 3000,
    )
    rows = client.get("/courses/c/answers", params={"limit": 1000}).json()["answers"]
    answer = next(row for row in rows if row["student"] == "canary/7")
    decision = {
        "verdicts": {"1": True, "2": False},
        "comment": "canary, well sung",
        "expected_mark_id": answer["mark_id"],
    }
    assert client.post(f"/answers/{answer['id']}/decision", json=decision).status_code == 200
    links = client.post("/courses/c/release").json()["links"]
    path = next(link["path"] for link in links if link["student"] == "canary/7")
    objection = {"answer": answer["id"], "point": 2, "text": "canary disagrees"}
    made = client.post(f"{path}/contest", json=objection)
    closing = {"state": "upheld", "comment": "canary heard"}
    assert client.post(f"/contests/{made.json()['id']}", json=closing).status_code == 200
    return str(answer["id"])


def test_a_deleted_student_leaves_no_trace(
    client: TestClient, any_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = sing(client)
    assert {"answers", "students", "uploads", "marks", "contests"} <= set(traces(any_store))
    gone = client.delete("/courses/c/students/canary/7")
    assert gone.json() == {"courses": 0, "students": 1, "answers": 1, "uploads": 1}
    assert traces(any_store) == []
    assert client.get(f"/answers/{answer}").status_code == 404
    [job] = client.get("/jobs").json()["jobs"]
    assert job["counts"] == {"total": 40, "graded": 40, "failed": 0, "waiting": 0}
    with any_store.read() as tx:
        log = [(e.action, e.subject) for e in tx.execute(sa.select(events).order_by(events.c.id))]
    assert log[-1] == ("student.deleted", None)
    assert answer not in {subject for _, subject in log}
    # What the test's own client logs is no log of the server.
    told = [r.getMessage() for r in caplog.records if not r.name.startswith("http")]
    assert told
    assert CANARY not in " ".join(told).lower()
    again = client.delete("/courses/c/students/canary/7")
    assert again.status_code == 404
    assert CANARY not in again.json()["detail"]


def test_a_deleted_course_leaves_no_trace(client: TestClient, any_store: Store) -> None:
    sing(client)
    ClassInStore(any_store, "other").answer("Of another class.")
    client.post("/courses/c/calibration")
    gone = client.delete("/courses/c").json()
    assert (gone["courses"], gone["students"], gone["answers"], gone["uploads"]) == (1, 41, 41, 1)
    assert traces(any_store) == []
    assert client.get("/courses/c").status_code == 404
    assert client.get("/jobs").json()["jobs"] == []
    assert client.get("/courses/other").json()["answers"] == 1
    assert client.delete("/courses/c").status_code == 404


def test_a_course_can_go_while_it_is_graded(client: TestClient, any_store: Store) -> None:
    given = [{"student": "s", "question": "Q1", "text": f"canary {n}"} for n in range(500)]
    body = {
        "course": {"id": "c", "name": "C"},
        "questions": [wire_question()],
        "answers": given,
    }
    assert client.post("/jobs", json=body).status_code == 202
    assert client.delete("/courses/c").status_code == 200
    assert traces(any_store) == []
    again = client.post("/jobs", json=body).json()["id"]
    wait_until(lambda: client.get(f"/jobs/{again}").json()["state"] == "finished")
    assert client.get(f"/jobs/{again}").json()["counts"]["graded"] == 500


def test_somebody_who_keeps_reading_is_told_of(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'llmarking.db'}", busy_seconds=0.2)
    ClassInStore(store).answer("canary")
    with store.read() as tx:
        tx.execute(sa.select(courses)).all()
        with store.write() as other:
            other.execute(sa.delete(courses))
        with pytest.raises(StoreError, match="somebody kept reading"):
            store.scrub(patience=0.2)
    store.scrub()
    assert traces(store) == []
    store.close()


def test_a_student_can_have_all_that_is_known(client: TestClient, any_store: Store) -> None:
    answer = sing(client, others=2)
    found = client.get("/courses/c/students/canary/7").json()
    assert (found["student"], found["name"]) == ("canary/7", "Canary Bird canary")
    [detail] = found["answers"]
    assert detail["id"] == answer
    assert [mark["kind"] for mark in detail["history"]] == ["model", "human"]
    assert detail["history"][1]["comment"] == "canary, well sung"
    assert detail["contests"][0]["text"] == "canary disagrees"
    assert client.get("/courses/c/students/nobody").status_code == 404


def test_the_log_tells_everything_but_what_students_wrote(client: TestClient) -> None:
    answer = sing(client, others=2)
    sent = client.get("/courses/c/audit")
    assert sent.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in sent.text.splitlines()]
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    actions = [line["action"] for line in lines if line["type"] == "event"]
    for action in ("course.created", "job.created", "answer.", "contest.opened", "course.released"):
        assert any(done.startswith(action) for done in actions), action
    marks = [line for line in lines if line["type"] == "mark" and line["answer_id"] == answer]
    assert [mark["kind"] for mark in marks] == ["model", "human"]
    assert marks[1]["author"] == "anyone"
    assert marks[0]["verdicts"][0].keys() == {
        "id", "held", "probability", "raw", "needs_review", "outcome"
    }  # fmt: skip
    assert "sings" not in sent.text
    assert "Bird" not in sent.text
    assert client.get("/courses/none/audit").status_code == 404


def test_a_long_log_comes_in_pages(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    school = ClassInStore(any_store)
    for number in range(5):
        school.answer(f"Answer {number}")
    whole = list(store_privacy.audit(any_store, "c"))
    monkeypatch.setattr(store_privacy, "_PAGE", 2)
    assert list(store_privacy.audit(any_store, "c")) == whole
    assert len([line for line in whole if line["type"] == "mark"]) == 5


# Retention


def age(store: Store, course: str, days: float) -> None:
    """Let everything of a course have happened so many days ago."""
    back = days * 86_400
    with store.write() as tx:
        for table, column, within in (
            (courses, courses.c.created_at, courses.c.id == course),
            (events, events.c.at, events.c.course_id == course),
            (jobs, jobs.c.created_at, jobs.c.course_id == course),
        ):
            tx.execute(sa.update(table).where(within).values({column: column - back}))


def test_what_is_due_goes_and_nothing_else(any_store: Store) -> None:
    for course, days in (("old", 400), ("new", 300), ("short", 40), ("long", 4000)):
        ClassInStore(any_store, course).answer(f"canary of {course}")
        age(any_store, course, days)
    with any_store.write() as tx:
        for course, days in (("short", 30), ("long", 10_000)):
            tx.execute(sa.update(courses).where(courses.c.id == course).values(retention_days=days))
    assert store_privacy.purge(any_store, 0) == 1, "only what says so itself"
    assert store_privacy.purge(any_store, 365) == 1
    assert store_privacy.purge(any_store, 365) == 0
    with any_store.read() as tx:
        assert sorted(tx.scalars(sa.select(courses.c.id))) == ["long", "new"]


def test_a_course_that_is_used_stays(any_store: Store) -> None:
    ClassInStore(any_store)
    age(any_store, "c", 500)
    with TestClient(create_app(ScriptedEngine(), ServerSettings(retention_days=0), any_store)) as c:
        assert c.patch("/courses/c", json={"name": "Again"}).status_code == 200
    assert store_privacy.purge(any_store, 365) == 0


def test_the_server_purges_when_it_starts(any_store: Store) -> None:
    ClassInStore(any_store)
    age(any_store, "c", 366)
    with TestClient(create_app(ScriptedEngine(), ServerSettings(), any_store)) as client:
        wait_until(lambda: client.get("/courses/c").status_code == 404)


async def test_a_store_in_trouble_is_tried_again(
    any_store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from llmarking.server.routes import privacy as server_privacy

    tries: list[int] = []

    def purge(store: Store, days: int) -> int:
        tries.append(days)
        if len(tries) == 1:
            raise StoreError("the disk is full")
        return 0

    monkeypatch.setattr(store_privacy, "purge", purge)
    monkeypatch.setattr(server_privacy, "RETRY_SECONDS", 0.01)
    app = create_app(ScriptedEngine(), ServerSettings(retention_days=9), any_store)
    async with server_privacy.purging(app):
        async with asyncio.timeout(10):
            while len(tries) < 2:  # noqa: ASYNC110 - it is filled in another thread
                await asyncio.sleep(0.005)
    assert tries == [9, 9]
    assert "the disk is full" in caplog.text


# Annotation


@pytest.mark.parametrize("table", METADATA.sorted_tables, ids=lambda table: table.name)
def test_every_table_says_what_is_personal_in_it(table: sa.Table) -> None:
    assert "pii" in table.info, "name its columns with personal data, or say () if there are none"
    assert set(table.info["pii"]) <= {column.name for column in table.columns}


def test_what_is_personal_is_where_the_tables_say(client: TestClient, any_store: Store) -> None:
    """Every column that a canary reached is annotated."""
    sing(client, others=2)
    silent = []
    with any_store.read() as tx:
        for table in METADATA.sorted_tables:
            for row in tx.execute(sa.select(table)).mappings():
                for name, value in row.items():
                    text = bytes(value) if isinstance(value, bytes | memoryview) else str(value)
                    told = CANARY in (text if isinstance(text, str) else text.decode("latin-1"))
                    if told and name not in table.info["pii"]:
                        silent.append(f"{table.name}.{name}")
    assert silent == []
