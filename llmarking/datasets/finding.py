"""Courses to measure on: found by name or path, read from whatever form they are in.

| form | what it looks like | reader |
|---|---|---|
| our JSON | a file that says `llmarking-course/1` | `courses` |
| verdicts on another course's answers | a file that says `llmarking-verdicts/1` | `pointed` |
| the original's course folder | `*_CSV1.csv` and `*_CSV2.csv` | `original` |
| SemEval-2013 task 7, SAF | a folder of XML files with `<question>` | `xml_files` |
| ASAP-SAS, Mohler, a course of one's own | a table with their headers | `whole` |

Without a root, data is looked for in the folder that LLMARKING_DATA names, else in
`../shared/datasets` beside the project where there is one, and then in the project's own `data`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmarking.datasets import courses, original, pointed, whole, xml_files
from llmarking.datasets.contents import Contents, course_name, read_text
from llmarking.domain import Question, StudentAnswer
from llmarking.errors import DataError

SHIPPED = Path(__file__).resolve().parents[2] / "data"
SHARED = SHIPPED.parents[1] / "shared" / "datasets"
VARIABLE = "LLMARKING_DATA"
POINTED = "LLMarking verdicts"


@dataclass(frozen=True, slots=True)
class Course(courses.Course):
    """A course with where it comes from.

    Attributes:
        source: the data set or form.
        sha256: of the file, or of what `sha256sum` prints for several, their relative names sorted.
        notes: oddities of the files, one sentence each.
    """

    licence: str
    source: str
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A course that is there, by the name that `load` takes."""

    name: str
    path: Path
    source: str


@dataclass(frozen=True, slots=True)
class _Form:
    source: str
    read: Callable[[Path], Contents]


_TABLES = {
    "asap": _Form("ASAP-SAS", whole.read_asap),
    "mohler": _Form("Mohler 2011", whole.read_mohler),
    "own": _Form("CSV", whole.read_own),
}


def load(name_or_path: str | Path, root: str | Path | None = None) -> Course:
    """Read a course, by its name in the root, its path there, or any path.

    Raises:
        DataError: there is none, more than one goes by that name, or its files are wrong.
    """
    path = _locate(str(name_or_path), root)
    if (form := _form(path, root) or _meant(path)) is None:
        raise DataError(
            "is no course: neither our JSON, a folder with *_CSV1.csv and *_CSV2.csv, a folder of "
            "SemEval or SAF questions in XML, nor a table with the columns question_code, "
            "question, reference and answer",
            file=str(path),
        )
    contents = form.read(path)
    if not contents.questions:
        raise DataError("holds no questions", file=str(path))
    name = contents.name or course_name(path)
    return Course(
        name=name,
        title=contents.title or name,
        questions=contents.questions,
        answers=contents.answers,
        licence=contents.licence,
        source=contents.source,
        sha256=_sha256(path, contents.files),
        notes=contents.notes,
    )


def available(root: str | Path | None = None) -> tuple[Entry, ...]:
    """Every course below the root, ordered by path; one whose name is taken goes by its path."""
    entries: list[Entry] = []
    taken: set[str] = set()
    for folder in _roots(root):
        for path in _candidates(folder):
            if (form := _form(path)) is None:
                continue
            name = _own_name(path, form)
            if name.casefold() in taken:
                name = path.relative_to(folder).as_posix()
            if name.casefold() in taken:
                continue
            taken.add(name.casefold())
            entries.append(Entry(name, path, form.source))
    return tuple(entries)


def default_root() -> Path:
    """Where data is looked for first when nobody says where."""
    if given := os.environ.get(VARIABLE, "").strip():
        return Path(given).expanduser()
    return SHARED if SHARED.is_dir() else SHIPPED


def teacher_mark(question: Question, answer: StudentAnswer) -> float | None:
    """The teacher's mark: what the verdicts add up to, else the score of the whole, else None."""
    if answer.verdicts is not None:
        return round(sum(p.mark for p in question.points if answer.verdicts[p.id]), 6)
    return None if answer.score is None else answer.score * question.full_mark


def _roots(root: str | Path | None) -> tuple[Path, ...]:
    if root is not None:
        folders: tuple[Path, ...] = (Path(root).expanduser(),)
    else:
        folders = tuple(dict.fromkeys((default_root(), SHIPPED)))
    if not folders[0].is_dir():
        raise DataError(
            f"there is no such data folder; name one with --data or {VARIABLE}",
            file=str(folders[0]),
        )
    return tuple(folder for folder in folders if folder.is_dir())


def _locate(name: str, root: str | Path | None) -> Path:
    if Path(name).is_absolute():
        path = Path(name)
        if not path.exists():
            raise DataError("there is no such file or folder", file=name)
        return path
    roots = _roots(root)
    for folder in roots:
        if name.strip() and (folder / name).exists():
            return folder / name
    entries = available(root)
    for entry in entries:
        if entry.name.casefold() == name.strip().casefold():
            return entry.path
    if len(Path(name).parts) and Path(name).exists():
        return Path(name)
    known = ", ".join(entry.name for entry in entries) or "none"
    raise DataError(
        f"there is no course {name!r} in {', '.join(map(str, roots))}; there are: {known}"
    )


def _candidates(folder: Path) -> Iterator[Path]:
    """Folders and files that may be a course, in a fixed order."""
    for where, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        here = Path(where)
        if original.matches(here) or any(name.lower().endswith(".xml") for name in files):
            yield here
            continue
        yield from (here / name for name in sorted(files) if not name.startswith("."))


def _form(path: Path, root: str | Path | None = None) -> _Form | None:
    """The form of a course; one about another course's answers looks for that one in the root."""
    if path.is_dir():
        if original.matches(path):
            return _Form("LLMarking course folder", original.read)
        return _Form("SemEval-2013 or SAF XML", xml_files.read) if xml_files.matches(path) else None
    if path.suffix.lower() == ".json":
        if _says(path, f'"{pointed.FORMAT}"'):
            return _Form(
                POINTED, lambda file: pointed.read(file, lambda name: _answered(name, root))
            )
        return _Form("LLMarking JSON", _read_json) if _says(path, '"llmarking-course/') else None
    return _TABLES.get(whole.kind(path) or "") if _is_table(path) else None


def _answered(name: str, root: str | Path | None) -> Course:
    """The course that a file of verdicts is about.

    Raises:
        DataError: it is such a file as well, perhaps the same; or as `load`.
    """
    path = _locate(name, root)
    if (form := _form(path, root)) is not None and form.source == POINTED:
        raise DataError(
            "holds verdicts only; it must be a set with answers of its own", file=str(path)
        )
    return load(path.resolve(), root)


def _meant(path: Path) -> _Form | None:
    """The form of a table that lacks some columns: its reader says which, and where.

    Raises:
        DataError: it is not UTF-8.
    """
    if not (path.is_file() and _is_table(path)):
        return None
    read_text(path)
    return _TABLES.get(whole.nearest(path) or "")


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv", ".txt")


def _says(path: Path, form: str) -> bool:
    """Whether a file names its form where it begins."""
    try:
        with path.open("rb") as file:
            return form.encode() in file.read(4096)
    except OSError:
        return False


def _read_json(path: Path) -> Contents:
    course = courses.read(path)
    head: dict[str, Any] = json.loads(read_text(path))
    return Contents(
        course.questions,
        course.answers,
        (path,),
        source="LLMarking JSON",
        licence=str(head.get("licence", "not stated")),
        name=course.name,
        title=course.title,
    )


def _own_name(path: Path, form: _Form) -> str:
    if form.read is original.read:
        return original.course_name(path)
    if form.source == POINTED or form.read is _read_json:
        # A course that is not quite right is listed as well: loading it says what is wrong.
        try:
            head = json.loads(read_text(path))
            return str(head["name"]) or course_name(path)
        except (DataError, ValueError, KeyError, TypeError):
            pass
    return course_name(path)


def _sha256(path: Path, files: tuple[Path, ...]) -> str:
    digests = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    if len(files) == 1:
        return digests[files[0]]
    base = path if path.is_dir() else path.parent
    lines = sorted((file.relative_to(base).as_posix(), digest) for file, digest in digests.items())
    return hashlib.sha256("".join(f"{d}  {name}\n" for name, d in lines).encode()).hexdigest()
