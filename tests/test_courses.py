"""Course files: the shipped one, and every fault named with its place."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmarking.datasets import courses
from llmarking.errors import DataError, InputError

COURSE: dict[str, Any] = {
    "format": "llmarking-course/1",
    "name": "TINY",
    "title": "Two questions",
    "questions": [
        {
            "code": "A1",
            "subject": "computing",
            "language": "en",
            "question": "What is a hash table?",
            "full_mark": 3,
            "reference": "It <Point1:2>stores pairs<Point1:2> and <Point2:1>is fast<Point2:1>.",
            "examples": [
                {
                    "answer": "Keeps pairs.",
                    "points": [
                        {"id": 1, "verdict": True, "reason": "It says pairs."},
                        {"id": 2, "verdict": False},
                    ],
                }
            ],
            "answers": [
                {
                    "id": "A1-1",
                    "answer": "",
                    "quality": "empty",
                    "verdicts": {"1": False, "2": False},
                },
                {"id": "A1-2", "answer": "pairs", "quality": "half", "note": "not read"},
            ],
        },
        {"code": "A2", "question": "Why?", "reference": "<Point1:1>because<Point1:1>"},
    ],
}


def write(path: Path, course: object, encoding: str = "utf-8") -> Path:
    """Write a course to a file."""
    path.write_text(json.dumps(course, ensure_ascii=False), encoding=encoding)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_reading(tmp_path: Path, encoding: str) -> None:
    """Everything that is there is read, with or without a byte-order mark."""
    course = courses.read(write(tmp_path / "c.json", COURSE, encoding))
    first, second = course.questions
    assert (course.name, course.title) == ("TINY", "Two questions")
    assert (first.reference, first.full_mark) == ("It stores pairs and is fast.", 3)
    assert first.examples[0].verdicts == {1: True, 2: False}
    assert first.examples[0].reasons == {1: "It says pairs."}
    assert [(a.id, a.verdicts) for a in course.answers_to(first)] == [
        ("A1-1", {1: False, 2: False}),
        ("A1-2", None),
    ]
    assert (second.full_mark, course.answers_to(second)) == (1, ())


def test_question_by_code(tmp_path: Path) -> None:
    """Codes are found whatever their case; an unknown one lists those there are."""
    course = courses.read(write(tmp_path / "c.json", COURSE))
    assert course.question(" a2 ").code == "A2"
    with pytest.raises(InputError, match="'B1'; there are A1, A2"):
        course.question("B1")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "other/1", "format: "),
        ("questions", [], "questions: "),
        ("questions.0.code", "", r"questions\[0\]\.code: "),
        ("questions.1.code", "a1", r"questions\[1\]\.code: 'a1' is used twice"),
        ("questions.0.full_mark", 4, r"questions\[0\]\.reference: .*add up to .*full mark is 4"),
        ("questions.0.full_mark", "3", r"questions\[0\]\.full_mark: "),
        ("questions.1.reference", "none", r"questions\[1\]\.reference: .*no points"),
        ("questions.0.examples.0.points.1.id", 3, r"examples\[0\]\.points: .*\[1, 3\].*\[1, 2\]"),
        ("questions.0.examples.0.points.0.verdict", "yes", r"points\[0\]\.verdict: "),
        ("questions.0.answers.1.id", "A1-1", r"answers\[1\]\.id: 'A1-1' is used twice"),
        ("questions.0.answers.0.verdicts", {"1": True}, r"answers\[0\]\.verdicts: .*\[1\]"),
        ("questions.0.answers.0.verdicts", {"one": True}, r"answers\[0\]\.verdicts"),
    ],
)
def test_faults(tmp_path: Path, path: str, value: object, message: str) -> None:
    """The message names the file, line, column and path of the faulty value."""
    course = copy.deepcopy(COURSE)
    *steps, last = [int(s) if s.isdecimal() else s for s in path.split(".")]
    place: Any = course
    for step in steps:
        place = place[step]
    place[last] = value
    file = write(tmp_path / "faulty.json", course)
    with pytest.raises(DataError, match=message) as caught:
        courses.read(file)
    assert str(caught.value).startswith(f"{file}, line {caught.value.line}, column ")
    assert 1 <= (caught.value.line or 0) <= len(file.read_text("utf-8").splitlines())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"format":\n nonsense}', "line 2, column 2: no JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "the file: "),
        (b"", "no JSON"),
    ],
)
def test_no_course(tmp_path: Path, data: bytes, message: str) -> None:
    """A file that is something else is refused in words."""
    file = tmp_path / "c.json"
    file.write_bytes(data)
    with pytest.raises(DataError, match=message):
        courses.read(file)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_unreadable(tmp_path: Path, name: str) -> None:
    """So is one that can't be opened."""
    with pytest.raises(DataError, match="can't be read"):
        courses.read(tmp_path / name)


def test_the_example_course_is_found_from_anywhere(tmp_path: Path) -> None:
    """The shipped course does not depend on the working directory."""
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from llmarking.datasets import courses as c; print(c.example_course().name)",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "EXAMPLE\n"


def test_the_example_course() -> None:
    """Enough questions, subjects, graded examples and answers of every quality to try things on."""
    course = courses.example_course()
    assert len(course.questions) >= 8
    assert len({q.subject for q in course.questions}) >= 3
    for question in course.questions:
        assert len(question.examples) >= 3
        assert len(course.answers_to(question)) >= 12
        assert all(a.verdicts is not None for a in course.answers_to(question))
