"""A rubric is edited: first a trial of what that does to the marks, then apply or discard.

Only what the change touches is read again. A verdict on a point whose wording stayed is carried
over; where only the marks of points changed, nothing is read at all. The trial is a job of its own
kind, whose marks never stand: applying adds marks under the new version of the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from llmarking.domain import Flag, Grade
from llmarking.errors import Conflict, InputError, NotFound
from llmarking.marks import decisions
from llmarking.marks.decisions import Revision, Touch
from llmarking.protocol.bodies import WireQuestion
from llmarking.sentences import sentence, word
from llmarking.store.courses import log_event, newest_questions, put_questions, require_course
from llmarking.store.jobs import ENDED
from llmarking.store.marks import add_model_marks, new_mark, questions_of
from llmarking.store.review import Listed, Row, listed, marks_by_id, verdicts_of
from llmarking.store.schema import answers, clock, job_answers, jobs, new_id, questions
from llmarking.store.submit import Placed, canonical_hash, put_blocks

TrialState = Literal["reading", "proposed", "applied", "discarded"]
# What the course's last job was asked for; the first argument is the transaction.
Configure = Callable[[sa.Connection, sa.Row[Any], dict[str, Any]], dict[str, Any]]
_DEFAULTS = {"method": "verdict", "shots": 0, "explain": False, "risk": None, "adapter": None}


@dataclass(frozen=True, slots=True)
class Touched:
    """An answer that a new version touches.

    Attributes:
        base: the mark that a new one follows: the trial's, or the model's where nothing is read.
        grade: what the model's mark becomes; None where it has not been read, or can't be.
    """

    listed: Listed
    question_id: str
    base: Row | None
    grade: Grade | None

    @property
    def kept(self) -> bool:
        """Whether a teacher's mark stands, and goes on standing."""
        return self.listed.mark is not None and self.listed.mark["kind"] == "human"

    @property
    def changes(self) -> bool:
        """Whether the mark would be another one."""
        mark = self.listed.mark
        if self.grade is None or mark is None:
            return False
        after = (self.grade.mark, self.grade.question.full_mark)
        return (mark["mark"], mark["full_mark"]) != after


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial, its job, and what it has found so far."""

    job: sa.Row[Any]
    touched: list[Touched]

    @property
    def state(self) -> TrialState:
        """`reading`, then `proposed` until it is applied or discarded."""
        if self.job.proposal == "proposed" and self.job.state == "cancelled":
            return "discarded"
        if self.job.proposal == "proposed" and self.job.state not in ENDED:
            return "reading"
        proposal: TrialState = self.job.proposal
        return proposal


def start(
    tx: sa.Connection,
    course: str,
    given: Sequence[WireQuestion],
    configure: Configure,
    *,
    actor: str,
) -> str:
    """Begin a trial and return the id of its job, which is finished where nothing must be read.

    Raises:
        NotFound: there is no such course.
        InputError: a question is not the course's, is at fault, or nothing would be touched.
    """
    row = require_course(tx, course, lock=True)
    known = newest_questions(tx, course)
    for number, question in enumerate(given):
        if question.code not in known:
            raise InputError(
                sentence(
                    "at_field",
                    "{field}: {why}",
                    field=f"questions.{number}.code",
                    why=sentence(
                        "no_question_there",
                        "the course has no question {code}",
                        code=repr(question.code),
                    ),
                ),
                field=f"questions.{number}.code",
            )
    versions = put_questions(tx, course, given, actor=actor, active=False)
    options = _last_options(tx, course)
    found = _touched(tx, course, versions, options["shots"], None)
    if not found:
        raise InputError(
            sentence(
                "nothing_touched",
                "no mark would be touched: the questions are the ones that were marked by",
            ),
            field="questions",
        )
    to_read = [each for each in found if each.base is None]
    job = new_id()
    # Its marks must have names of their own: the same questions may be tried again.
    config = configure(tx, row, options) | {"regrade": job}
    tx.execute(
        sa.insert(jobs).values(
            id=job,
            course_id=course,
            kind="regrade",
            proposal="proposed",
            options=options | {"questions": versions},
            config=config,
            config_hash=canonical_hash(config),
            model=config["model"],
            total=len(to_read),
            state="queued" if to_read else "finished",
            finished_at=None if to_read else clock(),
        )
    )
    if to_read:
        placed = [
            Placed(
                place,
                each.listed.answer["id"],
                each.listed.answer["question_code"],
                each.listed.answer["text_key"],
            )
            for place, each in enumerate(to_read)
        ]
        put_blocks(tx, job, placed, versions)
    details = {"touched": len(found), "read": len(to_read)}
    log_event(tx, course, actor, "regrade.started", job, details)
    return job


def look(tx: sa.Connection, job: str) -> Trial:
    """A trial and what it would change, as things are now.

    Raises:
        NotFound: there is no trial of that id.
    """
    row = _job(tx, job)
    if row.proposal != "proposed":
        return Trial(row, [])
    options = row.options
    found = _touched(tx, row.course_id, options["questions"], options["shots"], row.id)
    return Trial(row, found)


def apply(tx: sa.Connection, job: str, *, actor: str) -> Trial:
    """Let the new questions count, and the marks under them; a teacher's mark goes on standing.

    Raises:
        NotFound: there is no trial of that id.
        Conflict: it is still reading, has been decided on, or things have moved on.
    """
    row = _job(tx, job)
    require_course(tx, row.course_id, lock=True)
    row = _job(tx, job)
    versions: dict[str, str] = row.options["questions"]
    _may_apply(tx, Trial(row, []), versions)
    # Decisions at this moment have to wait, or a mark made just now would be missed.
    tx.execute(
        sa.select(answers.c.id)
        .where(answers.c.course_id == row.course_id, answers.c.question_code.in_(versions))
        .with_for_update()
    )
    trial = look(tx, job)
    add_model_marks(
        tx,
        [
            new_mark(each.base, each.grade, job, each.base["calibration"])
            | {"question_id": each.question_id, "full_mark": each.grade.question.full_mark}
            for each in trial.touched
            if each.base is not None and each.grade is not None
        ],
    )
    tx.execute(
        sa.update(questions).where(questions.c.id.in_(versions.values())).values(active=True)
    )
    tx.execute(sa.update(jobs).where(jobs.c.id == job).values(proposal="applied"))
    details = {"changed": sum(each.changes and not each.kept for each in trial.touched)}
    log_event(tx, row.course_id, actor, "regrade.applied", job, details)
    return Trial(_job(tx, job), trial.touched)


def discard(tx: sa.Connection, job: str, *, actor: str) -> Trial:
    """Let a trial go; what it is still reading is stopped.

    Raises:
        NotFound: there is no trial of that id.
        Conflict: it has been decided on.
    """
    row = _job(tx, job)
    require_course(tx, row.course_id, lock=True)
    row = _job(tx, job)
    if row.proposal != "proposed":
        raise Conflict(
            sentence(
                "regrade_over", "the regrade has been {state} already", state=word(row.proposal)
            )
        )
    stopped = {} if row.state in ENDED else {"state": "cancelled", "finished_at": clock()}
    tx.execute(sa.update(jobs).where(jobs.c.id == job).values(proposal="discarded", **stopped))
    log_event(tx, row.course_id, actor, "regrade.discarded", job)
    return Trial(_job(tx, job), [])


def _may_apply(tx: sa.Connection, trial: Trial, versions: dict[str, str]) -> None:
    if trial.state == "reading":
        raise Conflict(
            sentence(
                "regrade_reading", "the regrade is still reading answers; wait until it is done"
            )
        )
    if trial.state != "proposed":
        raise Conflict(
            sentence(
                "regrade_decided",
                "the regrade has been {state} already; start another one",
                state=word(trial.state),
            )
        )
    course = trial.job.course_id
    grading = sa.exists().where(
        jobs.c.course_id == course, jobs.c.kind == "grade", jobs.c.state.not_in(ENDED)
    )
    if tx.scalar(sa.select(grading)):
        raise Conflict(
            sentence(
                "still_grading",
                "a job is still grading answers of the course by the old questions; wait for it, "
                "or cancel it",
            )
        )
    wanted = tx.execute(sa.select(questions).where(questions.c.id.in_(versions.values())))
    current = newest_questions(tx, course)
    for row in wanted:
        if current[row.code].version > row.version:
            raise Conflict(
                sentence(
                    "question_changed",
                    "question {code} has been changed since; start another regrade",
                    code=repr(row.code),
                ),
                field="questions",
            )


def _touched(
    tx: sa.Connection, course: str, versions: dict[str, str], shots: int, job: str | None
) -> list[Touched]:
    """Answers whose model mark is about another version than the one given, in upload order.

    Args:
        job: the trial's, whose readings are used; None before there is one.
    """
    ids = tx.scalars(
        sa.select(answers.c.id)
        .where(answers.c.course_id == course, answers.c.question_code.in_(versions))
        .order_by(answers.c.position)
    )
    read = _readings(tx, job)
    question = questions_of(tx)
    revisions: dict[tuple[str, str], Revision] = {}
    found = []
    for each in listed(tx, list(ids)):
        if each.model is None:
            continue
        old, new = each.model["question_id"], versions[each.answer["question_code"]]
        if old == new:
            continue
        if (old, new) not in revisions:
            revisions[old, new] = Revision.between(question(old), question(new), shots)
        revision = revisions[old, new]
        trial = read.get(each.answer["id"])
        base = trial if revision.touch is Touch.READ else each.model
        grade = None if base is None else _regraded(revision, each.model, trial)
        found.append(Touched(each, new, base, grade))
    return found


def _readings(tx: sa.Connection, job: str | None) -> dict[str, Row]:
    """What a trial has read so far, by answer."""
    if job is None:
        return {}
    ids = tx.scalars(
        sa.select(job_answers.c.mark_id).where(
            job_answers.c.job_id == job, job_answers.c.mark_id.is_not(None)
        )
    )
    return {row["answer_id"]: row for row in marks_by_id(tx, list(ids)).values()}


def _regraded(revision: Revision, model: Row, trial: Row | None) -> Grade:
    before = verdicts_of(model, revision.old)
    fresh = () if trial is None else verdicts_of(trial, revision.new)
    verdicts = revision.verdicts(before, fresh)
    source = model if trial is None else trial
    flags = [Flag(flag) for flag in source["flags"]]
    explained = any(v["evidence"] is not None or v["reason"] for v in source["verdicts"])
    return Grade(
        revision.new, verdicts, decisions.carried_flags(flags, verdicts, explained=explained)
    )


def _last_options(tx: sa.Connection, course: str) -> dict[str, Any]:
    """What the course's last job was asked for."""
    options = tx.scalar(
        sa.select(jobs.c.options)
        .where(jobs.c.course_id == course, jobs.c.kind == "grade")
        .order_by(jobs.c.created_at.desc(), jobs.c.id)
        .limit(1)
    )
    return _DEFAULTS | {k: v for k, v in (options or {}).items() if k in _DEFAULTS}


def _job(tx: sa.Connection, job: str) -> sa.Row[Any]:
    row = tx.execute(sa.select(jobs).where(jobs.c.id == job, jobs.c.kind == "regrade")).first()
    if row is None:
        fault = sentence("no_regrade_there", "there is no regrade {id}", id=repr(job))
        raise NotFound(fault, field="regrade")
    return row
