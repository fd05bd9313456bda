"""Whatever happens in whatever order, no answer is lost, marked twice or put in another's place.

The machine plays clients (hand in, repeat, pause, resume, cancel), workers that claim blocks and
finish them or not, and crashes. It keeps its own books and compares the store with them after every
step. To add to it: a rule for what can happen, an invariant for what must hold.

The same steps must lead to the same state, or a failure can't be found again: ids and the
database's clock are counted out, and nothing asks what time it is.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from llmarking.engines.scripted import ScriptedEngine
from llmarking.errors import Conflict, InputError
from llmarking.grading.grader import GradeOptions, Grader
from llmarking.jobs.worker import Worker
from llmarking.protocol.jobs import JobRequest
from llmarking.store import blocks as store_blocks, jobs as store_jobs, schema as store_schema
from llmarking.store.blocks import Claim, LeaseLost, Outcome
from llmarking.store.courses import question_of
from llmarking.store.database import Store, open_store
from llmarking.store.job_marks import configuration, mark_row, options_of
from llmarking.store.schema import answers, blocks, job_answers, jobs, marks
from llmarking.store.submit import submit

MODEL = "scripted"
LEASE = 600.0
TEXTS = st.sampled_from([f"It keeps value {n} under its key." for n in range(6)] + ["", "?"])
CLASSES = st.lists(TEXTS, min_size=20, max_size=60)


@dataclass
class Handed:
    """A class as it was handed in."""

    body: JobRequest
    key: str
    ended: dict[str, Any] | None = None  # the job's counts when it was cancelled

    async def graded_alone(self) -> list[float]:
        """The mark of each answer, graded by itself."""
        questions = {each.code: each.question() for each in self.body.questions}
        grader, options = Grader(ScriptedEngine()), GradeOptions(shots=self.body.shots)
        graded = [
            await grader.grade(questions[each.question], each.text, options)
            for each in self.body.answers
        ]
        return [each.grade.mark for each in graded]


def body_of(texts: list[str], course: str, shots: int) -> JobRequest:
    questions = [
        {"code": f"Q{n}", "text": "What is a hash table?",
         "reference": f"It <Point1:2>keeps pairs<Point1:2>, <Point2:1>fast {n}<Point2:1>.",
         "examples": [{"answer": "Pairs.", "points": [{"id": 1, "verdict": True},
                                                      {"id": 2, "verdict": False}]}]}
        for n in range(2)
    ]  # fmt: skip
    given = [
        {"id": f"{course}-{n}", "student": f"s{n}", "question": f"Q{n % 2}", "text": text}
        for n, text in enumerate(texts)
    ]
    about = {"course": {"name": course}, "questions": questions, "shots": shots}
    return JobRequest.model_validate({**about, "answers": given})


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables, made once: every example starts from a copy."""
    file = tmp_path_factory.mktemp("machine") / "llmarking.db"
    store = open_store(f"sqlite:///{file}")
    store.close()
    return file


class JobsMachine(RuleBasedStateMachine):
    """Clients, workers and crashes on one SQLite file."""

    empty: Path  # set by the test

    handed = Bundle("handed")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name) / "llmarking.db"
        shutil.copy(self.empty, file)
        self.url = f"sqlite:///{file}"
        self.patch = pytest.MonkeyPatch()
        numbers = random.Random(0)
        self.patch.setattr(
            store_schema,
            "uuid",
            SimpleNamespace(uuid4=lambda: uuid.UUID(int=numbers.getrandbits(128))),
        )
        self.milliseconds = itertools.count(1_000_000)
        self.store = self.opened()
        self.grader = Grader(ScriptedEngine())
        self.jobs: dict[str, Handed] = {}
        self.number = 0

    # Clients

    @initialize(target=handed, texts=CLASSES)
    def begin(self, texts: list[str]) -> str:
        return self.hand_in(texts, 0)

    @rule(target=handed, texts=CLASSES, shots=st.integers(0, 1))
    @precondition(lambda self: len(self.jobs) < 3)
    def hand_in_another(self, texts: list[str], shots: int) -> str:
        return self.hand_in(texts, shots)

    def hand_in(self, texts: list[str], shots: int) -> str:
        self.number += 1
        body, key = body_of(texts, f"course {self.number}", shots), f"key {self.number}"
        job, new = submit(self.store, body, key, self.configure, actor="test")
        assert new
        assert job not in self.jobs
        self.jobs[job] = Handed(body, key)
        return job

    @rule(job=handed)
    def repeat(self, job: str) -> None:
        known = self.jobs[job]
        assert submit(self.store, known.body, known.key, self.configure, actor="test") == (
            job,
            False,
        )

    @rule(job=handed)
    def repeat_with_another_body(self, job: str) -> None:
        body = body_of(["another"], "another", 0)
        with pytest.raises(InputError, match="Idempotency-Key"):
            submit(self.store, body, self.jobs[job].key, self.configure, actor="test")

    @rule(job=handed)
    def pause(self, job: str) -> None:
        self.move(job, store_jobs.pause, ("queued", "running", "paused"), "paused")

    @rule(job=handed)
    def resume(self, job: str) -> None:
        self.move(job, store_jobs.resume, ("queued", "running", "paused"), None)

    @rule(job=handed, really=st.integers(0, 3))
    def cancel(self, job: str, really: int) -> None:
        if really:  # or there would soon be nothing left to do
            return
        before = ("queued", "running", "paused", "cancelled")
        if self.move(job, store_jobs.cancel, before, "cancelled"):
            known = self.jobs[job]
            known.ended = known.ended or self.counts(job)

    def move(self, job: str, how: Any, before: tuple[str, ...], after: str | None) -> bool:
        state = store_jobs.read_job(self.store, job).state
        if state in before:
            found = how(self.store, job, actor="test")
            assert found.state == after or (after is None and found.state in ("queued", "running"))
            return True
        with pytest.raises(Conflict):
            how(self.store, job, actor="test")
        assert store_jobs.read_job(self.store, job).state == state
        return False

    # Workers

    @rule(target=claims, owner=st.sampled_from("ab"))
    @precondition(lambda self: self.waiting() > 0)
    def claim(self, owner: str) -> Claim:
        claimed = store_blocks.claim(self.store, owner, MODEL, LEASE)
        assert claimed is not None
        assert store_jobs.read_job(self.store, claimed.job).state == "running"
        return claimed

    @rule(claimed=claims)
    def finish(self, claimed: Claim) -> None:
        """Also of what was finished, given back, cancelled or taken over: then nothing is
        written."""
        mine = self.holds(claimed)
        outcomes = asyncio.run(self.grade(claimed))
        if mine and store_jobs.read_job(self.store, claimed.job).state != "cancelled":
            store_blocks.finish(self.store, claimed, outcomes)
        else:
            before = self.counts(claimed.job)
            with pytest.raises(LeaseLost):
                store_blocks.finish(self.store, claimed, outcomes)
            assert self.counts(claimed.job) == before

    @rule(number=st.integers(1, 3))
    @precondition(lambda self: self.waiting() > 0)
    def grade_some_blocks(self, number: int) -> None:
        for _ in range(min(number, self.waiting())):
            self.finish(self.claim("c"))

    @rule()
    @precondition(lambda self: self.waiting() > 0)
    def overtake_a_worker_that_sleeps(self) -> None:
        sleeper = self.claim("a")
        self.leases_run_out()
        other = self.claim("b")
        self.finish(sleeper)
        self.finish(other)

    @rule(claimed=consumes(claims))
    def give_back(self, claimed: Claim) -> None:
        store_blocks.release(self.store, [claimed])

    @rule(claimed=claims)
    def renew(self, claimed: Claim) -> None:
        state = store_jobs.read_job(self.store, claimed.job).state
        kept = store_blocks.renew(self.store, claimed.owner, [claimed], LEASE)
        assert (claimed.block in kept) == (self.holds(claimed) and state in ("queued", "running"))

    # Crashes

    @rule()
    @precondition(lambda self: self.waiting("leased") > 0)
    def leases_run_out(self) -> None:
        with self.store.write() as tx:
            tx.execute(sa.update(blocks).where(blocks.c.state == "leased").values(lease_until=0))

    @rule()
    @precondition(lambda self: self.waiting("leased") > 0)
    def crash_and_start_again(self) -> None:
        self.store.close()
        self.store = self.opened()
        store_blocks.recover(self.store)
        # What was remembered is gone as well.
        self.grader = Grader(ScriptedEngine())

    # What must hold

    @invariant()
    def every_answer_is_where_it_was_with_at_most_one_mark(self) -> None:
        for job, known in self.jobs.items():
            rows = list(store_jobs.results(self.store, job))
            sent = known.body.answers
            assert [row.position for row in rows] == list(range(len(sent)))
            assert [(row.id, row.student, row.question, row.text) for row in rows] == [
                (each.id, each.student, each.question, each.text) for each in sent
            ]
            graded = [row for row in rows if row.outcome == "graded"]
            assert all((row.mark is not None) == (row.outcome == "graded") for row in rows)
            assert len({row.mark_id for row in graded}) == len(graded)

    @invariant()
    def marks_are_unique_and_pointers_lead_to_them(self) -> None:
        with self.store.read() as tx:
            each = sa.select(marks.c.answer_id, marks.c.config_hash)
            named = tx.execute(each.where(marks.c.kind == "model")).all()
            assert len(set(named)) == len(named)
            lost = sa.select(answers.c.id).outerjoin(
                marks, sa.and_(marks.c.id == answers.c.current_mark_id,
                               marks.c.answer_id == answers.c.id)
            )  # fmt: skip
            assert not tx.execute(
                lost.where(answers.c.current_mark_id.is_not(None), marks.c.id.is_(None))
            ).all()

    @invariant()
    def jobs_count_right_and_end_with_their_last_block(self) -> None:
        for job, known in self.jobs.items():
            counts = self.counts(job)
            with self.store.read() as tx:
                query = sa.select(job_answers.c.state, sa.func.count())
                found = tx.execute(
                    query.where(job_answers.c.job_id == job).group_by(job_answers.c.state)
                )
                states = {row[0]: row[1] for row in found}
                open_blocks = tx.scalar(
                    sa.select(sa.func.count())
                    .select_from(blocks)
                    .where(blocks.c.job_id == job, blocks.c.state != "done")
                )
            for name in ("graded", "failed", "waiting"):
                assert counts[name] == states.get(name, 0)
            state = store_jobs.read_job(self.store, job).state
            assert (state == "finished") == (open_blocks == 0)
            if known.ended is not None:
                assert (state, counts) == ("cancelled", known.ended)

    def teardown(self) -> None:
        """Let everything that may be finished be finished, and look at the marks."""
        try:
            with self.store.write() as tx:
                tx.execute(sa.update(blocks).values(lease_until=0))
            for job in self.jobs:
                if store_jobs.read_job(self.store, job).state == "paused":
                    store_jobs.resume(self.store, job, actor="test")
            if self.jobs:
                asyncio.run(self.work())
            for job, known in self.jobs.items():
                if known.ended is None:
                    assert store_jobs.read_job(self.store, job).state == "finished"
                    self.look_at_marks(job, known)
        finally:
            self.store.close()
            self.patch.undo()
            self.folder.cleanup()

    def look_at_marks(self, job: str, known: Handed) -> None:
        """They are those of an answer graded by itself."""
        said = [row.mark for row in store_jobs.results(self.store, job)]
        assert said == asyncio.run(known.graded_alone())

    # Helpers

    def opened(self) -> Store:
        """The store, whose clock goes on by a millisecond whenever it is read."""
        store = open_store(self.url)

        def set_clock(connection: Any, *_: Any) -> None:
            days = lambda _: 2440587.5 + next(self.milliseconds) / 86_400_000  # noqa: E731
            connection.create_function("julianday", 1, days)

        sa.event.listen(store.engine, "checkout", set_clock)
        return store

    def configure(self, tx: sa.Connection, course: sa.Row[Any], body: JobRequest) -> dict[str, Any]:
        return configuration(tx, course.id, self.grader, GradeOptions(shots=body.shots))

    def counts(self, job: str) -> dict[str, Any]:
        return store_jobs.read_job(self.store, job).counts.model_dump()

    def holds(self, claimed: Claim) -> bool:
        """Whether a claim is still what it was."""
        with self.store.read() as tx:
            row = tx.execute(sa.select(blocks).where(blocks.c.id == claimed.block)).one()
        now = (row.state, row.lease_owner, row.attempts)
        return now == ("leased", claimed.owner, claimed.attempt)

    async def grade(self, claimed: Claim) -> list[Outcome]:
        options = options_of(claimed.config)
        question = question_of(claimed.question)
        found = []
        for answer, text in claimed.answers:
            graded = await self.grader.grade(question, text, options)
            row = mark_row(graded, claimed.config, claimed.question.content_hash)
            found.append(Outcome(answer, row))
        return found

    async def work(self) -> None:
        """The real worker, until there is nothing that it may do."""
        worker = Worker(self.store, self.grader, MODEL, lease_seconds=LEASE)
        task = asyncio.create_task(worker.run())
        deadline = time.monotonic() + 60
        while self.waiting("waiting", "leased"):
            assert time.monotonic() < deadline, "the worker does not get on"
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def waiting(self, *states: str) -> int:
        """Blocks of active jobs in these states; by default those that may be claimed at once."""
        with self.store.read() as tx:
            found = tx.scalar(
                sa.select(sa.func.count())
                .select_from(blocks)
                .join(jobs, jobs.c.id == blocks.c.job_id)
                .where(jobs.c.state.in_(store_blocks.ACTIVE))
                .where(blocks.c.state.in_(states or ("waiting",)))
            )
        return int(found or 0)


def test_nothing_is_lost_whatever_happens(empty_database: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    machine = type("Machine", (JobsMachine,), {"empty": empty_database})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=15, stateful_step_count=25, deadline=None)
    )
