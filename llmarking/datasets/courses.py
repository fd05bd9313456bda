"""Read a course in our JSON form: questions with marked references, graded examples, answers.

    {"format": "llmarking-course/1", "questions": [{"code": "COM001", "question": "…",
     "reference": "… <Point1:2>…<Point1:2>", "full_mark": 2, "examples": […], "answers": […]}]}

Every fault names the file, line and column, and the path of the faulty value,
`questions[3].reference`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmarking import json_places, rubric
from llmarking.domain import GradedExample, Point, Question, StudentAnswer
from llmarking.errors import DataError, InputError, RubricError
from llmarking.sentences import of_pydantic, sentence

EXAMPLE = Path(__file__).resolve().parents[2] / "data" / "examples" / "course.json"


@dataclass(frozen=True, slots=True)
class Course:
    """Questions in the order of the file, and the answers to them."""

    name: str
    title: str
    questions: tuple[Question, ...]
    answers: tuple[StudentAnswer, ...]

    def question(self, code: str) -> Question:
        """The question with that code, whatever its case.

        Raises:
            InputError: there is none; the message lists those there are.
        """
        for question in self.questions:
            if question.code.casefold() == code.strip().casefold():
                return question
        known = ", ".join(q.code for q in self.questions)
        raise InputError(f"there is no question {code!r}; there are {known}", field="question")

    def answers_to(self, question: Question) -> tuple[StudentAnswer, ...]:
        """The answers to one question."""
        return tuple(a for a in self.answers if a.question_code == question.code)


def example_course() -> Course:
    """The course that is shipped with LLMarking."""
    return read(EXAMPLE)


def read(path: str | Path) -> Course:
    """Read and check a course file.

    Raises:
        DataError: the file can't be read, or something in it is wrong.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"the course can't be read: {error.strerror}", file=str(path)) from None
    return parse(data, str(path))


def parse(data: bytes, file: str) -> Course:
    """Check the content of a course file; `file` is its name in what is said about it.

    Raises:
        DataError: something in it is wrong.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        fault = sentence("course_not_utf8", "the course is not UTF-8 text")
        raise DataError(fault, file=file) from None
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            sentence("course_no_json", "no JSON: {why}", why=error.msg),
            file=file,
            line=error.lineno,
            column=str(error.colno),
        ) from None
    try:
        return _course(data)
    except _Fault as fault:
        line, column = json_places.place(text, fault.path)
        raise DataError(fault.message, file=file, line=line, column=str(column)) from fault


class _Fault(Exception):
    """Something wrong at a path."""

    def __init__(self, at: str, message: str) -> None:
        place: str = at or sentence("course_file", "the file")
        self.message = sentence("course_place", "{at}: {why}", at=place, why=message)
        super().__init__(self.message)
        self.path = json_places.steps(at)


def _course(data: object) -> Course:
    try:
        course = _Course.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _Fault(json_places.written(first["loc"]), of_pydantic(first)) from None
    questions: list[Question] = []
    answers: list[StudentAnswer] = []
    codes: set[str] = set()
    ids: set[str] = set()
    for number, entry in enumerate(course.questions):
        at = f"questions[{number}]"
        _once(entry.code.casefold(), codes, f"{at}.code")
        question = _question(entry, at)
        questions.append(question)
        for index, answer in enumerate(entry.answers):
            where = f"{at}.answers[{index}]"
            _once(answer.id, ids, f"{where}.id")
            answers.append(_answer(answer, question, where))
    return Course(course.name, course.title, tuple(questions), tuple(answers))


def _question(entry: _Question, at: str) -> Question:
    try:
        parsed = rubric.parse(entry.reference, entry.full_mark)
    except RubricError as error:
        raise _Fault(f"{at}.reference", error.message) from error
    for index, example in enumerate(entry.examples):
        given = [p.id for p in example.points]
        _covers(given, parsed.points, f"{at}.examples[{index}].points")
    examples = tuple(
        GradedExample(
            answer=example.answer,
            verdicts={p.id: p.verdict for p in example.points},
            reasons={p.id: p.reason for p in example.points if p.reason},
        )
        for example in entry.examples
    )
    return Question(
        code=entry.code,
        text=entry.question,
        full_mark=parsed.full_mark,
        reference=parsed.prose,
        points=parsed.points,
        examples=examples,
        subject=entry.subject,
    )


def _answer(entry: _Answer, question: Question, at: str) -> StudentAnswer:
    verdicts = None
    if entry.verdicts is not None:
        verdicts = {int(i): held for i, held in entry.verdicts.items()}
        _covers(list(verdicts), question.points, f"{at}.verdicts")
    return StudentAnswer(entry.id, question.code, entry.answer, verdicts, entry.quality)


def _once(key: str, seen: set[str], at: str) -> None:
    if key in seen:
        raise _Fault(at, sentence("used_twice", "{what} is used twice", what=repr(key)))
    seen.add(key)


def _covers(given: Sequence[int], points: Sequence[Point], at: str) -> None:
    wanted = [p.id for p in points]
    if sorted(given) != wanted:
        raise _Fault(
            at,
            sentence(
                "course_points",
                "there are verdicts for points {given}; the reference has {wanted}",
                given=sorted(given),
                wanted=wanted,
            ),
        )


class _Form(BaseModel):
    # Notes and licences may stand anywhere; what we read has to have the right type.
    model_config = ConfigDict(strict=True, extra="ignore")


class _Verdict(_Form):
    id: int
    verdict: bool
    reason: str = ""


class _Example(_Form):
    answer: str
    points: list[_Verdict]


class _Answer(_Form):
    id: str
    answer: str
    quality: str = ""
    verdicts: dict[Annotated[str, Field(pattern=r"^\d{1,4}$")], bool] | None = None


class _Question(_Form):
    code: Annotated[str, Field(min_length=1)]
    question: Annotated[str, Field(min_length=1)]
    reference: str
    full_mark: float | None = None
    subject: str = ""
    examples: list[_Example] = []
    answers: list[_Answer] = []


class _Course(_Form):
    format: Literal["llmarking-course/1"]
    name: str = ""
    title: str = ""
    questions: Annotated[list[_Question], Field(min_length=1)]
