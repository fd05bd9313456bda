"""`/jobs` over HTTP: handing in a class, watching it, stopping it, and what comes out."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import re
import threading
from typing import Any

import httpx
import openpyxl
import pytest
import sqlalchemy as sa
from conftest import Address, ServerFactory, wait_until

from llmarking.domain import Reading
from llmarking.engines.scripted import ScriptedEngine
from llmarking.errors import EngineDead, EngineError
from llmarking.store.database import Store
from llmarking.store.schema import answers, blocks, events, job_answers, jobs, marks, students

QUESTIONS = [
    {
        "code": f"Q{number}",
        "text": "What is a hash table?",
        "reference": f"It <Point1:2>has pairs<Point1:2> and <Point2:1>is fast {number}<Point2:1>.",
        "examples": [
            {
                "answer": "Pairs.",
                "points": [{"id": 1, "verdict": True}, {"id": 2, "verdict": False}],
            }
        ],
    }
    for number in range(2)
]


def class_of(size: int, **more: Any) -> dict[str, Any]:
    """A body for `POST /jobs` with answers to two questions."""
    given = [
        {"id": f"row-{n}", "student": f"s{n // 2}", "name": f"Name {n // 2}",
         "question": f"Q{n % 2}", "text": f"It keeps {n} values under keys."}
        for n in range(size)
    ]  # fmt: skip
    return {"course": {"name": "Networks"}, "questions": QUESTIONS, "answers": given} | more


class Held(ScriptedEngine):
    """Reads nothing before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.reads = 0

    async def read(self, *args: Any, **kwargs: Any) -> Reading:
        self.reads += 1
        while not self.go.is_set():  # noqa: ASYNC110 - it is set in another thread
            await asyncio.sleep(0.002)
        return await super().read(*args, **kwargs)


@pytest.fixture
def server(live_server_factory: ServerFactory, store: Store) -> Address:
    return live_server_factory(store=store)


def post(server: str, body: dict[str, Any], key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return httpx.post(f"{server}/jobs", json=body, headers=headers, timeout=30)


def job(server: str, id: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server}/jobs/{id}").raise_for_status().json()
    return found


def finished(server: str, id: str) -> dict[str, Any]:
    wait_until(lambda: job(server, id)["state"] == "finished")
    return job(server, id)


def results(server: str, id: str, **query: Any) -> list[dict[str, Any]]:
    reply = httpx.get(f"{server}/jobs/{id}/results", params=query).raise_for_status().json()
    found: list[dict[str, Any]] = reply["results"]
    return found


def test_a_class_comes_back_whole_and_in_order(server: Address, store: Store) -> None:
    body = class_of(70)
    reply = post(server, body)
    assert reply.status_code == 202
    accepted = reply.json()
    assert accepted["counts"] == {"total": 70, "graded": 0, "failed": 0, "waiting": 70}
    done = finished(server, accepted["id"])
    assert done["counts"] == {"total": 70, "graded": 70, "failed": 0, "waiting": 0}
    assert done["answers_per_second"] > 0
    assert done["seconds_left"] is None
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    found = results(server, done["id"])
    assert [row["position"] for row in found] == list(range(70))
    for row, sent in zip(found, body["answers"], strict=True):
        assert {name: row[name] for name in sent} == sent
        assert row["outcome"] == "graded"
        assert row["state"] == "proposed"
        worth = {1: 2.0, 2: 1.0}
        assert row["mark"] == sum(worth[p["id"]] for p in row["points"] if p["held"])
        assert row["full_mark"] == 3


def test_a_job_marks_as_a_single_request_does(server: Address) -> None:
    body = class_of(2)
    made = post(server, body).json()
    finished(server, made["id"])
    for row, sent in zip(results(server, made["id"]), body["answers"], strict=True):
        question = next(q for q in QUESTIONS if q["code"] == sent["question"])
        single = httpx.post(
            f"{server}/grade", json={"question": question, "answer": sent["text"]}
        ).json()
        assert row["mark"] == single["mark"]
        assert row["flags"] == single["flags"]
        for point, other in zip(row["points"], single["points"], strict=True):
            assert point["probability"] == pytest.approx(other["probability"], abs=1e-6)


def test_a_mark_says_what_it_depends_on(server: Address, store: Store) -> None:
    made = post(server, class_of(4, shots=1, risk=0.1)).json()
    finished(server, made["id"])
    with store.read() as tx:
        rows = tx.execute(sa.select(marks)).all()
        pointed = tx.execute(sa.select(answers.c.current_mark_id)).scalars().all()
    assert sorted(pointed) == sorted(row.id for row in rows)
    for row in rows:
        assert (row.kind, row.model, row.method, row.shots) == ("model", "scripted", "verdict", 1)
        assert row.prompt_version.startswith("verdict/oneshot")
        assert row.job_id == made["id"]
        sure = [max(v["probability"], 1 - v["probability"]) for v in row.verdicts]
        assert row.confidence == min(sure)
        risks = [w * (1 - s) for w, s in zip((2, 1), sure, strict=True)]
        assert row.marks_at_risk == pytest.approx(sum(risks), abs=1e-6)
        assert all(v["raw"] is not None for v in row.verdicts)
    # One name for each question's way of being graded.
    assert len({row.config_hash for row in rows}) == 2


def test_the_same_request_again_is_the_same_job(server: Address, store: Store) -> None:
    first = post(server, class_of(3), "key-1")
    again = post(server, class_of(3), "key-1")
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    other = post(server, class_of(4), "key-1")
    assert other.status_code == 422
    assert other.json()["field"] == "Idempotency-Key"
    with store.read() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(jobs)) == 1
        assert tx.scalar(sa.select(sa.func.count()).select_from(answers)) == 3


def test_the_same_request_at_the_same_time_is_one_job(
    any_store: Store, live_server_factory: ServerFactory
) -> None:
    server = live_server_factory(store=any_store)
    replies: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda: replies.append(post(server, class_of(30), "key")))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.status_code for reply in replies) == [200] * 5 + [202]
    assert len({reply.json()["id"] for reply in replies}) == 1
    with any_store.read() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(answers)) == 30


def test_answers_of_a_course_can_be_graded_again(server: Address, store: Store) -> None:
    first = post(server, class_of(4)).json()
    finished(server, first["id"])
    before = results(server, first["id"])
    ids = [row["answer"] for row in reversed(before)]
    again = post(server, {"course": {"id": first["course"]}, "answer_ids": ids}).json()
    finished(server, again["id"])
    rows = results(server, again["id"])
    assert [row["answer"] for row in rows] == ids
    # The same configuration: the same mark, and not a second one.
    assert again["config_hash"] == first["config_hash"]
    assert {row["mark_id"] for row in rows} == {row["mark_id"] for row in before}
    third = post(server, {"course": {"id": first["course"]}, "answer_ids": ids, "shots": 1}).json()
    finished(server, third["id"])
    assert not {row["mark_id"] for row in results(server, third["id"])} & {
        row["mark_id"] for row in before
    }


def test_an_answer_that_comes_again_by_its_id_is_the_same_answer(
    server: Address, store: Store
) -> None:
    first = post(server, class_of(4)).json()
    again = post(server, class_of(6, course={"id": first["course"]})).json()
    finished(server, again["id"])
    with store.read() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(answers)) == 6
        assert tx.scalar(sa.select(sa.func.count()).select_from(students)) == 3
    changed = class_of(4, course={"id": first["course"]})
    changed["answers"][2]["text"] = "Something else."
    refused = post(server, changed)
    assert refused.status_code == 422
    assert refused.json()["field"] == "answers.2.id"


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"course": {"id": "nobody"}}, 404, "course"),
        ({"course": {}}, 422, "course"),
        ({"answers": []}, 422, None),
        ({"answers": [{"question": "Q9", "text": "x"}]}, 422, "answers.0.question"),
        ({"answers": [{"question": "Q0", "text": "x", "colour": 1}]}, 422, "answers.0.colour"),
        ({"answers": [{"id": "a", "question": "Q0", "text": "x"}] * 2}, 422, None),
        ({"answer_ids": ["a"]}, 422, None),
        ({"questions": [{"code": "Q0", "text": "x", "reference": "no point"}]}, 422,
         "questions.0.reference"),
        ({"questions": [{"text": "x", "reference": "<Point1:1>a<Point1:1>"}]}, 422,
         "questions.0.code"),
        ({"shots": 2}, 422, "shots"),
        ({"adapter": "unknown"}, 404, "adapter"),
        ({"risk": 0.9}, 422, "risk"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_and_leaves_nothing(
    server: Address, store: Store, change: dict[str, Any], status: int, field: str | None
) -> None:
    reply = post(server, class_of(2) | change)
    assert reply.status_code == status, reply.text
    if field is not None:
        assert reply.json()["field"] == field
    with store.read() as tx:
        for table in (jobs, answers, students, events):
            assert tx.scalar(sa.select(sa.func.count()).select_from(table)) == 0


@pytest.mark.parametrize("path", ["/jobs/no", "/jobs/no/results", "/jobs/no/events"])
def test_what_is_not_there_is_404(server: Address, path: str) -> None:
    reply = httpx.get(f"{server}{path}")
    assert reply.status_code == 404
    assert reply.json()["detail"] == "there is no job 'no'"


def test_a_server_without_a_database_says_so(live_server: Address) -> None:
    for reply in (post(live_server, class_of(1)), httpx.get(f"{live_server}/jobs")):
        assert reply.status_code == 503
        assert "without a database" in reply.json()["detail"]


def test_progress_is_told_as_events_and_the_end_ends_them(
    live_server_factory: ServerFactory, store: Store
) -> None:
    server = live_server_factory(ScriptedEngine(delay=0.2), store, job_concurrency=16)
    made = post(server, class_of(48)).json()
    said: list[tuple[str, dict[str, Any]]] = []
    with httpx.stream("GET", f"{server}/jobs/{made['id']}/events", timeout=30) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in reply.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                said.append((name, json.loads(line.removeprefix("data: "))))
    assert [name for name, _ in said] == ["progress"] * (len(said) - 1) + ["finished"]
    graded = [each["counts"]["graded"] for _, each in said]
    assert graded == sorted(graded)
    assert graded[-1] == 48
    running = [each for _, each in said if each["seconds_left"] is not None]
    assert running, "it never said how long it would take"


def test_watchers_that_leave_are_forgotten(
    live_server_factory: ServerFactory, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmarking.server.routes import jobs as server_jobs

    monkeypatch.setattr(server_jobs, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(server_jobs, "SILENCE_SECONDS", 0.05)
    looks = 0
    look = server_jobs.store_jobs.read_job

    def counted(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return look(*args)

    engine = Held()
    server = live_server_factory(engine, store)
    made = post(server, class_of(2)).json()
    monkeypatch.setattr(server_jobs.store_jobs, "read_job", counted)
    with httpx.stream("GET", f"{server}/jobs/{made['id']}/events") as reply:
        lines = reply.iter_lines()
        assert next(lines) == "event: progress"
        wait_until(lambda: looks > 5)

    def quiet() -> bool:
        before = looks
        threading.Event().wait(0.2)
        return looks == before

    wait_until(quiet)
    engine.go.set()


def test_pausing_gives_up_what_is_being_read_and_resuming_does_it(
    live_server_factory: ServerFactory, store: Store
) -> None:
    engine = Held()
    server = live_server_factory(engine, store)
    made = post(server, class_of(20)).json()
    wait_until(lambda: engine.reads > 0)
    paused = httpx.post(f"{server}/jobs/{made['id']}/pause").json()
    assert paused["state"] == "paused"
    wait_until(lambda: engine.running() == 0 and leased(store) == 0)
    engine.go.set()
    assert job(server, made["id"])["counts"]["graded"] == 0
    again = httpx.post(f"{server}/jobs/{made['id']}/pause")
    assert again.status_code == 200
    assert httpx.post(f"{server}/jobs/{made['id']}/resume").json()["state"] == "queued"
    assert finished(server, made["id"])["counts"]["graded"] == 20
    with store.read() as tx:
        # An orderly end is no failed attempt.
        assert set(tx.scalars(sa.select(blocks.c.attempts))) == {1}
    for how in ("pause", "resume"):
        assert httpx.post(f"{server}/jobs/{made['id']}/{how}").status_code == 409


def leased(store: Store) -> int:
    with store.read() as tx:
        query = sa.select(sa.func.count()).select_from(blocks).where(blocks.c.state == "leased")
        return int(tx.scalar(query) or 0)


def test_cancelling_keeps_what_is_graded(live_server_factory: ServerFactory, store: Store) -> None:
    engine = ScriptedEngine(delay=0.05)
    server = live_server_factory(engine, store, job_concurrency=16)
    made = post(server, class_of(200)).json()
    wait_until(lambda: job(server, made["id"])["counts"]["graded"] > 0)
    cancelled = httpx.delete(f"{server}/jobs/{made['id']}").json()
    assert cancelled["state"] == "cancelled"
    wait_until(lambda: engine.running() == 0)
    assert httpx.delete(f"{server}/jobs/{made['id']}").status_code == 200
    found = job(server, made["id"])
    assert found["counts"] == cancelled["counts"]
    rows = results(server, made["id"])
    assert sum(row["mark"] is not None for row in rows) == found["counts"]["graded"]
    assert httpx.post(f"{server}/jobs/{made['id']}/resume").status_code == 409


def test_jobs_are_listed_by_course_the_newest_first(server: Address) -> None:
    first = post(server, class_of(1)).json()
    second = post(server, class_of(1)).json()
    listed = httpx.get(f"{server}/jobs").json()["jobs"]
    assert [each["id"] for each in listed] == [second["id"], first["id"]]
    of_one = httpx.get(f"{server}/jobs", params={"course": first["course"]}).json()["jobs"]
    assert [each["id"] for each in of_one] == [first["id"]]


class Failing(ScriptedEngine):
    """Fails on what the answer asks for, so often as it asks."""

    def __init__(self) -> None:
        super().__init__()
        self.tries: dict[str, int] = {}

    async def read(self, prompt: Any, *args: Any, **kwargs: Any) -> Reading:
        text = self.tokenizer.decode(prompt)
        wanted = re.search(r"fail (\d+) times", text)
        if wanted:
            self.tries[text] = self.tries.get(text, 0) + 1
            if self.tries[text] <= int(wanted[1]):
                raise EngineError("the engine hiccuped")
        if "crash the code" in text:
            raise ZeroDivisionError(text)
        if "kill the engine" in text:
            raise EngineDead("it is dead")
        return await super().read(prompt, *args, **kwargs)


def with_texts(*texts: str) -> dict[str, Any]:
    body = class_of(len(texts))
    for answer, text in zip(body["answers"], texts, strict=True):
        answer["text"] = text
    return body


def test_failures_are_tried_again_and_recorded(
    live_server_factory: ServerFactory, store: Store
) -> None:
    server = live_server_factory(Failing(), store)
    long = " ".join(map(str, range(20_000)))
    texts = ("keys", "fail 2 times", "values", "fail 9 times", "crash the code", long)
    made = post(server, with_texts(*texts)).json()
    done = finished(server, made["id"])
    assert done["counts"] == {"total": 6, "graded": 3, "failed": 3, "waiting": 0}
    rows = results(server, made["id"])
    assert [row["outcome"] for row in rows] == ["graded"] * 3 + ["failed"] * 3
    assert rows[3]["error"] == "the engine hiccuped"
    assert "crash" not in rows[4]["error"]
    assert "tokens long" in rows[5]["error"]
    with store.read() as tx:
        tried = tx.execute(
            sa.select(job_answers.c.attempts).order_by(job_answers.c.position)
        ).scalars()
        assert list(tried) == [1, 3, 1, 3, 3, 1]


def test_a_dead_engine_gives_its_blocks_back(
    live_server_factory: ServerFactory, store: Store
) -> None:
    server = live_server_factory(Failing(), store)
    made = post(server, with_texts(*["fine"] * 20, "kill the engine")).json()
    wait_until(lambda: server.service.gate.held == 0 and leased(store) == 0)
    found = job(server, made["id"])
    assert found["counts"]["failed"] == 0
    assert found["state"] in ("queued", "running")
    # The next server finishes it.
    again = live_server_factory(ScriptedEngine(), store)
    assert finished(again, made["id"])["counts"]["graded"] == 21


def test_identical_answers_are_read_once(live_server_factory: ServerFactory, store: Store) -> None:
    engine = Held()
    engine.go.set()
    server = live_server_factory(engine, store)
    body = with_texts(*["It keeps  values", "It keeps values\n"] * 50)
    for answer in body["answers"]:
        answer["question"] = "Q0"
    made = post(server, body).json()
    finished(server, made["id"])
    assert engine.reads == 1
    assert len({row["mark"] for row in results(server, made["id"])}) == 1


def test_a_class_holds_up_no_single_request(
    live_server_factory: ServerFactory, store: Store
) -> None:
    engine = Held()
    server = live_server_factory(engine, store, max_queue=1, job_concurrency=64)
    made = post(server, class_of(64)).json()
    wait_until(lambda: engine.reads >= 32)
    reply: list[httpx.Response] = []
    body = {"question": QUESTIONS[0], "answer": "Somebody waits for this."}
    thread = threading.Thread(target=lambda: reply.append(httpx.post(f"{server}/grade", json=body)))
    thread.start()
    wait_until(lambda: server.service.gate.held == 1)
    engine.go.set()
    thread.join()
    assert reply[0].status_code == 200
    finished(server, made["id"])


def test_results_as_csv_never_run_as_a_formula(server: Address) -> None:
    texts = ("=1+1", "+x", "-x", "@SUM(A1)", "\tx", 'a,b\n"c"', "plain", "\u200bé漢")
    made = post(server, with_texts(*texts)).json()
    finished(server, made["id"])
    reply = httpx.get(f"{server}/jobs/{made['id']}/results", params={"format": "csv"})
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    assert re.fullmatch(
        r'attachment; filename="marks-\w+\.csv"', reply.headers["content-disposition"]
    )
    assert reply.content.startswith(b"\xef\xbb\xbfposition,id,")
    rows = list(csv.DictReader(io.StringIO(reply.content.decode("utf-8-sig"), newline="")))
    assert [row["answer"] for row in rows] == [
        "'=1+1", "'+x", "'-x", "'@SUM(A1)", "'\tx", 'a,b\n"c"', "plain", "\u200bé漢",
    ]  # fmt: skip
    assert rows[0]["point_1"] in ("True", "False")
    assert rows[0]["state"] == "proposed"


def test_results_as_xlsx_are_text_and_not_formulas(server: Address) -> None:
    texts = ("=1+1", "plain", "bell \x07", "0042")
    made = post(server, with_texts(*texts)).json()
    finished(server, made["id"])
    reply = httpx.get(f"{server}/jobs/{made['id']}/results", params={"format": "xlsx"})
    sheet = openpyxl.load_workbook(io.BytesIO(reply.content)).active
    assert sheet is not None
    head, *rows = sheet.iter_rows()
    column = [cell.value for cell in head].index("answer")
    assert [row[column].value for row in rows] == ["=1+1", "plain", "bell \ufffd", "0042"]
    assert {row[column].data_type for row in rows} == {"s"}


def test_a_page_of_results(server: Address) -> None:
    made = post(server, class_of(10)).json()
    finished(server, made["id"])
    page = results(server, made["id"], offset=7, limit=2)
    assert [row["position"] for row in page] == [7, 8]


def test_many_results_come_in_one_piece(server: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmarking.store import jobs as store_jobs

    monkeypatch.setattr(store_jobs, "PAGE", 7)
    made = post(server, class_of(21)).json()
    finished(server, made["id"])
    assert [row["position"] for row in results(server, made["id"])] == list(range(21))


def test_what_no_database_takes_is_kept_out_and_the_answer_is_graded(
    any_store: Store, live_server_factory: ServerFactory
) -> None:
    server = live_server_factory(store=any_store)
    content = json.dumps(with_texts("zero \x00 here", "fine"))
    made = httpx.post(
        f"{server}/jobs", content=content, headers={"Content-Type": "application/json"}
    ).json()
    finished(server, made["id"])
    rows = results(server, made["id"])
    assert [row["text"] for row in rows] == ["zero \ufffd here", "fine"]
    assert [row["outcome"] for row in rows] == ["graded"] * 2


def test_what_students_write_is_in_no_log(
    live_server_factory: ServerFactory, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    server = live_server_factory(Failing(), store)
    made = post(server, with_texts("CANARY fail 9 times", "CANARY crash the code")).json()
    finished(server, made["id"])
    assert "CANARY" not in caplog.text
    with store.read() as tx:
        logged = tx.execute(sa.select(events)).all()
    assert {event.action for event in logged} >= {"course.created", "job.created", "job.finished"}
    assert "CANARY" not in repr(logged)


def test_the_log_names_the_key_that_was_used(
    live_server_factory: ServerFactory, store: Store
) -> None:
    key = "key-of-the-teacher"
    url = live_server_factory(ScriptedEngine(delay=0.2), store, api_keys=(key,))
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as http:
        id = http.post("/jobs", json=class_of(40)).raise_for_status().json()["id"]
        for call, what in (("POST", "/pause"), ("POST", "/resume"), ("DELETE", "")):
            http.request(call, f"/jobs/{id}{what}").raise_for_status()
    with store.read() as tx:
        rows = tx.execute(sa.select(events.c.actor, events.c.action)).all()
    actors = {row.action: row.actor for row in rows}
    who = f"key {hashlib.sha256(key.encode()).hexdigest()[:8]}"
    wanted = ("created", "paused", "resumed", "cancelled")
    assert [actors[f"job.{action}"] for action in wanted] == [who] * 4
    assert "api" not in actors.values()
