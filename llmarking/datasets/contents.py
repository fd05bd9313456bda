"""What the readers of data sets hand over, and the few things that all of them need.

Files are other people's: a fault is a `DataError` that names file, line and column, and shows at
most 40 characters of what stands there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmarking.domain import Point, Question, StudentAnswer
from llmarking.errors import DataError

SHOWN = 40
_NUMBER = re.compile(r"\d{1,9}(?:[.,]\d{1,9})?|[.,]\d{1,9}", re.ASCII)

# Folders that are parts of a data set: they are named after it.
_SPLIT = re.compile(
    r"(train(ing)?|dev|val(idation)?|trial|test)?([-_]?unseen[-_](answers|questions|domains))?",
    re.IGNORECASE,
)
_VARIANT = re.compile(r"[235]-?way|english|german|en|de", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a reader found.

    Attributes:
        files: every file that was read, for the hash.
        source: the data set, or the form it is in.
        notes: oddities that were put right or left alone, one sentence each.
    """

    questions: tuple[Question, ...]
    answers: tuple[StudentAnswer, ...]
    files: tuple[Path, ...]
    source: str
    licence: str = "not stated"
    name: str = ""
    title: str = ""
    notes: tuple[str, ...] = ()


def course_name(path: Path) -> str:
    """A name from a path: `…/training/2way/beetle` is `beetle-2way-training`."""
    corpus = variant = split = ""
    path = path.resolve()
    for part in (path.stem if path.is_file() else path.name, *reversed(path.parts[:-1])):
        if _SPLIT.fullmatch(part):
            split = split or part
        elif _VARIANT.fullmatch(part):
            variant = variant or part
        elif corpus:
            break
        else:
            corpus = part
    return "-".join(part for part in (corpus, variant, split) if part)


def shown(text: str) -> str:
    """The start of a text for a message, never more than 40 characters of it."""
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def number(text: str) -> float | None:
    """A number of 0 or more, with a decimal point or comma, or None."""
    text = text.strip()
    return float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else None


def read_bytes(path: Path) -> bytes:
    """The file.

    Raises:
        DataError: it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"can't be read: {error.strerror}", file=str(path)) from None


def read_text(path: Path) -> str:
    """The file as text, without a byte-order mark.

    Raises:
        DataError: it can't be read or is not UTF-8.
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            "is not UTF-8; in a spreadsheet, save it as “CSV UTF-8”", file=str(path), line=line
        ) from None


def whole_question(
    code: str, text: str, cases: Sequence[str], full_mark: float = 1.0, subject: str = ""
) -> Question:
    """A question marked as a whole: one point worth the full mark, earned by any reference."""
    point = Point(1, full_mark, tuple(dict.fromkeys(cases)))
    return Question(code, text, full_mark, point.cases[0], (point,), subject=subject)


def marked_answer(
    answer_id: str, question: Question, text: str, score: float | None, quality: str = ""
) -> StudentAnswer:
    """An answer whose mark is known as a whole, as a fraction of the full mark.

    Only no marks and full marks say something about the points.
    """
    verdicts = None
    if score is not None and score in (0.0, 1.0):
        verdicts = {point.id: score == 1.0 for point in question.points}
    return StudentAnswer(answer_id, question.code, text, verdicts, quality, score)
