"""A course's own calibration over HTTP: what would change, and what does when it is applied."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa
from class_in_store import ClassInStore
from starlette.testclient import TestClient

from llmarking.engines.scripted import ScriptedEngine
from llmarking.grading.grader import GradeOptions, Grader, Setup
from llmarking.server.app import create_app
from llmarking.settings import ServerSettings
from llmarking.store.database import Store
from llmarking.store.job_marks import configuration
from llmarking.store.schema import marks


@pytest.fixture
def client(any_store: Store) -> Iterator[TestClient]:
    with TestClient(create_app(ScriptedEngine(), ServerSettings(), any_store)) as made:
        yield made


@pytest.fixture
def strict(client: TestClient, any_store: Store) -> ClassInStore:
    """Forty answers that the model finds good; of three in four the teacher says which are."""
    school = ClassInStore(any_store)
    for number in range(40):
        odds = 1.0 + number / 20
        answer = school.answer(f"Answer {number}", (odds, -2.0), student=f"s{number}")
        if number % 4:
            decide(client, answer, number >= 24, False)
    return school


def decide(client: TestClient, answer: str, *held: bool) -> None:
    mark = client.get(f"/answers/{answer}").json()["mark_id"]
    verdicts = {str(i): h for i, h in enumerate(held, start=1)}
    body = {"verdicts": verdicts, "expected_mark_id": mark}
    assert client.post(f"/answers/{answer}/decision", json=body).status_code == 200


def table(client: TestClient) -> dict[str, tuple[Any, ...]]:
    rows = client.get("/courses/c/answers", params={"limit": 1000}).json()["answers"]
    return {row["id"]: (row["state"], row["mark"], row["mark_id"]) for row in rows}


def everything(store: Store) -> list[Any]:
    with store.read() as tx:
        return [tuple(map(str, row)) for row in tx.execute(sa.select(marks).order_by(marks.c.id))]


def test_a_proposal_changes_nothing(
    client: TestClient, strict: ClassInStore, any_store: Store
) -> None:
    before, log = table(client), everything(any_store)
    made = client.post("/courses/c/calibration")
    assert made.status_code == 201
    refit = made.json()
    assert refit["state"] == "proposed"
    assert refit["verdicts"] == 60
    assert refit["changed_count"] == len(refit["changed"]) > 0
    assert {(c["from"], c["to"], c["point"]) for c in refit["changed"]} == {(True, False, 1)}
    undecided = {answer for answer, row in before.items() if row[0] == "proposed"}
    assert {c["answer"] for c in refit["changed"]} <= undecided
    assert (table(client), everything(any_store)) == (before, log)


def test_applying_does_what_was_said_and_no_more(
    client: TestClient, strict: ClassInStore, any_store: Store
) -> None:
    refit = client.post("/courses/c/calibration").json()
    assert client.get(f"/courses/c/calibration/{refit['id']}").json() == refit
    before, log = table(client), everything(any_store)
    done = client.post(f"/courses/c/calibration/{refit['id']}/apply").json()
    assert (done["state"], done["answers"]) == ("applied", 10)
    after = table(client)
    turned = {c["answer"] for c in refit["changed"]}
    for answer, (state, mark, mark_id) in before.items():
        if state != "proposed":
            assert after[answer] == (state, mark, mark_id), "a teacher's mark was touched"
        else:
            assert after[answer][1] == (0 if answer in turned else mark)
            assert after[answer][2] > mark_id
    assert everything(any_store)[: len(log)] == log, "what was there has changed"
    load = client.get("/courses/c/summary").json()["review"]
    assert {each["risk"]: each["answers"] for each in load}[0.05] == refit["review_after"]
    again = client.post(f"/courses/c/calibration/{refit['id']}/apply")
    assert again.status_code == 409


def test_later_jobs_use_it(client: TestClient, strict: ClassInStore, any_store: Store) -> None:
    grader = client.app.state.service.grader  # type: ignore[attr-defined]

    def used() -> Any:
        with any_store.read() as tx:
            return configuration(tx, "c", grader, GradeOptions())["calibration"]

    assert used() is None
    refit = client.post("/courses/c/calibration").json()
    assert used() is None, "a proposal counts for nothing"
    client.post(f"/courses/c/calibration/{refit['id']}/apply")
    found = used()
    assert (found["slope"], found["offset"]) == (refit["slope"], refit["offset"])


def test_what_other_weights_of_that_name_had_read_is_left_out(
    client: TestClient, any_store: Store
) -> None:
    """An adapter is retrained: the teacher's verdicts on what the old one read tell nothing."""
    school = ClassInStore(any_store)
    for number in range(60):
        odds = 1.0 + number / 20
        answer = school.answer(f"Answer {number}", None, student=f"s{number}")
        version = "old" if number < 24 else "new"
        school.model_mark(answer, (odds, -2.0), adapter=("mine", version))
        if number % 4:
            decide(client, answer, number >= 40, False)
    refit = client.post("/courses/c/calibration").json()
    assert refit["verdicts"] == 2 * 27  # of the new weights only
    undecided = {
        row["id"]: row["position"]
        for row in client.get("/courses/c/answers", params={"limit": 1000}).json()["answers"]
        if row["state"] == "proposed"
    }
    assert {undecided[c["answer"]] >= 24 for c in refit["changed"]} == {True}
    done = client.post(f"/courses/c/calibration/{refit['id']}/apply").json()
    assert done["answers"] == 9

    def used(adapter: str | None, version: str | None, revision: str = "") -> Any:
        setup = Setup("scripted", revision, adapter, "verdict/zeroshot.v1", None, version)
        grader = cast(Grader, SimpleNamespace(setup=lambda options: setup))
        with any_store.read() as tx:
            return configuration(tx, "c", grader, GradeOptions())["calibration"]

    assert used("mine", "new")["slope"] == refit["slope"]
    others = (("mine", "old"), ("mine", None), ("other", "new"), (None, None))
    assert [used(*other) for other in others] == [None] * 4
    assert used("mine", "new", "another revision") is None


def test_discarding_leaves_everything(
    client: TestClient, strict: ClassInStore, any_store: Store
) -> None:
    refit, log = client.post("/courses/c/calibration").json(), everything(any_store)
    done = client.post(f"/courses/c/calibration/{refit['id']}/discard").json()
    assert done["state"] == "discarded"
    assert everything(any_store) == log
    assert client.post(f"/courses/c/calibration/{refit['id']}/apply").status_code == 409


def test_a_newer_proposal_takes_the_place_of_the_one_before(
    client: TestClient, strict: ClassInStore
) -> None:
    first = client.post("/courses/c/calibration").json()["id"]
    second = client.post("/courses/c/calibration").json()["id"]
    assert client.post(f"/courses/c/calibration/{first}/apply").status_code == 409
    assert client.post(f"/courses/c/calibration/{second}/apply").status_code == 200


def test_a_mark_under_a_teachers_stays_as_it_was(
    client: TestClient, strict: ClassInStore, any_store: Store
) -> None:
    """Taken back after a refit, the model's mark is the one the teacher had before her."""
    refit = client.post("/courses/c/calibration").json()
    client.post(f"/courses/c/calibration/{refit['id']}/apply")
    first = client.get("/courses/c/answers").json()["answers"][1]
    before = client.get(f"/answers/{first['id']}").json()["history"][0]["id"]
    back = client.post(
        f"/answers/{first['id']}/undo", json={"expected_mark_id": first["mark_id"]}
    ).json()
    assert back["mark_id"] == before


def test_too_little_to_go_by_is_said(client: TestClient, any_store: Store) -> None:
    school = ClassInStore(any_store)
    empty = client.post("/courses/c/calibration")
    assert empty.status_code == 422
    assert "no marks whose probabilities" in empty.json()["detail"]
    answer = school.answer()
    none = client.post("/courses/c/calibration")
    assert "decide some answers first" in none.json()["detail"]
    decide(client, answer, True, True)
    few = client.post("/courses/c/calibration")
    assert "2 confirmed verdicts are too few" in few.json()["detail"]


def test_what_is_not_there_is_named(client: TestClient, any_store: Store) -> None:
    ClassInStore(any_store)
    for path in (
        "/courses/none/calibration",
        "/courses/c/calibration/none/apply",
        "/courses/c/calibration/none/discard",
    ):
        refused = client.post(path)
        assert refused.status_code == 404
        assert "'none'" in refused.json()["detail"]
