"""The words of the field as frozen dataclasses: what a question, an answer and a grade are.

Nothing here knows about files, HTTP, models or prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypedDict

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Point:
    """One marked point of a reference answer.

    Attributes:
        id: 1-based number, unique in its question.
        mark: what the point is worth.
        cases: one or more alternative wordings; stating any of them earns the point.
    """

    id: int
    mark: float
    cases: tuple[str, ...]

    @property
    def text(self) -> str:
        """The point as one line of text, alternatives joined by "or"."""
        return " — or: ".join(self.cases)


@dataclass(frozen=True, slots=True)
class GradedExample:
    """An answer with the teacher's verdict, and optionally a reason, for every point."""

    answer: str
    verdicts: Mapping[int, bool]
    reasons: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its reference answer cut into points.

    Attributes:
        code: the teacher's id of the question.
        reference: the reference answer as prose, without markup.
        points: in order of id, never empty.
        examples: graded answers that may be shown to the model, best first.
    """

    code: str
    text: str
    full_mark: float
    reference: str
    points: tuple[Point, ...]
    examples: tuple[GradedExample, ...] = ()
    subject: str = ""


@dataclass(frozen=True, slots=True)
class StudentAnswer:
    """What a student wrote, with the teacher's verdicts where they are known (evaluation only).

    Attributes:
        score: the teacher's mark as a fraction of the full mark, where it was given for the whole.
    """

    id: str
    question_code: str
    text: str
    verdicts: Mapping[int, bool] | None = None
    quality: str = ""
    score: float | None = None


class Flag(StrEnum):
    """Why a person should look at an answer. A flag never changes a mark."""

    UNSURE = "unsure"
    MANIPULATION = "manipulation"
    HIDDEN_TEXT = "hidden_text"
    EMPTY = "empty"
    COPIED_QUESTION = "copied_question"
    COPIED_REFERENCE = "copied_reference"
    OTHER_LANGUAGE = "other_language"
    TOO_LONG = "too_long"
    NO_EVIDENCE = "no_evidence"
    FORMAT = "format"


class Outcome(StrEnum):
    """How a verdict came about; all but DECIDED are failures, counted and never guessed."""

    DECIDED = "decided"
    MISSING = "missing"
    DUPLICATED = "duplicated"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one point is stated in one answer.

    Attributes:
        held: the decision; None when no decision could be read (prose method only).
        probability: calibrated P(point stated) in [0, 1]; None for the prose method.
        raw: the model's log-odds ln P(True) - ln P(False) before calibration, with what the point's
            words add where the calibration weighs them in.
        evidence: words of the answer, verbatim, that show the point.
    """

    point: Point
    held: bool | None
    probability: float | None = None
    raw: float | None = None
    outcome: Outcome = Outcome.DECIDED
    evidence: str | None = None
    reason: str | None = None
    needs_review: bool = False


@dataclass(frozen=True, slots=True)
class Grade:
    """The marks of one answer: the sum of the points held true, added up here and nowhere else."""

    question: Question
    verdicts: tuple[Verdict, ...]
    flags: tuple[Flag, ...] = ()

    @property
    def mark(self) -> float:
        """Marks earned, between 0 and the full mark."""
        return round(sum(v.point.mark for v in self.verdicts if v.held), 6)

    @property
    def needs_review(self) -> bool:
        """Whether a teacher should look before the mark counts."""
        return bool(self.flags) or any(v.needs_review for v in self.verdicts)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to generate text. Bounds are checked where values come in, not here."""

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """The text of one sample so far. `finish_reason` is None until it is done."""

    text: str
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """What a generation has produced so far: one completion per sample, and what it cost."""

    completions: tuple[Completion, ...]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Log-probabilities read from one prompt.

    Attributes:
        logprobs: shape [rows][token ids], natural logarithms.
        adapter: the version of the adapter that they were read with.
    """

    logprobs: Sequence[Sequence[float]]
    prompt_tokens: int
    cached_tokens: int
    adapter: str | None = None
