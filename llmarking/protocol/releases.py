"""Bodies of what students get: links, their own page, and objections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmarking.protocol.bodies import PointResult, Sent, Wire
from llmarking.protocol.courses import Comment, WireContest


class ReleaseRequest(Sent):
    """Make links. With `renew` all links that were made before stop working."""

    renew: bool = False


class Link(Wire):
    """A student's own page. Only this reply ever shows it; whoever has it can read the page."""

    student: str
    name: str
    path: str


class Release(Wire):
    """Links for the students who had none, and how many have theirs already."""

    released_at: str
    links: list[Link]
    had_one: int
    undecided: int


class StudentAnswerResult(Wire):
    """One answer on a student's page; `checked` once a teacher has decided on it."""

    id: str
    question: str
    question_text: str
    text: str
    mark: float | None
    full_mark: float
    checked: bool
    comment: str | None
    points: list[PointResult]
    contests: list[WireContest]


class StudentResults(Wire):
    """What a student sees of her own."""

    course: str
    student: str
    name: str
    mark: float
    full_mark: float
    answers: list[StudentAnswerResult]


class NewContest(Sent):
    """A student's objection to one verdict, or with no point to the whole mark."""

    answer: Annotated[str, Field(max_length=64)]
    point: int | None = Field(default=None, ge=1, le=1000)
    text: Annotated[str, Field(min_length=1, max_length=2000)]


class ContestDecision(Sent):
    """What came of an objection. The mark itself is changed by a decision on the answer."""

    state: Literal["upheld", "changed"]
    comment: Comment | None = None
