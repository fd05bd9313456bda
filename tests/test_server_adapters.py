"""`/adapters` over HTTP: who may change them, what comes back, and grading while they change."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from adapter_files import adapter_folder, calibration_file
from conftest import Address, ServerFactory, wait_until
from test_server import GRADE, Words, idle, in_background

from llmarking.domain import Reading
from llmarking.engines.scripted import ScriptedEngine
from llmarking.store.database import Store
from llmarking.store.job_marks import mark_hash
from llmarking.store.schema import jobs, marks, questions

KEY = "a-key-for-the-class"
ADMIN = "the-key-of-the-admin"
AUTH = {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "adapters"
    adapter_folder(path / "mine")
    adapter_folder(path / "other", seed=1)
    return path


@pytest.fixture
def address(live_server_factory: ServerFactory, folder: Path) -> Address:
    return live_server_factory(admin_keys=(ADMIN,), adapter_folder=folder)


def load(address: Address, name: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{address}/adapters", json={"name": name}, headers=AUTH | headers)


def names(address: Address) -> list[str]:
    cards = httpx.get(f"{address}/adapters", headers=AUTH).json()["adapters"]
    return [card["name"] for card in cards]


def test_an_adapter_is_loaded_named_in_a_request_and_removed(address: Address) -> None:
    assert names(address) == []
    body = GRADE | {"adapter": "mine"}
    missing = httpx.post(f"{address}/grade", json=body)
    assert (missing.status_code, missing.json()["field"]) == (404, "adapter")

    card = load(address, "mine")
    assert card.status_code == 201
    told = card.json()
    assert {**told, "version": "?"} == {
        "name": "mine", "base": "scripted", "rank": 4, "version": "?", "calibrations": [],
        "default": False,
    }  # fmt: skip
    assert load(address, "mine").status_code == 200
    assert names(address) == ["mine"]
    marked = httpx.post(f"{address}/grade", json=body).json()
    assert (marked["adapter"], marked["adapter_version"]) == ("mine", told["version"])
    prose = httpx.post(f"{address}/grade", json=body | {"method": "prose"}).json()
    assert (prose["adapter"], prose["adapter_version"]) == ("mine", told["version"])
    for path, more in (("/generate", {}), ("/generate", {"choices": ["a", "b"]})):
        reply = httpx.post(f"{address}{path}", json={"prompt": "x", "adapter": "mine"} | more)
        assert reply.status_code == 200

    gone = httpx.delete(f"{address}/adapters/mine", headers=AUTH)
    assert (gone.status_code, gone.content) == (204, b"")
    assert names(address) == []
    assert httpx.post(f"{address}/grade", json=body).status_code == 404
    assert httpx.delete(f"{address}/adapters/mine", headers=AUTH).status_code == 404


def test_its_own_calibration_is_used(address: Address, folder: Path) -> None:
    calibration_file(folder / "mine", slope=0.001, offset=-3.0)
    assert load(address, "mine").json()["calibrations"] == ["verdict/zeroshot.v1"]
    load(address, "other")
    marked = httpx.post(f"{address}/grade", json=GRADE | {"adapter": "mine"}).json()
    assert [round(p["probability"], 2) for p in marked["points"]] == [0.05, 0.05]
    assert marked["calibration"] is not None
    marked = httpx.post(f"{address}/grade", json=GRADE | {"adapter": "other"}).json()
    assert marked["calibration"] is None


@pytest.mark.parametrize("keys", [(), (KEY,)])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_only_an_admin_key_changes_adapters(
    keys: tuple[str, ...], method: str, live_server_factory: ServerFactory, folder: Path
) -> None:
    address = live_server_factory(api_keys=keys, admin_keys=(ADMIN,), adapter_folder=folder)
    path = "/adapters" if method == "POST" else "/adapters/mine"
    body = {"name": "mine"} if method == "POST" else None

    def status(key: str | None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        reply = httpx.request(method, f"{address}{path}", json=body, headers=headers)
        return reply.status_code, reply.headers.get("www-authenticate", "")

    assert status(None) == (401, "Bearer")
    assert status(ADMIN[:-1]) == ((401, "Bearer") if keys else (403, ""))
    if keys:
        assert status(KEY) == (403, "")
    assert status(ADMIN)[0] == (201 if method == "POST" else 404)


def test_an_admin_key_opens_the_other_routes_too(
    live_server_factory: ServerFactory, folder: Path
) -> None:
    address = live_server_factory(api_keys=(KEY,), admin_keys=(ADMIN,), adapter_folder=folder)
    assert httpx.get(f"{address}/models").status_code == 401
    assert httpx.get(f"{address}/models", headers=AUTH).status_code == 200


def test_without_an_admin_key_the_routes_are_off(
    live_server_factory: ServerFactory, folder: Path
) -> None:
    address = live_server_factory(adapter_folder=folder)
    for reply in (load(address, "mine"), httpx.delete(f"{address}/adapters/mine", headers=AUTH)):
        assert reply.status_code == 404
        assert "without --admin-key" in reply.json()["detail"]


def test_without_a_folder_there_is_nothing_to_load(live_server_factory: ServerFactory) -> None:
    reply = load(live_server_factory(admin_keys=(ADMIN,)), "mine")
    assert (reply.status_code, "--adapter-folder" in reply.json()["detail"]) == (404, True)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"name": "../mine"}, 422, "name"),
        ({"name": "/etc/passwd"}, 422, "name"),
        ({"name": "mine/../../mine"}, 422, "name"),
        ({"name": "\0"}, 422, "name"),
        ({"name": ""}, 422, "name"),
        ({"name": "x" * 101}, 422, "name"),
        ({"name": 1}, 422, "name"),
        ({"name": "nobody"}, 404, "name"),
        ({"name": "mine", "path": "/tmp/mine"}, 422, "path"),
        ({"lora_path": "/tmp/mine"}, 422, "name"),
    ],
)
def test_what_may_not_be_asked_for(
    body: dict[str, Any], status: int, field: str, address: Address
) -> None:
    reply = httpx.post(f"{address}/adapters", json=body, headers=AUTH)
    assert (reply.status_code, reply.json()["field"]) == (status, field)
    assert names(address) == []


@pytest.mark.parametrize("name", ["..%2fmine", "%2e%2e", "a%00b", "..", "x" * 5000])
def test_no_path_can_be_removed(name: str, address: Address, folder: Path) -> None:
    reply = httpx.delete(f"{address}/adapters/{name}", headers=AUTH)
    assert reply.status_code in (404, 405)
    assert (folder / "mine" / "adapter_config.json").is_file()


def test_a_damaged_adapter_is_a_problem_and_the_server_goes_on(
    address: Address, folder: Path
) -> None:
    (folder / "mine" / "adapter_config.json").write_text("{")
    adapter_folder(folder / "foreign", base="lab/Other")
    for name, words in (("mine", "mine is no adapter"), ("foreign", "trained for lab/Other")):
        reply = load(address, name)
        assert reply.status_code == 422
        assert reply.headers["content-type"] == "application/problem+json"
        assert words in reply.json()["detail"]
        assert str(folder) not in reply.text
    assert load(address, "other").status_code == 201
    assert httpx.post(f"{address}/grade", json=GRADE).status_code == 200


def test_an_adapter_may_vanish_from_the_folder_while_it_is_used(
    address: Address, folder: Path
) -> None:
    load(address, "mine")
    shutil.rmtree(folder)
    assert httpx.post(f"{address}/grade", json=GRADE | {"adapter": "mine"}).status_code == 200
    assert load(address, "mine").status_code == 404


class Versions(ScriptedEngine):
    """Verdicts depend on the adapter's version; a reading takes as long as the test says."""

    def __init__(self, words: Words | None = None) -> None:
        super().__init__(**({"sleep": words} if words else {}))
        self.read_with: list[str | None] = []

    async def read(
        self, prompt: Sequence[int], tails: Sequence[Sequence[int]], token_ids: Sequence[int],
        *, request_id: str, adapter: str | None = None,
    ) -> Reading:  # fmt: skip
        found = await super().read(prompt, tails, token_ids, request_id=request_id, adapter=adapter)
        self.read_with.append(found.adapter)
        return found


def test_a_new_version_is_read_with_and_the_old_readings_are_forgotten(
    live_server_factory: ServerFactory, folder: Path
) -> None:
    engine = Versions()
    address = live_server_factory(engine, admin_keys=(ADMIN,), adapter_folder=folder)
    body = GRADE | {"adapter": "mine"}
    load(address, "mine")
    versions = [
        httpx.post(f"{address}/grade", json=body).json()["adapter_version"] for _ in range(2)
    ]
    assert len(engine.read_with) == 1  # remembered
    shutil.rmtree(folder / "mine")
    adapter_folder(folder / "mine", seed=7)
    assert load(address, "mine").status_code == 200
    versions.append(httpx.post(f"{address}/grade", json=body).json()["adapter_version"])
    assert versions[0] == versions[1] != versions[2]
    assert engine.read_with == [versions[0], versions[2]]


def test_who_began_with_a_version_ends_with_it(
    live_server_factory: ServerFactory, folder: Path
) -> None:
    words = Words()
    engine = Versions(words)
    address = live_server_factory(engine, admin_keys=(ADMIN,), adapter_folder=folder)
    first = load(address, "mine").json()["version"]
    body = GRADE | {"adapter": "mine"}
    with in_background(lambda: httpx.post(f"{address}/grade", json=body, timeout=30)) as begun:
        words.wait()
        shutil.rmtree(folder / "mine")
        adapter_folder(folder / "mine", seed=7)
        second = load(address, "mine").json()["version"]
        words.let()
    assert begun[0].result().json()["adapter_version"] == first != second
    wait_until(lambda: idle(address))


async def test_adapters_change_under_load_without_a_failed_request(
    address: Address, folder: Path
) -> None:
    load(address, "mine")
    done = asyncio.Event()

    seen: list[tuple[int, str]] = []

    async def keep_asking(client: httpx.AsyncClient, who: int) -> None:
        while not done.is_set():
            body = GRADE | {"adapter": "mine", "answer": f"Answer {who} {len(seen)}"}
            reply = await client.post("/grade", json=body)
            seen.append((reply.status_code, reply.json().get("adapter_version")))

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:
        asking = [asyncio.create_task(keep_asking(client, who)) for who in range(8)]
        versions = set()
        for seed in range(12):
            shutil.rmtree(folder / "mine")
            adapter_folder(folder / "mine", seed=seed)
            reply = await client.post("/adapters", json={"name": "mine"}, headers=AUTH)
            versions.add(reply.json()["version"])
            async with asyncio.timeout(30):
                while seen[-1:] != [(200, reply.json()["version"])]:  # noqa: ASYNC110 - theirs
                    await asyncio.sleep(0.002)
        done.set()
        await asyncio.gather(*asking)
    assert {status for status, _ in seen} == {200}
    assert len(versions) == 12


def test_the_adapter_of_a_course_grades_its_class(
    store: Store, live_server_factory: ServerFactory, folder: Path
) -> None:
    address = live_server_factory(store=store, admin_keys=(ADMIN,), adapter_folder=folder)
    load(address, "mine")
    question = {"code": "A", "text": "What?", "reference": "<Point1:1>that<Point1:1>"}
    answer = {"student": "s1", "question": "A", "text": "That."}
    for name, status in (("mine", 202), ("nobody", 404)):
        course = httpx.post(
            f"{address}/courses", json={"name": name, "default_adapter": name}
        ).json()["id"]
        httpx.put(
            f"{address}/courses/{course}/questions", json={"questions": [question]}
        ).raise_for_status()
        job = httpx.post(f"{address}/jobs", json={"course": {"id": course}, "answers": [answer]})
        assert job.status_code == status, job.text
        if status == 404:
            assert "no adapter 'nobody'; known: mine" in job.json()["detail"]
            continue
        path = f"{address}/jobs/{job.json()['id']}"
        wait_until(lambda path=path: httpx.get(path).json()["state"] == "finished")
        assert httpx.get(path).json()["counts"]["graded"] == 1
        with store.read() as tx:
            assert list(tx.scalars(sa.select(marks.c.adapter))) == ["mine"]


def graded(address: Address, course: str, **job: Any) -> None:
    """Grade the class of a course to the end."""
    made = httpx.post(f"{address}/jobs", json={"course": {"id": course}} | job)
    assert made.status_code == 202, made.text
    path = f"{address}/jobs/{made.json()['id']}"
    wait_until(lambda: httpx.get(path).json()["state"] == "finished")


def test_marks_of_retrained_weights_are_marks_of_another_name(
    store: Store, live_server_factory: ServerFactory, folder: Path
) -> None:
    address = live_server_factory(store=store, admin_keys=(ADMIN,), adapter_folder=folder)
    body = {"name": "class", "default_adapter": "mine"}
    course = httpx.post(f"{address}/courses", json=body).json()["id"]
    question = {"code": "A", "text": "What?", "reference": "<Point1:1>that<Point1:1>"}
    answer = {"id": "one", "student": "s1", "question": "A", "text": "That."}
    class_of_one = {"questions": [question], "answers": [answer]}

    def named(seed: int) -> list[str]:
        """Grade with weights made from this seed; what all marks so far are called."""
        shutil.rmtree(folder / "mine")
        adapter_folder(folder / "mine", seed=seed)
        load(address, "mine")
        graded(address, course, **class_of_one)
        with store.read() as tx:
            return list(tx.scalars(sa.select(marks.c.config_hash).order_by(marks.c.id)))

    first = named(1)
    assert len(first) == 1
    assert named(1) == first, "the same weights under the same name give no second mark"
    second = named(2)
    assert second[:1] == first
    assert len(set(second)) == len(second) == 2
    third = named(1)
    assert len(third) == 3
    assert third[2] not in second, "said again after other weights, it is a mark of its own"
    current = httpx.get(f"{address}/courses/{course}/answers").json()["answers"]
    with store.read() as tx:
        newest = tx.scalar(sa.select(sa.func.max(marks.c.id)))
    assert [row["mark_id"] for row in current] == [newest]


def test_a_mark_is_named_after_the_weights_that_read_the_answer(
    store: Store, live_server_factory: ServerFactory, folder: Path
) -> None:
    words = Words()
    engine = Versions(words)
    address = live_server_factory(engine, store=store, admin_keys=(ADMIN,), adapter_folder=folder)
    old = load(address, "mine").json()["version"]
    question = {"code": "A", "text": "What?", "reference": "<Point1:1>that<Point1:1>"}
    answer = {"id": "one", "student": "s1", "question": "A", "text": "That."}
    body = {"course": {"name": "class"}, "questions": [question], "answers": [answer]}
    job = httpx.post(f"{address}/jobs", json=body | {"adapter": "mine"}).json()["id"]
    words.wait()  # it is being read with the old weights
    shutil.rmtree(folder / "mine")
    adapter_folder(folder / "mine", seed=7)
    new = load(address, "mine").json()["version"]
    words.let()
    wait_until(lambda: httpx.get(f"{address}/jobs/{job}").json()["state"] == "finished")
    assert engine.read_with == [old]
    with store.read() as tx:
        [config] = tx.scalars(sa.select(jobs.c.config))
        [row] = tx.execute(sa.select(marks.c.config_hash, questions.c.content_hash).join(questions))
    assert row.config_hash == mark_hash(config | {"adapter_version": old}, row.content_hash)
    assert row.config_hash != mark_hash(config | {"adapter_version": new}, row.content_hash)
