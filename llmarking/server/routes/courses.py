"""Courses, their questions and files, and the numbers of a class."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from llmarking.errors import InputError
from llmarking.grading.grader import DEFAULT_RISK
from llmarking.marks import summaries
from llmarking.protocol.courses import (
    AgreementSummary,
    Course,
    CourseChange,
    CourseQuestion,
    CourseQuestions,
    Courses,
    HistogramBin,
    Load,
    NewCourse,
    PointSummary,
    QuestionList,
    QuestionSummary,
    Risk,
    Summary,
    Upload,
    Uploads,
    WirePoint,
)
from llmarking.protocol.jobs import timestamp
from llmarking.sentences import sentence
from llmarking.server import apidocs
from llmarking.server.routes.storing import actor, reading, writing
from llmarking.server.service import service_of
from llmarking.store import (
    courses as store_courses,
    overview as store_overview,
    uploads as store_uploads,
)

router = APIRouter(tags=["courses"])
DAY = 86_400
LARGEST_MAPPING = 65_536
_MISSING = apidocs.errors(404, 503)
_WRITES = apidocs.errors(404, 422, 503)


@router.post("/courses", status_code=201, responses=apidocs.errors(409, 422, 503))
def create_course(body: NewCourse, request: Request) -> Course:
    """Make a course."""
    fields = body.model_dump(exclude_none=True)

    def work(tx: sa.Connection) -> dict[str, Any]:
        made = store_courses.insert_course(tx, **fields, actor=actor(request))
        return store_overview.overview(tx, made)[0]

    return _course(request, writing(request, work))


@router.get("/courses", responses=apidocs.errors(503))
def list_courses(request: Request) -> Courses:
    """All courses, the latest first."""
    rows = reading(request, store_overview.overview)
    return Courses(courses=[_course(request, row) for row in rows])


@router.get("/courses/{course}", responses=_MISSING)
def read_course(course: str, request: Request) -> Course:
    """A course, and how many of its answers are decided."""
    [row] = reading(request, lambda tx: store_overview.overview(tx, course))
    return _course(request, row)


@router.patch("/courses/{course}", responses=_WRITES)
def change_course(course: str, body: CourseChange, request: Request) -> Course:
    """Change what is named; null takes the server's default again."""
    fields = body.model_dump(exclude_unset=True)
    if fields.get("name", "") is None:
        raise InputError(sentence("name_needed", "name: a course needs one"), field="name")

    def work(tx: sa.Connection) -> dict[str, Any]:
        store_overview.change(tx, course, fields, actor(request))
        return store_overview.overview(tx, course)[0]

    return _course(request, writing(request, work))


@router.put("/courses/{course}/questions", responses=_WRITES)
def save_questions(course: str, body: QuestionList, request: Request) -> CourseQuestions:
    """Set questions. One that is new or differs becomes a version of its own; others stay.

    Marks stay with the version they were given under. To see first what a change does to them, and
    to have them follow it, use `/regrade`.
    """

    def work(tx: sa.Connection) -> CourseQuestions:
        store_courses.require_course(tx, course, lock=True)
        store_courses.put_questions(tx, course, body.questions, actor=actor(request))
        return _questions(tx, course)

    return writing(request, work)


@router.get("/courses/{course}/questions", responses=_MISSING)
def read_questions(course: str, request: Request) -> CourseQuestions:
    """The questions in use, in their order."""

    def work(tx: sa.Connection) -> CourseQuestions:
        store_courses.require_course(tx, course)
        return _questions(tx, course)

    return reading(request, work)


@router.post("/courses/{course}/uploads", status_code=201, responses=_WRITES)
async def upload(
    course: str,
    request: Request,
    filename: Annotated[str, Query(min_length=1, max_length=255)],
    kind: Annotated[str, Query(max_length=64)] = "",
) -> Upload:
    """Keep a file as it is, so that marks can be filled into it later; the body is its bytes."""
    content = await request.body()
    row = await asyncio.to_thread(
        writing,
        request,
        lambda tx: store_uploads.keep(tx, course, filename, kind, content, actor(request)),
    )
    return _upload(row)


@router.get("/courses/{course}/uploads", responses=_MISSING)
def list_uploads(course: str, request: Request) -> Uploads:
    """The files of a course, the latest first."""
    rows = reading(request, lambda tx: store_uploads.listed(tx, course))
    return Uploads(uploads=[_upload(row) for row in rows])


@router.put("/uploads/{upload}/mapping", responses=_WRITES)
def save_mapping(upload: str, body: dict[str, Any], request: Request) -> Upload:
    """Keep what the columns of a file mean: any JSON object of at most 64 KiB."""
    if len(json.dumps(body)) > LARGEST_MAPPING:
        raise InputError("a mapping may be 65536 characters long", field="body")
    row = writing(request, lambda tx: store_uploads.save_mapping(tx, upload, body, actor(request)))
    return _upload(row)


@router.get("/uploads/{upload}", responses=_MISSING, response_class=Response)
def download(upload: str, request: Request) -> Response:
    """The same bytes."""
    content = reading(request, lambda tx: store_uploads.read(tx, upload))
    # Never shown in place: it may be a page with scripts of a student's.
    return Response(
        content,
        media_type="application/octet-stream",
        headers={
            "Content-Disposition": "attachment",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        },
    )


@router.get("/courses/{course}/summary", responses=_MISSING)
def summary(course: str, request: Request, risk: Annotated[Risk | None, Query()] = None) -> Summary:
    """A class in numbers: marks, difficulty, agreement so far, and what is left to read."""

    def work(tx: sa.Connection) -> Summary:
        row = store_courses.require_course(tx, course)
        total, marked = store_overview.marked(tx, course)
        wanted = risk if risk is not None else row.risk or DEFAULT_RISK
        return _summary(total, marked, wanted)

    return reading(request, work)


def _summary(total: int, marked: list[summaries.Marked], risk: float) -> Summary:
    states = {"waiting": total - len(marked), "proposed": 0, "confirmed": 0, "overridden": 0}
    flags: dict[str, int] = {}
    for each in marked:
        states[each.state] += 1
        for flag in each.flags:
            flags[flag] = flags.get(flag, 0) + 1
    bins = summaries.histogram(marked)
    agreed = summaries.agreement(marked)
    to_read = summaries.reading(marked)
    return Summary(
        answers=total,
        states=states,
        flags=dict(sorted(flags.items())),
        histogram=[
            HistogramBin(start=i / len(bins), end=(i + 1) / len(bins), answers=count)
            for i, count in enumerate(bins)
        ],
        questions=[
            QuestionSummary(
                code=q.code,
                answers=q.answers,
                mean=q.mean,
                points=[
                    PointSummary(id=p.id, held=p.held, disagreed=p.disagreed) for p in q.points
                ],
            )
            for q in summaries.difficulty(marked)
        ],
        agreement=AgreementSummary(
            verdicts=agreed.verdicts, agree=agreed.agree, kappa=agreed.kappa
        ),
        review=[
            Load(risk=each, answers=to_read(1.0 - each))
            for each in sorted({*summaries.RISKS, risk})
        ],
    )


def _course(request: Request, row: dict[str, Any]) -> Course:
    days = row["retention_days"] or service_of(request).settings.retention_days
    after = row["last_used"] + days * DAY if days else None
    return Course(
        id=row["id"],
        name=row["name"],
        created_at=timestamp(row["created_at"]) or "",
        retention_days=row["retention_days"],
        deleted_after=timestamp(after),
        risk=row["risk"],
        default_adapter=row["default_adapter"],
        released_at=timestamp(row["released_at"]),
        questions=row["questions"],
        answers=row["answers"],
        decided=row["decided"],
        contested=row["contested"],
    )


def _upload(row: store_uploads.Row) -> Upload:
    return Upload(
        id=row["id"],
        kind=row["kind"],
        filename=row["filename"],
        bytes=row["bytes"],
        mapping=row["mapping"],
        created_at=timestamp(row["created_at"]) or "",
    )


def _questions(tx: sa.Connection, course: str) -> CourseQuestions:
    listed = []
    for row in store_courses.newest_questions(tx, course).values():
        question = store_courses.question_of(row)
        listed.append(
            CourseQuestion(
                id=row.id,
                code=row.code,
                version=row.version,
                text=row.text,
                reference=row.reference,
                full_mark=question.full_mark,
                subject=row.subject,
                points=[WirePoint(id=p.id, mark=p.mark, text=p.text) for p in question.points],
                examples=len(question.examples),
            )
        )
    return CourseQuestions(questions=listed)
