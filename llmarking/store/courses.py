"""Courses, the versions of their questions, and the log of what was done to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from llmarking.domain import Question
from llmarking.errors import Conflict, InputError, NotFound
from llmarking.protocol.bodies import WireQuestion
from llmarking.sentences import sentence
from llmarking.store.schema import courses, events, new_id, questions, storable


def insert_course(
    tx: sa.Connection,
    *,
    name: str,
    id: str | None = None,
    retention_days: int | None = None,
    risk: float | None = None,
    default_adapter: str | None = None,
    actor: str = "api",
) -> str:
    """Add a course; returns its id.

    Raises:
        Conflict: there is one of that id.
    """
    course = id or new_id()
    if id is not None and tx.scalar(sa.select(courses.c.id).where(courses.c.id == id)):
        raise Conflict(f"there is a course {id!r} already", field="id")
    tx.execute(
        sa.insert(courses).values(
            id=course,
            name=storable(name),
            retention_days=retention_days,
            risk=risk,
            default_adapter=default_adapter,
        )
    )
    log_event(tx, course, actor, "course.created")
    return course


def require_course(tx: sa.Connection, course: str, *, lock: bool = False) -> sa.Row[Any]:
    """The row of a course; with `lock`, nobody else adds to it before the transaction ends.

    Raises:
        NotFound: there is none of that id.
    """
    query = sa.select(courses).where(courses.c.id == course)
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        fault = sentence("no_course_there", "there is no course {id}", id=repr(course))
        raise NotFound(fault, field="course")
    return row


def put_questions(
    tx: sa.Connection,
    course: str,
    given: Sequence[WireQuestion],
    *,
    actor: str = "api",
    active: bool = True,
) -> dict[str, str]:
    """Add questions, or new versions of those that have changed.

    Args:
        active: whether new versions count from now on, or are only tried out by a regrade.

    Returns:
        the id of the version that has this content, by code.

    Raises:
        InputError: a question lacks its code, or its markup or examples are at fault.
    """
    known = newest_questions(tx, course)
    highest = (
        sa.select(questions.c.code, sa.func.max(questions.c.version).label("version"))
        .where(questions.c.course_id == course)
        .group_by(questions.c.code)
    )
    versions = {row.code: row.version for row in tx.execute(highest)}
    ids: dict[str, str] = {}
    position = max((row.position for row in known.values()), default=-1)
    for number, wire in enumerate(given):
        content = _content(wire, f"questions.{number}")
        code = storable(wire.code)
        if wire.code in ids:
            raise InputError(
                f"questions.{number}.code: {wire.code!r} is there twice",
                field=f"questions.{number}.code",
            )
        before = known.get(code)
        if before is not None and before.content_hash == content["content_hash"]:
            ids[wire.code] = before.id
            continue
        position += before is None
        ids[wire.code] = new_id()
        version = versions.get(code, 0) + 1
        tx.execute(
            sa.insert(questions).values(
                id=ids[wire.code],
                course_id=course,
                code=code,
                version=version,
                position=position if before is None else before.position,
                active=active,
                **content,
            )
        )
        details = {"code": code, "version": version}
        action = "question.put" if active else "question.tried"
        log_event(tx, course, actor, action, ids[wire.code], details)
    return ids


def newest_questions(tx: sa.Connection, course: str) -> dict[str, sa.Row[Any]]:
    """The version in use of every question of a course, by code, in the order they came."""
    found = tx.execute(
        sa.select(questions)
        .where(questions.c.course_id == course, questions.c.active)
        .order_by(questions.c.position, questions.c.version)
    )
    return {row.code: row for row in found}


def question_of(row: sa.Row[Any]) -> Question:
    """A question as grading takes it."""
    return wire_of(row).question()


def wire_of(row: sa.Row[Any]) -> WireQuestion:
    """A question as it goes over the wire."""
    return WireQuestion.model_validate(
        {
            "code": row.code,
            "text": row.text,
            "reference": row.reference,
            "full_mark": row.full_mark,
            "subject": row.subject,
            "examples": row.examples,
        }
    )


def log_event(
    tx: sa.Connection,
    course: str | None,
    actor: str,
    action: str,
    subject: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Add to the log of a course. Never what a student wrote."""
    row = {"course_id": course, "actor": actor, "action": action, "subject": subject}
    tx.execute(sa.insert(events).values(**row, details=dict(details) if details else None))


def _content(wire: WireQuestion, field: str) -> dict[str, Any]:
    if not wire.code:
        raise InputError(f"{field}.code: a question needs a code", field=f"{field}.code")
    try:
        parsed = wire.question()
    except InputError as error:
        fault = sentence(
            "at_field", "{field}: {why}", field=f"{field}.{error.field}", why=error.message
        )
        raise InputError(fault, field=f"{field}.reference") from error
    except ValueError as error:
        raise InputError(f"{field}.examples: {error}", field=f"{field}.examples") from error
    content = {
        "text": storable(wire.text),
        "reference": storable(wire.reference),
        "full_mark": parsed.full_mark,
        "subject": storable(wire.subject),
        "examples": [example.model_dump(mode="json") for example in wire.examples],
    }
    text = json.dumps(content, sort_keys=True)
    return {**content, "content_hash": hashlib.sha256(text.encode()).hexdigest()}
