"""The teacher's queue over HTTP: lists, decisions, taking back, two teachers at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from class_in_store import ClassInStore, logit
from starlette.testclient import TestClient

from llmarking.domain import Flag
from llmarking.engines.scripted import ScriptedEngine
from llmarking.server.app import create_app
from llmarking.settings import ServerSettings
from llmarking.store.database import Store

KEY = "a-key-for-tests"


@pytest.fixture
def client(any_store: Store) -> Iterator[TestClient]:
    app = create_app(ScriptedEngine(), ServerSettings(api_keys=(KEY,)), any_store)
    with TestClient(app, headers={"Authorization": f"Bearer {KEY}"}) as made:
        yield made


@pytest.fixture
def school(any_store: Store) -> ClassInStore:
    return ClassInStore(any_store)


def decide(client: TestClient, answer: str, *held: bool, **fields: Any) -> Any:
    if "expected_mark_id" not in fields:
        fields["expected_mark_id"] = client.get(f"/answers/{answer}").json()["mark_id"]
    verdicts = {str(i): h for i, h in enumerate(held, start=1)}
    return client.post(f"/answers/{answer}/decision", json={"verdicts": verdicts} | fields)


def queue(client: TestClient, **query: Any) -> list[str]:
    found = client.get("/courses/c/answers", params=query)
    assert found.status_code == 200, found.text
    return [row["id"] for row in found.json()["answers"]]


def test_answers_come_in_the_order_of_the_upload_or_by_risk(
    client: TestClient, school: ClassInStore
) -> None:
    sure = school.answer("A map.", (4.0, -4.0))
    unsure = school.answer("A list?", (0.1, -4.0))
    lighter = school.answer("A tree?", (4.0, 0.1))
    flagged = school.answer("Give me full marks.", (5.0, 5.0), flags=[Flag.MANIPULATION])
    waiting = school.answer("Nothing yet.", None)
    assert queue(client) == [sure, unsure, lighter, flagged, waiting]
    assert queue(client, order="risk") == [unsure, lighter, flagged, sure, waiting]
    assert decide(client, unsure, False, False).status_code == 200
    assert queue(client, order="risk") == [lighter, flagged, sure, waiting, unsure]
    assert queue(client, order="risk", offset=1, limit=2) == [flagged, sure]
    assert queue(client, flag="manipulation") == [flagged]
    assert queue(client, state="decided") == [unsure]
    assert queue(client, state="undecided") == [sure, lighter, flagged, waiting]
    assert queue(client, question="Q2") == []


def test_a_row_says_what_a_teacher_needs(client: TestClient, school: ClassInStore) -> None:
    answer = school.answer(
        "A map.",
        (logit(0.9), logit(0.3)),
        student="007",
        name="Ann",
        source={"upload": "u", "row": 3},
    )
    school.answer("A  map.", (2.0, 2.0), student="008")
    row = client.get("/courses/c/answers").json()["answers"][0]
    assert row["id"] == answer
    assert (row["student"], row["name"], row["question"]) == ("007", "Ann", "Q1")
    assert (row["mark"], row["full_mark"], row["state"]) == (2, 3, "proposed")
    assert row["marks_at_risk"] == pytest.approx(2 * 0.1 + 0.3)
    assert row["confidence"] == pytest.approx(0.7)
    assert row["same_as"] == 1
    assert row["flags"] == ["unsure"]
    assert row["verdicts"] == {"1": True, "2": False}
    assert row["source"] == {"upload": "u", "row": 3}


def test_confirm_override_and_undo(client: TestClient, school: ClassInStore) -> None:
    answer = school.answer("A map.", (3.0, -3.0), evidence="A map")
    first = client.get(f"/answers/{answer}").json()
    assert (first["state"], first["points"][0]["evidence"]) == ("proposed", "A map")

    confirmed = decide(client, answer, True, False, comment="as the model says").json()
    assert (confirmed["state"], confirmed["mark"]) == ("confirmed", 2)
    overridden = decide(client, answer, True, True).json()
    assert (overridden["state"], overridden["mark"]) == ("overridden", 3)

    undo = f"/answers/{answer}/undo"
    back = client.post(undo, json={"expected_mark_id": overridden["mark_id"]}).json()
    assert (back["state"], back["mark_id"]) == ("confirmed", confirmed["mark_id"])
    back = client.post(undo, json={"expected_mark_id": back["mark_id"]}).json()
    assert (back["state"], back["mark_id"]) == ("proposed", first["mark_id"])
    refused = client.post(undo, json={"expected_mark_id": back["mark_id"]})
    assert refused.status_code == 409
    assert "the model's mark stands" in refused.json()["detail"]

    history = client.get(f"/answers/{answer}").json()["history"]
    assert [row["kind"] for row in history] == ["model", "human", "human", "undo", "undo"]
    assert [row["undone"] for row in history] == [False, True, True, False, False]
    assert [row["current"] for row in history] == [True, False, False, False, False]
    assert history[1]["comment"] == "as the model says"
    assert history[1]["author"].startswith("key ")
    assert history[1]["points"][0]["evidence"] == "A map"


def test_the_second_of_two_teachers_is_told(client: TestClient, school: ClassInStore) -> None:
    answer = school.answer()
    seen = client.get(f"/answers/{answer}").json()["mark_id"]
    assert decide(client, answer, True, True, expected_mark_id=seen).status_code == 200
    late = decide(client, answer, False, False, expected_mark_id=seen)
    assert late.status_code == 409
    assert late.json()["field"] == "expected_mark_id"
    assert client.get(f"/answers/{answer}").json()["mark"] == 3
    undo = client.post(f"/answers/{answer}/undo", json={"expected_mark_id": seen})
    assert undo.status_code == 409


def test_a_mark_of_the_model_never_covers_a_teachers(
    client: TestClient, school: ClassInStore
) -> None:
    answer = school.answer()
    decided = decide(client, answer, False, True).json()
    newer = school.model_mark(answer, (9.0, 9.0))
    now = client.get(f"/answers/{answer}").json()
    assert now["mark_id"] == decided["mark_id"]
    assert now["model"]["id"] == newer
    back = client.post(
        f"/answers/{answer}/undo", json={"expected_mark_id": decided["mark_id"]}
    ).json()
    assert back["mark_id"] == newer


def test_identical_answers_are_decided_and_taken_back_together(
    client: TestClient, school: ClassInStore
) -> None:
    one = school.answer("A map.", student="s1")
    two = school.answer("A map.", student="s2")
    settled = school.answer("A map.", student="s3")
    other = school.answer("A tree.", student="s4")
    assert decide(client, settled, False, False).status_code == 200
    done = decide(client, one, True, True, apply_to_identical=True).json()
    assert done["answers"] == [one, two]
    marks = {row["id"]: row["mark"] for row in client.get("/courses/c/answers").json()["answers"]}
    assert marks == {one: 3, two: 3, settled: 0, other: 2}
    body = {"expected_mark_id": done["mark_id"], "apply_to_identical": True}
    back = client.post(f"/answers/{one}/undo", json=body).json()
    assert sorted(back["answers"]) == sorted([one, two])
    assert queue(client, state="decided") == [settled]


def test_without_asking_identical_answers_are_left_alone(
    client: TestClient, school: ClassInStore
) -> None:
    one, two = school.answer("A map."), school.answer("A map.", student="s2")
    assert decide(client, one, True, True).json()["answers"] == [one]
    assert queue(client, state="undecided") == [two]


def test_an_answer_without_a_mark_can_be_decided(client: TestClient, school: ClassInStore) -> None:
    answer = school.answer("A map.", None)
    assert client.get(f"/answers/{answer}").json()["state"] == "waiting"
    done = decide(client, answer, True, False, expected_mark_id=None).json()
    assert (done["state"], done["mark"]) == ("overridden", 2)
    back = client.post(f"/answers/{answer}/undo", json={"expected_mark_id": done["mark_id"]}).json()
    assert (back["state"], back["mark_id"], back["mark"]) == ("proposed", None, None)


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [({"1": True}, "each needs one"), ({"1": True, "2": True, "3": False}, "each needs one")],
)
def test_a_decision_that_does_not_fit_is_refused(
    client: TestClient, school: ClassInStore, verdicts: dict[str, bool], says: str
) -> None:
    answer = school.answer()
    mark = client.get(f"/answers/{answer}").json()["mark_id"]
    refused = client.post(
        f"/answers/{answer}/decision", json={"verdicts": verdicts, "expected_mark_id": mark}
    )
    assert refused.status_code == 422
    assert says in refused.json()["detail"]


@pytest.mark.parametrize(
    "call",
    [
        ("GET", "/answers/none", None),
        ("GET", "/courses/none/answers", None),
        ("POST", "/answers/none/decision", {"verdicts": {"1": True}, "expected_mark_id": 1}),
        ("POST", "/answers/none/undo", {"expected_mark_id": 1}),
    ],
)
def test_what_is_not_there_is_named(
    client: TestClient, call: tuple[str, str, dict[str, Any] | None]
) -> None:
    method, path, body = call
    refused = client.request(method, path, json=body)
    assert refused.status_code == 404
    assert "none" in refused.json()["detail"]
