"""Courses: listed, changed, and read whole for a summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from llmarking.marks.calibration import Calibration
from llmarking.marks.decisions import state
from llmarking.marks.summaries import Marked
from llmarking.store.courses import log_event, require_course
from llmarking.store.review import Listed, held, model_marks
from llmarking.store.schema import (
    answers,
    contests,
    courses,
    events,
    jobs,
    marks,
    questions,
    storable,
)

Row = sa.RowMapping


def change(tx: sa.Connection, course_id: str, fields: Mapping[str, Any], actor: str) -> None:
    """Set some columns of a course.

    Raises:
        NotFound: there is none of that id.
    """
    require_course(tx, course_id)
    if fields:
        values = dict(fields)
        if "name" in values:
            values["name"] = storable(values["name"])
        tx.execute(sa.update(courses).where(courses.c.id == course_id).values(**values))
        log_event(tx, course_id, actor, "course.changed", details={"fields": sorted(fields)})


def overview(tx: sa.Connection, course_id: str | None = None) -> list[dict[str, Any]]:
    """Courses with their counts, the latest first; or one of them.

    Raises:
        NotFound: there is none of that id.
    """
    if course_id is not None:
        require_course(tx, course_id)
    counted = {
        "questions": sa.select(sa.func.count(sa.distinct(questions.c.code))).where(
            questions.c.course_id == courses.c.id, questions.c.active
        ),
        "answers": sa.select(sa.func.count()).where(answers.c.course_id == courses.c.id),
        "decided": sa.select(sa.func.count())
        .select_from(answers.join(marks, marks.c.id == answers.c.current_mark_id))
        .where(answers.c.course_id == courses.c.id, marks.c.kind == "human"),
        "contested": sa.select(sa.func.count(sa.distinct(answers.c.id)))
        .select_from(answers.join(contests, contests.c.answer_id == answers.c.id))
        .where(answers.c.course_id == courses.c.id, contests.c.state == "open"),
        "last_event": sa.select(sa.func.max(events.c.at)).where(events.c.course_id == courses.c.id),
        "last_job": sa.select(sa.func.max(jobs.c.created_at)).where(
            jobs.c.course_id == courses.c.id
        ),
    }
    query = sa.select(
        courses,
        *(q.correlate(courses).scalar_subquery().label(name) for name, q in counted.items()),
    ).order_by(courses.c.created_at.desc(), courses.c.id)
    if course_id is not None:
        query = query.where(courses.c.id == course_id)
    rows = []
    for row in tx.execute(query).mappings():
        fields = dict(row)
        times = (row["created_at"], fields.pop("last_event"), fields.pop("last_job"))
        fields["last_used"] = max(at for at in times if at is not None)
        rows.append(fields)
    return rows


def marked(tx: sa.Connection, course_id: str) -> tuple[int, list[Marked]]:
    """What a summary counts: how many answers there are, and those that have a mark.

    Reads the columns that are counted and no others: a class may have thousands of answers.

    Raises:
        NotFound: there is no such course.
    """
    require_course(tx, course_id)
    total = tx.scalar(
        sa.select(sa.func.count()).select_from(answers).where(answers.c.course_id == course_id)
    )
    query = (
        sa.select(answers.c.id, answers.c.question_code, *_COUNTED)
        .join(marks, marks.c.id == answers.c.current_mark_id)
        .where(answers.c.course_id == course_id)
        .order_by(answers.c.position)
    )
    rows = tx.execute(query).mappings().all()
    beneath = model_marks(tx, [row["id"] for row in rows if row["kind"] != "model"])
    return int(total or 0), [
        _marked(
            row["question_code"], row, row if row["kind"] == "model" else beneath.get(row["id"])
        )
        for row in rows
    ]


_COUNTED = (
    marks.c.kind,
    marks.c.question_id,
    marks.c.mark,
    marks.c.full_mark,
    marks.c.verdicts,
    marks.c.flags,
    marks.c.confidence,
    marks.c.needs_review,
)


def marked_of(each: Listed) -> Marked:
    """An answer that has a mark, as a summary looks at it."""
    assert each.mark is not None
    return _marked(each.answer["question_code"], each.mark, each.model)


def _marked(code: str, mark: Row, model: Row | None) -> Marked:
    given = held(mark)
    by_model = given if model is mark else None if model is None else held(model)
    same_question = model is not None and model["question_id"] == mark["question_id"]
    return Marked(
        code=code,
        mark=mark["mark"],
        full_mark=mark["full_mark"],
        state=state(given if mark["kind"] == "human" else None, by_model),
        flags=mark["flags"],
        confidence=mark["confidence"],
        needs_review=mark["needs_review"],
        held=given,
        model=by_model if by_model is not None and same_question else {},
    )


def calibration_of(row: sa.Row[Any]) -> Calibration:
    """A calibration of a course's own."""
    return Calibration(
        model=row.model,
        prompt=row.prompt,
        adapter=row.adapter,
        slope=row.slope,
        offset=row.offset,
        spread=tuple(row.spread),
        verdicts=row.verdicts,
        data=("confirmed in the course",),
    )
