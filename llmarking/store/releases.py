"""Results for students: links that only their owners know, what they show, and objections.

Of a link only its hash is kept, so whoever reads the database can't open a student's page.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

import sqlalchemy as sa

from llmarking.errors import Conflict, InputError, NotFound
from llmarking.sentences import sentence
from llmarking.store.courses import log_event, question_of, require_course
from llmarking.store.review import History, history
from llmarking.store.schema import (
    answers,
    clock,
    contests,
    courses,
    marks,
    new_id,
    release_links,
    storable,
    students,
)

# Objections of one student, open or not: enough for every answer, too few to fill a disk.
MOST_CONTESTS = 100


@dataclass(frozen=True, slots=True)
class Released:
    """New links as (student, name, token), and how many students have theirs already."""

    at: float
    links: list[tuple[str, str, str]]
    had_one: int
    undecided: int


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose page a link opens."""

    course: str
    course_name: str
    student_id: str
    student: str
    name: str


def release(tx: sa.Connection, course: str, *, renew: bool, actor: str) -> Released:
    """Make a link for every student who has none.

    Args:
        renew: take all earlier links back first.

    Raises:
        NotFound: there is no such course.
    """
    require_course(tx, course, lock=True)
    if renew:
        _revoke(tx, course)
    has_one = sa.exists().where(
        release_links.c.student_id == students.c.id, release_links.c.revoked_at.is_(None)
    )
    everyone = tx.execute(
        sa.select(students.c.id, students.c.external_id, students.c.name, has_one.label("has_one"))
        .where(students.c.course_id == course)
        .order_by(students.c.external_id)
    ).all()
    made = [(row, secrets.token_urlsafe(32)) for row in everyone if not row.has_one]
    if made:
        tx.execute(
            sa.insert(release_links),
            [
                {"token_hash": _hash(token), "course_id": course, "student_id": row.id}
                for row, token in made
            ],
        )
    tx.execute(sa.update(courses).where(courses.c.id == course).values(released_at=clock()))
    log_event(tx, course, actor, "course.released", details={"links": len(made), "renew": renew})
    undecided = tx.scalar(
        sa.select(sa.func.count())
        .select_from(answers.outerjoin(marks, marks.c.id == answers.c.current_mark_id))
        .where(answers.c.course_id == course, sa.func.coalesce(marks.c.kind, "model") != "human")
    )
    return Released(
        at=float(require_course(tx, course).released_at),
        links=[(row.external_id, row.name, token) for row, token in made],
        had_one=len(everyone) - len(made),
        undecided=int(undecided or 0),
    )


def revoke(tx: sa.Connection, course: str, *, actor: str) -> None:
    """Take all links of a course back.

    Raises:
        NotFound: there is no such course.
    """
    require_course(tx, course, lock=True)
    _revoke(tx, course)
    tx.execute(sa.update(courses).where(courses.c.id == course).values(released_at=None))
    log_event(tx, course, actor, "course.revoked")


def owner(tx: sa.Connection, token: str) -> Owner:
    """Whose link it is.

    Raises:
        NotFound: nobody's, or it was taken back.
    """
    row = tx.execute(
        sa.select(
            courses.c.id,
            courses.c.name.label("course_name"),
            students.c.id.label("student_id"),
            students.c.external_id,
            students.c.name,
        )
        .select_from(
            release_links.join(students, students.c.id == release_links.c.student_id).join(
                courses, courses.c.id == release_links.c.course_id
            )
        )
        .where(release_links.c.token_hash == _hash(token), release_links.c.revoked_at.is_(None))
    ).one_or_none()
    if row is None:
        raise NotFound("this link does not work (any more); ask your teacher for another one")
    return Owner(row.id, row.course_name, row.student_id, row.external_id, row.name)


def answers_of(tx: sa.Connection, student_id: str) -> list[History]:
    """All answers of a student, in the order of the upload."""
    ids = tx.scalars(
        sa.select(answers.c.id)
        .where(answers.c.student_id == student_id)
        .order_by(answers.c.position)
    )
    return [history(tx, answer) for answer in list(ids)]


def contest(tx: sa.Connection, token: str, answer: str, point: int | None, text: str) -> str:
    """A student objects to a verdict, or with no point to the whole mark.

    Raises:
        NotFound: the link or the answer is not hers.
        InputError: there is no such point.
        Conflict: she has objected to it already, or too often.
    """
    who = owner(tx, token)
    row = tx.execute(
        sa.select(answers.c.student_id).where(answers.c.id == answer).with_for_update()
    ).one_or_none()
    if row is None or row.student_id != who.student_id:
        fault = sentence("not_yours", "there is no answer {id} of yours", id=repr(answer[:64]))
        raise NotFound(fault, field="answer")
    found = history(tx, answer)
    if found.listed.mark is None:
        raise Conflict(sentence("no_mark_yet", "the answer has no mark yet"), field="answer")
    points = {each.id for each in question_of(found.question).points}
    if point is not None and point not in points:
        fault = sentence("no_point_there", "the question has no point {point}", point=point)
        raise InputError(fault, field="point")
    if any(row["point_id"] == point and row["state"] == "open" for row in found.contests):
        raise Conflict(
            sentence("objected", "you have objected to this already; your teacher will look at it")
        )
    if not text.strip():
        fault = sentence("say_why", "say in a sentence what is wrong")
        raise InputError(fault, field="text")
    count = tx.scalar(
        sa.select(sa.func.count())
        .select_from(contests.join(answers, answers.c.id == contests.c.answer_id))
        .where(answers.c.student_id == who.student_id)
    )
    if int(count or 0) >= MOST_CONTESTS:
        raise Conflict(
            sentence(
                "objected_much", "that is more than your teacher can look at; ask her in person"
            )
        )
    made = new_id()
    tx.execute(
        sa.insert(contests).values(
            id=made, answer_id=answer, point_id=point, text=storable(text.strip())
        )
    )
    log_event(tx, who.course, "student", "contest.opened", answer, {"contest": made})
    return made


def decide_contest(
    tx: sa.Connection, contest_id: str, state: str, comment: str | None, *, actor: str
) -> sa.RowMapping:
    """Close an objection; the mark itself is changed by a decision on the answer.

    Raises:
        NotFound: there is none of that id.
        Conflict: it has been closed.
    """
    query = (
        sa.select(contests, answers.c.course_id)
        .join(answers, answers.c.id == contests.c.answer_id)
        .where(contests.c.id == contest_id)
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"there is no objection {contest_id!r}", field="contest")
    closed = tx.execute(
        sa.update(contests)
        .where(contests.c.id == contest_id, contests.c.state == "open")
        .values(state=state, comment=comment, decided_by=actor, decided_at=clock())
    )
    if closed.rowcount != 1:
        raise Conflict(f"the objection has been closed already ({row.state})")
    log_event(tx, row.course_id, actor, f"contest.{state}", row.answer_id, {"contest": contest_id})
    return tx.execute(sa.select(contests).where(contests.c.id == contest_id)).mappings().one()


def _revoke(tx: sa.Connection, course: str) -> None:
    tx.execute(
        sa.update(release_links)
        .where(release_links.c.course_id == course, release_links.c.revoked_at.is_(None))
        .values(revoked_at=clock())
    )


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
