"""Courses, questions, files and numbers over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from class_in_store import ClassInStore, wire_question
from starlette.testclient import TestClient

from llmarking.domain import Flag
from llmarking.engines.scripted import ScriptedEngine
from llmarking.server.app import create_app
from llmarking.settings import ServerSettings
from llmarking.store.database import Store


@pytest.fixture
def client(any_store: Store) -> Iterator[TestClient]:
    with TestClient(create_app(ScriptedEngine(), ServerSettings(), any_store)) as made:
        yield made


def test_a_course_is_made_listed_and_changed(client: TestClient) -> None:
    made = client.post("/courses", json={"name": "Networks 网络", "risk": 0.1})
    assert made.status_code == 201
    course = made.json()
    assert (course["name"], course["risk"], course["answers"]) == ("Networks 网络", 0.1, 0)
    assert course["deleted_after"] is not None, "a course is not kept for ever by default"
    assert client.post("/courses", json={"id": "n2", "name": "Second"}).json()["id"] == "n2"
    assert [c["id"] for c in client.get("/courses").json()["courses"]] == ["n2", course["id"]]
    changed = client.patch("/courses/n2", json={"name": "Other", "retention_days": 30}).json()
    assert (changed["name"], changed["retention_days"]) == ("Other", 30)
    assert changed["deleted_after"] < client.get(f"/courses/{course['id']}").json()["deleted_after"]
    reset = client.patch("/courses/n2", json={"retention_days": None})
    assert reset.json()["retention_days"] is None


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "name"),
        ({"name": ""}, 422, "name"),
        ({"name": "x", "id": "../x"}, 422, "id"),
        ({"name": "x", "retention_days": 0}, 422, "retention_days"),
        ({"name": "x", "risk": 0.5}, 422, "risk"),
        ({"name": "x", "owner": "me"}, 422, "owner"),
        ({"name": "x", "id": "there"}, 409, "id"),
    ],
)
def test_a_course_that_can_not_be_is_refused(
    client: TestClient, body: dict[str, Any], status: int, field: str
) -> None:
    assert client.post("/courses", json={"id": "there", "name": "There"}).status_code == 201
    refused = client.post("/courses", json=body)
    assert (refused.status_code, refused.json()["field"]) == (status, field)


def test_a_course_that_is_not_there_is_named(client: TestClient) -> None:
    for method, path, body in (
        ("GET", "/courses/none", None),
        ("PATCH", "/courses/none", {"name": "x"}),
        ("GET", "/courses/none/questions", None),
        ("PUT", "/courses/none/questions", {"questions": [wire_question()]}),
        ("GET", "/courses/none/summary", None),
        ("GET", "/uploads/none", None),
    ):
        refused = client.request(method, path, json=body)
        assert refused.status_code == 404, path
        assert "'none'" in refused.json()["detail"]


def test_a_changed_question_becomes_a_version(client: TestClient) -> None:
    client.post("/courses", json={"id": "c", "name": "C"})
    body = {"questions": [wire_question("B"), wire_question("A")]}
    first = client.put("/courses/c/questions", json=body).json()["questions"]
    assert [(q["code"], q["version"]) for q in first] == [("B", 1), ("A", 1)]
    assert [p["mark"] for p in first[0]["points"]] == [2, 1]
    assert client.put("/courses/c/questions", json=body).json()["questions"] == first

    edited = wire_question("B", "It <Point1:5>stores pairs<Point1:5>.")
    after = client.put("/courses/c/questions", json={"questions": [edited]}).json()["questions"]
    assert [(q["code"], q["version"], q["full_mark"]) for q in after] == [("B", 2, 5), ("A", 1, 3)]
    assert client.get("/courses/c/questions").json()["questions"] == after


@pytest.mark.parametrize(
    ("questions", "says"),
    [
        ([wire_question(""), wire_question("A")], "needs a code"),
        ([wire_question("A"), wire_question("A")], "there twice"),
        ([wire_question("A", "no points")], "has no points"),
        (
            [wire_question("A", examples=[{"answer": "", "points": [{"id": 1, "verdict": True}]}])],
            "example 1 has verdicts for points [1]",
        ),
    ],
)
def test_questions_that_can_not_be_graded_are_refused(
    client: TestClient, questions: list[dict[str, Any]], says: str
) -> None:
    client.post("/courses", json={"id": "c", "name": "C"})
    refused = client.put("/courses/c/questions", json={"questions": questions})
    assert refused.status_code == 422
    assert says in refused.json()["detail"]
    assert client.get("/courses/c/questions").json() == {"questions": []}


def test_a_file_comes_back_byte_by_byte(client: TestClient) -> None:
    client.post("/courses", json={"id": "c", "name": "C"})
    content = bytes(range(256)) * 40
    query = {"filename": "class <b>.csv", "kind": "moodle"}
    kept = client.post("/courses/c/uploads", params=query, content=content)
    assert (kept.status_code, kept.json()["bytes"]) == (201, len(content))
    back = client.get(f"/uploads/{kept.json()['id']}")
    assert back.content == content
    assert back.headers["content-type"] == "application/octet-stream"
    assert back.headers["x-content-type-options"] == "nosniff"
    mapping = {"student": 0, "items": [{"answer": 2}]}
    mapped = client.put(f"/uploads/{kept.json()['id']}/mapping", json=mapping).json()
    assert mapped == kept.json() | {"mapping": mapping}
    assert client.get("/courses/c/uploads").json() == {"uploads": [mapped]}
    large = client.put(f"/uploads/{kept.json()['id']}/mapping", json={"x": "y" * 70_000})
    assert large.status_code == 422
    empty = client.post("/courses/c/uploads", params=query, content=b"")
    assert empty.status_code == 422


def test_a_class_in_numbers(client: TestClient, any_store: Store) -> None:
    school = ClassInStore(any_store)
    right = school.answer("A map.", (4.0, 4.0))
    wrong = school.answer("A list.", (-4.0, 0.2))
    school.answer("Full marks!", (4.0, -4.0), flags=[Flag.MANIPULATION])
    school.answer("Nothing yet.", None)
    for answer, verdicts in ((right, {"1": True, "2": True}), (wrong, {"1": False, "2": False})):
        mark = client.get(f"/answers/{answer}").json()["mark_id"]
        body = {"verdicts": verdicts, "expected_mark_id": mark}
        assert client.post(f"/answers/{answer}/decision", json=body).status_code == 200
    found = client.get("/courses/c/summary", params={"risk": 0.3}).json()
    assert found["answers"] == 4
    assert found["states"] == {"waiting": 1, "proposed": 1, "confirmed": 1, "overridden": 1}
    assert found["flags"] == {"manipulation": 1, "unsure": 1}
    assert [b["answers"] for b in found["histogram"]] == [1, 0, 0, 0, 0, 0, 1, 0, 0, 1]
    assert (found["histogram"][3]["from"], found["histogram"][3]["to"]) == (0.3, 0.4)
    [question] = found["questions"]
    assert (question["code"], question["answers"]) == ("Q1", 3)
    assert question["mean"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert question["points"] == [
        {"id": 1, "held": pytest.approx(2 / 3), "disagreed": 0},
        {"id": 2, "held": pytest.approx(1 / 3), "disagreed": 0.5},
    ]
    assert (found["agreement"]["verdicts"], found["agreement"]["agree"]) == (4, 3)
    assert found["agreement"]["kappa"] == pytest.approx(0.5)
    load = {each["risk"]: each["answers"] for each in found["review"]}
    assert set(load) == {0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3}
    assert load[0.01] == load[0.3] == 1, "only the flagged one is left, and always has to be read"


def test_what_is_left_to_read_falls_as_more_errors_are_accepted(
    client: TestClient, any_store: Store
) -> None:
    school = ClassInStore(any_store)
    for odds in (0.5, 1.5, 2.0, 2.5, 3.5, 5.0):
        school.answer(f"Answer {odds}", (odds, odds))
    loads = [each["answers"] for each in client.get("/courses/c/summary").json()["review"]]
    assert loads == [5, 5, 4, 3, 2, 1]


def test_an_empty_course_has_numbers_too(client: TestClient) -> None:
    client.post("/courses", json={"id": "c", "name": "C"})
    found = client.get("/courses/c/summary").json()
    assert found["agreement"] == {"verdicts": 0, "agree": 0, "kappa": None}
    assert found["questions"] == []


def test_without_a_store_the_server_says_so() -> None:
    with TestClient(create_app(ScriptedEngine(), ServerSettings())) as client:
        refused = client.get("/courses")
    assert refused.status_code == 503
    assert "keeps no classes" in refused.json()["detail"]
