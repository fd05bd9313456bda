"""What is known about a student or a course: all of it for those it is about, and its end.

A deletion takes rows and, on SQLite, what they left in the files. The log of a course keeps that
something was deleted, by whom and when, and nothing that tells about whom.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from llmarking.errors import NotFound
from llmarking.store.courses import log_event, require_course
from llmarking.store.database import Store
from llmarking.store.overview import overview
from llmarking.store.releases import answers_of
from llmarking.store.review import History
from llmarking.store.schema import (
    answers,
    blocks,
    clock,
    courses,
    events,
    job_answers,
    jobs,
    marks,
    students,
    uploads,
)

DAY = 86_400
_PAGE = 1000
# Words of the student, and reasons that may repeat them, are no part of the log.
_AUDITED = ("id", "held", "probability", "raw", "needs_review", "outcome")


@dataclass(frozen=True, slots=True)
class Gone:
    """How much a deletion has taken with it."""

    courses: int = 0
    students: int = 0
    answers: int = 0
    uploads: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """All that is stored about a student of a course."""

    student: str
    name: str
    answers: list[History]


def known(tx: sa.Connection, course: str, student: str) -> Known:
    """All that is stored about a student of a course, by her id in the teacher's files.

    Raises:
        NotFound: there is no such course or student.
    """
    require_course(tx, course)
    row = _student(tx, course, student)
    return Known(row.external_id, row.name, answers_of(tx, row.id))


def delete_student(store: Store, course: str, student: str, *, actor: str) -> Gone:
    """Delete a student with answers, marks, objections, links, and the files that came with them.

    A file of the class may name the student in any of its rows, so all files of the course go.

    Raises:
        NotFound: there is no such course or student.
    """
    with store.write() as tx:
        _wait_for_workers(tx, course)
        require_course(tx, course, lock=True)
        row = _student(tx, course, student)
        hers = sa.select(answers.c.id).where(answers.c.student_id == row.id).scalar_subquery()
        count = _count(tx, answers, answers.c.student_id == row.id)
        files = _count(tx, uploads, uploads.c.course_id == course)
        touched = list(
            tx.scalars(
                sa.select(job_answers.c.job_id).where(job_answers.c.answer_id.in_(hers)).distinct()
            )
        )
        tx.execute(sa.delete(events).where(events.c.subject.in_(hers)))
        tx.execute(sa.delete(uploads).where(uploads.c.course_id == course))
        tx.execute(sa.delete(students).where(students.c.id == row.id))
        _recount(tx, touched)
        details = {"answers": count, "uploads": files}
        log_event(tx, course, actor, "student.deleted", details=details)
    store.scrub()
    return Gone(students=1, answers=count, uploads=files)


def delete_course(store: Store, course: str, *, actor: str) -> Gone:
    """Delete a course with everything in it.

    Raises:
        NotFound: there is no such course.
    """
    with store.write() as tx:
        _wait_for_workers(tx, course)
        gone = _delete_course(tx, course, actor)
    store.scrub()
    return gone


def purge(store: Store, default_days: int) -> int:
    """Delete courses that have been kept for as long as they should be; returns how many.

    Args:
        default_days: for courses that say nothing else; 0 keeps them for ever.
    """
    with store.read() as tx:
        now = tx.scalar(sa.select(clock())) or 0.0
        due = [row["id"] for row in overview(tx) if _due(row, default_days, now)]
    gone = 0
    for course in due:
        with store.write() as tx:
            # Somebody may have used it, or another server deleted it, a moment ago.
            if tx.scalar(sa.select(courses.c.id).where(courses.c.id == course)) is None:
                continue
            _wait_for_workers(tx, course)
            require_course(tx, course, lock=True)
            [row] = overview(tx, course)
            if _due(row, default_days, now):
                _delete_course(tx, course, "retention")
                gone += 1
    if gone:
        store.scrub()
    return gone


def audit(store: Store, course: str) -> Iterator[dict[str, Any]]:
    """Every event and every mark of a course in the order of time, read page by page.

    Raises:
        NotFound: there is no such course.
    """
    with store.read() as tx:
        require_course(tx, course)
    of_course = sa.select(events).where(events.c.course_id == course)
    given = (
        sa.select(marks)
        .join(answers, answers.c.id == marks.c.answer_id)
        .where(answers.c.course_id == course)
    )
    return heapq.merge(
        (_event(row) for row in _pages(store, of_course, events.c.id)),
        (_mark(row) for row in _pages(store, given, marks.c.id)),
        key=lambda line: line["at"],
    )


def _pages(
    store: Store, query: sa.Select[Any], key: sa.ColumnElement[int]
) -> Iterator[sa.RowMapping]:
    last = 0
    while True:
        with store.read() as tx:
            page = query.where(key > last).order_by(key).limit(_PAGE)
            rows = tx.execute(page).mappings().all()
        yield from rows
        if len(rows) < _PAGE:
            return
        last = rows[-1]["id"]


def _event(row: sa.RowMapping) -> dict[str, Any]:
    return {
        "type": "event",
        "at": row["at"],
        "id": row["id"],
        "actor": row["actor"],
        "action": row["action"],
        "subject": row["subject"],
        "details": row["details"],
    }


def _mark(row: sa.RowMapping) -> dict[str, Any]:
    kept = (
        "answer_id question_id job_id kind mark full_mark flags needs_review model revision adapter"
        " adapter_version method shots prompt_version calibration config_hash author comment"
        " supersedes"
    )
    return {
        "type": "mark",
        "at": row["created_at"],
        "id": row["id"],
        **{name: row[name] for name in kept.split()},
        "verdicts": [{name: v.get(name) for name in _AUDITED} for v in row["verdicts"]],
    }


def _student(tx: sa.Connection, course: str, student: str) -> sa.Row[Any]:
    row = tx.execute(
        sa.select(students).where(students.c.course_id == course, students.c.external_id == student)
    ).one_or_none()
    if row is None:
        # Not repeated: an id is personal, and errors may be kept.
        raise NotFound("the course has no student of that id", field="student")
    return row


def _wait_for_workers(tx: sa.Connection, course: str) -> None:
    """Wait for blocks that are being written, taking rows in the order in which workers do.

    Block, answers, and the course last: else a worker and a deletion could each hold what the other
    waits for, and PostgreSQL would break one of them off.
    """
    of_course = sa.select(jobs.c.id).where(jobs.c.course_id == course)
    for table, wanted in (
        (blocks, blocks.c.job_id.in_(of_course)),
        (answers, answers.c.course_id == course),
    ):
        query = sa.select(table.c.id).where(wanted).order_by(table.c.id)
        tx.execute(query.with_for_update())


def _delete_course(tx: sa.Connection, course: str, actor: str) -> Gone:
    require_course(tx, course, lock=True)
    gone = Gone(
        courses=1,
        students=_count(tx, students, students.c.course_id == course),
        answers=_count(tx, answers, answers.c.course_id == course),
        uploads=_count(tx, uploads, uploads.c.course_id == course),
    )
    tx.execute(sa.delete(courses).where(courses.c.id == course))
    details = {"students": gone.students, "answers": gone.answers, "uploads": gone.uploads}
    log_event(tx, None, actor, "course.deleted", details=details)
    return gone


def _recount(tx: sa.Connection, touched: list[str]) -> None:
    """Jobs count the answers that they still have."""
    for job in touched:
        states = dict.fromkeys(("waiting", "graded", "failed"), 0)
        query = (
            sa.select(job_answers.c.state, sa.func.count())
            .where(job_answers.c.job_id == job)
            .group_by(job_answers.c.state)
        )
        states |= {state: int(count) for state, count in tx.execute(query)}
        tx.execute(
            sa.update(jobs)
            .where(jobs.c.id == job)
            .values(total=sum(states.values()), graded=states["graded"], failed=states["failed"])
        )


def _due(row: dict[str, Any], default_days: int, now: float) -> bool:
    days = row["retention_days"] or default_days
    return bool(days) and row["last_used"] + days * DAY < now


def _count(tx: sa.Connection, table: sa.Table, wanted: sa.ColumnElement[bool]) -> int:
    return int(tx.scalar(sa.select(sa.func.count()).select_from(table).where(wanted)) or 0)
