"""Which answers a run grades, what a server grades with, and what is kept of an answer."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import Any

from llmarking.datasets.finding import Course, teacher_mark
from llmarking.domain import GradedExample, Point, Question, StudentAnswer
from llmarking.errors import DataError
from llmarking.evaluation.folder import Key, Sample
from llmarking.protocol.bodies import GradeResponse

MOST_SHOTS = 16  # that a server takes
Plan = list[tuple[Question, StudentAnswer]]


@dataclass(frozen=True, slots=True)
class About:
    """What a server grades with, as it says in every reply."""

    model: str
    adapter: str | None
    adapter_version: str | None
    prompt: str
    calibration: str | None

    @classmethod
    def of(cls, grade: GradeResponse) -> About:
        """What this grade was made with."""
        return cls(
            grade.model,
            grade.adapter,
            grade.adapter_version,
            grade.prompt_version,
            grade.calibration,
        )

    def __str__(self) -> str:
        model = self.model
        if self.adapter:
            model += f" with adapter {self.adapter} ({self.adapter_version})"
        return f"{model}, prompt {self.prompt}, calibration {self.calibration or 'none'}"


def plan(course: Course, *, shots: int | None, limit: int | None, seed: int) -> Plan:
    """The answers to grade, in the order of the course, with the examples that are shown.

    Args:
        shots: examples shown, as many as a question has; None means all.
        limit: answers to each question; None means all. A larger limit draws what a smaller one
            draws, and more.

    Raises:
        DataError: two answers to a question go by one id.
    """
    by_question: dict[str, list[StudentAnswer]] = {q.code: [] for q in course.questions}
    seen: set[Key] = set()
    for answer in course.answers:
        if key_of(answer) in seen:
            raise DataError(
                f"{course.name}: two answers to {answer.question_code} are named {answer.id}"
            )
        seen.add(key_of(answer))
        by_question[answer.question_code].append(answer)

    def place(answer: StudentAnswer) -> bytes:
        return hashlib.sha256(json.dumps([seed, *key_of(answer)]).encode()).digest()

    pairs: Plan = []
    for question in course.questions:
        shown = question.examples[: MOST_SHOTS if shots is None else shots]
        answers = by_question[question.code]
        chosen = {key_of(answer) for answer in sorted(answers, key=place)[:limit]}
        asked = replace(question, examples=shown)
        pairs += [(asked, answer) for answer in answers if key_of(answer) in chosen]
    return pairs


def key_of(answer: StudentAnswer) -> Key:
    """What tells an answer from all others of its course."""
    return answer.question_code, answer.id


def trial(shots: int) -> Question:
    """A question that costs next to nothing, to learn what a server grades with."""
    example = GradedExample("2", {1: True})
    return Question("trial", "1 + 1?", 1.0, "2", (Point(1, 1.0, ("2",)),), (example,) * shots)


def short_version(prompts: str) -> str:
    """`v1` of `verdict/zeroshot.v1`; several are joined."""
    return "+".join(dict.fromkeys(re.findall(r"\.([^.,]+)(?:,|$)", prompts))) or prompts


def sample(
    question: Question, answer: StudentAnswer, grade: GradeResponse, seconds: float
) -> Sample:
    """An answer as it is kept: verdicts and marks, nothing of what the student wrote."""
    taught = answer.verdicts or {}
    read = all(point.held is not None for point in grade.points)
    points: list[dict[str, Any]] = [
        {
            "id": point.id,
            "held": point.held,
            "probability": point.probability,
            "outcome": point.outcome.value,
            "teacher": taught.get(point.id),
        }
        for point in grade.points
    ]
    return {
        "id": answer.id,
        "question": question.code,
        "shots": grade.shots,
        "points": points,
        "mark": grade.mark if read else None,
        "full_mark": question.full_mark,
        "teacher_mark": teacher_mark(question, answer),
        "flags": [flag.value for flag in grade.flags],
        "seconds": round(seconds, 4),
    }
