"""`/jobs`: a class to grade, in the database before the reply goes out, and graded from there.

Routes that use the store block, so they are plain functions: FastAPI runs them in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from itertools import islice
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from llmarking.errors import InputError, UnknownModelError
from llmarking.grading.grader import GradeOptions, Grader
from llmarking.jobs import files
from llmarking.jobs.worker import Worker
from llmarking.protocol.jobs import MAX_ANSWERS, Job, JobList, JobRequest, JobResult, JobResults
from llmarking.sentences import sentence
from llmarking.server import apidocs
from llmarking.server.routes.storing import actor, store_of
from llmarking.server.service import Service, running_beside, service_of
from llmarking.server.streaming import Stream, sse, too_late
from llmarking.store import jobs as store_jobs
from llmarking.store.courses import newest_questions
from llmarking.store.database import Store
from llmarking.store.job_marks import configuration
from llmarking.store.submit import submit

router = APIRouter(tags=["classes"])
STORED = apidocs.errors(404, 503)
# How often a watched job is looked at, and how often something is said that is no news.
WATCH_SECONDS = 0.5
SILENCE_SECONDS = 15.0


@contextlib.asynccontextmanager
async def working(app: FastAPI) -> AsyncIterator[None]:
    """Grade the jobs of the app's store, from when the engine is ready until the block ends."""
    app.state.worker = None
    if app.state.store is None:
        yield
        return
    async with running_beside(_work(app)):
        yield


async def _work(app: FastAPI) -> None:
    service: Service = app.state.service
    await service.ready.wait()
    app.state.worker = Worker(
        app.state.store,
        service.require_ready(),
        service.engine.info.model,
        lease_seconds=service.settings.lease_seconds,
        concurrency=service.settings.job_concurrency,
        on_graded=service.count_graded,
    )
    app.state.loop = asyncio.get_running_loop()
    await app.state.worker.run()


def wake(request: Request) -> None:
    """Let the worker see at once what has changed."""
    worker: Worker | None = request.app.state.worker
    if worker is not None:
        request.app.state.loop.call_soon_threadsafe(worker.wake)


@router.post(
    "/jobs",
    response_model=Job,
    status_code=202,
    responses=apidocs.errors(400, 404, 409, 413, 422, 503)
    | {200: {"model": Job, "description": "The same request came before: its job"}},
)
def post_job(
    body: JobRequest,
    request: Request,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> Response:
    """Hand in a class. It is saved when the reply comes, and graded in the background.

    With an `Idempotency-Key`, the same request again is the same job, not another one.
    """
    service = service_of(request)
    grader = service.require_ready()
    store = store_of(request)
    if body.adapter is not None and body.adapter not in service.engine.info.adapters:
        known = ", ".join(service.engine.info.adapters) or "none is loaded"
        raise UnknownModelError(
            f"there is no adapter {body.adapter!r}; known: {known}", field="adapter"
        )
    job, new = submit(store, body, idempotency_key, _configure(grader), actor=actor(request))
    wake(request)
    found = store_jobs.read_job(store, job)
    return JSONResponse(found.model_dump(mode="json"), 202 if new else 200)


def _configure(
    grader: Grader,
) -> Callable[[sa.Connection, sa.Row[Any], JobRequest], dict[str, Any]]:
    def configure(tx: sa.Connection, course: sa.Row[Any], body: JobRequest) -> dict[str, Any]:
        asked = {answer.question for answer in body.answers}
        for code, row in newest_questions(tx, course.id).items():
            if (not asked or code in asked) and len(row.examples) < body.shots:
                raise InputError(
                    sentence(
                        "few_examples",
                        "shots is {shots}, but question {code} has {count} graded examples; add "
                        "some or lower shots",
                        shots=body.shots,
                        code=repr(code),
                        count=len(row.examples),
                    ),
                    field="shots",
                )
        options = GradeOptions(
            method=body.method,
            shots=body.shots,
            explain=body.explain,
            risk=course.risk if body.risk is None else body.risk,
            adapter=course.default_adapter if body.adapter is None else body.adapter,
        )
        return configuration(tx, course.id, grader, options)

    return configure


@router.get("/jobs", response_model=JobList, responses=STORED)
def get_jobs(
    request: Request,
    course: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JobList:
    """Jobs, the newest first."""
    return JobList(jobs=store_jobs.list_jobs(store_of(request), course, limit))


@router.get("/jobs/{job}", response_model=Job, responses=STORED)
def get_job(job: str, request: Request) -> Job:
    """How far a job is, how fast it goes, and how long it will take."""
    return store_jobs.read_job(store_of(request), job)


@router.post("/jobs/{job}/pause", response_model=Job, responses=STORED | apidocs.errors(409))
def pause_job(job: str, request: Request) -> Job:
    """Stop grading until it is resumed; what is in the engine is given up."""
    found = store_jobs.pause(store_of(request), job, actor=actor(request))
    wake(request)
    return found


@router.post("/jobs/{job}/resume", response_model=Job, responses=STORED | apidocs.errors(409))
def resume_job(job: str, request: Request) -> Job:
    """Go on with what was paused."""
    found = store_jobs.resume(store_of(request), job, actor=actor(request))
    wake(request)
    return found


@router.delete("/jobs/{job}", response_model=Job, responses=STORED | apidocs.errors(409))
def cancel_job(job: str, request: Request) -> Job:
    """End a job. The marks it has given stay."""
    found = store_jobs.cancel(store_of(request), job, actor=actor(request))
    wake(request)
    return found


@router.get(
    "/jobs/{job}/events",
    response_class=StreamingResponse,
    responses=STORED | {200: {"content": {"text/event-stream": {}}}},
)
async def job_events(job: str, request: Request) -> Response:
    """Server-sent events: `progress` when something has changed, `finished` when it has ended."""
    store = store_of(request)
    found = await asyncio.to_thread(store_jobs.read_job, store, job)
    return Stream(_event(found), _watch(request, store, found), "text/event-stream")


async def _watch(request: Request, store: Store, last: Job) -> AsyncGenerator[str]:
    """Events after the first one."""
    stopping: Callable[[], bool] = getattr(request.app.state, "stopping", lambda: False)
    silent = 0.0
    try:
        # A stream must not hold up the end of the server: clients come back by themselves.
        while last.state not in store_jobs.ENDED and not stopping():
            await asyncio.sleep(WATCH_SECONDS)
            silent += WATCH_SECONDS
            found = await asyncio.to_thread(store_jobs.read_job, store, last.id)
            if found != last:
                last, silent = found, 0.0
                yield _event(found)
            elif silent >= SILENCE_SECONDS:
                silent = 0.0
                yield ": still there\n\n"
    except Exception as error:
        yield sse("error", too_late(error))


def _event(job: Job) -> str:
    name = "finished" if job.state in store_jobs.ENDED else "progress"
    return sse(name, job.model_dump(mode="json"))


@router.get(
    "/jobs/{job}/results",
    response_model=JobResults,
    responses=STORED
    | apidocs.errors(422)
    | {200: {"content": {"text/csv": {}, files.XLSX: {}}, "description": "In upload order"}},
)
def job_results(
    job: str,
    request: Request,
    format: Annotated[Literal["json", "csv", "xlsx"], Query()] = "json",
    offset: Annotated[int, Query(ge=0, le=MAX_ANSWERS)] = 0,
    limit: Annotated[int | None, Query(ge=1, le=MAX_ANSWERS)] = None,
) -> Response:
    """Marks in the order of the upload, so far as there are any: as JSON, CSV or XLSX."""
    store = store_of(request)
    found = store_jobs.read_job(store, job)
    rows = store_jobs.results(store, job, offset, limit)
    if format == "json":
        chunks = _json_chunks(found.counts.total, rows)
        return StreamingResponse(chunks, media_type="application/json")
    points = store_jobs.most_points(store, job)
    headers = {"Content-Disposition": f'attachment; filename="marks-{found.id[:8]}.{format}"'}
    if format == "csv":
        text = files.csv_chunks(rows, points)
        return StreamingResponse(text, media_type="text/csv; charset=utf-8", headers=headers)
    return StreamingResponse(
        files.xlsx_chunks(rows, points), media_type=files.XLSX, headers=headers
    )


def _json_chunks(total: int, rows: Iterator[JobResult]) -> Iterator[str]:
    yield f'{{"total": {total}, "results": ['
    comma = ""
    while some := list(islice(rows, store_jobs.PAGE)):
        yield comma + ",".join(row.model_dump_json() for row in some)
        comma = ","
    yield "]}"
