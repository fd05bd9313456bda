"""What is known about students and courses over HTTP, its deletion, and the purge once a day."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import StreamingResponse

from llmarking.errors import StoreError
from llmarking.protocol.courses import Deleted, StudentData
from llmarking.server import apidocs
from llmarking.server.routes.jobs import wake
from llmarking.server.routes.review import detail
from llmarking.server.routes.storing import actor, reading, store_of
from llmarking.server.service import running_beside, service_of
from llmarking.store import privacy as store_privacy

log = logging.getLogger("llmarking.server")
router = APIRouter(tags=["privacy"])
_GONE = apidocs.errors(404, 503)
# Once a day, and soon again where the store was in trouble.
PURGE_SECONDS = 86_400.0
RETRY_SECONDS = 600.0


@router.get(
    "/courses/{course}/audit",
    responses=_GONE | {200: {"content": {"application/x-ndjson": {}}}},
    response_class=StreamingResponse,
)
def audit(course: str, request: Request) -> StreamingResponse:
    """Every event and every mark of a course, a JSON object a line, in the order of time.

    Marks come with verdicts, probabilities and versions, without the words of students.
    """
    lines = _lines(store_privacy.audit(store_of(request), course))
    return StreamingResponse(
        lines, media_type="application/x-ndjson", headers={"Cache-Control": "no-store"}
    )


def _lines(found: Iterator[dict[str, Any]]) -> Iterator[str]:
    for line in found:
        yield json.dumps(line, ensure_ascii=False) + "\n"


@router.get("/courses/{course}/students/{student:path}", responses=_GONE)
def read_student(course: str, student: str, request: Request) -> StudentData:
    """All that is stored about a student, by her id in the teacher's files: for her to read."""
    found = reading(request, lambda tx: store_privacy.known(tx, course, student))
    return StudentData(
        student=found.student,
        name=found.name,
        answers=[detail(each) for each in found.answers],
    )


@router.delete("/courses/{course}/students/{student:path}", responses=_GONE)
def delete_student(course: str, student: str, request: Request) -> Deleted:
    """Delete a student: answers, marks, objections, links, and the course's files.

    A file of the class may name the student anywhere, so none is kept: export before.
    """
    store = store_of(request)
    gone = store_privacy.delete_student(store, course, student, actor=actor(request))
    _forget(request)
    return Deleted(students=gone.students, answers=gone.answers, uploads=gone.uploads)


@router.delete("/courses/{course}", responses=_GONE)
def delete_course(course: str, request: Request) -> Deleted:
    """Delete a course with everything in it. Nothing of it is left in the database's files."""
    gone = store_privacy.delete_course(store_of(request), course, actor=actor(request))
    _forget(request)
    return Deleted(courses=1, students=gone.students, answers=gone.answers, uploads=gone.uploads)


def _forget(request: Request) -> None:
    """Stop work on what is gone, and let go of answers that are remembered by their text."""
    wake(request)
    grader = service_of(request).grader
    if grader is not None:
        # What it remembers belongs to the thread of the event loop.
        request.app.state.loop.call_soon_threadsafe(grader.forget)


@contextlib.asynccontextmanager
async def purging(app: FastAPI) -> AsyncIterator[None]:
    """Delete courses that have been kept long enough, at the start and once a day."""
    app.state.loop = asyncio.get_running_loop()
    if app.state.store is None:
        yield
        return
    async with running_beside(_purge(app)):
        yield


async def _purge(app: FastAPI) -> None:
    store, service = app.state.store, app.state.service
    while True:
        pause = PURGE_SECONDS
        try:
            days = service.settings.retention_days
            gone = await asyncio.to_thread(store_privacy.purge, store, days)
        except StoreError as error:
            log.error("can't delete what is due: %s", error)  # noqa: TRY400
            pause = RETRY_SECONDS
        else:
            if gone:
                log.info("%d courses were kept long enough and have been deleted", gone)
                if service.grader is not None:
                    service.grader.forget()
        await asyncio.sleep(pause)
