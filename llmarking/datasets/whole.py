"""Tables: ASAP-SAS and Mohler, with one mark for a whole answer, and a course of one's own.

A course of one's own is a CSV file with one line per answer:

| column | meaning |
|---|---|
| question_code | which question; required |
| question, reference | needed in the first line of each question; may hold point markup |
| full_mark | the sum of the points; 1 where nothing is said |
| answer | what the student wrote; required, may be empty |
| verdicts | the teacher's, `True,False,True` in the order of the points; or 1 and 0, yes and no |
| mark | the teacher's mark for the whole answer, where there are no verdicts |
| id, quality, subject | as you like; ids are made up where they are missing |
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from llmarking import rubric
from llmarking.datasets.contents import Contents, marked_answer, shown, whole_question
from llmarking.datasets.tables import Column, Row, comparable, first_headers, read_csv, read_tsv
from llmarking.domain import Question, StudentAnswer
from llmarking.errors import DataError, RubricError

ASAP_QUESTIONS = "questions.csv"
# The ranges of the ten sets, as published with the competition.
_ASAP_FULL = {1: 3, 2: 3, 3: 2, 4: 2, 5: 3, 6: 3, 7: 2, 8: 2, 9: 2, 10: 2}
_ASAP = (
    Column("id", ("Id",)),
    Column("set", ("EssaySet",)),
    Column("mark", ("Score1", "EssayScore"), required=False),
    Column("answer", ("EssayText",)),
)
_ASAP_SIDE = (
    Column("set", ("EssaySet",)),
    Column("question", ("Question",)),
    Column("reference", ("Reference", "RightAnswer")),
    Column("full_mark", ("full_mark",), required=False),
)
MOHLER_FULL = 5.0
_MOHLER = (
    Column("code", ("id",), required=False),
    Column("question", ("question",)),
    Column("reference", ("desired_answer",)),
    Column("answer", ("student_answer",)),
    Column("mark", ("score_avg",)),
)
_OWN = (
    Column("code", ("question_code",)),
    Column("question", ("question",)),
    Column("reference", ("reference", "right_answer")),
    Column("full_mark", ("full_mark",), required=False),
    Column("answer", ("answer", "student_answer", "student_ans")),
    Column("verdicts", ("verdicts",), required=False),
    Column("mark", ("mark",), required=False),
    Column("id", ("id",), required=False),
    Column("quality", ("quality",), required=False),
    Column("subject", ("subject",), required=False),
)
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


_KINDS = {"asap": _ASAP, "mohler": _MOHLER, "own": _OWN}


def kind(path: Path) -> str | None:
    """`asap`, `mohler` or `own` by the headers of a table, or None."""
    there = _there(path)
    return next((name for name, found in there.items() if all(found)), None)


def nearest(path: Path) -> str | None:
    """The kind that a table has most columns of, at least half of what it needs; None else."""
    shares = {name: sum(found) / len(found) for name, found in _there(path).items()}
    best = max(shares, key=lambda name: shares[name])
    return best if 2 * shares[best] >= 1 else None


def _there(path: Path) -> dict[str, list[bool]]:
    """Of every kind, which of the columns that it needs are among the headers of a table."""
    headers = first_headers(path)
    return {
        name: [
            not headers.isdisjoint(map(comparable, column.headers))
            for column in columns
            if column.required
        ]
        for name, columns in _KINDS.items()
    }


def read_asap(path: Path) -> Contents:
    """Read an ASAP-SAS table; its questions come from a `questions.csv` beside it.

    Raises:
        DataError: something is wrong with either file.
    """
    side = path.parent / ASAP_QUESTIONS
    if not side.exists():
        raise DataError(
            f"has answers only; put the questions beside it in {ASAP_QUESTIONS}, with the columns "
            "EssaySet, Question and Reference; the competition's data set descriptions have them",
            file=str(path),
        )
    questions: dict[str, Question] = {}
    for row in read_csv(side, _ASAP_SIDE):
        key = row.need("set")
        if key in questions:
            raise row.fault(f"set {shown(key)} is used twice", "set")
        if not row["full_mark"].strip() and not (key.isdecimal() and int(key) in _ASAP_FULL):
            raise row.fault(f"set {shown(key)} is none of the ten; give its full_mark", "set")
        full = row.number("full_mark") if row["full_mark"].strip() else _ASAP_FULL[int(key)]
        questions[key] = _own_question(row, f"set{key}", float(full))
    answers = []
    ids: set[str] = set()
    for row in read_tsv(path, _ASAP):
        if (question := questions.get(row.need("set"))) is None:
            raise row.fault(f"set {shown(row['set'])} is not in {side.name}", "set")
        answer_id = _fresh(row, ids)
        answers.append(marked_answer(answer_id, question, row["answer"], _score(row, question)))
    used = {answer.question_code for answer in answers}
    return Contents(
        tuple(q for q in questions.values() if q.code in used),
        tuple(answers),
        (path, side),
        source="ASAP-SAS",
        licence="Kaggle competition rules: not to be redistributed",
    )


def read_mohler(path: Path) -> Contents:
    """Read the Mohler set: questions by their text, marks from 0 to 5.

    Raises:
        DataError: something in the file is wrong.
    """
    questions: dict[tuple[str, str], Question] = {}
    codes: set[str] = set()
    answers = []
    counts: Counter[str] = Counter()
    for row in read_csv(path, _MOHLER):
        text, reference = row.need("question"), row.need("reference")
        if (question := questions.get((text, reference))) is None:
            code = row["code"].strip()
            if not code or code in codes:
                code = f"Q{len(codes) + 1}"
            codes.add(code)
            question = whole_question(code, text, [reference], MOHLER_FULL)
            questions[text, reference] = question
        counts[question.code] += 1
        answer_id = f"{question.code}-{counts[question.code]}"
        answers.append(marked_answer(answer_id, question, row["answer"], _score(row, question)))
    return Contents(tuple(questions.values()), tuple(answers), (path,), source="Mohler 2011")


def read_own(path: Path) -> Contents:
    """Read a course of one's own.

    Raises:
        DataError: something in the file is wrong.
    """
    questions: dict[str, Question] = {}
    first: dict[str, Row] = {}
    answers: list[StudentAnswer] = []
    counts: Counter[str] = Counter()
    ids: set[str] = set()
    for row in read_csv(path, _OWN):
        code = row.need("code")
        if code not in questions:
            full = row.number("full_mark") if row["full_mark"].strip() else None
            questions[code], first[code] = _own_question(row, code, full), row
        for column in ("question", "reference", "full_mark"):
            if (text := row[column].strip()) and text != first[code][column].strip():
                raise row.fault(
                    f"is not what line {first[code].line} says of {shown(code)}", column
                )
        counts[code] += 1
        answer_id = _fresh(row, ids, f"{code}-{counts[code]}")
        answers.append(_own_answer(row, answer_id, questions[code]))
    return Contents(tuple(questions.values()), tuple(answers), (path,), source="CSV")


def _own_question(row: Row, code: str, full: float | None) -> Question:
    reference, text = row.need("reference"), row.need("question")
    if full == 0:
        raise row.fault("is 0; a question is worth something", "full_mark")
    if not re.search(r"<\s*/?\s*point", reference, re.IGNORECASE):
        return whole_question(code, text, [reference], full or 1.0, row["subject"].strip())
    try:
        parsed = rubric.parse(reference, full)
    except RubricError as error:
        raise row.fault(str(error), "reference") from error
    subject = row["subject"].strip()
    return Question(code, text, parsed.full_mark, parsed.prose, parsed.points, subject=subject)


def _own_answer(row: Row, answer_id: str, question: Question) -> StudentAnswer:
    quality = row["quality"].strip()
    words = [word for word in re.split(r"[\s,;]+", row["verdicts"].strip().casefold()) if word]
    if not words:
        return marked_answer(answer_id, question, row["answer"], _score(row, question), quality)
    if len(words) != len(question.points):
        raise row.fault(
            f"{len(words)} verdicts for the {len(question.points)} points of the reference",
            "verdicts",
        )
    for word in words:
        if word not in _TRUE + _FALSE:
            raise row.fault(f"{shown(word)} is no verdict; write True or False", "verdicts")
    verdicts = {p.id: word in _TRUE for p, word in zip(question.points, words, strict=True)}
    earned = round(sum(p.mark for p in question.points if verdicts[p.id]), 6)
    if row["mark"].strip() and row.number("mark") != earned:
        raise row.fault(f"is {row['mark'].strip()}, but the verdicts add up to {earned:g}", "mark")
    return StudentAnswer(answer_id, question.code, row["answer"], verdicts, quality)


def _score(row: Row, question: Question) -> float | None:
    """The cell `mark` as a fraction of the full mark."""
    if not row["mark"].strip():
        return None
    mark = row.number("mark")
    if mark > question.full_mark:
        raise row.fault(f"{mark:g} is above the full mark, {question.full_mark:g}", "mark")
    return mark / question.full_mark


def _fresh(row: Row, ids: set[str], otherwise: str = "") -> str:
    """The id of a row, which nobody had before."""
    answer_id = row["id"].strip() or otherwise or row.need("id")
    if answer_id in ids:
        raise row.fault(f"{shown(answer_id)} is used twice", "id")
    ids.add(answer_id)
    return answer_id
