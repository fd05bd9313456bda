"""`POST /grade`: one answer, as JSON or as server-sent events."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import Response

from llmarking.errors import InputError
from llmarking.grading.grader import Event, Graded, GradeOptions, PointDecided
from llmarking.protocol.bodies import GradeRequest, GradeResponse, PointResult, Usage
from llmarking.server import apidocs
from llmarking.server.service import Service, service_of
from llmarking.server.streaming import sse, streaming, too_late, until_disconnect

router = APIRouter()


@router.post(
    "/grade",
    response_model=GradeResponse,
    tags=["marking"],
    responses=apidocs.or_streamed("text/event-stream"),
)
async def grade(body: GradeRequest, request: Request) -> Response:
    """Mark one answer point by point.

    With `stream`, server-sent events: `point` for every verdict, `reason` for every explanation,
    `grade` with the whole at the end, or `error`.
    """
    service = service_of(request)
    grader = service.require_ready()
    try:
        question = body.question.question()
    except ValueError as error:
        raise InputError(f"question.examples: {error}", field="question.examples") from error
    options = GradeOptions(
        method=body.method,
        shots=body.shots,
        explain=body.explain,
        risk=body.risk,
        adapter=body.adapter,
    )
    if body.stream:
        events = _grade_events(service, grader.stream(question, body.answer, options), body)
        return await streaming(request, 1, events, "text/event-stream")
    with service.gate.admit():
        graded = await until_disconnect(request, grader.grade(question, body.answer, options))
    return Response(
        grade_response(service, graded, body).model_dump_json(), media_type="application/json"
    )


async def _grade_events(
    service: Service, events: AsyncIterator[Event], body: GradeRequest
) -> AsyncIterator[str]:
    started = False
    try:
        async with contextlib.aclosing(events) as closing:  # type: ignore[type-var]
            async for event in closing:
                started = True
                if isinstance(event, Graded):
                    yield sse("grade", grade_response(service, event, body).model_dump(mode="json"))
                elif isinstance(event, PointDecided):
                    yield sse("point", PointResult.of(event.verdict).model_dump(mode="json"))
                else:
                    verdict = event.verdict
                    yield sse(
                        "reason",
                        {
                            "id": verdict.point.id,
                            "evidence": verdict.evidence,
                            "reason": verdict.reason,
                        },
                    )
    except Exception as error:
        if not started:
            raise
        yield sse("error", too_late(error))


def grade_response(service: Service, graded: Graded, body: GradeRequest) -> GradeResponse:
    """Count a grade, and say what the client is told of it."""
    service.count_graded(graded, body.method)
    return GradeResponse.of(
        graded.grade,
        model=service.engine.info.model,
        adapter=graded.adapter,
        adapter_version=graded.adapter_version,
        method=body.method,
        shots=graded.shots,
        prompt_version=graded.prompt_version,
        calibration=graded.calibration,
        usage=Usage(
            prompt_tokens=graded.prompt_tokens,
            cached_tokens=graded.cached_tokens,
            completion_tokens=graded.completion_tokens,
        ),
    )
