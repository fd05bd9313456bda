"""The course folders of the original LLMarking: questions in `*_CSV1.csv`, answers in `*_CSV2.csv`.

| file | columns |
|---|---|
| `*_CSV1.csv` | QuestionCode, Question, Fullmark, RightAnswer (with markup), Example1 … Example3 |
| `*_CSV2.csv` | QuestionCode, StudentAns, ManualScore |

A ManualScore is `2/4 points` and `"<Point1:False>,<Point2:True>"` on two lines. An example is an
answer followed by a line `<Point1:2> *True* (reason)` for every point; the marks in those tags are
often wrong and count for nothing, and line breaks between them may be written as backslash and n.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from llmarking import rubric
from llmarking.datasets.contents import Contents, number, shown
from llmarking.datasets.tables import Column, Row, read_csv
from llmarking.domain import GradedExample, Point, Question, StudentAnswer
from llmarking.errors import DataError, RubricError
from llmarking.sentences import sentence

EXAMPLES = ("Example1", "Example2", "Example3")
_QUESTIONS = (
    Column("code", ("QuestionCode",)),
    Column("question", ("Question",)),
    Column("full_mark", ("Fullmark",)),
    Column("reference", ("RightAnswer",)),
    *(Column(name, (name,), required=False) for name in EXAMPLES),
)
_ANSWERS = (
    Column("code", ("QuestionCode",)),
    Column("answer", ("StudentAns", "StudentAns1", "StudentAnswer")),
    Column("score", ("ManualScore",), required=False),
)
_TAG = re.compile(r"<\s*Point\s*(?P<id>\d{1,4})\s*:[^<>\n]{0,20}>", re.IGNORECASE)
_LINE = re.compile(
    r"[\s*_:]*(?P<verdict>True|False)\b[\s*_]*(?P<reason>.*)", re.DOTALL | re.IGNORECASE
)
_VERDICT = re.compile(
    r"<\s*Point\s*(?P<id>\d{1,4})\s*:\s*(?P<verdict>True|False)\s*>", re.IGNORECASE
)
_TOTAL = re.compile(r"\s*(?P<mark>[\d.,]+)\s*/\s*(?P<full>[\d.,]+)(\s*points?)?", re.IGNORECASE)


def matches(folder: Path) -> bool:
    """Whether the folder holds both files."""
    return folder.is_dir() and all(_find(folder, which) for which in (1, 2))


def course_name(folder: Path) -> str:
    """`INT` for a folder with `INT_CSV1.csv`."""
    return re.sub(r"_?csv1$", "", _find(folder, 1)[0].stem, flags=re.IGNORECASE) or folder.name


def read(folder: Path) -> Contents:
    """Read both files of a course folder.

    Raises:
        DataError: a file is missing, or something in it is wrong.
    """
    files = []
    for which in (1, 2):
        found = _find(folder, which)
        if len(found) != 1:
            raise DataError(
                f"has {len(found) or 'no'} files named *_CSV{which}.csv; it has to be one",
                file=str(folder),
            )
        files.append(found[0])
    notes: list[str] = []
    questions: dict[str, Question] = {}
    for row in read_csv(files[0], _QUESTIONS):
        question = _question(row, notes)
        if question.code in questions:
            raise row.fault(f"{shown(question.code)} is used twice", "code")
        questions[question.code] = question
    answers: list[StudentAnswer] = []
    counts: Counter[str] = Counter()
    for row in read_csv(files[1], _ANSWERS):
        code = row.need("code")
        if code not in questions:
            known = ", ".join(list(questions)[:12])
            raise row.fault(
                f"{shown(code)} is no question of {files[0].name}; it has {known}", "code"
            )
        counts[code] += 1
        verdicts = _teacher(row, questions[code], notes) if row["score"].strip() else None
        # Answers have no id of their own: theirs is their number among the answers to the question.
        answers.append(StudentAnswer(f"{code}-{counts[code]}", code, row["answer"], verdicts))
    return Contents(
        tuple(questions.values()),
        tuple(answers),
        tuple(files),
        source="LLMarking course folder",
        name=course_name(folder),
        notes=tuple(notes),
    )


def _find(folder: Path, which: int) -> list[Path]:
    ending = f"csv{which}.csv"
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(ending))


def _question(row: Row, notes: list[str]) -> Question:
    full_mark = row.number("full_mark")
    try:
        parsed = rubric.parse(row.need("reference"), full_mark)
    except RubricError as error:
        raise row.fault(str(error), "reference") from error
    return Question(
        code=row.need("code"),
        text=row.need("question"),
        full_mark=full_mark,
        reference=parsed.prose.strip(),
        points=parsed.points,
        examples=tuple(
            example(row, column, parsed.points, notes) for column in EXAMPLES if row[column].strip()
        ),
    )


def example(row: Row, column: str, points: tuple[Point, ...], notes: list[str]) -> GradedExample:
    cell = row[column]
    tags = list(_TAG.finditer(cell))
    found: list[tuple[int, bool, str]] = []
    ends = [*(tag.start() for tag in tags[1:]), len(cell)]
    for tag, end in zip(tags, ends, strict=False):
        rest = _unescaped(cell[tag.end() : end])
        if (line := _LINE.fullmatch(rest)) is None:
            fault = sentence(
                "example_no_verdict",
                "{tag} is followed by neither *True* nor *False*",
                tag=tag.group(),
            )
            raise row.fault(fault, column)
        reason = line["reason"].strip().removeprefix("(").removesuffix(")").strip()
        found.append((int(tag["id"]), line["verdict"].lower() == "true", reason))
    given, wanted = [point_id for point_id, _, _ in found], [point.id for point in points]
    if sorted(given) != wanted:
        # A line for every point with an id mistyped: the order says which is which.
        if len(given) != len(wanted) or given != sorted(given):
            fault = sentence(
                "other_points",
                "has verdicts for points {given}; the reference has {wanted}",
                given=given,
                wanted=wanted,
            )
            raise row.fault(fault, column)
        notes.append(f"{row['code']}, {column}: its lines name points {given}; their order counts")
        found = [(i, held, reason) for i, (_, held, reason) in zip(wanted, found, strict=True)]
    answer = cell[: tags[0].start()].strip()
    while answer.endswith("\\n"):
        answer = answer.removesuffix("\\n").rstrip()
    return GradedExample(
        answer=answer,
        verdicts={i: held for i, held, _ in found},
        reasons={i: reason for i, _, reason in found if reason},
    )


def _unescaped(text: str) -> str:
    return text.replace("\\n", "\n").replace('\\"', '"')


def _teacher(row: Row, question: Question, notes: list[str]) -> dict[int, bool]:
    """The verdicts of a ManualScore, which are what counts; the total before them is compared."""
    cell, place = row["score"], f"{row.file.name}, line {row.line}"
    total = _TOTAL.match(cell)
    rest = cell[total.end() :] if total else cell
    verdicts: dict[int, bool] = {}
    for match in _VERDICT.finditer(rest):
        point_id, held = int(match["id"]), match["verdict"].lower() == "true"
        if point_id in verdicts:
            if verdicts[point_id] is not held:
                raise row.fault(f"Point{point_id} is both True and False", "score")
            notes.append(f"{place}: Point{point_id} is marked twice, alike")
        verdicts[point_id] = held
    if left := re.sub(r"[\s,;\"'“”]+", "", _VERDICT.sub("", rest)):
        raise row.fault(
            f"{shown(left)} is no verdict; write them like <Point1:True>,<Point2:False>", "score"
        )
    wanted = [point.id for point in question.points]
    if sorted(verdicts) != wanted:
        raise row.fault(
            f"has verdicts for points {sorted(verdicts)}; the reference has {wanted}", "score"
        )
    if total:
        earned = sum(point.mark for point in question.points if verdicts[point.id])
        written = number(total["mark"]), number(total["full"])
        if written != (round(earned, 6), question.full_mark):
            notes.append(
                f"{place}: says {total.group().strip()}, but its verdicts add up to {earned:g} of "
                f"{question.full_mark:g}; the verdicts count"
            )
    return verdicts
