"""A gradebook that holds no answers, filled with a class's marks by the ids of the students.

Ids are compared as text. What is not written is told, student by student: who is in one and not in
the other, whose cell was filled already, who has no mark yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from llmarking.datasets.contents import number
from llmarking.datasets.tables import comparable
from llmarking.sentences import sentence
from llmarking.tables import names
from llmarking.tables.columns import FILLED_ONLY, Columns, Item, Upload, check_cells
from llmarking.tables.export import Export, cell_of, fresh_title, graded_name, scaled, write
from llmarking.tables.grid import Changes, Row

SUM = ""  # stands where a question's code does, for the marks of all questions together
NEW = -1  # stands where a column does, for one that is added behind the last


@dataclass(frozen=True, slots=True)
class Mark:
    """What an answer got; no mark where it is not graded yet."""

    student: str | None
    name: str
    question: str
    mark: float | None
    full_mark: float | None


@dataclass(slots=True)
class _Marked:
    """A student of the class: marks by question, and the questions for which there is none."""

    name: str
    marks: dict[str, tuple[float, float]] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    several: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class ClassMarks:
    """A class as a gradebook sees it.

    Attributes:
        questions: full marks by code, in the order of the course.
        students: by id.
        without_id: answers that are nobody's.
    """

    questions: Mapping[str, float]
    students: Mapping[str, _Marked]
    without_id: int

    @property
    def targets(self) -> dict[str, float]:
        """What can be written and the most it can be: each question, and the sum of several."""
        total = {SUM: sum(self.questions.values())} if len(self.questions) != 1 else {}
        return {**total, **self.questions}


def class_marks(questions: Mapping[str, float], marks: Iterable[Mark]) -> ClassMarks:
    """Marks by student. Of several answers to one question none is taken."""
    students: dict[str, _Marked] = {}
    without_id = 0
    for given in marks:
        if not (given.student or "").strip():
            without_id += 1
            continue
        who = students.setdefault((given.student or "").strip(), _Marked(given.name))
        code = given.question
        if code in who.marks or code in who.waiting:
            who.several.add(code)
        elif given.mark is None or given.full_mark is None:
            who.waiting.add(code)
        else:
            who.marks[code] = (given.mark, given.full_mark)
    return ClassMarks(dict(questions), students, without_id)


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes where.

    Attributes:
        student: the column of ids.
        into: columns by the code of the question, or `SUM`.
        overwrite: also replace numbers that stand there.
    """

    student: int | None
    into: Mapping[str, int]
    overwrite: bool = False


class Left(StrEnum):
    """Why a student has no mark of ours in a column."""

    ABSENT = "absent"  # in the class, and not in the file
    STRANGER = "stranger"  # in the file, and not in the class
    KEPT = "kept"  # something stands there already
    WAITING = "waiting"  # not graded yet
    SEVERAL = "several"  # several answers to one question
    UNANSWERED = "unanswered"  # no answer to the question
    LOCKED = "locked"  # the platform takes no mark any more
    WORDS = "words"  # the platform grades by a scale of words


@dataclass(frozen=True, slots=True)
class Entry:
    """A student who is told of: the id, the name, and the line of the file, as far as there are."""

    student: str
    name: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Filling:
    """The file with marks, and what became of whom.

    Attributes:
        written: how many cells were filled, by what was written.
        left: who got nothing, by reason and what would have been written; `SUM` stands for the
            whole row where the reason is that a student is in one and not in the other.
        in_part: students whose sum counts 0 for a question that they did not answer.
        scales: (the class's full mark, the file's), by what was written, where they differ.
    """

    export: Export
    written: Mapping[str, int]
    left: Mapping[tuple[Left, str], Sequence[Entry]]
    in_part: Sequence[Entry]
    scales: Mapping[str, tuple[float, float]]


def choices(upload: Upload, student: int | None) -> list[int]:
    """The columns that marks can go into, `NEW` the last where the file may get one."""
    if upload.kind in FILLED_ONLY:
        return [item.mark for item in upload.columns.items if item.mark is not None]
    taken = {student, upload.columns.student, *upload.columns.names}
    return [place for place in range(len(upload.headers)) if place not in taken] + [NEW]


def propose(upload: Upload, klass: ClassMarks) -> Plan:
    """A first guess: the ids that fit the class best, and columns by name, or else the only one."""
    student = _column_of_ids(upload, klass)
    free = [place for place in choices(upload, student) if place != NEW]
    titles: dict[str, list[int]] = {}
    for place in free:
        titles.setdefault(_bare(upload.title(place)), []).append(place)
    by_name = {code: titles.get(comparable(code), []) for code in klass.questions}
    into = {code: found[0] for code, found in by_name.items() if len(found) == 1}
    if not into:
        marks = {item.mark for item in upload.columns.items}
        marks |= set(names.found(upload.headers, names.MARK))
        empty = [place for place in free if place in marks and _is_empty(upload, place)]
        if len(empty) == 1 and klass.targets:
            into = {next(iter(klass.targets)): empty[0]}
    return Plan(student, into)


def fill(upload: Upload, klass: ClassMarks, plan: Plan) -> Filling:
    """Write the marks of a class into a gradebook.

    Raises:
        DataError: there is no column of ids, an id of the class stands in two rows, two marks would
            go into one cell, or a cell is a formula or merged.
    """
    if plan.student is None:
        why = sentence("missing_ids", "is missing: no column is taken for the students' ids")
        raise upload.missing("student id", why)
    _check_columns(upload, plan)
    return _Filler(upload, klass, plan).filling(_rows(upload, klass, plan.student))


def _check_columns(upload: Upload, plan: Plan) -> None:
    open_to_marks = choices(upload, plan.student)
    places = [place for place in plan.into.values() if place != NEW]
    for place in plan.into.values():
        if place not in open_to_marks:
            raise upload.fault(sentence("not_for_marks", "is no column for marks"), place=place)
    if doubled := [place for place, count in Counter(places).items() if count > 1]:
        fault = sentence("for_two_marks", "is chosen for two marks; one cell holds one")
        raise upload.fault(fault, place=doubled[0])
    items = tuple(Item(upload.title(place), mark=place) for place in places)
    check_cells(upload, Columns(student=plan.student, items=items))


def _key(klass: ClassMarks) -> Callable[[str], str]:
    """How ids are compared: without case, unless ids of the class differ in nothing else."""
    folded = {student.casefold() for student in klass.students}
    return str.casefold if len(folded) == len(klass.students) else str


def _rows(upload: Upload, klass: ClassMarks, student: int) -> list[tuple[int, Row, str | None]]:
    """The rows of the file, each with its student of the class if there is one."""
    key = _key(klass)
    known = {key(each): each for each in klass.students}
    found, seen = [], set()
    for at, row in upload.body:
        who = known.get(key(row[student].strip()))
        if who is not None and who in seen:
            fault = sentence("in_two_rows", "stands in two rows; a student has one")
            raise upload.fault(fault, row, student)
        if who is not None:
            seen.add(who)
        found.append((at, row, who))
    return found


class _Filler:
    """Goes through a gradebook once and notes what it writes and what it leaves."""

    def __init__(self, upload: Upload, klass: ClassMarks, plan: Plan) -> None:
        self._upload, self._class, self._plan = upload, klass, plan
        self._items = {item.mark: item for item in upload.columns.items}
        self._cells: dict[tuple[int, int], str | float] = {}
        self._added: dict[str, dict[int, str | float]] = {
            target: {} for target, place in plan.into.items() if place == NEW
        }
        self._written = dict.fromkeys(plan.into, 0)
        self._left: dict[tuple[Left, str], list[Entry]] = {}
        self._in_part: list[Entry] = []
        self._scales: dict[str, tuple[float, float]] = {}

    def filling(self, rows: Sequence[tuple[int, Row, str | None]]) -> Filling:
        there = {who for _, _, who in rows}
        for student, marked in self._class.students.items():
            if student not in there:
                self._leave(Left.ABSENT, SUM, Entry(student, marked.name))
        for at, row, who in rows:
            self._row(at, row, who)
        taken = set(self._upload.headers)
        added = []
        for target, cells in self._added.items():
            if not cells:
                continue
            title = fresh_title("mark", target, taken)
            taken.add(title)
            added.append((title, cells))
        data = write(self._upload, Changes(self._cells, tuple(added)))
        export = Export(data, graded_name(self._upload.file))
        return Filling(export, self._written, self._left, self._in_part, self._scales)

    def _row(self, at: int, row: Row, who: str | None) -> None:
        columns = self._upload.columns
        name = " ".join(row[place].strip() for place in columns.names if row[place].strip())
        assert self._plan.student is not None
        entry = Entry(row[self._plan.student].strip(), name, row.line)
        if who is None:
            self._leave(Left.STRANGER, SUM, entry)
            return
        changeable = "" if columns.changeable is None else row[columns.changeable].strip()
        for target, place in self._plan.into.items():
            if names.is_one(changeable, names.LOCKED):
                self._leave(Left.LOCKED, target, entry)
            elif place != NEW and not self._free(row[place]):
                self._leave(Left.KEPT, target, entry)
            elif (given := self._given(target, who, entry)) is not None:
                self._write(at, row, target, given, entry)

    def _given(self, target: str, who: str, entry: Entry) -> tuple[float, float] | None:
        """A student's mark and the most it could be."""
        marked = self._class.students[who]
        asked = list(self._class.questions) if target == SUM else [target]
        for reason, codes in ((Left.SEVERAL, marked.several), (Left.WAITING, marked.waiting)):
            if codes.intersection(asked):
                self._leave(reason, target, entry)
                return None
        answered = [code for code in asked if code in marked.marks]
        if not answered:
            self._leave(Left.UNANSWERED, target, entry)
            return None
        if len(answered) < len(asked):
            self._in_part.append(entry)
        full = [
            marked.marks[code][1] if code in answered else self._class.questions[code]
            for code in asked
        ]
        return sum(marked.marks[code][0] for code in answered), sum(full)

    def _write(
        self, at: int, row: Row, target: str, given: tuple[float, float], entry: Entry
    ) -> None:
        place = self._plan.into[target]
        mark, full = given
        if place == NEW:
            self._added[target][at] = cell_of(self._upload, mark)
        else:
            limited, most = self._most(row, place)
            if limited and most is None:
                self._leave(Left.WORDS, target, entry)
                return
            if most and full and most != full:
                self._scales[target] = (full, most)
            self._cells[at, place] = cell_of(self._upload, scaled(mark, full, most))
        self._written[target] += 1

    def _most(self, row: Row, place: int) -> tuple[bool, float | None]:
        """Whether the row has a cell for the most that can be had, and the most, if it says so."""
        item = self._items.get(place)
        if item is not None and item.full_mark is not None:
            return True, number(row[item.full_mark])
        split = names.out_of(self._upload.title(place))
        return False, item.worth if item is not None and item.worth else split[1] if split else None

    def _free(self, cell: str) -> bool:
        text = cell.strip()
        return text in names.NOTHING or (self._plan.overwrite and number(text) is not None)

    def _leave(self, reason: Left, target: str, entry: Entry) -> None:
        self._left.setdefault((reason, target), []).append(entry)


def _column_of_ids(upload: Upload, klass: ClassMarks) -> int | None:
    """The column that names most students of the class, among those that go by a name for ids.

    Only where none of these names any, all columns are looked at; where still none does, it is the
    one that the file's form says.
    """
    key = _key(klass)
    known = {key(student) for student in klass.students}
    titled = names.found(upload.headers, names.STUDENT)
    first = [place for place in (upload.columns.student,) if place is not None]
    for places in ([*first, *titled], range(len(upload.headers))):
        counts = {
            place: len(known & {key(row[place].strip()) for _, row in upload.body})
            for place in places
        }
        best = max(counts, key=lambda place: counts[place], default=None)
        if best is not None and counts[best]:
            return best
    return upload.columns.student


def _bare(title: str) -> str:
    """A title without the number that Canvas adds and without what a mark is out of."""
    text = names.key(title)
    name, bracket, rest = title.rpartition(" (")
    return comparable(name) if bracket and rest.rstrip(")").isdigit() else text


def _is_empty(upload: Upload, place: int) -> bool:
    return all(row[place].strip() in names.NOTHING for _, row in upload.body)
