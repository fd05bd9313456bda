"""The teacher's queue: answers with their marks, decisions, and taking them back."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request

from llmarking.domain import Flag
from llmarking.protocol.bodies import PointResult
from llmarking.protocol.courses import (
    MAX_PAGE,
    AnswerDetail,
    AnswerPage,
    AnswerRow,
    Decided,
    Decision,
    MarkRow,
    Order,
    Undo,
    Which,
    WireContest,
)
from llmarking.protocol.jobs import timestamp
from llmarking.server import apidocs
from llmarking.server.routes.storing import actor, reading, writing
from llmarking.store import decisions as store_decisions, review as store_review
from llmarking.store.courses import question_of, require_course
from llmarking.store.review import History, Listed, Row, verdicts_of

router = APIRouter(tags=["review"])
_DECIDES = apidocs.errors(404, 409, 422, 503)


@router.get("/courses/{course}/answers", responses=apidocs.errors(404, 422, 503))
def list_answers(
    course: str,
    request: Request,
    order: Annotated[Order, Query()] = "upload",
    flag: Annotated[Flag | None, Query()] = None,
    question: Annotated[str | None, Query(max_length=200)] = None,
    state: Annotated[Which, Query()] = "all",
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> AnswerPage:
    """A page of answers with the marks that stand.

    By `risk` come contested answers first, then what nobody has decided: what wants review before
    the rest, then the most marks at risk. A teacher who reads from the top reads what pays most.
    """

    def work(tx: sa.Connection) -> AnswerPage:
        require_course(tx, course)
        total, found = store_review.course_answers(
            tx,
            course,
            order=order,
            which=state,
            flag=flag,
            question=question,
            offset=offset,
            limit=limit,
        )
        return AnswerPage(total=total, answers=[AnswerRow(**row_fields(each)) for each in found])

    return reading(request, work)


@router.get("/answers/{answer}", responses=apidocs.errors(404, 503))
def read_answer(answer: str, request: Request) -> AnswerDetail:
    """One answer with its question, verdicts, history and objections."""
    return reading(request, lambda tx: detail(store_review.history(tx, answer)))


@router.post("/answers/{answer}/decision", responses=_DECIDES)
def decide(answer: str, body: Decision, request: Request) -> Decided:
    """Confirm or override: a further mark, the teacher's, that stands above the model's.

    409 when another mark stands than the one it was made on: load the answer again.
    """

    def work(tx: sa.Connection) -> store_decisions.Outcome:
        return store_decisions.decide(
            tx,
            answer,
            {int(point): held for point, held in body.verdicts.items()},
            expected=body.expected_mark_id,
            author=actor(request),
            comment=body.comment,
            identical=body.apply_to_identical,
        )

    return _decided(writing(request, work))


@router.post("/answers/{answer}/undo", responses=_DECIDES)
def undo(answer: str, body: Undo, request: Request) -> Decided:
    """Take the teacher's mark back; the one before it stands again, and both stay in the log."""

    def work(tx: sa.Connection) -> store_decisions.Outcome:
        return store_decisions.undo(
            tx,
            answer,
            expected=body.expected_mark_id,
            author=actor(request),
            identical=body.apply_to_identical,
        )

    return _decided(writing(request, work))


def _decided(outcome: store_decisions.Outcome) -> Decided:
    mark = outcome.after.mark
    return Decided(
        state=outcome.state,
        mark=mark["mark"] if mark else None,
        full_mark=mark["full_mark"] if mark else None,
        mark_id=mark["id"] if mark else None,
        answers=list(outcome.answers),
    )


def row_fields(each: Listed) -> dict[str, Any]:
    """What a list says about an answer."""
    answer, mark, model = each.answer, each.mark, each.model
    # Of a decided answer, how sure the model was is still worth knowing.
    doubts = model if model is not None else mark
    return {
        "id": answer["id"],
        "position": answer["position"],
        "student": answer["student"],
        "name": answer["name"] or "",
        "question": answer["question_code"],
        "text": answer["text"],
        "mark": mark["mark"] if mark else None,
        "full_mark": mark["full_mark"] if mark else None,
        "marks_at_risk": doubts["marks_at_risk"] if doubts else 0.0,
        "confidence": doubts["confidence"] if doubts else None,
        "needs_review": bool(mark and mark["needs_review"]),
        "flags": [Flag(flag) for flag in mark["flags"]] if mark else [],
        "state": each.state,
        "contested": each.contested,
        "same_as": each.same_as,
        "mark_id": answer["current_mark_id"],
        "verdicts": {str(v["id"]): v["held"] for v in mark["verdicts"]} if mark else {},
        "source": answer["source"],
    }


def detail(found: History) -> AnswerDetail:
    """All that is known of an answer."""
    question = question_of(found.question)
    mark, model = found.listed.mark, found.listed.model
    return AnswerDetail(
        **row_fields(found.listed),
        question_text=question.text,
        question_version=found.question.version,
        reference=found.question.reference,
        points=[PointResult.of(v) for v in verdicts_of(mark, question)] if mark else [],
        model=None if model is None else _mark(found, model),
        history=[_mark(found, row) for row in found.log],
        contests=[contest(row) for row in found.contests],
        teacher_verdicts=found.listed.answer["teacher_verdicts"],
    )


def _mark(found: History, row: Row) -> MarkRow:
    version = found.versions[row["question_id"]]
    points = [PointResult.of(v) for v in verdicts_of(row, question_of(version))]
    took_back = row["kind"] == "undo"
    return MarkRow(
        id=row["id"],
        kind=row["kind"],
        current=row["id"] == found.listed.answer["current_mark_id"],
        undone=row["id"] in found.undone,
        question_version=version.version,
        mark=None if took_back else row["mark"],
        full_mark=None if took_back else row["full_mark"],
        points=points,
        flags=[Flag(flag) for flag in row["flags"]],
        model=row["model"],
        revision=row["revision"],
        adapter=row["adapter"],
        adapter_version=row["adapter_version"],
        method=row["method"],
        shots=row["shots"],
        prompt_version=row["prompt_version"],
        calibration=row["calibration"],
        author=row["author"],
        comment=row["comment"],
        supersedes=row["supersedes"],
        created_at=timestamp(row["created_at"]) or "",
    )


def contest(row: Row) -> WireContest:
    """An objection as it goes over the wire."""
    return WireContest(
        id=row["id"],
        answer=row["answer_id"],
        point=row["point_id"],
        text=row["text"],
        state=row["state"],
        created_at=timestamp(row["created_at"]) or "",
        decided_at=timestamp(row["decided_at"]),
        comment=row["comment"],
    )
