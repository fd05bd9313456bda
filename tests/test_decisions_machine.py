"""Teachers on top of jobs, in any order: a human mark stands, nothing is overwritten or lost.

The machine of `test_jobs_machine.py` with teachers who confirm, override, take back, come too late,
refit the calibration and edit the rubric, while workers go on and servers crash.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from test_jobs_machine import LEASE, MODEL, Handed, JobsMachine, empty_database

from llmarking.errors import CalibrationError, Conflict, InputError
from llmarking.grading.grader import GradeOptions
from llmarking.jobs.worker import MOST_CLAIMS
from llmarking.marks import decisions
from llmarking.protocol.bodies import WireQuestion
from llmarking.store import (
    blocks as store_blocks,
    decisions as store_decisions,
    jobs as store_jobs,
    refits as store_refits,
    regrades as store_regrades,
    review as store_review,
)
from llmarking.store.job_marks import configuration
from llmarking.store.schema import answers, blocks, job_answers, jobs, marks

__all__ = ["empty_database"]  # a fixture, found by its name

PLACES = st.integers(0, 10_000)
RUBRICS = st.sampled_from(
    [
        "It <Point1:2>keeps pairs<Point1:2>, <Point2:3>fast 0<Point2:3>.",
        "It <Point1:1>keeps pairs<Point1:1>, <Point2:1>safely<Point2:1>.",
        "It <Point1:1>fast 0<Point1:1>, <Point2:4>keeps pairs<Point2:4>.",
    ]
)


class TeachersMachine(JobsMachine):
    """Decisions, refits and regrades between the steps of jobs."""

    regrades = Bundle("regrades")
    refits = Bundle("refits")

    @initialize()
    def open_books(self) -> None:
        # What teachers have decided and not taken back, by answer: ids of marks, the last one last.
        self.decided: dict[str, list[int]] = {}
        self.seen: dict[int, str] = {}

    # Teachers

    @rule(place=PLACES, first=st.booleans(), second=st.booleans(), identical=st.booleans())
    def decide(self, place: int, first: bool, second: bool, identical: bool) -> None:
        answer = self.marked(place)
        if answer is not None:
            self.give(answer.id, answer.current_mark_id, {1: first, 2: second}, identical)

    def give(self, answer: str, on: int, verdicts: dict[int, bool], identical: bool) -> None:
        with self.store.write() as tx:
            found = store_decisions.decide(
                tx, answer, verdicts, expected=on, author="a teacher", identical=identical
            )
        assert found.answers[0] == answer
        for each in found.answers:
            assert each == answer or each not in self.decided, "it had been decided"
            self.decided.setdefault(each, []).append(self.current(each))

    @rule(place=PLACES)
    @precondition(lambda self: self.decided)
    def take_back(self, place: int) -> None:
        answer = sorted(self.decided)[place % len(self.decided)]
        with self.store.write() as tx:
            store_decisions.undo(tx, answer, expected=self.decided[answer][-1], author="a teacher")
        self.decided[answer].pop()
        if not self.decided[answer]:
            del self.decided[answer]

    @rule(place=PLACES)
    def come_too_late(self, place: int) -> None:
        answer = self.marked(place)
        if answer is None:
            return
        for work in (
            lambda tx, stale: store_decisions.decide(
                tx, answer.id, {1: True, 2: True}, expected=stale, author="late"
            ),
            lambda tx, stale: store_decisions.undo(tx, answer.id, expected=stale, author="late"),
        ):
            with pytest.raises(Conflict), self.store.write() as tx:
                work(tx, answer.current_mark_id + 1)

    # A calibration of the course's own

    @rule(target=refits, job=JobsMachine.handed)
    def propose(self, job: str) -> Any:
        course = self.course(job)
        try:
            with self.store.write() as tx:
                return course, store_refits.propose(tx, course, actor="a teacher").row.id
        except CalibrationError:
            return multiple()

    @rule(refit=refits, really=st.booleans())
    def settle(self, refit: tuple[str, str], really: bool) -> None:
        try:
            with self.store.write() as tx:
                work = store_refits.apply if really else store_refits.discard
                work(tx, *refit, actor="a teacher")
        except Conflict as error:
            assert "already" in str(error)  # noqa: PT017 - it may as well not be raised

    # Another rubric

    @rule(target=regrades, job=JobsMachine.handed, rubric=RUBRICS)
    def edit(self, job: str, rubric: str) -> Any:
        def configure(tx: sa.Connection, course: sa.Row[Any], options: Any) -> dict[str, Any]:
            return configuration(tx, course.id, self.grader, GradeOptions(shots=options["shots"]))

        question = WireQuestion(
            code="Q0",
            text="What is a hash table?",
            reference=rubric,
            examples=self.jobs[job].body.questions[0].examples,
        )
        try:
            with self.store.write() as tx:
                return store_regrades.start(
                    tx, self.course(job), [question], configure, actor="a teacher"
                )
        except InputError as error:
            assert "no mark would be touched" in str(error)  # noqa: PT017
            return multiple()

    @rule(job=JobsMachine.handed, rubric=RUBRICS, place=PLACES)
    def edit_and_apply_at_once(self, job: str, rubric: str, place: int) -> None:
        """All that an edited rubric takes, with a decision made while it was looked at."""
        self.finish_everything()
        regrade = self.edit(job, rubric)
        if not isinstance(regrade, str):
            return
        self.finish_everything()
        with self.store.read() as tx:
            touched = store_regrades.look(tx, regrade).touched
        answer = touched[place % len(touched)].listed.answer["id"]
        self.give(answer, self.current(answer), {1: True, 2: False}, False)
        self.settle_regrade(regrade, True)
        with self.store.read() as tx:
            assert store_regrades.look(tx, regrade).state == "applied"

    def finish_everything(self) -> None:
        for job in self.jobs:
            if store_jobs.read_job(self.store, job).state == "paused":
                store_jobs.resume(self.store, job, actor="test")
        self.leases_run_out()
        while (claimed := store_blocks.claim(self.store, "d", MODEL, LEASE)) is not None:
            self.finish(claimed)

    @rule(regrade=regrades, really=st.booleans())
    def settle_regrade(self, regrade: str, really: bool) -> None:
        with self.store.read() as tx:
            told = store_regrades.look(tx, regrade).touched
        try:
            with self.store.write() as tx:
                work = store_regrades.apply if really else store_regrades.discard
                work(tx, regrade, actor="a teacher")
        except Conflict:
            return
        for each in told if really else ():
            if each.grade is not None and not each.kept:
                answer = each.listed.answer["id"]
                with self.store.read() as tx:
                    [now] = store_review.listed(tx, [answer])
                assert now.mark is not None
                assert now.mark["mark"] == each.grade.mark, "another mark than was told"

    # What must hold

    @invariant()
    def a_human_mark_stands(self) -> None:
        for answer, given in getattr(self, "decided", {}).items():
            assert self.current(answer) == given[-1]

    @invariant()
    def replaying_the_log_yields_the_table(self) -> None:
        with self.store.read() as tx:
            for row in tx.execute(sa.select(answers.c.id, answers.c.current_mark_id)):
                assert decisions.standing(store_decisions.entries(tx, row.id)) == (
                    row.current_mark_id
                )

    @invariant()
    def no_mark_is_ever_changed_or_gone(self) -> None:
        with self.store.read() as tx:
            now = {row.id: str(tuple(row)) for row in tx.execute(sa.select(marks))}
        before = getattr(self, "seen", {})
        assert {number: now.get(number) for number in before} == before
        self.seen = now

    def look_at_marks(self, job: str, known: Handed) -> None:
        """What the job itself has said, whatever a teacher or another rubric made of it."""
        with self.store.read() as tx:
            said = tx.execute(
                sa.select(job_answers.c.state, marks.c.mark, blocks.c.attempts)
                .join(blocks, blocks.c.id == job_answers.c.block_id)
                .outerjoin(marks, marks.c.id == job_answers.c.mark_id)
                .where(job_answers.c.job_id == job)
                .order_by(job_answers.c.position)
            ).all()
        for row, mark in zip(said, asyncio.run(known.graded_alone()), strict=True):
            if row.state == "graded":
                assert row.mark == mark
            else:
                assert row.attempts > MOST_CLAIMS, "only a block that always crashes is given up"

    # Helpers

    def marked(self, place: int) -> sa.Row[Any] | None:
        """One of the answers that have a mark, or None while there are none."""
        if not self.seen:
            self.finish_everything()
        query = sa.select(answers.c.id, answers.c.current_mark_id)
        with self.store.read() as tx:
            found = tx.execute(
                query.where(answers.c.current_mark_id.is_not(None)).order_by(answers.c.id)
            ).all()
        return found[place % len(found)] if found else None

    def current(self, answer: str) -> int:
        with self.store.read() as tx:
            query = sa.select(answers.c.current_mark_id).where(answers.c.id == answer)
            return int(tx.scalar(query) or 0)

    def course(self, job: str) -> str:
        with self.store.read() as tx:
            return str(tx.scalar(sa.select(jobs.c.course_id).where(jobs.c.id == job)))


def test_teachers_have_the_last_word_whatever_happens(
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmarking.marks.recalibrating.FEWEST_WITHOUT_PRIOR", 2)
    machine = type("Machine", (TeachersMachine,), {"empty": empty_database})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=20, stateful_step_count=30, deadline=None)
    )
