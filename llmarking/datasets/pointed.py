"""Verdicts on the points of somebody else's answers, without the answers.

A public set often has one label for a whole answer. A file of this form gives its questions a
rubric and its answers a verdict for each point; questions and answers stay where they are, and are
read from there by their codes and ids.

    {"format": "llmarking-verdicts/1", "name": "REAL_A", "of": "saf-english-training",
     "licence": "MIT", "questions": [{"code": "2.1_DLL", "full_mark": 3,
     "reference": "… <Point1:1>…<Point1:1> …", "verdicts": {"DLL_2.1.1": "101"}}]}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmarking import json_places, rubric
from llmarking.datasets.contents import Contents, read_text, shown
from llmarking.domain import Question, StudentAnswer
from llmarking.errors import DataError, RubricError

FORMAT = "llmarking-verdicts/1"


class Marked(Protocol):
    """The course whose answers the verdicts are about."""

    @property
    def questions(self) -> tuple[Question, ...]: ...
    @property
    def answers(self) -> tuple[StudentAnswer, ...]: ...


def read(path: Path, load: Callable[[str], Marked]) -> Contents:
    """Read a file of verdicts; `load` finds the course that it is about by its name.

    Raises:
        DataError: that course is not there, or has no such question or answer; or something in the
            file is wrong.
    """
    text = read_text(path)

    def fault(at: str, message: str) -> DataError:
        line, column = json_places.place(text, json_places.steps(at))
        return DataError(f"{at}: {message}", file=str(path), line=line, column=str(column))

    try:
        form = _Form.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise DataError(f"no JSON: {first['msg']}", file=str(path)) from None
        raise fault(json_places.written(first["loc"]), first["msg"]) from None
    try:
        course = load(form.of)
    except DataError as error:
        raise fault("of", f"the answers are not here: {error}") from error
    asked = {question.code: question for question in course.questions}
    given = {answer.id: answer for answer in course.answers}
    questions: dict[str, Question] = {}
    answers: list[StudentAnswer] = []
    for number, entry in enumerate(form.questions):
        place = f"questions[{number}]"
        if entry.code in questions:
            raise fault(f"{place}.code", f"{shown(entry.code)} is there twice")
        if (question := asked.get(entry.code)) is None:
            raise fault(f"{place}.code", f"{form.of} has no question {shown(entry.code)}")
        try:
            parsed = rubric.parse(entry.reference, entry.full_mark)
        except RubricError as error:
            raise fault(f"{place}.reference", error.message) from error
        questions[entry.code] = replace(
            question,
            full_mark=parsed.full_mark,
            reference=parsed.prose,
            points=parsed.points,
            # Their verdicts are about the points that the question had there.
            examples=(),
        )
        for answer_id, word in entry.verdicts.items():
            at = f"{place}.verdicts"
            answer = given.get(answer_id)
            if answer is None or answer.question_code != entry.code:
                raise fault(at, f"{shown(answer_id)} is no answer to {shown(entry.code)}")
            if len(word) != len(parsed.points):
                raise fault(
                    at,
                    f"{shown(answer_id)} has {len(word)} verdicts for {len(parsed.points)} points",
                )
            verdicts = {p.id: held == "1" for p, held in zip(parsed.points, word, strict=True)}
            answers.append(replace(answer, verdicts=verdicts, score=None))
    return Contents(
        tuple(questions.values()),
        tuple(answers),
        (path,),
        source=f"verdicts on {form.of}",
        licence=form.licence,
        name=form.name,
    )


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Question(_Strict):
    code: Annotated[str, Field(min_length=1)]
    reference: str
    full_mark: float | None = None
    verdicts: Annotated[dict[str, Annotated[str, Field(pattern="^[01]+$")]], Field(min_length=1)]


class _Form(_Strict):
    format: Literal["llmarking-verdicts/1"]
    name: str = ""
    of: Annotated[str, Field(min_length=1)]
    licence: str = "not stated"
    questions: Annotated[list[_Question], Field(min_length=1)]
