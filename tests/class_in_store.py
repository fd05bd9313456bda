"""Classes with marks put straight into a store, for tests of what comes after grading."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from llmarking.domain import Flag, Grade, Verdict
from llmarking.marks import decisions
from llmarking.marks.calibration import Calibration
from llmarking.protocol.bodies import WireQuestion
from llmarking.store import courses as store_courses
from llmarking.store.courses import question_of
from llmarking.store.database import Store
from llmarking.store.decisions import add_mark
from llmarking.store.job_marks import confidence, marks_at_risk, verdict_row
from llmarking.store.schema import answers, new_id, questions, students, text_key

REFERENCE = "It <Point1:2>stores pairs<Point1:2> and <Point2:1>finds a key at once<Point2:1>."
PLAIN = Calibration("scripted", "verdict/zeroshot.v1")


def wire_question(code: str = "Q1", reference: str = REFERENCE, **fields: Any) -> dict[str, Any]:
    """A question as it is sent, with all its fields."""
    return {
        "code": code,
        "text": "What is a hash table?",
        "reference": reference,
        "subject": "",
        "examples": [],
    } | fields


class ClassInStore:
    """A course with one question, to which answers with model marks can be added."""

    def __init__(self, store: Store, course: str = "c", *given: dict[str, Any]) -> None:
        self.store, self.course = store, course
        with store.write() as tx:
            store_courses.insert_course(tx, id=course, name="Data structures")
            saved = given or (wire_question(),)
            self.questions = store_courses.put_questions(
                tx, course, [WireQuestion(**each) for each in saved]
            )
        self._position = 0

    def student(self, external_id: str, name: str = "") -> str:
        """The id of a student, who is made where there is none."""
        with self.store.write() as tx:
            known = tx.scalar(
                sa.select(students.c.id).where(
                    students.c.course_id == self.course, students.c.external_id == external_id
                )
            )
            if known is not None:
                return str(known)
            made = new_id()
            tx.execute(
                sa.insert(students).values(
                    id=made, course_id=self.course, external_id=external_id, name=name
                )
            )
            return made

    def answer(
        self,
        text: str = "It keeps values under keys.",
        odds: Sequence[float] | None = (2.0, -1.0),
        *,
        student: str = "s1",
        name: str = "",
        code: str = "Q1",
        flags: Sequence[Flag] = (),
        evidence: str | None = None,
        source: dict[str, Any] | None = None,
    ) -> str:
        """Add an answer; with `odds`, one for each point, also the model's mark."""
        student_id = self.student(student, name)
        answer_id = new_id()
        with self.store.write() as tx:
            tx.execute(
                sa.insert(answers).values(
                    id=answer_id,
                    course_id=self.course,
                    question_code=code,
                    student_id=student_id,
                    position=self._position,
                    text=text,
                    text_key=text_key(text),
                    source=source,
                )
            )
            self._position += 1
        if odds is not None:
            self.model_mark(answer_id, odds, code=code, flags=flags, evidence=evidence)
        return answer_id

    def model_mark(
        self,
        answer_id: str,
        odds: Sequence[float],
        *,
        code: str = "Q1",
        flags: Sequence[Flag] = (),
        evidence: str | None = None,
        bar: float = 0.95,
        calibration: Calibration | None = None,
        adapter: tuple[str, str] | None = None,
    ) -> int:
        """Add a mark as a job would, and let it stand where no teacher's does.

        Args:
            adapter: name and version of the weights that read the answer.
        """
        name, version = adapter or (None, None)
        with self.store.write() as tx:
            query = sa.select(questions).where(questions.c.id == self.questions[code])
            question = question_of(tx.execute(query).one())
            verdicts = []
            for point, each in zip(question.points, odds, strict=True):
                p = (calibration or PLAIN).probability(each)
                held = p >= 0.5
                verdicts.append(
                    Verdict(
                        point,
                        held,
                        p,
                        each,
                        evidence=evidence if held else None,
                        needs_review=max(p, 1 - p) < bar,
                    )
                )
            listed = [*flags, *([Flag.UNSURE] if any(v.needs_review for v in verdicts) else [])]
            grade = Grade(question, tuple(verdicts), tuple(listed))
            mark = add_mark(
                tx,
                answer_id=answer_id,
                question_id=self.questions[code],
                kind="model",
                config_hash=new_id(),
                mark=grade.mark,
                full_mark=question.full_mark,
                verdicts=[verdict_row(v) for v in grade.verdicts],
                flags=[flag.value for flag in grade.flags],
                needs_review=grade.needs_review,
                marks_at_risk=marks_at_risk(verdicts),
                confidence=confidence(verdicts),
                model="scripted",
                revision="",
                adapter=name,
                adapter_version=version,
                method="verdict",
                shots=0,
                prompt_version=PLAIN.prompt,
                calibration=calibration.identity if calibration else None,
            )
            standing = decisions.standing(store_entries(tx, answer_id))
            tx.execute(
                sa.update(answers).where(answers.c.id == answer_id).values(current_mark_id=standing)
            )
        return mark


def store_entries(tx: sa.Connection, answer_id: str) -> list[decisions.Entry]:
    """The log of an answer."""
    from llmarking.store.decisions import entries

    return entries(tx, answer_id)


def logit(p: float) -> float:
    """Log-odds of a probability."""
    return math.log(p / (1 - p))
