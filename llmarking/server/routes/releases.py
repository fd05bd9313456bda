"""Results for students: links for the teacher to hand out, and the page that each of them opens.

`/results/…` is the one part of the service that wants no key: the rest of the address is the key.
"""

from __future__ import annotations

import asyncio
from typing import Annotated
from urllib.parse import parse_qs

import sqlalchemy as sa
from fastapi import APIRouter, Body, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import ValidationError

from llmarking.errors import InputError, LLMarkingError, NotFound
from llmarking.protocol.bodies import PointResult
from llmarking.protocol.courses import WireContest
from llmarking.protocol.jobs import timestamp
from llmarking.protocol.problems import problem
from llmarking.protocol.releases import (
    ContestDecision,
    Link,
    NewContest,
    Release,
    ReleaseRequest,
    StudentAnswerResult,
    StudentResults,
)
from llmarking.sentences import from_json, of_pydantic, sentence
from llmarking.server import apidocs, student_page
from llmarking.server.routes.review import contest as wire_contest
from llmarking.server.routes.storing import actor, reading, writing
from llmarking.store import releases as store_releases
from llmarking.store.courses import question_of
from llmarking.store.review import History, verdicts_of

router = APIRouter()
FORM = "application/x-www-form-urlencoded"
# A sentence, and what goes with it in a form.
LARGEST_FORM = 32_768


@router.post(
    "/courses/{course}/release", tags=["students"], responses=apidocs.errors(404, 422, 503)
)
def release(
    course: str, request: Request, body: Annotated[ReleaseRequest | None, Body()] = None
) -> Release:
    """Make a link to her own results for every student who has none.

    Only this reply ever holds the links: the server keeps their hashes.
    """
    renew = body is not None and body.renew
    found = writing(
        request,
        lambda tx: store_releases.release(tx, course, renew=renew, actor=actor(request)),
    )
    return Release(
        released_at=timestamp(found.at) or "",
        links=[
            Link(student=student, name=name, path=f"/results/{token}")
            for student, name, token in found.links
        ],
        had_one=found.had_one,
        undecided=found.undecided,
    )


@router.delete(
    "/courses/{course}/release",
    tags=["students"],
    status_code=204,
    responses=apidocs.errors(404, 503),
)
def revoke(course: str, request: Request) -> None:
    """Take all links of a course back."""
    writing(request, lambda tx: store_releases.revoke(tx, course, actor=actor(request)))


@router.post("/contests/{contest}", tags=["review"], responses=apidocs.errors(404, 409, 422, 503))
def decide_contest(contest: str, body: ContestDecision, request: Request) -> WireContest:
    """Close an objection: `upheld` where the mark stays, `changed` where it was changed.

    The mark itself is changed by a decision on the answer.
    """
    work = store_releases.decide_contest
    row = writing(
        request, lambda tx: work(tx, contest, body.state, body.comment, actor=actor(request))
    )
    return wire_contest(row)


@router.get(
    "/results/{token}",
    tags=["students"],
    response_model=StudentResults,
    responses=apidocs.errors(404, 503) | {200: {"content": {"text/html": {}}}},
)
def results(token: str, request: Request) -> Response:
    """A student's own answers, marks and reasons: a page for browsers, JSON for programs."""

    def work(tx: sa.Connection) -> StudentResults:
        return _results(tx, token)

    if not _wants_html(request):
        return JSONResponse(
            reading(request, work).model_dump(mode="json"), headers=student_page.headers()
        )
    accepted = request.headers.get("accept-language", "")
    try:
        found = reading(request, work)
    except NotFound:
        return HTMLResponse(student_page.problem_page(None, accepted), 404, student_page.headers())
    page = student_page.page(found, f"/results/{token}", accepted)
    return HTMLResponse(page, headers=student_page.headers())


@router.post(
    "/results/{token}/contest",
    tags=["students"],
    status_code=201,
    response_model=WireContest,
    responses=apidocs.errors(404, 409, 413, 422, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": NewContest.model_json_schema()},
                FORM: {"schema": NewContest.model_json_schema()},
            },
        }
    },
)
async def contest(token: str, request: Request) -> Response:
    """Object to a verdict, or with no point to the whole mark; the teacher sees it first."""
    sent = await request.body()
    return await asyncio.to_thread(_contest, token, request, sent)


def _contest(token: str, request: Request, sent: bytes) -> Response:
    from_page = request.headers.get("content-type", "").partition(";")[0].strip() == FORM
    page = f"/results/{token}"
    try:
        body = _new_contest(sent, from_page)

        def work(tx: sa.Connection) -> WireContest:
            made = store_releases.contest(tx, token, body.answer, body.point, body.text)
            return next(
                each
                for answer in _results(tx, token).answers
                for each in answer.contests
                if each.id == made
            )

        made = writing(request, work)
    except LLMarkingError as error:
        if not from_page:
            raise
        says = problem(error)
        return HTMLResponse(
            student_page.problem_page(
                from_json(says["detail"], says), request.headers.get("accept-language", ""), page
            ),
            says["status"],
            student_page.headers(),
        )
    if from_page:
        # So that reloading the page does not send it again.
        return RedirectResponse(f"{page}#{body.answer}", 303, headers=student_page.headers())
    return JSONResponse(made.model_dump(mode="json"), 201, student_page.headers())


def _new_contest(sent: bytes, from_page: bool) -> NewContest:
    """What was sent, as a form or as JSON.

    Raises:
        InputError: it is neither, or a field is at fault.
    """
    if len(sent) > LARGEST_FORM:
        fault = sentence("objection_long", "an objection may be 2000 characters long")
        raise InputError(fault, field="text")
    try:
        if not from_page:
            return NewContest.model_validate_json(sent)
        fields = {
            name: values[0]
            for name, values in parse_qs(
                sent.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=8
            ).items()
        }
        point = fields.pop("point", "")
        # Browsers end lines with two characters, each of which would count.
        fields["text"] = fields.get("text", "").replace("\r\n", "\n")
        number = int(point) if point.isdecimal() and len(point) < 5 else None
        return NewContest.model_validate({**fields, "point": number})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            sentence("at_field", "{field}: {why}", field=field, why=of_pydantic(first))
            if field
            else of_pydantic(first),
            field=field or None,
        ) from None
    except ValueError:
        raise InputError(sentence("form_unread", "the form can't be read")) from None


def _wants_html(request: Request) -> bool:
    """Whether a browser asks; programs that accept anything get JSON."""
    return "text/html" in request.headers.get("accept", "")


def _results(tx: sa.Connection, token: str) -> StudentResults:
    owner = store_releases.owner(tx, token)
    found = [_answer(each) for each in store_releases.answers_of(tx, owner.student_id)]
    return StudentResults(
        course=owner.course_name,
        student=owner.student,
        name=owner.name,
        mark=sum(each.mark or 0 for each in found),
        full_mark=sum(each.full_mark for each in found),
        answers=found,
    )


def _answer(found: History) -> StudentAnswerResult:
    question, mark = question_of(found.question), found.listed.mark
    return StudentAnswerResult(
        id=found.listed.answer["id"],
        question=question.code,
        question_text=question.text,
        text=found.listed.answer["text"],
        mark=mark["mark"] if mark else None,
        full_mark=question.full_mark,
        checked=mark is not None and mark["kind"] == "human",
        comment=mark["comment"] if mark else None,
        points=[PointResult.of(v) for v in verdicts_of(mark, question)] if mark else [],
        contests=[wire_contest(row) for row in found.contests],
    )
