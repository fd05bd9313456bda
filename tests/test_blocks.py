"""What a block of marks does to the log of its answers, and to what a teacher does meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from class_in_store import ClassInStore, wire_question
from conftest import wait_until

from llmarking.protocol.bodies import WireQuestion
from llmarking.protocol.jobs import JobRequest
from llmarking.store import blocks
from llmarking.store.blocks import Claim, Outcome, claim, finish
from llmarking.store.courses import put_questions
from llmarking.store.database import Store, open_store
from llmarking.store.decisions import decide, undo
from llmarking.store.privacy import Gone, delete_course, delete_student
from llmarking.store.schema import answers, marks
from llmarking.store.submit import submit


def claimed(store: Store, answer: str) -> Claim:
    """A job for the answer, and its block in work."""
    body = JobRequest.model_validate({"course": {"id": "c"}, "answer_ids": [answer]})
    submit(store, body, None, lambda tx, course, body: {"model": "scripted"}, actor="test")
    found = claim(store, "me", "scripted", 60)
    assert found is not None
    return found


def outcome(answer: str, name: str) -> Outcome:
    """A mark by the configuration of this name."""
    verdicts = [
        {"id": point, "held": name == "B", "probability": 0.9, "raw": 2.0, "evidence": None,
         "reason": None, "needs_review": False, "outcome": "decided"}
        for point in (1, 2)
    ]  # fmt: skip
    mark = {"mark": 3.0 * (name == "B"), "full_mark": 3.0, "verdicts": verdicts, "flags": []}
    return Outcome(answer, {**mark, "config_hash": name, "needs_review": False})


def grade(store: Store, answer: str, name: str) -> int:
    """The mark that stands after a job with a configuration."""
    work = claimed(store, answer)
    finish(store, work, [outcome(answer, name)])
    return stands(store, answer)


def stands(store: Store, answer: str) -> int:
    with store.read() as tx:
        return stands_in(tx, answer)


def number_of(store: Store) -> int:
    with store.read() as tx:
        return int(tx.scalar(sa.select(sa.func.count()).select_from(marks)) or 0)


def test_the_same_again_is_no_second_mark(any_store: Store) -> None:
    answer = ClassInStore(any_store).answer(odds=None)
    assert grade(any_store, answer, "A") == grade(any_store, answer, "A")
    assert number_of(any_store) == 1


def test_what_was_said_before_others_were_asked_is_said_again(any_store: Store) -> None:
    """A, B, A: the last is the newest of the log, so an undo goes back to it and not to B."""
    answer = ClassInStore(any_store).answer(odds=None)
    first, second, third = (grade(any_store, answer, name) for name in "ABA")
    assert first < second < third
    assert grade(any_store, answer, "A") == third
    with any_store.write() as tx:
        mine = decide(tx, answer, {1: True, 2: False}, expected=third, author="t").after
        undo(tx, answer, expected=mine.answer["current_mark_id"], author="t")
    assert stands(any_store, answer) == third
    with any_store.read() as tx:
        row = tx.execute(sa.select(marks).where(marks.c.id == third)).one()
    assert (row.mark, row.kind) == (0.0, "model")


def test_a_mark_is_about_the_version_that_was_asked(any_store: Store) -> None:
    """The wording goes and comes back: the same content, and yet a version of its own."""
    klass = ClassInStore(any_store)
    answer = klass.answer(odds=None)
    first = grade(any_store, answer, "A")
    for text in ("What is a map?", "What is a hash table?"):
        with any_store.write() as tx:
            put = put_questions(tx, "c", [WireQuestion(**wire_question(text=text))], actor="t")
    second = grade(any_store, answer, "A")
    assert second > first
    with any_store.read() as tx:
        about = tx.scalar(sa.select(marks.c.question_id).where(marks.c.id == second))
    assert about == put["Q1"]


@pytest.fixture
def two(new_database: Callable[[], str]) -> Iterator[tuple[Store, Store]]:
    """Two servers' connections to one PostgreSQL database."""
    url = new_database()
    stores = open_store(url), open_store(url)
    yield stores
    for store in stores:
        store.close()


def waits_for_lock(store: Store) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with store.read() as tx:
        return bool(tx.exec_driver_sql(query).scalar())


def test_an_undo_waits_for_a_block_that_is_being_written(
    two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    answer = ClassInStore(one).answer(odds=None)
    grade(one, answer, "A")
    with one.write() as tx:
        decide(tx, answer, {1: True, 2: True}, expected=stands_in(tx, answer), author="t")
    work = claimed(one, answer)
    written, go = threading.Event(), threading.Event()
    count = blocks._count

    def held(*given: Any) -> bool:
        written.set()
        go.wait(20)
        return count(*given)

    def take_back() -> None:
        with other.write() as tx:
            undo(tx, answer, expected=stands_in(tx, answer), author="t")

    monkeypatch.setattr(blocks, "_count", held)
    grading = threading.Thread(target=finish, args=(one, work, [outcome(answer, "B")]))
    grading.start()
    assert written.wait(20)
    undoing = threading.Thread(target=take_back)
    undoing.start()
    wait_until(lambda: waits_for_lock(other))
    go.set()
    grading.join()
    undoing.join()
    with one.read() as tx:
        row = tx.execute(sa.select(marks).where(marks.c.id == stands_in(tx, answer))).one()
    assert (row.kind, row.config_hash) == ("model", "B")


def test_a_block_waits_for_an_undo(two: tuple[Store, Store]) -> None:
    one, other = two
    answer = ClassInStore(one).answer(odds=None)
    grade(one, answer, "A")
    with one.write() as tx:
        decide(tx, answer, {1: True, 2: True}, expected=stands_in(tx, answer), author="t")
    work = claimed(one, answer)
    grading = threading.Thread(target=finish, args=(one, work, [outcome(answer, "B")]))
    with other.write() as tx:
        undo(tx, answer, expected=stands_in(tx, answer), author="t")
        grading.start()
        wait_until(lambda: waits_for_lock(one))
    grading.join()
    with one.read() as tx:
        row = tx.execute(sa.select(marks).where(marks.c.id == stands_in(tx, answer))).one()
    assert (row.kind, row.config_hash) == ("model", "B")


@pytest.mark.parametrize("whole", [True, False])
def test_a_deletion_waits_for_a_block_that_is_being_written(
    two: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """In a circle neither would end: the block has its row, the deletion the job's or course's."""
    one, other = two
    answer = ClassInStore(one).answer(odds=None)
    work = claimed(one, answer)
    add_marks = blocks._add_marks
    deleting = threading.Thread(
        target=lambda: gone.append(
            delete_course(other, "c", actor="t")
            if whole
            else delete_student(other, "c", "s1", actor="t")
        )
    )
    gone: list[Gone] = []

    def met(*given: Any) -> dict[str, int]:
        deleting.start()
        wait_until(lambda: waits_for_lock(one))
        return add_marks(*given)

    monkeypatch.setattr(blocks, "_add_marks", met)
    assert finish(one, work, [outcome(answer, "A")])
    deleting.join()
    assert [each.answers for each in gone] == [1]
    assert number_of(one) == 0


def stands_in(tx: sa.Connection, answer: str) -> int:
    """What stands, inside a transaction."""
    return int(tx.scalar(sa.select(answers.c.current_mark_id).where(answers.c.id == answer)) or 0)
