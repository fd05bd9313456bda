"""Blocks of answers and who works on them.

A worker claims a block for a while (a lease, by the database's clock) and renews the lease as long
as it lives. The transaction that writes the marks also ends the block, and only if the lease is
still the one that was claimed: so work may be done twice after a crash, and never written twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from llmarking.errors import Conflict
from llmarking.store.courses import log_event
from llmarking.store.database import Store
from llmarking.store.review import model_marks
from llmarking.store.schema import answers, blocks, clock, job_answers, jobs, marks, questions

ACTIVE = ("queued", "running")


class LeaseLost(Conflict):
    """The block belongs to somebody else by now, or its job is gone."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A block that this worker may grade.

    Attributes:
        attempt: how often the block has been claimed without an orderly end, this time included.
        answers: pairs of id and text, in upload order.
    """

    block: str
    job: str
    kind: str
    course: str
    owner: str
    attempt: int
    config: Mapping[str, Any]
    question: sa.Row[Any]
    answers: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one answer: columns of its mark, or why there is none."""

    answer: str
    mark: Mapping[str, Any] | None = None
    error: str | None = None
    attempts: int = field(default=1)


def recover(store: Store) -> None:
    """Take back every lease of a database that nobody else can be using."""
    if store.shared:
        return
    with store.write() as tx:
        tx.execute(
            sa.update(blocks)
            .where(blocks.c.state == "leased")
            .values(state="waiting", lease_owner=None, lease_until=None)
        )


def claim(store: Store, owner: str, model: str, seconds: float) -> Claim | None:
    """Claim the next block of a job for this model, or None where there is none.

    Jobs take turns: the one with the fewest blocks in work comes first, then the oldest.
    """
    if not _anything(store, model):
        return None
    with store.write() as tx:
        job = tx.scalar(_next_job(model))
        if job is None:
            return None
        free = (
            sa.select(blocks.c.id)
            .where(blocks.c.job_id == job, _claimable())
            .order_by(blocks.c.seq)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        row = tx.execute(
            sa.update(blocks)
            .where(blocks.c.id == free.scalar_subquery(), _claimable())
            .values(
                state="leased",
                lease_owner=owner,
                lease_until=clock() + seconds,
                attempts=blocks.c.attempts + 1,
            )
            .returning(blocks)
        ).one_or_none()
        if row is None:
            return None
        tx.execute(
            sa.update(jobs)
            .where(jobs.c.id == job, jobs.c.state == "queued")
            .values(
                state="running",
                started_at=sa.func.coalesce(jobs.c.started_at, clock()),
                active_since=clock(),
            )
        )
        return _loaded(tx, row, owner)


def _anything(store: Store, model: str) -> bool:
    # A look without a lock: an idle worker must not hold up writers.
    with store.read() as tx:
        return tx.scalar(_next_job(model)) is not None


def _next_job(model: str) -> sa.Select[Any]:
    mine = blocks.alias()
    in_work = (
        sa.select(sa.func.count())
        .select_from(mine)
        .where(mine.c.job_id == jobs.c.id, mine.c.state == "leased")
        .scalar_subquery()
    )
    return (
        sa.select(jobs.c.id)
        .where(
            jobs.c.state.in_(ACTIVE),
            jobs.c.model == model,
            sa.exists().where(blocks.c.job_id == jobs.c.id, _claimable()),
        )
        .order_by(in_work, jobs.c.created_at, jobs.c.id)
        .limit(1)
    )


def _claimable() -> sa.ColumnElement[bool]:
    expired = sa.and_(blocks.c.state == "leased", blocks.c.lease_until < clock())
    return sa.or_(blocks.c.state == "waiting", expired)


def _loaded(tx: sa.Connection, block: sa.Row[Any], owner: str) -> Claim:
    job = tx.execute(sa.select(jobs).where(jobs.c.id == block.job_id)).one()
    question = tx.execute(sa.select(questions).where(questions.c.id == block.question_id)).one()
    found = tx.execute(
        sa.select(answers.c.id, answers.c.text)
        .join(job_answers, job_answers.c.answer_id == answers.c.id)
        .where(job_answers.c.block_id == block.id)
        .order_by(job_answers.c.position)
    )
    return Claim(
        block=block.id,
        job=job.id,
        kind=job.kind,
        course=job.course_id,
        owner=owner,
        attempt=block.attempts,
        config=job.config,
        question=question,
        answers=[(row.id, row.text) for row in found],
    )


def renew(store: Store, owner: str, held: Sequence[Claim], seconds: float) -> set[str]:
    """Make the leases of an owner longer; returns the blocks that are still to be worked on.

    Those of a job that has been paused or cancelled meanwhile are not.
    """
    if not held:
        return set()
    active = sa.select(jobs.c.id).where(jobs.c.state.in_(ACTIVE))
    with store.write() as tx:
        found = tx.execute(
            sa.update(blocks)
            .where(
                blocks.c.id.in_([each.block for each in held]),
                blocks.c.state == "leased",
                blocks.c.lease_owner == owner,
                blocks.c.job_id.in_(active),
            )
            .values(lease_until=clock() + seconds)
            .returning(blocks.c.id, blocks.c.attempts)
        ).all()
    mine = {(each.block, each.attempt) for each in held}
    return {row.id for row in found if (row.id, row.attempts) in mine}


def release(store: Store, claims: Sequence[Claim]) -> None:
    """Give blocks back as they were; nothing has been written about them."""
    with store.write() as tx:
        for each in claims:
            tx.execute(
                sa.update(blocks)
                .where(_still(each))
                .values(
                    state="waiting",
                    lease_owner=None,
                    lease_until=None,
                    attempts=blocks.c.attempts - 1,
                )
            )


def finish(store: Store, claim: Claim, outcomes: Sequence[Outcome]) -> bool:
    """Write what became of the answers of a block and end it, all in one transaction.

    Returns:
        whether the job is finished with it.

    Raises:
        LeaseLost: nothing has been written.
    """
    with store.write() as tx:
        # In this order everywhere, block before job: so no two servers wait for each other.
        ended = tx.execute(
            sa.update(blocks)
            .where(_still(claim))
            .values(state="done", lease_owner=None, lease_until=None)
        )
        if ended.rowcount != 1:
            raise LeaseLost(f"block {claim.block} is somebody else's by now")
        ids = _add_marks(tx, claim, outcomes)
        _end_answers(tx, claim, outcomes, ids)
        return _count(tx, claim, len(ids), len(outcomes) - len(ids))


def _still(claim: Claim) -> sa.ColumnElement[bool]:
    return sa.and_(
        blocks.c.id == claim.block,
        blocks.c.state == "leased",
        blocks.c.lease_owner == claim.owner,
        blocks.c.attempts == claim.attempt,
    )


def _add_marks(tx: sa.Connection, claim: Claim, outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Add the marks that are not there yet; returns the ids of all, by answer."""
    graded = {each.answer: each.mark for each in outcomes if each.mark is not None}
    if claim.kind != "grade":
        return _insert(tx, claim, graded)
    # A decision or an undo at this moment has to wait, or what it takes for the newest is not.
    wanted = sa.select(answers.c.id).where(answers.c.id.in_(list(graded)))
    tx.execute(wanted.order_by(answers.c.id).with_for_update())
    newest, known = model_marks(tx, list(graded)), _names(tx, graded)
    ids: dict[str, int] = {}
    new: dict[str, Mapping[str, Any]] = {}
    for answer, mark in graded.items():
        last, name = newest.get(answer), str(mark["config_hash"])
        if last is None or (answer, name) not in known:
            new[answer] = mark
        elif last["question_id"] == claim.question.id and last["config_hash"] in (
            name,
            _repeated(name, last["supersedes"]),
        ):
            ids[answer] = last["id"]
        else:
            # Said before others were asked, or of an older version of the question: it is said
            # again, as the newest of the log is what stands and what an undo goes back to.
            over = {"config_hash": _repeated(name, last["id"]), "supersedes": last["id"]}
            new[answer] = {**mark, **over}
    ids |= _insert(tx, claim, new)
    _point(tx, ids)
    return ids


def _repeated(name: str, over: int | None) -> str:
    """The name of a mark that says again, over another one, what was said before."""
    return hashlib.sha256(f"{name}:{over}".encode()).hexdigest()


def _names(tx: sa.Connection, graded: Mapping[str, Mapping[str, Any]]) -> set[tuple[str, str]]:
    """Which answers have a mark of the name that they are to get."""
    query = sa.select(marks.c.answer_id, marks.c.config_hash).where(
        marks.c.kind == "model",
        marks.c.answer_id.in_(list(graded)),
        marks.c.config_hash.in_({str(mark["config_hash"]) for mark in graded.values()}),
    )
    return {(row.answer_id, row.config_hash) for row in tx.execute(query)}


def _insert(
    tx: sa.Connection, claim: Claim, new: Mapping[str, Mapping[str, Any]]
) -> dict[str, int]:
    """Add marks, where there is none of the name; returns the ids by answer."""
    if not new:
        return {}
    insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
    rows = [
        {
            "answer_id": answer,
            "question_id": claim.question.id,
            "job_id": claim.job,
            "kind": "model",
            "supersedes": None,
            **mark,
        }
        for answer, mark in new.items()
    ]
    tx.execute(
        insert(marks).on_conflict_do_nothing(
            index_elements=["answer_id", "config_hash"], index_where=sa.text("kind = 'model'")
        ),
        rows,
    )
    found = tx.execute(
        sa.select(marks.c.id, marks.c.answer_id, marks.c.config_hash).where(
            marks.c.kind == "model", marks.c.answer_id.in_(list(new))
        )
    )
    return {
        row.answer_id: int(row.id)
        for row in found
        if row.config_hash == new[row.answer_id]["config_hash"]
    }


def _point(tx: sa.Connection, ids: Mapping[str, int]) -> None:
    """Let answers point at their new marks, except where a person has decided."""
    if not ids:
        return
    standing = sa.select(marks.c.kind).where(marks.c.id == answers.c.current_mark_id)
    tx.execute(
        sa.update(answers)
        .where(
            answers.c.id == sa.bindparam("answer"),
            sa.or_(answers.c.current_mark_id.is_(None), standing.scalar_subquery() == "model"),
        )
        .values(current_mark_id=sa.bindparam("mark")),
        [{"answer": answer, "mark": mark} for answer, mark in ids.items()],
    )


def _end_answers(
    tx: sa.Connection, claim: Claim, outcomes: Sequence[Outcome], ids: Mapping[str, int]
) -> None:
    tx.execute(
        sa.update(job_answers)
        .where(job_answers.c.job_id == claim.job, job_answers.c.answer_id == sa.bindparam("answer"))
        .values(
            state=sa.bindparam("to"),
            error=sa.bindparam("why"),
            attempts=sa.bindparam("times"),
            mark_id=sa.bindparam("mark"),
            graded_at=clock(),
        ),
        [
            {
                "answer": each.answer,
                "to": "graded" if each.answer in ids else "failed",
                "why": each.error,
                "times": each.attempts,
                "mark": ids.get(each.answer),
            }
            for each in outcomes
        ],
    )


def _count(tx: sa.Connection, claim: Claim, graded: int, failed: int) -> bool:
    counted = tx.execute(
        sa.update(jobs)
        .where(jobs.c.id == claim.job, jobs.c.state.in_((*ACTIVE, "paused")))
        .values(graded=jobs.c.graded + graded, failed=jobs.c.failed + failed)
    )
    if counted.rowcount != 1:
        raise LeaseLost(f"job {claim.job} has been cancelled")
    left = sa.exists().where(blocks.c.job_id == jobs.c.id, blocks.c.state != "done")
    ended = tx.execute(
        sa.update(jobs)
        .where(jobs.c.id == claim.job, ~left)
        .values(state="finished", finished_at=clock())
    )
    if ended.rowcount == 1:
        log_event(tx, claim.course, "server", "job.finished", claim.job)
        return True
    return False
