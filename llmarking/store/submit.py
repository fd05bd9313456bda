"""A class becomes a job: course, questions, answers and blocks in one transaction.

What has been accepted is in the database before the reply goes out, or nothing of it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from llmarking.errors import Conflict, InputError
from llmarking.protocol.jobs import JobAnswer, JobCourse, JobRequest
from llmarking.sentences import sentence
from llmarking.store.courses import (
    insert_course,
    log_event,
    newest_questions,
    put_questions,
    require_course,
)
from llmarking.store.database import Store
from llmarking.store.schema import (
    answers,
    blocks,
    courses,
    job_answers,
    jobs,
    new_id,
    storable,
    students,
    text_key,
)

# A block is what a crash costs, and what a transaction writes.
BLOCK = 16
# Answers that read the same stay in one block, so that they are read once; but not without end.
LARGEST_BLOCK = 256
_AT_ONCE = 500  # values in one IN (…)

T = TypeVar("T")
# The configuration of a job (see `jobs/worker.py`) for a course's row and what was asked for.
Configure = Callable[[sa.Connection, sa.Row[Any], JobRequest], dict[str, Any]]


class Placed(NamedTuple):
    """An answer of the job, with its place in the upload."""

    position: int
    id: str
    question: str
    text_key: str


def submit(
    store: Store, body: JobRequest, key: str | None, configure: Configure, *, actor: str
) -> tuple[str, bool]:
    """Write a class and its job.

    Args:
        key: the request's Idempotency-Key. The same request again is the same job.

    Returns:
        the job's id, and whether it is new.

    Raises:
        NotFound: the course does not exist.
        InputError: an answer names a question that is not there, or the key was another request's.
        Conflict: somebody else changed the course at the same moment.
    """
    request = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    for attempt in range(2):
        try:
            with store.write() as tx:
                if key is not None and (found := _known(tx, key, request)):
                    return found, False
                return _insert(tx, body, key, request, configure, actor), True
        except IntegrityError:
            # Somebody was faster: with the same key, and then there is a job to be found now.
            if attempt:
                break
    raise Conflict(
        sentence("same_moment", "somebody else changes this course at the same moment; try again")
    )


def canonical_hash(value: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _known(tx: sa.Connection, key: str, request: str) -> str | None:
    row = tx.execute(
        sa.select(jobs.c.id, jobs.c.request_hash).where(jobs.c.idempotency_key == key)
    ).one_or_none()
    if row is None:
        return None
    if row.request_hash != request:
        raise InputError(
            "this Idempotency-Key came with another body before; a new request wants a new key",
            field="Idempotency-Key",
        )
    return str(row.id)


def _insert(
    tx: sa.Connection,
    body: JobRequest,
    key: str | None,
    request: str,
    configure: Configure,
    actor: str,
) -> str:
    course = _course(tx, body.course, actor)
    put_questions(tx, course.id, body.questions, actor=actor)
    versions = {code: row.id for code, row in newest_questions(tx, course.id).items()}
    if body.answers:
        placed = _put_answers(tx, course.id, body.answers, versions)
    else:
        placed = _old_answers(tx, course.id, body.answer_ids, versions)
    config = configure(tx, course, body)
    job = new_id()
    tx.execute(
        sa.insert(jobs).values(
            id=job,
            course_id=course.id,
            idempotency_key=key,
            request_hash=request,
            options=body.model_dump(include={"method", "shots", "explain", "risk", "adapter"}),
            config=config,
            config_hash=canonical_hash(config),
            model=config["model"],
            total=len(placed),
        )
    )
    put_blocks(tx, job, placed, versions)
    log_event(tx, course.id, actor, "job.created", job, {"answers": len(placed)})
    return job


def _course(tx: sa.Connection, wanted: JobCourse, actor: str) -> sa.Row[Any]:
    """The row of the course, which nobody else adds answers to before the transaction ends."""
    known = wanted.id is not None and tx.scalar(
        sa.select(courses.c.id).where(courses.c.id == wanted.id)
    )
    if wanted.id is not None and (known or wanted.name is None):
        return require_course(tx, wanted.id, lock=True)
    assert wanted.name is not None  # the body has been checked
    course = insert_course(
        tx,
        name=wanted.name,
        id=wanted.id,
        retention_days=wanted.retention_days,
        risk=wanted.risk,
        actor=actor,
    )
    return require_course(tx, course, lock=True)


def _put_answers(
    tx: sa.Connection, course: str, given: Sequence[JobAnswer], versions: Mapping[str, str]
) -> list[Placed]:
    """Add answers and their students; those that came with a known id are there already."""
    for number, answer in enumerate(given):
        if storable(answer.question) not in versions:
            raise InputError(
                f"answers.{number}.question: there is no question {answer.question!r} in the "
                "request or the course",
                field=f"answers.{number}.question",
            )
    people = _put_students(tx, course, given)
    known = _with_external_ids(tx, course, [a.id for a in given if a.id is not None])
    top = tx.scalar(sa.select(sa.func.max(answers.c.position)).where(answers.c.course_id == course))
    free = 0 if top is None else int(top) + 1
    placed: list[Placed] = []
    rows = []
    for number, answer in enumerate(given):
        text, code = storable(answer.text), storable(answer.question)
        before = known.get(storable(answer.id)) if answer.id is not None else None
        if before is not None:
            if (before.text, before.question_code) != (text, code):
                raise InputError(
                    f"answers.{number}.id: the course has another answer of that id",
                    field=f"answers.{number}.id",
                )
            placed.append(Placed(number, before.id, code, before.text_key))
            continue
        placed.append(Placed(number, new_id(), code, text_key(text)))
        rows.append(
            {
                "id": placed[-1].id,
                "course_id": course,
                "question_code": code,
                "student_id": people.get(storable(answer.student)),
                "external_id": None if answer.id is None else storable(answer.id),
                "position": free,
                "text": text,
                "text_key": placed[-1].text_key,
                "source": answer.source,
                "quality": None if answer.quality is None else storable(answer.quality),
                "teacher_verdicts": answer.verdicts,
            }
        )
        free += 1
    if rows:
        tx.execute(sa.insert(answers), rows)
    return placed


def _put_students(tx: sa.Connection, course: str, given: Sequence[JobAnswer]) -> dict[str, str]:
    """Ids of the students by what the teacher calls them; new ones are added."""
    known: dict[str, str] = {
        row.external_id: row.id
        for row in tx.execute(
            sa.select(students.c.external_id, students.c.id).where(students.c.course_id == course)
        )
    }
    rows = []
    for answer in given:
        external = storable(answer.student)
        if external and external not in known:
            known[external] = new_id()
            row = {"id": known[external], "course_id": course, "external_id": external}
            rows.append(row | {"name": storable(answer.name)})
    if rows:
        tx.execute(sa.insert(students), rows)
    return known


def _with_external_ids(
    tx: sa.Connection, course: str, wanted: Sequence[str]
) -> dict[str, sa.Row[Any]]:
    found = {}
    for some in _chunks([storable(each) for each in wanted], _AT_ONCE):
        for row in tx.execute(
            sa.select(answers).where(answers.c.course_id == course, answers.c.external_id.in_(some))
        ):
            found[row.external_id] = row
    return found


def _old_answers(
    tx: sa.Connection, course: str, wanted: Sequence[str], versions: Mapping[str, str]
) -> list[Placed]:
    found: dict[str, tuple[str, str]] = {}
    for some in _chunks(wanted, _AT_ONCE):
        for row in tx.execute(
            sa.select(answers.c.id, answers.c.question_code, answers.c.text_key).where(
                answers.c.course_id == course, answers.c.id.in_(some)
            )
        ):
            found[row.id] = (row.question_code, row.text_key)
    placed = []
    for number, each in enumerate(wanted):
        code, alike = found.get(each, ("", ""))
        if code not in versions:
            raise InputError(
                f"answer_ids.{number}: the course has no answer {each!r}",
                field=f"answer_ids.{number}",
            )
        placed.append(Placed(number, each, code, alike))
    return placed


def put_blocks(
    tx: sa.Connection, job: str, placed: Sequence[Placed], versions: Mapping[str, str]
) -> None:
    """Cut the answers of a job into blocks of one question each.

    Args:
        versions: the id of the version to grade against, by the code of the question.
    """
    block_rows = []
    answer_rows = []
    for seq, (code, members) in enumerate(_cut(placed)):
        block = new_id()
        block_rows.append({"id": block, "job_id": job, "question_id": versions[code], "seq": seq})
        answer_rows += [
            {"job_id": job, "answer_id": each.id, "block_id": block, "position": each.position}
            for each in members
        ]
    tx.execute(sa.insert(blocks), block_rows)
    tx.execute(sa.insert(job_answers), answer_rows)


def _cut(placed: Sequence[Placed]) -> Iterator[tuple[str, list[Placed]]]:
    """Blocks of one question, in which answers that read the same are together."""
    groups: dict[str, dict[str, list[Placed]]] = {}
    for each in placed:
        groups.setdefault(each.question, {}).setdefault(each.text_key, []).append(each)
    for code, alike in groups.items():
        block: list[Placed] = []
        for group in alike.values():
            for part in _chunks(group, LARGEST_BLOCK):
                if block and len(block) + len(part) > LARGEST_BLOCK:
                    yield code, block
                    block = []
                block += part
            if len(block) >= BLOCK:
                yield code, block
                block = []
        if block:
            yield code, block


def _chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
