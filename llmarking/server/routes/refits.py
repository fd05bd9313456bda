"""A course's own calibration over HTTP: propose, look, apply or discard."""

from __future__ import annotations

import sqlalchemy as sa
from fastapi import APIRouter, Request

from llmarking.protocol.courses import MAX_LISTED, Refit, RefitApplied, Turned
from llmarking.server import apidocs
from llmarking.server.routes.storing import actor, reading, writing
from llmarking.store import refits as store_refits

router = APIRouter(tags=["review"])


@router.post(
    "/courses/{course}/calibration", status_code=201, responses=apidocs.errors(404, 422, 503)
)
def propose(course: str, request: Request) -> Refit:
    """Fit the course's calibration on what has been confirmed so far, and say what would change.

    Nothing is changed. An earlier proposal is discarded.
    """
    work = store_refits.propose
    return _refit(writing(request, lambda tx: work(tx, course, actor=actor(request))))


@router.get("/courses/{course}/calibration/{calibration}", responses=apidocs.errors(404, 503))
def look(course: str, calibration: str, request: Request) -> Refit:
    """A proposal, and what it would change as things are now."""
    return _refit(reading(request, lambda tx: store_refits.look(tx, course, calibration)))


@router.post(
    "/courses/{course}/calibration/{calibration}/apply", responses=apidocs.errors(404, 409, 503)
)
def apply(course: str, calibration: str, request: Request) -> RefitApplied:
    """Give answers that nobody has decided new marks by it, and later jobs of the course as well.

    A teacher's mark is never touched.
    """

    def work(tx: sa.Connection) -> int:
        return store_refits.apply(tx, course, calibration, actor=actor(request))

    count = writing(request, work)
    return RefitApplied(id=calibration, state="applied", answers=count)


@router.post(
    "/courses/{course}/calibration/{calibration}/discard", responses=apidocs.errors(404, 409, 503)
)
def discard(course: str, calibration: str, request: Request) -> RefitApplied:
    """Let a proposal go."""

    def work(tx: sa.Connection) -> None:
        store_refits.discard(tx, course, calibration, actor=actor(request))

    writing(request, work)
    return RefitApplied(id=calibration, state="discarded", answers=0)


def _refit(found: store_refits.Proposal) -> Refit:
    row = found.row
    return Refit(
        id=row.id,
        state=row.state,
        model=row.model,
        adapter=row.adapter,
        prompt=row.prompt,
        verdicts=row.verdicts,
        slope=row.slope,
        offset=row.offset,
        changed=[
            Turned(answer=answer, point=point, before=before, after=after)
            for answer, point, before, after in found.changed[:MAX_LISTED]
        ],
        changed_count=len(found.changed),
        review_before=found.review_before,
        review_after=found.review_after,
    )
