"""The teacher's queue: lists of answers with the marks that stand, and one answer with its history.

Functions of a transaction; they read, and `decisions` writes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from llmarking.domain import Outcome, Question, Verdict
from llmarking.errors import NotFound
from llmarking.marks.decisions import State, state
from llmarking.sentences import sentence
from llmarking.store.schema import answers, contests, jobs, marks, questions, students

Order = Literal["upload", "risk"]
Which = Literal["undecided", "decided", "contested", "all"]
Row = sa.RowMapping

_CONTESTED = sa.exists().where(contests.c.answer_id == answers.c.id, contests.c.state == "open")
_DECIDED = sa.func.coalesce(marks.c.kind == "human", sa.false())
_WITH_MARK = answers.outerjoin(marks, marks.c.id == answers.c.current_mark_id)
# SQLite takes so many values in a statement, and more than one list may be in it.
_MANY = 10_000


@dataclass(frozen=True, slots=True)
class Listed:
    """An answer in a list: its row, that of the mark that stands, and the model's beneath it.

    Attributes:
        same_as: how many other answers to the question have the same text.
    """

    answer: Row
    mark: Row | None
    model: Row | None
    contested: bool
    same_as: int

    @property
    def state(self) -> State | Literal["waiting"]:
        """What the teacher has made of it; `waiting` without any mark."""
        if self.mark is None:
            return "waiting"
        return mark_state(self.mark, self.model)


def mark_state(mark: Row, model: Row | None) -> State:
    """State of the mark that stands, given the model's newest."""
    human = held(mark) if mark["kind"] == "human" else None
    return state(human, None if model is None else held(model))


def held(mark: Row) -> dict[int, bool | None]:
    """Point id to verdict."""
    return {v["id"]: v["held"] for v in mark["verdicts"]}


def course_answers(
    tx: sa.Connection,
    course: str,
    *,
    order: Order = "upload",
    which: Which = "all",
    flag: str | None = None,
    question: str | None = None,
    offset: int = 0,
    limit: int = 100,
) -> tuple[int, list[Listed]]:
    """How many answers of a course there are of a kind, and a page of them.

    By risk come contested answers first, then what nobody decided; among these what should be
    looked at, then the most marks at risk.
    """
    wanted = [answers.c.course_id == course]
    if which == "contested":
        wanted.append(_CONTESTED)
    elif which == "decided":
        wanted.append(_DECIDED)
    elif which == "undecided":
        # Who objects to a decision waits for another one.
        wanted.append(sa.or_(sa.not_(_DECIDED), _CONTESTED))
    if flag is not None:
        wanted.append(sa.cast(marks.c.flags, sa.Text).contains(f'"{flag}"', autoescape=True))
    if question is not None:
        wanted.append(answers.c.question_code == question)
    # Marks are looked up only where the count depends on them: that is most of its time.
    counted = answers if which in ("all", "contested") and flag is None else _WITH_MARK
    found = sa.select(sa.func.count()).select_from(counted).where(*wanted)
    by_risk = (
        sa.desc(sa.cast(_CONTESTED, sa.Integer)),
        sa.cast(_DECIDED, sa.Integer),
        sa.desc(sa.cast(sa.func.coalesce(marks.c.needs_review, sa.false()), sa.Integer)),
        sa.desc(sa.func.coalesce(marks.c.marks_at_risk, -1)),
    )
    page = (
        sa.select(answers.c.id)
        .select_from(_WITH_MARK)
        .where(*wanted)
        .order_by(*(by_risk if order == "risk" else ()), answers.c.position)
        .offset(offset)
        .limit(limit)
    )
    # The sort carries ids only; texts and verdicts are fetched for those on the page.
    ids = list(tx.scalars(page))
    return int(tx.scalar(found) or 0), listed(tx, ids)


def listed(tx: sa.Connection, ids: Sequence[str]) -> list[Listed]:
    """Answers in the order of their ids, with marks, students and numbers of identical ones."""
    rows: dict[str, Row] = {}
    for part in parts(ids):
        query = (
            sa.select(
                answers,
                students.c.external_id.label("student"),
                students.c.name,
                _CONTESTED.label("contested"),
            )
            .select_from(answers.outerjoin(students, students.c.id == answers.c.student_id))
            .where(answers.c.id.in_(part))
        )
        rows |= {row["id"]: row for row in tx.execute(query).mappings()}
    standing = marks_by_id(
        tx, [r["current_mark_id"] for r in rows.values() if r["current_mark_id"]]
    )
    human = [i for i, m in ((m["answer_id"], m) for m in standing.values()) if m["kind"] == "human"]
    beneath = model_marks(tx, human)
    copies = _copies(tx, rows.values())
    result = []
    for answer_id in ids:
        row = rows[answer_id]
        mark = standing.get(row["current_mark_id"])
        model = mark if mark and mark["kind"] == "model" else beneath.get(answer_id)
        group = (row["course_id"], row["question_code"], row["text_key"])
        result.append(Listed(row, mark, model, bool(row["contested"]), copies[group] - 1))
    return result


def marks_by_id(tx: sa.Connection, ids: Collection[int]) -> dict[int, Row]:
    """Rows of marks by id."""
    found: dict[int, Row] = {}
    for part in parts(list(ids)):
        query = sa.select(marks).where(marks.c.id.in_(part))
        found |= {row["id"]: row for row in tx.execute(query).mappings()}
    return found


def model_marks(tx: sa.Connection, answer_ids: Sequence[str]) -> dict[str, Row]:
    """The model's newest mark of each answer, whether it stands or lies beneath a teacher's.

    What a regrade tried out is no mark yet and left out.
    """
    found: dict[str, Row] = {}
    for part in parts(answer_ids):
        newest = newest_model_mark().where(marks.c.answer_id.in_(part)).group_by(marks.c.answer_id)
        query = sa.select(marks).where(marks.c.id.in_(newest))
        found |= {row["answer_id"]: row for row in tx.execute(query).mappings()}
    return found


def newest_model_mark() -> sa.Select[tuple[int]]:
    """Select max(marks.id) among the model's marks that are no trial; restrict it as needed."""
    return (
        sa.select(sa.func.max(marks.c.id))
        .select_from(marks.outerjoin(jobs, jobs.c.id == marks.c.job_id))
        .where(marks.c.kind == "model", sa.func.coalesce(jobs.c.kind, "grade") != "regrade")
    )


def _copies(tx: sa.Connection, rows: Iterable[Row]) -> dict[tuple[str, str, str], int]:
    """Answers by course, question and text, for those texts that occur in the rows."""
    wanted: dict[str, set[str]] = {}
    for row in rows:
        wanted.setdefault(row["course_id"], set()).add(row["text_key"])
    counts: dict[tuple[str, str, str], int] = {}
    columns = (answers.c.course_id, answers.c.question_code, answers.c.text_key)
    for course, keys in wanted.items():
        for part in parts(list(keys)):
            query = (
                sa.select(*columns, sa.func.count())
                .where(answers.c.course_id == course, answers.c.text_key.in_(part))
                .group_by(*columns)
            )
            counts |= {(c, code, key): int(n) for c, code, key, n in tx.execute(query)}
    return counts


@dataclass(frozen=True, slots=True)
class History:
    """All that is stored about one answer.

    Attributes:
        question: the version that the mark that stands is about, or else the one in use.
        versions: every version that a mark is about, by id.
        log: every mark in the order they were given.
        undone: ids of marks that were taken back.
    """

    listed: Listed
    question: sa.Row[Any]
    versions: dict[str, sa.Row[Any]]
    log: list[Row]
    undone: frozenset[int]
    contests: list[Row]


def history(tx: sa.Connection, answer_id: str) -> History:
    """One answer.

    Raises:
        NotFound: there is none of that id.
    """
    if tx.scalar(sa.select(answers.c.id).where(answers.c.id == answer_id)) is None:
        fault = sentence("no_answer_there", "there is no answer {id}", id=repr(answer_id))
        raise NotFound(fault, field="answer")
    [found] = listed(tx, [answer_id])
    log = list(
        tx.execute(
            sa.select(marks)
            .where(
                marks.c.answer_id == answer_id,
                sa.or_(marks.c.kind != "model", marks.c.id.in_(_no_trial(answer_id))),
            )
            .order_by(marks.c.id)
        ).mappings()
    )
    named = {row["question_id"] for row in log}
    versions = tx.execute(sa.select(questions).where(questions.c.id.in_(named)))
    return History(
        listed=found,
        question=question_row(tx, found),
        versions={row.id: row for row in versions},
        log=log,
        undone=frozenset(row["supersedes"] for row in log if row["kind"] == "undo"),
        contests=list(
            tx.execute(
                sa.select(contests)
                .where(contests.c.answer_id == answer_id)
                .order_by(contests.c.created_at, contests.c.id)
            ).mappings()
        ),
    )


def _no_trial(answer_id: str) -> sa.Select[tuple[int]]:
    return (
        sa.select(marks.c.id)
        .select_from(marks.outerjoin(jobs, jobs.c.id == marks.c.job_id))
        .where(marks.c.answer_id == answer_id, sa.func.coalesce(jobs.c.kind, "grade") != "regrade")
    )


def question_row(tx: sa.Connection, found: Listed) -> sa.Row[Any]:
    """The question an answer's mark is about; without a mark, the version in use.

    Raises:
        NotFound: the course has no such question.
    """
    query = sa.select(questions)
    if found.mark is not None:
        query = query.where(questions.c.id == found.mark["question_id"])
    else:
        query = (
            query.where(
                questions.c.course_id == found.answer["course_id"],
                questions.c.code == found.answer["question_code"],
                questions.c.active,
            )
            .order_by(questions.c.version.desc())
            .limit(1)
        )
    row = tx.execute(query).first()
    if row is None:
        raise NotFound(f"there is no question {found.answer['question_code']!r} in the course")
    return row


def verdicts_of(mark: Row, question: Question) -> tuple[Verdict, ...]:
    """A mark's verdicts as domain objects."""
    stored = {v["id"]: v for v in mark["verdicts"]}
    return tuple(
        Verdict(
            point,
            held=v["held"],
            probability=v.get("probability"),
            raw=v.get("raw"),
            outcome=Outcome(v.get("outcome", "decided")),
            evidence=v.get("evidence"),
            reason=v.get("reason"),
            needs_review=bool(v.get("needs_review")),
        )
        for point in question.points
        if (v := stored.get(point.id)) is not None
    )


def parts(ids: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """A long list in lengths that a statement takes."""
    return (ids[start : start + _MANY] for start in range(0, len(ids), _MANY))
