"""A course's own calibration in the store: proposed, then applied or discarded.

Applying adds model marks with other probabilities to answers that no teacher has decided. Nothing
is read again: the model's log-odds are in its marks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple

import sqlalchemy as sa

from llmarking.domain import Flag, Grade, Question
from llmarking.errors import CalibrationError, Conflict, NotFound
from llmarking.grading.grader import DEFAULT_RISK
from llmarking.marks import decisions
from llmarking.marks.calibration import Calibration, Calibrations
from llmarking.marks.recalibrating import Confirmed, recalibrated, refit
from llmarking.marks.summaries import unsettled
from llmarking.sentences import sentence, word
from llmarking.store import overview
from llmarking.store.courses import log_event, require_course
from llmarking.store.marks import add_model_marks, new_mark, questions_of
from llmarking.store.overview import calibration_of
from llmarking.store.review import Listed, Row, listed, verdicts_of
from llmarking.store.schema import (
    answers,
    clock,
    course_calibrations,
    new_id,
)


class Setup(NamedTuple):
    """What a calibration belongs to: other weights under the same name have other log-odds."""

    model: str
    revision: str | None
    adapter: str | None
    adapter_version: str | None
    prompt: str

    @classmethod
    def of(cls, mark: Row) -> Setup:
        """What read the answer of a model's mark."""
        return cls(
            mark["model"],
            mark["revision"],
            mark["adapter"],
            mark["adapter_version"],
            mark["prompt_version"],
        )

    @classmethod
    def of_calibration(cls, row: sa.Row[Any]) -> Setup:
        """What a course's calibration was fitted for."""
        return cls(row.model, row.revision, row.adapter, row.adapter_version, row.prompt)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a refit would do.

    Attributes:
        changed: answer id, point id, verdict before and after.
        review_before, review_after: undecided answers that a teacher is left to read.
    """

    row: sa.Row[Any]
    changed: list[tuple[str, int, bool | None, bool]]
    review_before: int
    review_after: int


def propose(tx: sa.Connection, course: str, *, actor: str) -> Proposal:
    """Fit a calibration on what the teacher has decided, and say what it would change.

    Raises:
        NotFound: there is no such course.
        CalibrationError: there is not enough to go by.
    """
    require_course(tx, course, lock=True)
    found = _class(tx, course)
    setup = _setup(found)
    shipped = Calibrations().find(setup.model, setup.adapter, setup.prompt)
    fitted = refit(
        shipped,
        _confirmed(found, setup),
        Calibration(setup.model, setup.prompt, adapter=setup.adapter),
    )
    # One proposal at a time: the one that was looked at is the one that is applied.
    tx.execute(
        sa.update(course_calibrations)
        .where(course_calibrations.c.course_id == course, course_calibrations.c.state == "proposed")
        .values(state="discarded")
    )
    made = new_id()
    tx.execute(
        sa.insert(course_calibrations).values(
            id=made,
            course_id=course,
            **setup._asdict(),
            slope=fitted.slope,
            offset=fitted.offset,
            spread=list(fitted.spread),
            verdicts=fitted.verdicts,
            identity=fitted.identity,
        )
    )
    log_event(tx, course, actor, "calibration.proposed", made, {"verdicts": fitted.verdicts})
    return look(tx, course, made)


def look(tx: sa.Connection, course: str, calibration: str) -> Proposal:
    """What a calibration would change as things are now.

    Raises:
        NotFound: the course has none of that id.
    """
    row = _row(tx, course, calibration)
    risk = require_course(tx, course).risk or DEFAULT_RISK
    new = calibration_of(row)
    setup = Setup.of_calibration(row)
    changed: list[tuple[str, int, bool | None, bool]] = []
    before = after = 0
    for each in _undecided(_class(tx, course)):
        mark = each.mark
        assert mark is not None
        was = unsettled(overview.marked_of(each), 1.0 - risk)
        before += was
        if Setup.of(mark) != setup:
            after += was
            continue
        grade = _again(mark, questions_of(tx)(mark["question_id"]), new, risk)
        after += grade.needs_review
        for old_verdict, verdict in zip(mark["verdicts"], grade.verdicts, strict=True):
            if old_verdict["held"] != verdict.held:
                changed.append(
                    (each.answer["id"], verdict.point.id, old_verdict["held"], bool(verdict.held))
                )
    return Proposal(row, changed, before, after)


def apply(tx: sa.Connection, course: str, calibration: str, *, actor: str) -> int:
    """Let a proposed calibration count: new marks for answers that nobody has decided.

    Returns:
        how many answers have a new mark.

    Raises:
        NotFound: the course has none of that id.
        Conflict: it was applied or discarded before.
    """
    course_row = require_course(tx, course, lock=True)
    row = _row(tx, course, calibration)
    _still_proposed(row)
    # Decisions and jobs at this moment have to wait, or their marks would be missed.
    tx.execute(sa.select(answers.c.id).where(answers.c.course_id == course).with_for_update())
    risk = course_row.risk or DEFAULT_RISK
    new, setup = calibration_of(row), Setup.of_calibration(row)
    question = questions_of(tx)
    rows = []
    for each in _undecided(_class(tx, course)):
        mark = each.mark
        assert mark is not None
        if Setup.of(mark) == setup:
            grade = _again(mark, question(mark["question_id"]), new, risk)
            rows.append(new_mark(mark, grade, calibration, new.identity))
    add_model_marks(tx, rows)
    tx.execute(
        sa.update(course_calibrations)
        .where(course_calibrations.c.id == calibration)
        .values(state="applied", applied_at=clock())
    )
    log_event(tx, course, actor, "calibration.applied", calibration, {"answers": len(rows)})
    return len(rows)


def discard(tx: sa.Connection, course: str, calibration: str, *, actor: str) -> None:
    """Let a proposal go; nothing has been changed by it.

    Raises:
        NotFound: the course has none of that id.
        Conflict: it was applied or discarded before.
    """
    require_course(tx, course, lock=True)
    _still_proposed(_row(tx, course, calibration))
    tx.execute(
        sa.update(course_calibrations)
        .where(course_calibrations.c.id == calibration)
        .values(state="discarded")
    )
    log_event(tx, course, actor, "calibration.discarded", calibration)


def _class(tx: sa.Connection, course: str) -> list[Listed]:
    """The answers of a course that have a mark."""
    ids = tx.scalars(
        sa.select(answers.c.id)
        .where(answers.c.course_id == course, answers.c.current_mark_id.is_not(None))
        .order_by(answers.c.position)
    )
    return listed(tx, list(ids))


def _undecided(found: Iterable[Listed]) -> Iterable[Listed]:
    return (
        each
        for each in found
        if each.mark is not None
        and each.mark["kind"] == "model"
        and each.mark["method"] == "verdict"
    )


def _setup(found: Iterable[Listed]) -> Setup:
    """What most of the model's marks were read with."""
    counts = Counter(
        Setup.of(each.model)
        for each in found
        if each.model is not None and each.model["method"] == "verdict"
    )
    if not counts:
        raise CalibrationError(
            sentence(
                "nothing_to_calibrate",
                "the course has no marks whose probabilities could be calibrated",
            )
        )
    return counts.most_common(1)[0][0]


def _confirmed(found: Iterable[Listed], setup: Setup) -> Iterable[Confirmed]:
    """Pairs of the model's log-odds and the teacher's verdict, for the same version of a point."""
    for each in found:
        mark, model = each.mark, each.model
        if mark is None or model is None or mark["kind"] != "human":
            continue
        if mark["question_id"] != model["question_id"]:
            continue
        if Setup.of(model) != setup:
            continue
        theirs = {v["id"]: v["held"] for v in mark["verdicts"]}
        for verdict in model["verdicts"]:
            odds = verdict["raw"]
            if odds is not None and isfinite(odds) and theirs.get(verdict["id"]) is not None:
                # Answers with one text are one reading, whoever wrote them.
                text = f"{mark['question_id']}:{each.answer['text_key']}"
                yield Confirmed(text, verdict["id"], odds, theirs[verdict["id"]])


def _again(mark: Row, question: Question, new: Calibration, risk: float) -> Grade:
    flags = [Flag(flag) for flag in mark["flags"]]
    verdicts = recalibrated(verdicts_of(mark, question), new, 1.0 - risk, flags)
    explained = any(v["evidence"] is not None or v["reason"] for v in mark["verdicts"])
    return Grade(question, verdicts, decisions.carried_flags(flags, verdicts, explained=explained))


def _row(tx: sa.Connection, course: str, calibration: str) -> sa.Row[Any]:
    row = tx.execute(
        sa.select(course_calibrations).where(
            course_calibrations.c.id == calibration, course_calibrations.c.course_id == course
        )
    ).one_or_none()
    if row is None:
        fault = sentence(
            "no_calibration_there", "the course has no calibration {id}", id=repr(calibration)
        )
        raise NotFound(fault, field="calibration")
    return row


def _still_proposed(row: sa.Row[Any]) -> None:
    if row.state != "proposed":
        raise Conflict(
            sentence(
                "calibration_decided",
                "the calibration has been {state} already; ask for another one",
                state=word(row.state),
            )
        )
