"""Bodies of courses, answers and teachers' decisions: pydantic at the wire only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from llmarking.domain import Flag
from llmarking.marks.decisions import State
from llmarking.protocol.bodies import PointResult, Sent, Wire, WireQuestion
from llmarking.protocol.jobs import Id

MAX_QUESTIONS = 1000
MAX_PAGE = 1000
# Of the verdicts that a new calibration would turn, a reply lists so many and counts all.
MAX_LISTED = 500

Name = Annotated[str, Field(min_length=1, max_length=500)]
Comment = Annotated[str, Field(max_length=2000)]
Days = Annotated[int, Field(ge=1, le=36_500)]
Risk = Annotated[float, Field(gt=0, lt=0.5)]
PointKey = Annotated[str, Field(pattern=r"^[1-9]\d{0,2}$")]
MarkKind = Literal["model", "human", "undo"]
Order = Literal["upload", "risk"]
Which = Literal["undecided", "decided", "contested", "all"]


def _named(ours: str, wire: str) -> Any:
    """A field whose name on the wire is a word that Python keeps for itself, or its pair."""
    return Field(validation_alias=AliasChoices(ours, wire), serialization_alias=wire)


class NewCourse(Sent):
    """A class to be marked. Without an id one is made up."""

    id: Id | None = None
    name: Name
    retention_days: Days | None = Field(
        default=None, description="Deleted so many days after it was last used; else the server's."
    )
    risk: Risk | None = Field(
        default=None, description="Share of wrong verdicts to accept among those nobody looks at."
    )
    default_adapter: Name | None = None


class CourseChange(Sent):
    """What to change of a course; what is not named stays."""

    name: Name | None = None
    retention_days: Days | None = None
    risk: Risk | None = None
    default_adapter: Name | None = None


class Course(Wire):
    """A course and how far it is. Times are RFC 3339 in UTC."""

    id: str
    name: str
    created_at: str
    retention_days: int | None
    deleted_after: str | None
    risk: float | None
    default_adapter: str | None
    released_at: str | None
    questions: int
    answers: int
    decided: int
    contested: int


class Courses(Wire):
    """All courses, the latest first."""

    courses: list[Course]


class QuestionList(Sent):
    """The questions of a course. One that differs from the course's becomes a new version."""

    questions: Annotated[list[WireQuestion], Field(min_length=1, max_length=MAX_QUESTIONS)]


class WirePoint(Wire):
    """A point of a reference answer, and what it is worth."""

    id: int
    mark: float
    text: str


class CourseQuestion(Wire):
    """The version of a question that is in use."""

    id: str
    code: str
    version: int
    text: str
    reference: str
    full_mark: float
    subject: str
    points: list[WirePoint]
    examples: int


class CourseQuestions(Wire):
    """The questions of a course, in their order."""

    questions: list[CourseQuestion]


class AnswerRow(Wire):
    """An answer in a list.

    `same_as` counts the other answers with the same text, `verdicts` are those that stand, by
    point, and `source` is where the answer stood in the teacher's file.
    """

    id: str
    position: int
    student: str | None
    name: str = ""
    question: str
    text: str
    mark: float | None
    full_mark: float | None
    marks_at_risk: float
    confidence: float | None
    needs_review: bool
    flags: list[Flag]
    state: State | Literal["waiting"]
    contested: bool
    same_as: int
    mark_id: int | None
    verdicts: dict[str, bool | None]
    source: dict[str, Any] | None = None


class AnswerPage(Wire):
    """A part of a course's answers, and how many there are in all."""

    total: int
    answers: list[AnswerRow]


class MarkRow(Wire):
    """A mark as it was given. A row of kind `undo` takes back the one it names."""

    id: int
    kind: MarkKind
    current: bool
    undone: bool
    question_version: int
    mark: float | None
    full_mark: float | None
    points: list[PointResult]
    flags: list[Flag]
    model: str | None = None
    revision: str | None = None
    adapter: str | None = None
    adapter_version: str | None = None
    method: str | None = None
    shots: int | None = None
    prompt_version: str | None = None
    calibration: str | None = None
    author: str | None = None
    comment: str | None = None
    supersedes: int | None = None
    created_at: str


class WireContest(Wire):
    """What a student says against a verdict; `point` is null for the whole answer."""

    id: str
    answer: str
    point: int | None
    text: str
    state: Literal["open", "upheld", "changed"]
    created_at: str
    decided_at: str | None = None
    comment: str | None = None


class AnswerDetail(AnswerRow):
    """An answer with all that is known of it; `model` is the model's mark beneath a teacher's."""

    question_text: str
    question_version: int | None
    reference: str
    points: list[PointResult]
    model: MarkRow | None
    history: list[MarkRow]
    contests: list[WireContest]
    teacher_verdicts: dict[str, bool] | None = None


class Decision(Sent):
    """A teacher's verdict on every point of an answer.

    `expected_mark_id` is the mark it was made on: if another stands by now, nothing is changed.
    """

    verdicts: Annotated[dict[PointKey, bool], Field(min_length=1, max_length=100)]
    comment: Comment | None = None
    expected_mark_id: int | None = Field(ge=1)
    apply_to_identical: bool = Field(
        default=False,
        description="Also decide the answers with the same text that nobody has decided yet.",
    )


class Undo(Sent):
    """Take a teacher's mark back; the one before it stands again."""

    expected_mark_id: int = Field(ge=1)
    apply_to_identical: bool = Field(
        default=False, description="Take back what the same decision did to identical answers, too."
    )


class Decided(Wire):
    """Marks that came of a decision, that of the answer itself first."""

    state: State
    mark: float | None
    full_mark: float | None
    mark_id: int | None
    answers: list[str]


class HistogramBin(Wire):
    """Answers whose fraction of the full mark lies in [from, to); the last bin holds 1 as well."""

    start: float = _named("start", "from")
    end: float = _named("end", "to")
    answers: int


class PointSummary(Wire):
    """Share of answers that have a point, and share of the teacher's verdicts that differ."""

    id: int
    held: float
    disagreed: float | None


class QuestionSummary(Wire):
    """How the class did on a question; `mean` is the mean fraction of its full mark."""

    code: str
    answers: int
    mean: float
    points: list[PointSummary]


class AgreementSummary(Wire):
    """The teacher's verdicts so far against the model's."""

    verdicts: int
    agree: int
    kappa: float | None


class Load(Wire):
    """How many undecided answers are left to read for a promised share of errors."""

    risk: float
    answers: int


class Summary(Wire):
    """A course in numbers."""

    answers: int
    states: dict[str, int]
    flags: dict[str, int]
    histogram: list[HistogramBin]
    questions: list[QuestionSummary]
    agreement: AgreementSummary
    review: list[Load]


class Turned(Wire):
    """A verdict that would turn."""

    answer: str
    point: int
    before: bool | None = _named("before", "from")
    after: bool = _named("after", "to")


class Refit(Wire):
    """A calibration of the course's own, and what it would change; nothing is changed yet."""

    id: str
    state: Literal["proposed", "applied", "discarded"]
    model: str
    adapter: str | None
    prompt: str
    verdicts: int
    slope: float
    offset: float
    changed: list[Turned]
    changed_count: int
    review_before: int
    review_after: int


class RefitApplied(Wire):
    """What became of a proposal, and how many answers have a new mark by it."""

    id: str
    state: Literal["applied", "discarded"]
    answers: int


class RegradeRequest(Sent):
    """Questions as they should be from now on. It is always a trial first, so `dry_run` is true."""

    questions: Annotated[list[WireQuestion], Field(min_length=1, max_length=MAX_QUESTIONS)]
    dry_run: Literal[True] = True


class RegradeChange(Wire):
    """An answer whose mark would change. `kept`: a teacher's mark stands, and goes on standing."""

    answer: str
    student: str | None
    question: str
    mark_before: float
    mark_after: float
    full_mark_before: float
    full_mark_after: float
    kept: bool


class Regrade(Wire):
    """A trial of other questions: who would change and by how much.

    `total` answers are to be read again, `touched` have marks that the change touches. Of the
    marks that would be others, `kept_count` are a teacher's and stay. The id is that of a job, so
    `/jobs/{id}/events` tells how far it is.
    """

    id: str
    course: str
    state: Literal["reading", "proposed", "applied", "discarded"]
    questions: list[str]
    total: int
    read: int
    failed: int
    touched: int
    changed_count: int
    kept_count: int
    changed: list[RegradeChange]


class Upload(Wire):
    """A file as it was sent."""

    id: str
    kind: str
    filename: str
    bytes: int
    mapping: dict[str, Any] | None = None
    created_at: str


class Uploads(Wire):
    """The files of a course, the latest first."""

    uploads: list[Upload]


class Deleted(Wire):
    """What a deletion took with it."""

    courses: int = 0
    students: int = 0
    answers: int = 0
    uploads: int = 0


class StudentData(Wire):
    """All that is stored about one student of a course."""

    student: str
    name: str
    answers: list[AnswerDetail]
