"""A student tries answers to the questions of a course: one, at the keyboard, or its examples."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from llmarking.calls.call import PointReason
from llmarking.client import Client, GradeOptions
from llmarking.console.feedback import (
    Feedback,
    print_about,
    print_answer,
    print_question,
    print_questions,
    print_summary,
)
from llmarking.datasets.courses import Course
from llmarking.domain import Question, StudentAnswer
from llmarking.errors import LLMarkingError, RequestRefused
from llmarking.protocol.bodies import GradeResponse, Method, PointResult
from llmarking.terminal import ExitCode, Terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSettings:
    """How answers are graded and shown.

    Attributes:
        examples: how many of a question's graded examples the model sees.
        limit: how many answers to each question are walked through.
        as_json: print one JSON object instead of text.
    """

    examples: int = 0
    method: Method = "verdict"
    adapter: str | None = None
    explain: bool = True
    stream: bool = True
    limit: int = 3
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """An answer that was sent to be graded, with its grade or with why there is none."""

    answer: StudentAnswer
    grade: GradeResponse | None
    error: RequestRefused | None = None

    def as_json(self) -> dict[str, Any]:
        """The attempt for programs to read."""
        return {
            "question": self.answer.question_code,
            "id": self.answer.id or None,
            "answer": self.answer.text,
            "quality": self.answer.quality or None,
            "teacher": self.answer.verdicts
            and {str(i): v for i, v in self.answer.verdicts.items()},
            "grade": self.grade and self.grade.model_dump(mode="json"),
            "error": self.error and (self.error.problem or {"detail": str(self.error)}),
        }


class Student:
    """Grades answers through a server and prints the feedback."""

    def __init__(
        self, client: Client, terminal: Terminal, course: Course, settings: StudentSettings
    ) -> None:
        self._client = client
        self._terminal = terminal
        self._course = course
        self._settings = settings

    def one(self, question: Question, text: str) -> int:
        """Grade one answer."""
        if not self._settings.as_json:
            print_question(self._terminal.out, question)
            print_answer(self._terminal.out, text)
        answer = StudentAnswer("", question.code, text)
        grade = self._grade(question, answer)
        if self._settings.as_json:
            self._print_json(Attempt(answer, grade).as_json())
        else:
            print_about(self._terminal.out, grade)
        return ExitCode.OK

    def talk(self, question: Question | None = None) -> int:
        """Let the user answer one question, or choose among all, until they have enough."""
        self._greet()
        try:
            while chosen := question or self._choose():
                print_question(self._terminal.out, chosen)
                self._practise(chosen)
                if question is not None:
                    break
        except EOFError:
            pass
        return ExitCode.OK

    def walk(self, question: Question | None = None) -> int:
        """Grade some of the course's answers to every question, or to one."""
        if not self._settings.as_json:
            self._greet()
        plan = self._plan(question)
        attempts: list[Attempt] = []
        try:
            for number, (asked, answer) in enumerate(plan):
                if not self._settings.as_json:
                    self._announce(number, plan)
                try:
                    attempts.append(Attempt(answer, self._grade(asked, answer)))
                except RequestRefused as error:
                    # Another answer may fare better, unless the key is wrong or the server is busy.
                    if error.status not in (400, 413, 422):
                        raise
                    attempts.append(Attempt(answer, None, error))
                    self._terminal.complain(f"{answer.id}: {error}")
        finally:
            self._conclude(attempts, complete=len(attempts) == len(plan))
        return ExitCode.PARTIAL if any(a.error for a in attempts) else ExitCode.OK

    def _grade(self, question: Question, answer: StudentAnswer) -> GradeResponse:
        """Grade one answer and, unless JSON is wanted, print the feedback as it arrives."""
        shown = replace(question, examples=question.examples[: self._settings.examples])
        options = GradeOptions(
            method=self._settings.method,
            shots=len(shown.examples),
            explain=self._settings.explain,
        )
        if self._settings.adapter is not None:
            options["adapter"] = self._settings.adapter
        if self._settings.as_json:
            return self._client.grade(shown, answer.text, **options)
        feedback = Feedback(self._terminal.out)
        if self._settings.stream:
            with closing(self._client.stream_grade(shown, answer.text, **options)) as events:
                for _, data in events:
                    if isinstance(data, PointResult):
                        feedback.point(data)
                    elif isinstance(data, PointReason):
                        feedback.reason(data)
                    else:
                        grade = data
        else:
            with self._terminal.busy("grading; Ctrl-C stops it"):
                grade = self._client.grade(shown, answer.text, **options)
        feedback.grade(grade, answer.verdicts)
        return grade

    def _choose(self) -> Question | None:
        print_questions(self._terminal.out, self._course.questions)
        while said := self._terminal.ask("Which one? (number or code; Enter ends) ").strip():
            if said.isdecimal() and 1 <= int(said) <= len(self._course.questions):
                return self._course.questions[int(said) - 1]
            try:
                return self._course.question(said)
            except LLMarkingError as error:
                self._terminal.complain(str(error))
        return None

    def _practise(self, question: Question) -> None:
        self._terminal.note("Type your answer; an empty line ends it.")
        while text := self._read_answer():
            try:
                grade = self._grade(question, StudentAnswer("", question.code, text))
                print_about(self._terminal.out, grade)
            except KeyboardInterrupt:
                self._terminal.note("(stopped)")
            except LLMarkingError as error:
                self._terminal.complain(str(error))
            self._terminal.note("Try it again, or press Enter to leave this question.")

    def _read_answer(self) -> str:
        lines: list[str] = []
        try:
            while line := self._terminal.ask("> ").rstrip():
                lines.append(line)
        except EOFError:
            # Ctrl-D after some text hands that in.
            if not lines:
                raise
        return "\n".join(lines)

    def _plan(self, question: Question | None) -> list[tuple[Question, StudentAnswer]]:
        """Which answers `walk` takes: one of every quality before a second of any."""
        plan = []
        for asked in (question,) if question else self._course.questions:
            seen: dict[str, int] = {}
            ranked = []
            for answer in self._course.answers_to(asked):
                seen[answer.quality] = seen.get(answer.quality, 0) + 1
                ranked.append((seen[answer.quality], answer))
            ranked.sort(key=lambda pair: pair[0])
            plan += [(asked, answer) for _, answer in ranked[: self._settings.limit]]
        return plan

    def _greet(self) -> None:
        self._terminal.note(f"{self._client.models()[0].model} at {self._client.url}")

    def _announce(self, number: int, plan: list[tuple[Question, StudentAnswer]]) -> None:
        out = self._terminal.out
        question, answer = plan[number]
        if number == 0 or plan[number - 1][0] is not question:
            out.rule(style="dim")
            print_question(out, question)
        out.print()
        out.print(f"{answer.id}  [{number + 1} of {len(plan)}]", style="bold")
        print_answer(out, answer.text)

    def _conclude(self, attempts: list[Attempt], *, complete: bool) -> None:
        if self._settings.as_json:
            results = [attempt.as_json() for attempt in attempts]
            course = self._course.name
            self._print_json({"course": course, "complete": complete, "results": results})
            return
        graded = [(a.answer, a.grade) for a in attempts if a.grade]
        if graded:
            self._terminal.out.rule(style="dim")
            print_summary(self._terminal.out, graded)
            print_about(self._terminal.out, graded[-1][1])

    def _print_json(self, value: dict[str, Any]) -> None:
        self._terminal.write(json.dumps(value, ensure_ascii=False) + "\n")
