"""A new rubric over HTTP: try it, see who would change, apply or discard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request

from llmarking.errors import InputError
from llmarking.grading.grader import GradeOptions
from llmarking.protocol.bodies import WireQuestion
from llmarking.protocol.courses import Regrade, RegradeChange, RegradeRequest
from llmarking.sentences import sentence
from llmarking.server import apidocs
from llmarking.server.routes.jobs import wake
from llmarking.server.routes.storing import actor, reading, writing
from llmarking.server.service import service_of
from llmarking.store import regrades as store_regrades
from llmarking.store.courses import newest_questions, wire_of
from llmarking.store.job_marks import configuration

router = APIRouter(tags=["review"])
_DECIDES = apidocs.errors(404, 409, 503)


@router.post(
    "/courses/{course}/regrade", status_code=202, responses=apidocs.errors(404, 409, 422, 503)
)
def start(course: str, body: RegradeRequest, request: Request) -> Regrade:
    """Try other versions of questions on the answers that have marks. Nothing is changed.

    Answers are read again only for points that are new or worded differently. Everything else is
    carried over; where only what points are worth has changed, the list is there at once. A
    question that is sent without `subject` or `examples` keeps those of the version in use.
    """
    grader = service_of(request).require_ready()

    def configure(tx: sa.Connection, row: sa.Row[Any], options: dict[str, Any]) -> dict[str, Any]:
        asked = _completed(tx, course, body.questions)
        given = {question.code: len(question.examples) for question in asked}
        for code, question in newest_questions(tx, course).items():
            if given.get(code, len(question.examples)) < options["shots"]:
                raise InputError(
                    sentence(
                        "fewer_examples",
                        "the course was graded with {shots} examples, and question {code} now "
                        "has fewer",
                        shots=options["shots"],
                        code=repr(code),
                    ),
                    field="questions",
                )
        chosen = GradeOptions(
            method=options["method"],
            shots=options["shots"],
            explain=options["explain"],
            risk=row.risk if options["risk"] is None else options["risk"],
            adapter=row.default_adapter if options["adapter"] is None else options["adapter"],
        )
        return configuration(tx, course, grader, chosen)

    def work(tx: sa.Connection) -> store_regrades.Trial:
        given = _completed(tx, course, body.questions)
        job = store_regrades.start(tx, course, given, configure, actor=actor(request))
        return store_regrades.look(tx, job)

    found = writing(request, work)
    wake(request)
    return _regrade(found)


def _completed(tx: sa.Connection, course: str, given: Sequence[WireQuestion]) -> list[WireQuestion]:
    """The questions as they were sent; where subject or examples were left out, those in use."""
    known = newest_questions(tx, course)
    whole = []
    for question in given:
        left_out = {"subject", "examples"} - question.model_fields_set
        if question.code in known and left_out:
            before = wire_of(known[question.code])
            kept = {name: getattr(before, name) for name in left_out}
            question = question.model_copy(update=kept)
        whole.append(question)
    return whole


@router.get("/regrades/{regrade}", responses=apidocs.errors(404, 503))
def look(regrade: str, request: Request) -> Regrade:
    """Who would change and by how much, as things are now; `changed` grows while it is reading."""
    return _regrade(reading(request, lambda tx: store_regrades.look(tx, regrade)))


@router.post("/regrades/{regrade}/apply", responses=_DECIDES)
def apply(regrade: str, request: Request) -> Regrade:
    """Let the new questions count. Teachers' marks go on standing."""
    work = store_regrades.apply
    return _regrade(writing(request, lambda tx: work(tx, regrade, actor=actor(request))))


@router.post("/regrades/{regrade}/discard", responses=_DECIDES)
def discard(regrade: str, request: Request) -> Regrade:
    """Let the trial go; the questions stay as they were."""
    work = store_regrades.discard
    found = writing(request, lambda tx: work(tx, regrade, actor=actor(request)))
    wake(request)
    return _regrade(found)


def _regrade(trial: store_regrades.Trial) -> Regrade:
    job, changed = trial.job, [each for each in trial.touched if each.changes]
    return Regrade(
        id=job.id,
        course=job.course_id,
        state=trial.state,
        questions=sorted(job.options["questions"]),
        total=job.total,
        read=job.graded,
        failed=job.failed,
        touched=len(trial.touched),
        changed_count=len([each for each in changed if not each.kept]),
        kept_count=len([each for each in changed if each.kept]),
        changed=[_change(each) for each in changed],
    )


def _change(each: store_regrades.Touched) -> RegradeChange:
    answer, mark, grade = each.listed.answer, each.listed.mark, each.grade
    assert mark is not None
    assert grade is not None
    return RegradeChange(
        answer=answer["id"],
        student=answer["student"],
        question=answer["question_code"],
        mark_before=mark["mark"],
        mark_after=grade.mark,
        full_mark_before=mark["full_mark"],
        full_mark_after=grade.question.full_mark,
        kept=each.kept,
    )
