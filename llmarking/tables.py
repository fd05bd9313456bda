"""A teacher's tables: questions and answers in, the same table with marks and feedback out.

Columns are found by the names that the original and learning platforms give them. What is not ours
to write comes out as it came in, byte for byte; only text that a spreadsheet would run as a formula
gets an apostrophe in front.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmarking import rubric
from llmarking.datasets_contents import number, shown, whole_question
from llmarking.datasets_tables import comparable
from llmarking.domain import Question
from llmarking.errors import DataError, RubricError

CODE = ("question_code", "question id", "item id", "q", "item", "题号")
TEXT = ("question", "question text", "题目")
REFERENCE = ("right answer", "scoring", "reference_answer", "reference", "model answer", "参考答案")
FULL_MARK = ("full_mark", "points possible", "max points", "maximum grade", "满分")
ANSWER = (
    *("StudentAns", "StudentAns1", "student answer", "stu_answer", "answer", "response"),
    *("online text", "学生答案"),
)
MARK = ("manual_score", "grade", "score", "mark", "得分")
FEEDBACK = ("feedback comments", "feedback", "comment", "评语")
MAX_ROWS = 100_000

_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d+)*|[.,]\d+)(?:[eE][+-]?\d+)?%?")
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


@dataclass(frozen=True, slots=True)
class Row:
    """A record: its cells as they stand in the file, and the line where it begins."""

    line: int
    raw: tuple[str, ...]
    end: str

    @property
    def blank(self) -> bool:
        return not any(cell.strip() for cell in self.raw)

    def __getitem__(self, place: int) -> str:
        return _value(self.raw[place])


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it came, with all that is needed to write it the same way."""

    file: str
    encoding: str
    mark: bytes
    delimiter: str
    header: Row
    rows: tuple[Row, ...]

    @property
    def headers(self) -> list[str]:
        return [_value(cell).strip() for cell in self.header.raw]

    @property
    def records(self) -> list[Row]:
        """The rows that hold something."""
        return [row for row in self.rows if not row.blank]

    def places(self, names: Sequence[str], numbered: str = "") -> list[int]:
        """The columns that go by one of the names, or by `numbered` and a number."""
        known = {comparable(name) for name in names}
        pattern = re.compile(rf"{numbered}\d{{0,3}}") if numbered else None
        return [
            place
            for place, title in enumerate(self.headers)
            if comparable(re.sub(r"\s*/\s*[\d.,]+$", "", title)) in known
            or (pattern is not None and pattern.fullmatch(comparable(title)))
        ]

    def one(self, names: Sequence[str], numbered: str = "", *, needed: bool = True) -> int | None:
        """The only column that goes by one of the names.

        Raises:
            DataError: there are several, or none and it is needed.
        """
        found = self.places(names, numbered)
        if len(found) > 1:
            titles = ", ".join(shown(self.headers[place]) for place in found)
            raise DataError(
                f"{titles} could each be meant; keep one of them under that name",
                file=self.file,
                line=self.header.line,
            )
        if not found and needed:
            there = ", ".join(shown(title) for title in self.headers[:12])
            raise DataError(
                f"is missing; the headers are {there}",
                file=self.file,
                line=self.header.line,
                column=names[0],
            )
        return found[0] if found else None

    def fault(self, row: Row, place: int, message: str) -> DataError:
        """An error in a cell, by its line and header."""
        return DataError(message, file=self.file, line=row.line, column=self.headers[place])


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with the number of its record, from 0, in the order of the file."""

    index: int
    line: int
    question_code: str
    text: str


@dataclass(frozen=True, slots=True)
class AnswerFile:
    """The answers of a table and what was recognised in it."""

    table: Table
    answers: tuple[Answer, ...]
    recognised: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Marking:
    """What is written beside an answer."""

    mark: float
    full_mark: float
    verdicts: Mapping[int, bool | None]
    feedback: str


def read(data: bytes, file: str) -> Table:
    """Take a table apart: comma, semicolon or tab; UTF-8, UTF-16 or GB18030.

    Raises:
        DataError: it is no such table.
    """
    encoding, mark = _encoding(data)
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError:
        raise DataError("is neither UTF-8, UTF-16 nor GB18030 text", file=file) from None
    if "\0" in text:
        raise DataError("holds zero bytes: is it a spreadsheet? Save it as CSV", file=file)
    first = re.sub(r'"[^"]*"', "", text.lstrip("\r\n").partition("\n")[0])
    delimiter = max(",;\t", key=first.count)
    rows = _split(text, delimiter, file)
    while rows and rows[0].blank:
        rows.pop(0)
    if not rows:
        raise DataError("is empty; its first line has to hold the headers", file=file)
    header, *rest = rows
    for row in rest:
        if not row.blank and len(row.raw) != len(header.raw):
            raise DataError(
                f"{len(row.raw)} cells under {len(header.raw)} headers; cells with "
                "separators or line breaks stand in double quotes",
                file=file,
                line=row.line,
            )
    if len(rest) > MAX_ROWS:
        raise DataError(f"has more than {MAX_ROWS} rows; split it", file=file)
    return Table(file, encoding, mark, delimiter, header, tuple(rest))


def questions(table: Table) -> tuple[Question, ...]:
    """The questions of a table; a reference without point tags is marked as a whole.

    Raises:
        DataError: a column is missing, or a cell is wrong.
    """
    code, text = _must(table.one(CODE)), _must(table.one(TEXT))
    reference, full = _must(table.one(REFERENCE)), table.one(FULL_MARK, needed=False)
    found: dict[str, Question] = {}
    for row in table.records:
        for place in (code, text, reference):
            if not row[place].strip():
                raise table.fault(row, place, "is empty; it has to be filled in")
        worth = None
        if full is not None and row[full].strip():
            worth = number(row[full])
            if worth is None or worth <= 0:
                raise table.fault(row, full, f"{shown(row[full])} is no number above 0")
        key = row[code].strip()
        if key.casefold() in found:
            raise table.fault(row, code, f"{shown(key)} is used twice")
        if "<point" not in re.sub(r"\s", "", row[reference]).casefold() and worth is not None:
            found[key.casefold()] = whole_question(
                key, row[text].strip(), [row[reference].strip()], worth
            )
            continue
        try:
            parsed = rubric.parse(row[reference], worth)
        except RubricError as error:
            raise table.fault(row, reference, str(error)) from error
        found[key.casefold()] = Question(
            key, row[text].strip(), parsed.full_mark, parsed.prose.strip(), parsed.points
        )
    if not found:
        raise DataError("holds no questions", file=table.file)
    return tuple(found.values())


def answers(table: Table, asked: Sequence[Question]) -> AnswerFile:
    """The answers of a table; without a column of codes they answer the only question.

    Raises:
        DataError: a column is missing, or a code is no question's.
    """
    place = _must(table.one(ANSWER, "response"))
    code = table.one(CODE, needed=len(asked) > 1)
    by_code = {question.code.casefold(): question.code for question in asked}
    found = []
    for index, row in enumerate(table.records):
        key = asked[0].code if code is None else by_code.get(row[code].strip().casefold())
        if key is None and code is not None:
            known = ", ".join([q.code for q in asked][:12])
            raise table.fault(row, code, f"{shown(row[code])} is no question; there are {known}")
        found.append(Answer(index, row.line, str(key), row[place]))
    titles = table.headers
    recognised = {"answer": titles[place]}
    if code is not None:
        recognised["question"] = titles[code]
    for name, names in (("mark", MARK), ("feedback", FEEDBACK)):
        target = _target(table, names)
        recognised[name] = titles[target] if target is not None else f"LLMarking {name} (added)"
    return AnswerFile(table, tuple(found), recognised)


def export(table: Table, markings: Mapping[int, Marking]) -> bytes:
    """The table with marks and feedback, by the number of the record.

    A column that already holds something is never written over: new columns are added instead.
    """
    mark, feedback = _target(table, MARK), _target(table, FEEDBACK)
    added = [
        name
        for name, place in (("LLMarking mark", mark), ("LLMarking feedback", feedback))
        if place is None
    ]
    taken = set(table.headers)
    added = [next(n for n in _numbered(name) if n not in taken) for name in added]
    original = mark is not None and comparable(table.headers[mark]) == "manualscore"
    lines = [_line([*map(_guarded, table.header.raw), *added], table.header, table)]
    index = -1
    for row in table.rows:
        if row.blank:
            lines.append(_line(list(row.raw), row, table))
            continue
        index += 1
        cells = [_guarded(cell) for cell in row.raw]
        given = markings.get(index)
        for place, value in (
            (mark, _mark(given, table.delimiter, original=original)),
            (feedback, _safe(given.feedback) if given else ""),
        ):
            if place is None:
                cells.append(_quoted(value, table.delimiter))
            elif value:
                cells[place] = _quoted(value, table.delimiter)
        lines.append(_line(cells, row, table))
    return table.mark + "".join(lines).encode(table.encoding)


def _must(place: int | None) -> int:
    assert place is not None
    return place


def _target(table: Table, names: Sequence[str]) -> int | None:
    """The one column of that name, if all its cells are empty."""
    found = table.places(names)
    if len(found) != 1 or any(row[found[0]].strip() for row in table.records):
        return None
    return found[0]


def _numbered(name: str) -> list[str]:
    return [name, *(f"{name} {n}" for n in range(2, 1000))]


def _mark(given: Marking | None, delimiter: str, *, original: bool) -> str:
    if given is None:
        return ""
    if original:
        verdicts = ",".join(f"<Point{i}:{held is True}>" for i, held in given.verdicts.items())
        return f'{given.mark:g}/{given.full_mark:g} points\n"{verdicts}"'
    # Where semicolons part cells, spreadsheets expect decimal commas.
    return f"{given.mark:g}".replace(".", "," if delimiter == ";" else ".")


def _line(cells: list[str], row: Row, table: Table) -> str:
    return table.delimiter.join(cells) + row.end


def _value(raw: str) -> str:
    if len(raw) > 1 and raw[0] == raw[-1] == '"':
        return raw[1:-1].replace('""', '"')
    return raw


def _safe(text: str) -> str:
    """The text with an apostrophe where a spreadsheet would take it for a formula."""
    # Moodle writes a lone dash for nothing.
    if text.startswith(_FORMULA) and text.strip() != "-" and not _NUMBER.fullmatch(text.strip()):
        return "'" + text
    return text


def _guarded(raw: str) -> str:
    value = _value(raw)
    if _safe(value) == value:
        return raw
    return f"\"'{raw[1:]}" if raw.startswith('"') else f"'{raw}"


def _quoted(text: str, delimiter: str) -> str:
    if any(mark in text for mark in (delimiter, '"', "\n", "\r")):
        return '"' + text.replace('"', '""') + '"'
    return text


def _encoding(data: bytes) -> tuple[str, bytes]:
    for mark, name in (
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
    ):
        if data.startswith(mark):
            return name, mark
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "gb18030", b""
    return "utf-8", b""


def _split(text: str, delimiter: str, file: str) -> list[Row]:
    plain = re.escape(delimiter)
    cell = re.compile(rf'"(?:[^"]|"")*+"|(?:[^"{plain}\r\n][^{plain}\r\n]*+)?')
    rows: list[Row] = []
    raw: list[str] = []
    at, line, begun = 0, 1, 1
    while at < len(text) or raw:
        match = cell.match(text, at)
        assert match is not None
        raw.append(match.group())
        line += len(re.findall(r"\r\n|\r|\n", match.group()))
        at = match.end()
        if at < len(text) and text[at] == delimiter:
            at += 1
            continue
        end = re.compile(r"\r\n|\r|\n|\Z").match(text, at)
        if end is None:
            raise DataError(
                "a quote is not closed, or text follows the closing one; quotes inside a quoted "
                "cell are doubled",
                file=file,
                line=line,
                column=_value(rows[0].raw[len(raw) - 1])
                if rows and len(raw) <= len(rows[0].raw)
                else str(len(raw)),
            )
        rows.append(Row(begun, tuple(raw), end.group()))
        raw, at = [], end.end()
        line += bool(end.group())
        begun = line
    return rows
