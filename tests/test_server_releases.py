"""Links for students over HTTP: who can open what, and how an objection reaches the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from class_in_store import ClassInStore
from starlette.testclient import TestClient

from llmarking.engines.scripted import ScriptedEngine
from llmarking.server.app import create_app
from llmarking.settings import ServerSettings
from llmarking.store.database import Store
from llmarking.store.schema import METADATA

KEY = "a-key-for-tests"
HTML = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def student(any_store: Store) -> Iterator[TestClient]:
    """Somebody without a key."""
    app = create_app(ScriptedEngine(), ServerSettings(api_keys=(KEY,)), any_store)
    with TestClient(app, follow_redirects=False) as made:
        yield made


@pytest.fixture
def teacher(student: TestClient) -> TestClient:
    return TestClient(student.app, headers={"Authorization": f"Bearer {KEY}"})


@pytest.fixture
def school(any_store: Store) -> ClassInStore:
    made = ClassInStore(any_store)
    made.answer("A map.", (3.0, -3.0), student="s1", name="Ann", evidence="map")
    made.answer("A list.", (-3.0, -3.0), student="s2", name="Ben")
    made.answer("A tree.", (3.0, 3.0), student="s1")
    return made


def release(teacher: TestClient, **body: Any) -> dict[str, str]:
    made = teacher.post("/courses/c/release", json=body)
    assert made.status_code == 200, made.text
    return {link["student"]: link["path"] for link in made.json()["links"]}


def test_a_student_sees_her_own_and_nothing_else(
    teacher: TestClient, student: TestClient, school: ClassInStore
) -> None:
    made = teacher.post("/courses/c/release").json()
    assert (made["had_one"], made["undecided"], len(made["links"])) == (0, 3, 2)
    path = {link["student"]: link["path"] for link in made["links"]}["s1"]
    found = student.get(path).json()
    assert (found["course"], found["student"], found["name"]) == ("Data structures", "s1", "Ann")
    assert (found["mark"], found["full_mark"]) == (5, 6)
    assert [answer["text"] for answer in found["answers"]] == ["A map.", "A tree."]
    assert found["answers"][0]["points"][0]["evidence"] == "map"
    page = student.get(path, headers=HTML)
    assert page.headers["content-type"].startswith("text/html")
    assert "A map." in page.text
    assert "A list." not in page.text
    assert "5 out of 6" in page.text
    assert "你的成绩" in student.get(path, headers=HTML | {"Accept-Language": "zh"}).text


def test_a_page_leaves_no_traces(
    teacher: TestClient, student: TestClient, school: ClassInStore
) -> None:
    path = release(teacher)["s1"]
    for sent in (student.get(path), student.get(path, headers=HTML)):
        assert sent.headers["referrer-policy"] == "no-referrer"
        assert sent.headers["x-robots-tag"].startswith("noindex")
        assert sent.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in sent.headers["content-security-policy"]
        assert "script-src" not in sent.headers["content-security-policy"]


def test_only_the_hash_of_a_link_is_kept(
    teacher: TestClient, school: ClassInStore, any_store: Store
) -> None:
    token = release(teacher)["s1"].removeprefix("/results/")
    assert len(token) >= 40
    with any_store.read() as tx:
        for table in METADATA.sorted_tables:
            assert token not in str(tx.execute(sa.select(table)).all())


def test_links_are_made_once_and_can_be_renewed_and_taken_back(
    teacher: TestClient, student: TestClient, school: ClassInStore
) -> None:
    first = release(teacher)
    again = teacher.post("/courses/c/release").json()
    assert (again["links"], again["had_one"]) == ([], 2)
    second = release(teacher, renew=True)
    assert second.keys() == first.keys()
    assert student.get(first["s1"]).status_code == 404
    assert student.get(second["s1"]).status_code == 200
    assert teacher.get("/courses/c").json()["released_at"] is not None
    assert teacher.delete("/courses/c/release").status_code == 204
    assert student.get(second["s1"]).status_code == 404
    gone = student.get(second["s1"], headers=HTML)
    assert gone.status_code == 404
    assert "does not work (any more)" in gone.text
    assert teacher.get("/courses/c").json()["released_at"] is None


@pytest.mark.parametrize("path", ["/results/none", "/results/" + "x" * 5000, "/results/%00%ff"])
def test_a_guess_finds_nothing(student: TestClient, school: ClassInStore, path: str) -> None:
    assert student.get(path).status_code == 404


def test_everything_else_wants_a_key(student: TestClient, school: ClassInStore) -> None:
    for method, path in (
        ("POST", "/courses/c/release"),
        ("DELETE", "/courses/c/release"),
        ("POST", "/contests/x"),
        ("GET", "/results"),
        ("GET", "/courses"),
    ):
        assert student.request(method, path).status_code == 401


def test_an_objection_comes_first_in_the_queue(
    teacher: TestClient, student: TestClient, school: ClassInStore
) -> None:
    path = release(teacher)["s2"]
    answer = student.get(path).json()["answers"][0]["id"]
    form = {"answer": answer, "point": "2", "text": "I wrote\r\nthat it is fast."}
    sent = student.post(f"{path}/contest", data=form)
    assert (sent.status_code, sent.headers["location"]) == (303, f"{path}#{answer}")
    page = student.get(path, headers=HTML).text
    assert "waiting for your teacher" in page
    queue = teacher.get("/courses/c/answers", params={"order": "risk"}).json()["answers"]
    assert (queue[0]["id"], queue[0]["contested"]) == (answer, True)
    only = teacher.get("/courses/c/answers", params={"state": "contested"}).json()
    assert [row["id"] for row in only["answers"]] == [answer]
    assert teacher.get("/courses/c").json()["contested"] == 1

    [contest] = teacher.get(f"/answers/{answer}").json()["contests"]
    assert (contest["point"], contest["text"]) == (2, "I wrote\nthat it is fast.")
    closed = teacher.post(
        f"/contests/{contest['id']}", json={"state": "upheld", "comment": "It does not say so."}
    )
    assert closed.json()["state"] == "upheld"
    assert "It does not say so." in student.get(path, headers=HTML).text
    assert teacher.get("/courses/c").json()["contested"] == 0
    twice = teacher.post(f"/contests/{contest['id']}", json={"state": "changed"})
    assert twice.status_code == 409


def test_an_objection_as_json(
    teacher: TestClient, student: TestClient, school: ClassInStore
) -> None:
    path = release(teacher)["s2"]
    answer = student.get(path).json()["answers"][0]["id"]
    body: dict[str, Any] = {"answer": answer, "text": "All of it is right."}
    made = student.post(f"{path}/contest", json=body)
    assert (made.status_code, made.json()["point"]) == (201, None)
    assert student.post(f"{path}/contest", json=body).status_code == 409
    assert student.post(f"{path}/contest", json=body | {"point": 1}).status_code == 201


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"text": ""}, 422),
        ({"text": "   "}, 422),
        ({"text": "x" * 2001}, 422),
        ({"text": "x" * 40_000}, 422),
        ({"point": 9}, 422),
        ({"point": "1"}, 422),
        ({"mark": 5}, 422),
        ({"answer": "none"}, 404),
    ],
)
def test_an_objection_that_can_not_be_is_refused(
    teacher: TestClient,
    student: TestClient,
    school: ClassInStore,
    changed: dict[str, Any],
    status: int,
) -> None:
    path = release(teacher)["s2"]
    answer = student.get(path).json()["answers"][0]["id"]
    refused = student.post(
        f"{path}/contest", json={"answer": answer, "point": 1, "text": "No."} | changed
    )
    assert refused.status_code == status
    assert refused.headers["content-type"] == "application/problem+json"


def test_nobody_objects_for_somebody_else(
    teacher: TestClient, student: TestClient, school: ClassInStore
) -> None:
    links = release(teacher)
    answer = student.get(links["s1"]).json()["answers"][0]["id"]
    form = {"answer": answer, "text": "Give her less."}
    refused = student.post(f"{links['s2']}/contest", data=form)
    assert refused.status_code == 404
    assert refused.headers["content-type"].startswith("text/html")
    assert "of yours" in refused.text
    chinese = student.post(
        f"{links['s2']}/contest", data=form, headers={"Accept-Language": "zh-CN"}
    )
    assert "你没有答案" in chinese.text
    assert "of yours" not in chinese.text


def test_an_objection_to_a_decided_mark_waits_for_another_decision(
    teacher: TestClient, student: TestClient, school: ClassInStore
) -> None:
    path = release(teacher)["s2"]
    answer = student.get(path).json()["answers"][0]["id"]
    stands = teacher.get(f"/answers/{answer}").json()["mark_id"]
    verdicts = {"verdicts": {"1": True, "2": False}, "expected_mark_id": stands}
    assert teacher.post(f"/answers/{answer}/decision", json=verdicts).status_code == 200

    def waiting() -> list[str]:
        query = {"order": "risk", "state": "undecided"}
        rows = teacher.get("/courses/c/answers", params=query).json()["answers"]
        return [row["id"] for row in rows]

    others = waiting()
    assert answer not in others
    sent = student.post(f"{path}/contest", json={"answer": answer, "point": 2, "text": "I did."})
    assert sent.status_code == 201
    assert waiting() == [answer, *others]
    closed = teacher.post(f"/contests/{sent.json()['id']}", json={"state": "upheld"})
    assert closed.status_code == 200
    assert waiting() == others


def test_there_is_an_end_to_objections(
    teacher: TestClient,
    student: TestClient,
    school: ClassInStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmarking.store.releases.MOST_CONTESTS", 1)
    path = release(teacher)["s2"]
    answer = student.get(path).json()["answers"][0]["id"]
    body = {"answer": answer, "point": 1, "text": "No."}
    assert student.post(f"{path}/contest", json=body).status_code == 201
    more = student.post(f"{path}/contest", json=body | {"point": 2})
    assert more.status_code == 409
    assert "in person" in more.json()["detail"]
