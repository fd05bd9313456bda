"""Jobs as clients see them: how far they are, what came out, and their brakes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from llmarking.errors import Conflict, NotFound
from llmarking.protocol.jobs import Job, JobCounts, JobResult, JobVerdict, MarkState, timestamp
from llmarking.sentences import Sentence, sentence, word
from llmarking.store.courses import log_event, question_of
from llmarking.store.database import Store
from llmarking.store.schema import (
    answers,
    blocks,
    clock,
    job_answers,
    jobs,
    marks,
    questions,
    students,
)

RATE_SECONDS = 60.0
PAGE = 500
ENDED = ("cancelled", "finished")


def read_job(store: Store, job: str) -> Job:
    """One job and how far it is.

    Raises:
        NotFound: there is none of that id.
    """
    with store.read() as tx:
        return job_of(tx, job)


def job_of(tx: sa.Connection, job: str) -> Job:
    """`read_job` inside a transaction."""
    return _job(tx, _row(tx, job))


def list_jobs(store: Store, course: str | None, limit: int = 100) -> list[Job]:
    """Jobs, of one course or of all, the newest first."""
    query = sa.select(jobs, clock().label("now")).order_by(jobs.c.created_at.desc(), jobs.c.id)
    if course is not None:
        query = query.where(jobs.c.course_id == course)
    with store.read() as tx:
        return [_job(tx, row) for row in tx.execute(query.limit(limit)).all()]


def _row(tx: sa.Connection, job: str, *, lock: bool = False) -> sa.Row[Any]:
    query = sa.select(jobs, clock().label("now")).where(jobs.c.id == job)
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        fault = sentence("no_job_there", "there is no job {job}", job=repr(job))
        raise NotFound(fault, field="job")
    return row


def _job(tx: sa.Connection, row: sa.Row[Any]) -> Job:
    waiting = row.total - row.graded - row.failed
    rate = _rate(tx, row)
    return Job(
        id=row.id,
        course=row.course_id,
        kind=row.kind,
        state=row.state,
        counts=JobCounts(total=row.total, graded=row.graded, failed=row.failed, waiting=waiting),
        created_at=timestamp(row.created_at) or "",
        started_at=timestamp(row.started_at),
        finished_at=timestamp(row.finished_at),
        answers_per_second=None if rate is None else round(rate, 3),
        seconds_left=round(waiting / rate, 1) if rate and row.state == "running" else None,
        options=row.options,
        config_hash=row.config_hash,
        model=row.model,
    )


def _rate(tx: sa.Connection, row: sa.Row[Any]) -> float | None:
    """Answers a second over the last minute of work; of all of it, pauses included, at the end."""
    if row.active_since is None:
        return None
    if row.state in ENDED:
        span = (row.finished_at or row.now) - (row.started_at or row.active_since)
        count = row.graded + row.failed
    elif row.state == "running":
        since = max(row.active_since, row.now - RATE_SECONDS)
        span = row.now - since
        count = tx.scalar(
            sa.select(sa.func.count())
            .select_from(job_answers)
            .where(job_answers.c.job_id == row.id, job_answers.c.graded_at >= since)
        )
    else:
        return None
    return count / max(span, 0.1) if count else None


def pause(store: Store, job: str, *, actor: str) -> Job:
    """Stop handing out blocks of a job.

    Raises:
        Conflict: it has ended.
    """
    return _move(store, job, ("queued", "running"), "paused", actor)


def resume(store: Store, job: str, *, actor: str) -> Job:
    """Go on with a job that was paused.

    Raises:
        Conflict: it has ended.
    """
    return _move(store, job, ("paused",), "queued", actor)


def cancel(store: Store, job: str, *, actor: str) -> Job:
    """End a job; the marks it has given stay.

    Raises:
        Conflict: it has finished.
    """
    return _move(store, job, ("queued", "running", "paused"), "cancelled", actor)


def _move(store: Store, job: str, before: tuple[str, ...], to: str, actor: str) -> Job:
    with store.write() as tx:
        row = _row(tx, job, lock=True)
        already = row.state == to or (to == "queued" and row.state == "running")
        if not already and row.state not in before:
            raise Conflict(_over(row.state, to))
        if not already:
            times = {"finished_at": clock()} if to == "cancelled" else {}
            tx.execute(sa.update(jobs).where(jobs.c.id == job).values(state=to, **times))
            log_event(tx, row.course_id, actor, f"job.{_DONE[to]}", job)
        return job_of(tx, job)


_DONE = {"paused": "paused", "queued": "resumed", "cancelled": "cancelled"}


def _over(state: str, to: str) -> Sentence:
    return sentence(
        "job_over",
        "the job has {state}: it can't be {done} any more",
        state=word(state),
        done=word(_DONE[to]),
    )


def results(
    store: Store, job: str, offset: int = 0, limit: int | None = None
) -> Iterator[JobResult]:
    """What a job has said about its answers, in upload order, read page by page.

    The mark is the one that stands, so a teacher's where there is one; of a regrade it is the one
    that was proposed.
    """
    with store.read() as tx:
        kind = _row(tx, job).kind
    next_position, left = offset, limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        with store.read() as tx:
            rows = tx.execute(_page(job, kind, next_position, size)).all()
        for row in rows:
            yield _result(row)
        if len(rows) < size:
            return
        next_position = rows[-1].position + 1
        left = None if left is None else left - size


def _page(job: str, kind: str, position: int, size: int) -> sa.Select[Any]:
    standing, own = marks.alias("standing"), marks.alias("own")
    shown = answers.c.current_mark_id if kind == "grade" else job_answers.c.mark_id
    return (
        sa.select(
            job_answers.c.position,
            job_answers.c.state.label("outcome"),
            job_answers.c.error,
            answers.c.id.label("answer"),
            answers.c.external_id,
            answers.c.question_code,
            answers.c.text,
            students.c.external_id.label("student"),
            students.c.name,
            standing,
            own.c.verdicts.label("own_verdicts"),
        )
        .join(answers, answers.c.id == job_answers.c.answer_id)
        .outerjoin(students, students.c.id == answers.c.student_id)
        .outerjoin(standing, standing.c.id == shown)
        .outerjoin(own, own.c.id == job_answers.c.mark_id)
        .where(job_answers.c.job_id == job, job_answers.c.position >= position)
        .order_by(job_answers.c.position)
        .limit(size)
    )


def _result(row: sa.Row[Any]) -> JobResult:
    given = row.kind is not None
    return JobResult(
        position=row.position,
        answer=row.answer,
        id=row.external_id,
        student=row.student,
        name=row.name,
        question=row.question_code,
        text=row.text,
        outcome=row.outcome,
        error=row.error,
        mark=row.mark,
        full_mark=row.full_mark,
        points=[verdict_of(each) for each in row.verdicts or ()],
        flags=row.flags or [],
        needs_review=row.needs_review,
        state=mark_state(row.kind, row.verdicts, row.own_verdicts) if given else None,
        mark_id=row.id,
        config_hash=row.config_hash,
    )


def verdict_of(stored: dict[str, Any]) -> JobVerdict:
    """A stored verdict as it goes over the wire; the model's own log-odds stay inside."""
    return JobVerdict(**{name: value for name, value in stored.items() if name != "raw"})


def mark_state(
    kind: str, verdicts: list[dict[str, Any]], by_model: list[dict[str, Any]] | None
) -> MarkState:
    """Whether a mark is the model's, or a person agreed with the model or decided otherwise."""
    if kind == "model":
        return "proposed"
    held = {each["id"]: each["held"] for each in verdicts}
    return (
        "confirmed"
        if by_model is not None and held == {each["id"]: each["held"] for each in by_model}
        else "overridden"
    )


def most_points(store: Store, job: str) -> int:
    """How many points the question of a job with the most of them has."""
    used = sa.select(blocks.c.question_id).where(blocks.c.job_id == job)
    with store.read() as tx:
        rows = tx.execute(sa.select(questions).where(questions.c.id.in_(used))).all()
    return max((point.id for row in rows for point in question_of(row).points), default=0)
