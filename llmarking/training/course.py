"""What a teacher confirmed on a server, as a course to train on.

Only answers whose marks a person confirmed or changed count; what the model proposed and nobody
looked at would teach the model its own mistakes.
"""

from __future__ import annotations

import hashlib
import json

from llmarking.client import Client
from llmarking.domain import Question, StudentAnswer
from llmarking.errors import InputError
from llmarking.protocol.bodies import WireQuestion
from llmarking.training.data import Source

PAGE = 500


def fetch(client: Client, course: str) -> Source:
    """Questions of a course and its decided answers with the verdicts that stand.

    Answers decided under an older version of their question, with other points, are left out.

    Raises:
        InputError: nothing has been decided yet.
    """
    questions = {
        q.code: WireQuestion.model_validate(
            {
                "code": q.code,
                "text": q.text,
                "reference": q.reference,
                "full_mark": q.full_mark,
                "subject": q.subject,
            }
        ).question()
        for q in client.questions(course)
    }
    answers = _decided(client, course, questions)
    if not answers:
        raise InputError(
            f"no answer of course {course} has been decided by a teacher yet; there is nothing "
            "to learn from"
        )
    # Ids only: who wrote what is nobody's business in a model card's hash.
    basis = [[q.code, q.text, q.reference] for q in questions.values()]
    basis += [[a.id, json.dumps(a.verdicts), ""] for a in answers]
    digest = hashlib.sha256(json.dumps(basis, ensure_ascii=True).encode()).hexdigest()
    return Source(
        course, "the course's own; not to be passed on", digest, tuple(questions.values()), answers
    )


def _decided(
    client: Client, course: str, questions: dict[str, Question]
) -> tuple[StudentAnswer, ...]:
    found: list[StudentAnswer] = []
    offset, total = 0, 1
    while offset < total:
        page = client.answers(course, state="decided", offset=offset, limit=PAGE)
        total = page.total
        if not page.answers:
            break
        offset += len(page.answers)
        for row in page.answers:
            verdicts = {int(i): v for i, v in row.verdicts.items() if v is not None}
            question = questions.get(row.question)
            if question is not None and set(verdicts) == {p.id for p in question.points}:
                found.append(StudentAnswer(row.id, row.question, row.text, verdicts))
    return tuple(found)
