"""What a teacher decides, written: a further mark each time, and a pointer that moves to it.

Two teachers at one answer: the pointer moves only from the mark that the decision was made on, so
the second one is told instead of overwriting the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from llmarking.domain import Grade
from llmarking.errors import Conflict
from llmarking.marks import decisions
from llmarking.marks.decisions import Entry, Kind, State
from llmarking.store.courses import log_event, question_of
from llmarking.store.job_marks import verdict_row
from llmarking.store.review import (
    History,
    Listed,
    Row,
    history,
    listed,
    mark_state,
    marks_by_id,
    parts,
    verdicts_of,
)
from llmarking.store.schema import answers, jobs, marks, new_id


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer after a decision, and the ids of all that were decided with it, its own first."""

    after: Listed
    answers: tuple[str, ...]

    @property
    def state(self) -> State:
        """Whether the mark that stands is the model's, or the teacher's and equal to it."""
        mark = self.after.mark
        return State.PROPOSED if mark is None else mark_state(mark, self.after.model)


def decide(
    tx: sa.Connection,
    answer_id: str,
    verdicts: Mapping[int, bool],
    *,
    expected: int | None,
    author: str,
    comment: str | None = None,
    identical: bool = False,
) -> Outcome:
    """Give an answer the teacher's verdicts.

    Args:
        expected: the mark they were made on; None where the answer had none.
        identical: also for answers with the same text that nobody has decided.

    Raises:
        NotFound: there is no such answer.
        Conflict: another mark stands by now.
        InputError: the verdicts do not fit the question.
    """
    found = history(tx, answer_id)
    _expect(found, expected)
    decision = new_id()
    together = [found.listed]
    if identical:
        together += _undecided_copies(tx, found)
    _hold(tx, [each.answer["id"] for each in together])
    question = question_of(found.question)
    for each in together:
        beneath = () if each.model is None else verdicts_of(each.model, question)
        grade = Grade(question, decisions.decided(question, verdicts, beneath))
        mark_id = add_mark(
            tx,
            answer_id=each.answer["id"],
            question_id=found.question.id,
            kind="human",
            # What a decision gave to identical answers can be taken back together.
            config_hash=decision,
            mark=grade.mark,
            full_mark=question.full_mark,
            verdicts=[verdict_row(v) for v in grade.verdicts],
            flags=[] if each.model is None else each.model["flags"],
            needs_review=False,
            author=author,
            comment=comment,
            supersedes=each.answer["current_mark_id"],
        )
        _move(tx, each.answer["id"], each.answer["current_mark_id"], mark_id)
    [after] = listed(tx, [answer_id])
    outcome = Outcome(after, tuple(each.answer["id"] for each in together))
    details = {"mark": after.answer["current_mark_id"], "on": expected, "answers": len(together)}
    course = found.listed.answer["course_id"]
    log_event(tx, course, author, f"answer.{outcome.state}", answer_id, details)
    return outcome


def undo(
    tx: sa.Connection, answer_id: str, *, expected: int, author: str, identical: bool = False
) -> Outcome:
    """Take back the teacher's mark that stands.

    Args:
        identical: also the marks that the same decision gave to identical answers, as far as they
            still stand.

    Raises:
        NotFound: there is no such answer.
        Conflict: another mark stands by now, or it is the model's.
    """
    found = history(tx, answer_id)
    _expect(found, expected)
    mark = found.listed.mark
    if mark is None or mark["kind"] != "human":
        raise Conflict("there is no decision of a teacher to take back; the model's mark stands")
    taken_back = [mark]
    if identical:
        query = (
            sa.select(marks)
            .join(answers, answers.c.current_mark_id == marks.c.id)
            .where(marks.c.config_hash == mark["config_hash"], marks.c.kind == "human")
            .where(marks.c.id != mark["id"])
            .order_by(answers.c.position)
        )
        taken_back += tx.execute(query).mappings().all()
    _hold(tx, [each["answer_id"] for each in taken_back])
    for each in taken_back:
        _take_back(tx, each, author)
    [after] = listed(tx, [answer_id])
    details = {
        "mark": mark["id"],
        "stands": after.answer["current_mark_id"],
        "answers": len(taken_back),
    }
    log_event(tx, found.listed.answer["course_id"], author, "answer.undone", answer_id, details)
    return Outcome(after, tuple(each["answer_id"] for each in taken_back))


def _hold(tx: sa.Connection, ids: Sequence[str]) -> None:
    """Let a server that grades these answers at this moment wait, or an older mark might stand.

    In the order of the ids, as everywhere: so no two transactions wait for each other.
    """
    for part in parts(sorted(ids)):
        wanted = sa.select(answers.c.id).where(answers.c.id.in_(part)).order_by(answers.c.id)
        tx.execute(wanted.with_for_update())


def _take_back(tx: sa.Connection, mark: Row, author: str) -> None:
    answer_id = mark["answer_id"]
    log = [*entries(tx, answer_id), Entry(2**62, Kind.UNDO, mark["id"])]
    before = decisions.standing(log)
    restored = None if before is None else marks_by_id(tx, [before])[before]
    add_mark(
        tx,
        answer_id=answer_id,
        question_id=mark["question_id"],
        kind="undo",
        mark=restored["mark"] if restored else 0.0,
        full_mark=restored["full_mark"] if restored else mark["full_mark"],
        verdicts=[],
        flags=[],
        needs_review=False,
        author=author,
        supersedes=mark["id"],
    )
    _move(tx, answer_id, mark["id"], before)


def entries(tx: sa.Connection, answer_id: str) -> list[Entry]:
    """An answer's log, from which alone what stands can be told."""
    query = (
        sa.select(marks.c.id, marks.c.kind, marks.c.supersedes, jobs.c.kind.label("job"))
        .select_from(marks.outerjoin(jobs, jobs.c.id == marks.c.job_id))
        .where(marks.c.answer_id == answer_id)
    )
    return [
        Entry(
            row.id,
            Kind.TRIAL if row.kind == "model" and row.job == "regrade" else Kind(row.kind),
            row.supersedes,
        )
        for row in tx.execute(query)
    ]


def add_mark(tx: sa.Connection, **columns: Any) -> int:
    """Add a row to the log; the id is higher than that of every mark before it."""
    found = tx.execute(sa.insert(marks).values(**columns).returning(marks.c.id))
    return int(found.scalar_one())


def _expect(found: History, expected: int | None) -> None:
    stands = found.listed.answer["current_mark_id"]
    if stands != expected:
        raise Conflict(
            f"the answer has another mark by now ({stands}, not {expected}); load it again and "
            "decide on that",
            field="expected_mark_id",
        )


def _move(tx: sa.Connection, answer_id: str, expected: int | None, to: int | None) -> None:
    moved = tx.execute(
        sa.update(answers)
        .where(answers.c.id == answer_id, answers.c.current_mark_id.is_not_distinct_from(expected))
        .values(current_mark_id=to)
    )
    if moved.rowcount != 1:
        raise Conflict(
            "somebody else has decided on this answer at the same moment; load it again",
            field="expected_mark_id",
        )


def _undecided_copies(tx: sa.Connection, found: History) -> list[Listed]:
    """Answers of the same text to the same version of the question that no teacher has decided."""
    answer = found.listed.answer
    query = (
        sa.select(answers.c.id)
        .outerjoin(marks, marks.c.id == answers.c.current_mark_id)
        .where(
            answers.c.course_id == answer["course_id"],
            answers.c.question_code == answer["question_code"],
            answers.c.text_key == answer["text_key"],
            answers.c.id != answer["id"],
            sa.func.coalesce(marks.c.kind, "model") != "human",
            sa.func.coalesce(marks.c.question_id, found.question.id) == found.question.id,
        )
        .order_by(answers.c.position)
    )
    return listed(tx, list(tx.scalars(query)))
