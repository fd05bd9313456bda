"""Model marks that follow older ones: other probabilities, or another version of the question."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from llmarking.domain import Grade, Question
from llmarking.store.courses import question_of
from llmarking.store.job_marks import confidence, marks_at_risk, verdict_row
from llmarking.store.review import Row, parts
from llmarking.store.schema import answers, marks, questions

# What a new mark takes over from the one it is made from.
_KEPT = (
    "answer_id question_id full_mark model revision adapter adapter_version method shots"
    " prompt_version"
).split()


def new_mark(mark: Row, grade: Grade, salt: str, calibration: str | None) -> dict[str, Any]:
    """Columns of a model mark that follows an older one with other verdicts.

    Args:
        salt: id of what made it, so that doing that twice would not make two marks.
    """
    kept = {name: mark[name] for name in _KEPT}
    return kept | {
        "kind": "model",
        "config_hash": hashlib.sha256(f"{mark['config_hash']}:{salt}".encode()).hexdigest(),
        "mark": grade.mark,
        "verdicts": [verdict_row(v) for v in grade.verdicts],
        "flags": [flag.value for flag in grade.flags],
        "needs_review": grade.needs_review,
        "marks_at_risk": marks_at_risk(grade.verdicts),
        "confidence": confidence(grade.verdicts),
        "calibration": calibration,
        "supersedes": mark["id"],
    }


def add_model_marks(tx: sa.Connection, rows: list[dict[str, Any]]) -> None:
    """Add model marks, and let them stand where no teacher's does."""
    if not rows:
        return
    tx.execute(sa.insert(marks), rows)
    hashes = {row["answer_id"]: row["config_hash"] for row in rows}
    moves = []
    for part in parts(list(hashes)):
        query = sa.select(marks.c.id, marks.c.answer_id, marks.c.config_hash).where(
            marks.c.answer_id.in_(part), marks.c.kind == "model"
        )
        moves += [
            {"answer": found.answer_id, "new": found.id}
            for found in tx.execute(query)
            if hashes[found.answer_id] == found.config_hash
        ]
    stands = sa.select(marks.c.kind).where(marks.c.id == answers.c.current_mark_id)
    tx.execute(
        sa.update(answers)
        .where(answers.c.id == sa.bindparam("answer"))
        .where(sa.or_(answers.c.current_mark_id.is_(None), stands.scalar_subquery() == "model"))
        .values(current_mark_id=sa.bindparam("new")),
        moves,
    )


def questions_of(tx: sa.Connection) -> Callable[[str], Question]:
    """Looks up versions of questions by id, each of them once."""
    known: dict[str, Question] = {}

    def get(question_id: str) -> Question:
        if question_id not in known:
            row = tx.execute(sa.select(questions).where(questions.c.id == question_id)).one()
            known[question_id] = question_of(row)
        return known[question_id]

    return get
