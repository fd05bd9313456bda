"""An edited rubric over HTTP: the trial, what it reads, who would change, apply and discard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from class_in_store import wire_question
from conftest import wait_until
from starlette.testclient import TestClient

from llmarking.engines.scripted import ScriptedEngine
from llmarking.server.app import create_app
from llmarking.settings import ServerSettings
from llmarking.store.courses import newest_questions
from llmarking.store.database import Store
from llmarking.store.schema import jobs, marks

ANSWERS = [
    "It stores pairs.",
    "It finds a key at once.",
    "It stores pairs and finds a key at once.",
    "It stores pairs in buckets.",
]
FIRST = "It <Point1:2>stores pairs<Point1:2> and <Point2:1>finds a key at once<Point2:1>."
OTHER_MARKS = "It <Point1:3>stores pairs<Point1:3> and <Point2:1>finds a key at once<Point2:1>."
OTHER_WORDS = "It <Point1:2>stores pairs<Point1:2> <Point2:1>in buckets<Point2:1>."


class Reader(ScriptedEngine):
    """Holds a point true if the answer has its very words; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(odds=self.decide)

    def decide(self, prompt: str) -> float:
        point = re.findall(r"\d+\. ([^\n]*?) =", prompt)[-1]
        answer = prompt.rsplit("Student's answer: ", 1)[1]
        text = answer.partition("1. ")[0]
        self.asked.append(f"{text.strip()}|{point}")
        return 4.0 if point in text else -4.0


@pytest.fixture
def engine() -> Reader:
    return Reader()


@pytest.fixture
def client(any_store: Store, engine: Reader) -> Iterator[TestClient]:
    """A server that has graded a small class."""
    with TestClient(create_app(engine, ServerSettings(), any_store)) as made:
        wait_until(lambda: made.get("/health/ready").status_code == 200)
        body = {
            "course": {"id": "c", "name": "C"},
            "questions": [wire_question("Q1", FIRST), wire_question("Q2", FIRST, text="Why?")],
            "answers": [
                {"student": f"s{n}", "question": code, "text": text}
                for code in ("Q1", "Q2")
                for n, text in enumerate(ANSWERS)
            ],
        }
        job = made.post("/jobs", json=body).json()
        wait_until(lambda: made.get(f"/jobs/{job['id']}").json()["state"] == "finished")
        engine.asked.clear()
        yield made


def regrade(client: TestClient, reference: str, code: str = "Q1", **fields: Any) -> dict[str, Any]:
    body = {"questions": [wire_question(code, reference, **fields)], "dry_run": True}
    made = client.post("/courses/c/regrade", json=body)
    assert made.status_code == 202, made.text
    path = f"/regrades/{made.json()['id']}"
    wait_until(lambda: client.get(path).json()["state"] != "reading")
    found: dict[str, Any] = client.get(path).json()
    return found


def table(client: TestClient) -> list[tuple[Any, ...]]:
    rows = client.get("/courses/c/answers").json()["answers"]
    return [(r["question"], r["student"], r["mark"], r["full_mark"], r["state"]) for r in rows]


def changes(found: dict[str, Any]) -> dict[str, tuple[float, float, bool]]:
    return {c["student"]: (c["mark_before"], c["mark_after"], c["kept"]) for c in found["changed"]}


def decide(client: TestClient, place: int, *held: bool) -> None:
    row = client.get("/courses/c/answers").json()["answers"][place]
    verdicts = {str(i): h for i, h in enumerate(held, start=1)}
    body = {"verdicts": verdicts, "expected_mark_id": row["mark_id"]}
    assert client.post(f"/answers/{row['id']}/decision", json=body).status_code == 200


def test_where_only_marks_change_nothing_is_read(client: TestClient, engine: Reader) -> None:
    before = table(client)
    found = regrade(client, OTHER_MARKS)
    assert (found["state"], found["total"], found["touched"]) == ("proposed", 0, 4)
    assert changes(found) == {
        "s0": (2, 3, False),
        "s1": (1, 1, False),
        "s2": (3, 4, False),
        "s3": (2, 3, False),
    }
    assert {c["full_mark_after"] for c in found["changed"]} == {4}
    assert table(client) == before, "a trial changes nothing"
    assert client.get("/courses/c/questions").json()["questions"][0]["version"] == 1
    assert engine.asked == []


def test_only_what_a_change_touches_is_read_again(client: TestClient, engine: Reader) -> None:
    found = regrade(client, OTHER_WORDS)
    assert (found["total"], found["read"], found["touched"]) == (4, 4, 4)
    assert all("Why?" not in asked for asked in engine.asked)
    assert changes(found) == {"s1": (1, 0, False), "s2": (3, 2, False), "s3": (2, 3, False)}


def test_applying_does_what_was_said(client: TestClient, any_store: Store) -> None:
    found = regrade(client, OTHER_WORDS)
    with any_store.read() as tx:
        log = [str(row) for row in tx.execute(sa.select(marks).order_by(marks.c.id))]
    done = client.post(f"/regrades/{found['id']}/apply").json()
    assert done["state"] == "applied"
    assert [row[2] for row in table(client)] == [2, 0, 2, 3, 2, 1, 3, 2]
    assert client.get("/courses/c/questions").json()["questions"][0]["version"] == 2
    detail = client.get("/courses/c/answers").json()["answers"][3]
    history = client.get(f"/answers/{detail['id']}").json()["history"]
    assert [(m["question_version"], m["mark"]) for m in history] == [(1, 2), (2, 3)]
    with any_store.read() as tx:
        now = [str(row) for row in tx.execute(sa.select(marks).order_by(marks.c.id))]
    assert now[: len(log)] == log, "what was there has changed"
    assert client.post(f"/regrades/{found['id']}/apply").status_code == 409
    again = client.post(
        "/courses/c/regrade", json={"questions": [wire_question("Q1", OTHER_WORDS)]}
    )
    assert again.status_code == 422
    assert "no mark would be touched" in again.json()["detail"]


def test_a_teachers_mark_stays_and_is_shown(client: TestClient) -> None:
    decide(client, 0, True, True)
    found = regrade(client, OTHER_WORDS)
    assert changes(found)["s0"] == (3, 2, True)
    assert (found["changed_count"], found["kept_count"]) == (3, 1)
    client.post(f"/regrades/{found['id']}/apply")
    first = client.get("/courses/c/answers").json()["answers"][0]
    assert (first["mark"], first["state"]) == (3, "overridden")
    undone = client.post(
        f"/answers/{first['id']}/undo", json={"expected_mark_id": first["mark_id"]}
    ).json()
    assert undone["mark"] == 2, "beneath it lies the mark by the new rubric"
    assert client.get(f"/answers/{first['id']}").json()["question_version"] == 2


def test_a_decision_made_while_it_was_looked_at_stands(client: TestClient) -> None:
    found = regrade(client, OTHER_WORDS)
    decide(client, 1, True, True)
    client.post(f"/regrades/{found['id']}/apply")
    assert table(client)[1][2:] == (3, 3, "overridden")


def test_discarding_leaves_everything(client: TestClient) -> None:
    before = table(client)
    found = regrade(client, OTHER_WORDS)
    done = client.post(f"/regrades/{found['id']}/discard").json()
    assert done["state"] == "discarded"
    assert table(client) == before
    assert client.get("/courses/c/questions").json()["questions"][0]["version"] == 1
    assert client.post(f"/regrades/{found['id']}/apply").status_code == 409
    repeated = regrade(client, OTHER_WORDS)
    assert changes(repeated) == changes(found), "the same trial again finds the same"
    client.post(f"/regrades/{repeated['id']}/apply")
    assert client.get("/courses/c/questions").json()["questions"][0]["version"] == 3


def test_a_question_put_meanwhile_is_not_covered(client: TestClient) -> None:
    found = regrade(client, OTHER_WORDS)
    body = {"questions": [wire_question("Q1", OTHER_MARKS)]}
    assert client.put("/courses/c/questions", json=body).status_code == 200
    refused = client.post(f"/regrades/{found['id']}/apply")
    assert refused.status_code == 409
    assert "has been changed since" in refused.json()["detail"]


def test_marks_can_follow_a_question_that_was_put(client: TestClient) -> None:
    body = {"questions": [wire_question("Q1", OTHER_MARKS)]}
    client.put("/courses/c/questions", json=body)
    assert table(client)[0][2:4] == (2, 3)
    found = regrade(client, OTHER_MARKS)
    client.post(f"/regrades/{found['id']}/apply")
    assert table(client)[0][2:4] == (3, 4)
    assert client.get("/courses/c/questions").json()["questions"][0]["version"] == 2


def test_what_is_left_out_of_a_question_stays_as_it_was(
    client: TestClient, any_store: Store
) -> None:
    given = [{"id": 1, "verdict": True}, {"id": 2, "verdict": False}]
    example = {"answer": "Pairs.", "points": given}
    put = {"questions": [wire_question("Q1", FIRST, subject="Computing", examples=[example])]}
    assert client.put("/courses/c/questions", json=put).status_code == 200
    edited = {"code": "Q1", "text": "What is a hash table?", "reference": OTHER_MARKS}
    made = client.post("/courses/c/regrade", json={"questions": [edited]}).json()
    assert client.post(f"/regrades/{made['id']}/apply").status_code == 200
    with any_store.read() as tx:
        row = newest_questions(tx, "c")["Q1"]
    assert (row.reference, row.subject, len(row.examples)) == (OTHER_MARKS, "Computing", 1)


def test_a_job_on_the_old_questions_is_waited_for(client: TestClient, any_store: Store) -> None:
    found = regrade(client, OTHER_WORDS)
    with any_store.write() as tx:
        tx.execute(sa.update(jobs).where(jobs.c.kind == "grade").values(state="paused"))
    refused = client.post(f"/regrades/{found['id']}/apply")
    assert refused.status_code == 409
    assert "still grading" in refused.json()["detail"]


def test_it_can_not_be_applied_while_it_reads(client: TestClient, any_store: Store) -> None:
    found = regrade(client, OTHER_WORDS)
    with any_store.write() as tx:
        tx.execute(sa.update(jobs).where(jobs.c.id == found["id"]).values(state="paused"))
    assert client.get(f"/regrades/{found['id']}").json()["state"] == "reading"
    assert client.post(f"/regrades/{found['id']}/apply").status_code == 409
    assert client.post(f"/regrades/{found['id']}/discard").json()["state"] == "discarded"
    assert client.get(f"/jobs/{found['id']}").json()["state"] == "cancelled"


@pytest.mark.parametrize(
    ("question", "says"),
    [
        (wire_question("Q1", FIRST), "no mark would be touched"),
        (wire_question("Q9", FIRST), "no question 'Q9'"),
        (wire_question("Q1", "nothing"), "has no points"),
    ],
)
def test_what_can_not_be_tried_is_refused(
    client: TestClient, question: dict[str, Any], says: str
) -> None:
    refused = client.post("/courses/c/regrade", json={"questions": [question]})
    assert refused.status_code == 422
    assert says in refused.json()["detail"]
    listed = client.get("/courses/c/questions").json()["questions"]
    assert [q["version"] for q in listed] == [1, 1]


def test_what_is_not_there_is_named(client: TestClient) -> None:
    assert client.get("/regrades/none").status_code == 404
    job = client.get("/jobs").json()["jobs"][0]["id"]
    assert client.get(f"/regrades/{job}").status_code == 404, "a job that is no regrade"
    body = {"questions": [wire_question()]}
    assert client.post("/courses/none/regrade", json=body).status_code == 404
