"""Bodies of `/jobs`: a class to grade, its progress, its results."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from llmarking.domain import Flag, Outcome
from llmarking.protocol.bodies import Method, Sent, Text, Wire, WireQuestion

MAX_ANSWERS = 100_000
MAX_QUESTIONS = 1000

JobState = Literal["queued", "running", "paused", "cancelled", "finished"]
MarkState = Literal["proposed", "confirmed", "overridden"]
Name = Annotated[str, Field(max_length=500)]
Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.:-]+$")]


def timestamp(seconds: float | None) -> str | None:
    """RFC 3339 in UTC, from seconds since 1970."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


class JobCourse(Sent):
    """The course that answers go into: one that exists by `id`, or else a new one with a `name`."""

    id: Id | None = None
    name: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    retention_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="Deleted so many days after it was last used; else the server's.",
    )
    risk: float | None = Field(default=None, gt=0, lt=0.5)

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.id is None and self.name is None:
            raise ValueError("give the id of a course, or the name of a new one")
        return self


class JobAnswer(Sent):
    """What one student answered to one question."""

    id: Annotated[str, Field(min_length=1, max_length=500)] | None = Field(
        default=None,
        description="Yours; the same id again in a course is the same answer, not another one.",
    )
    student: Annotated[str, Field(max_length=500)] = ""
    name: Name = ""
    question: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="The code of its question."
    )
    text: Text
    source: dict[str, str | int | None] | None = Field(
        default=None, max_length=16, description="Where it stood: upload, sheet, row."
    )
    quality: Annotated[str, Field(max_length=500)] | None = None
    verdicts: Annotated[dict[str, bool], Field(max_length=1000)] | None = Field(
        default=None, description="The teacher's, by point, where the file has them."
    )


class JobRequest(Sent):
    """Answers to grade, in one go: new ones, or some that the course already has."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "course": {"name": "Networks, spring"},
                    "questions": [
                        {
                            "code": "Q1",
                            "text": "What is a hash table?",
                            "reference": "It <Point1:2>stores key-value pairs<Point1:2>.",
                        }
                    ],
                    "answers": [
                        {"student": "s-17", "question": "Q1", "text": "It keeps values under keys."}
                    ],
                }
            ]
        }
    )

    course: JobCourse
    questions: Annotated[list[WireQuestion], Field(max_length=MAX_QUESTIONS)] = Field(
        default_factory=list,
        description="Not needed where the course has them; a changed one is a new version.",
    )
    answers: Annotated[list[JobAnswer], Field(max_length=MAX_ANSWERS)] = Field(default_factory=list)
    answer_ids: Annotated[list[Id], Field(max_length=MAX_ANSWERS)] = Field(
        default_factory=list, description="Answers of the course, to be graded again."
    )
    method: Method = "verdict"
    shots: int = Field(default=0, ge=0, le=16)
    explain: bool = False
    risk: float | None = Field(default=None, gt=0, lt=0.5)
    adapter: Annotated[str, Field(max_length=200)] | None = None

    @model_validator(mode="after")
    def _some_answers(self) -> Self:
        if bool(self.answers) == bool(self.answer_ids):
            raise ValueError("give either answers or answer_ids")
        for name, given in (
            ("questions: the code", [question.code for question in self.questions]),
            ("answers: the id", [answer.id for answer in self.answers if answer.id is not None]),
            ("answer_ids:", self.answer_ids),
        ):
            twice, times = Counter(given).most_common(1)[0] if given else ("", 0)
            if times > 1:
                raise ValueError(f"{name} {twice[:100]!r} is there twice")
        return self


class JobCounts(Wire):
    """Answers of a job; `waiting` counts those in the engine as well."""

    total: int
    graded: int
    failed: int
    waiting: int


class Job(Wire):
    """A job and how far it is. Times are RFC 3339 in UTC."""

    id: str
    course: str
    kind: Literal["grade", "regrade"] = "grade"
    state: JobState
    counts: JobCounts
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    answers_per_second: float | None = Field(
        default=None, description="Over the last minute; null where nothing has been graded in it."
    )
    seconds_left: float | None = None
    options: dict[str, Any]
    config_hash: str = Field(description="Equal for jobs that grade in exactly the same way.")
    model: str


class JobVerdict(Wire):
    """The verdict on one point."""

    id: int
    held: bool | None
    probability: float | None = None
    outcome: Outcome = Outcome.DECIDED
    needs_review: bool = False
    evidence: str | None = None
    reason: str | None = None


class JobResult(Wire):
    """One answer of a job, with the mark that stands: a teacher's, where there is one."""

    position: int = Field(description="Its place in the upload, from 0.")
    answer: str
    id: str | None = Field(description="The id that came with it.")
    student: str | None
    name: str | None
    question: str
    text: str
    outcome: Literal["waiting", "graded", "failed"]
    error: str | None = None
    mark: float | None = None
    full_mark: float | None = None
    points: list[JobVerdict] = Field(default_factory=list)
    flags: list[Flag] = Field(default_factory=list)
    needs_review: bool | None = None
    state: MarkState | None = None
    mark_id: int | None = None
    config_hash: str | None = None


class JobResults(Wire):
    """A page of results, in the order of the upload."""

    total: int
    results: list[JobResult]


class JobList(Wire):
    """Jobs, the newest first."""

    jobs: list[Job]
