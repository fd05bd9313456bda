"""Point markup of reference answers: ``A hash table <Point1:2>stores pairs<Point1:2>.``

The same tag opens and closes a point; ids run 1…n; the number is the mark. A point can be earned in
several ways: ``<Point2_case1:1>…<Point2_case1:1> … <Point2_case2:1>…<Point2_case2:1>`` are
alternatives worth the same mark, of which the best counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from llmarking.domain import Point
from llmarking.errors import RubricError
from llmarking.sentences import Sentence, sentence

# Anything that begins like a tag, so that a misspelt one is an error and not part of the text.
# Without a number or a colon it is none: C++ has vector<Point>. Possessive quantifiers keep both
# patterns linear on hostile text.
_TAG_LIKE = re.compile(r"<\s*+/?+\s*+point(?=[^<>\n]{0,80}[\d:])[^<>\n]{0,80}>?", re.IGNORECASE)
_TAG = re.compile(
    r"<\s*+point\s*+(?P<id>\d++)\s*+(?:_\s*+case\s*+(?P<case>\d++)\s*+)?"
    r":\s*+(?P<mark>\d++(?:[.,]\d++)?|[.,]\d++)\s*+>",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Rubric:
    """A parsed reference answer: the prose without markup, and its points in order of id."""

    prose: str
    points: tuple[Point, ...]

    @property
    def full_mark(self) -> float:
        """Sum of the marks of all points."""
        return float(sum(Decimal(str(p.mark)) for p in self.points))


@dataclass(frozen=True, slots=True)
class _Tag:
    id: int
    case: int | None
    mark: Decimal
    start: int
    end: int

    @property
    def name(self) -> str:
        return f"Point{self.id}" + (f"_case{self.case}" if self.case is not None else "")


def parse(markup: str, full_mark: float | None = None) -> Rubric:
    """Parse a marked reference answer.

    Args:
        markup: reference answer with point tags.
        full_mark: the question's full mark; when given, the points must add up to it.

    Raises:
        RubricError: names the point and the 1-based column of the fault.
    """
    tags = _tags(markup)
    if not tags:
        raise RubricError(
            sentence(
                "rubric_no_points",
                "the reference answer has no points; mark each one like "
                "<Point1:2>the text that earns it<Point1:2>",
            ),
            column=1,
        )
    cases: dict[int, dict[int | None, str]] = {}
    marks: dict[int, Decimal] = {}
    columns: dict[int, int] = {}
    prose: list[str] = []
    position = 0
    for opening, closing in _pairs(tags):
        name, column = opening.name, opening.start + 1
        text = markup[opening.end : closing.start].strip()
        if not text:
            raise _fault(
                sentence("rubric_empty", "{name} is empty (column {at})", name=name, at=column),
                name,
                column,
            )
        if opening.mark != closing.mark:
            raise _fault(
                sentence(
                    "rubric_two_marks",
                    "{name} opens with mark {first} and closes with {second} (column {at})",
                    name=name,
                    first=opening.mark,
                    second=closing.mark,
                    at=closing.start + 1,
                ),
                name,
                closing.start + 1,
            )
        of_point = cases.setdefault(opening.id, {})
        if opening.case in of_point:
            raise _fault(
                sentence(
                    "rubric_twice",
                    "{name} is marked twice; give the second one another number (column {at})",
                    name=name,
                    at=column,
                ),
                name,
                column,
            )
        if of_point and (opening.case is None or None in of_point):
            raise _fault(
                sentence(
                    "rubric_some_cases",
                    "Point{id} is used with and without _case; write every alternative as "
                    "<Point{id}_caseN:mark> (column {at})",
                    id=opening.id,
                    at=column,
                ),
                name,
                column,
            )
        if marks.setdefault(opening.id, opening.mark) != opening.mark:
            raise _fault(
                sentence(
                    "rubric_worths",
                    "the alternatives of Point{id} are worth {first} and {second}; they must be "
                    "worth the same (column {at})",
                    id=opening.id,
                    first=marks[opening.id],
                    second=opening.mark,
                    at=column,
                ),
                name,
                column,
            )
        of_point[opening.case] = text
        columns.setdefault(opening.id, column)
        prose += [markup[position : opening.start], markup[opening.end : closing.start]]
        position = closing.end
    prose.append(markup[position:])
    for expected, point_id in enumerate(sorted(cases), start=1):
        if point_id != expected:
            raise _fault(
                sentence(
                    "rubric_gap",
                    "Point{missing} is missing before Point{id} (column {at}): the ids must run "
                    "from 1 to {last} without a gap",
                    missing=expected,
                    id=point_id,
                    at=columns[point_id],
                    last=len(cases),
                ),
                f"Point{expected}",
                columns[point_id],
            )
    points = tuple(
        Point(
            id=i,
            mark=float(marks[i]),
            cases=tuple(of[c] for c in sorted(of, key=lambda c: c or 0)),
        )
        for i, of in sorted(cases.items())
    )
    rubric = Rubric(prose="".join(prose), points=points)
    if full_mark is not None and Decimal(str(full_mark)) != sum(marks.values()):
        each = " + ".join(_number(p.mark) for p in points)
        raise RubricError(
            sentence(
                "rubric_sum",
                "the points add up to {each} = {sum}, but the full mark is {full}",
                each=each,
                sum=_number(rubric.full_mark),
                full=_number(full_mark),
            )
        )
    return rubric


def render(points: Iterable[Point], separator: str = " ") -> str:
    """Write points back as markup; `parse` of the result gives the same points."""
    parts = []
    for point in points:
        for number, text in enumerate(point.cases, start=1):
            case = f"_case{number}" if len(point.cases) > 1 else ""
            tag = f"<Point{point.id}{case}:{_number(point.mark)}>"
            parts.append(f"{tag}{text}{tag}")
    return separator.join(parts)


def strip(markup: str) -> str:
    """The text without point tags; anything else that stands between angle brackets stays."""
    return _TAG.sub("", markup)


def _number(mark: float) -> str:
    return format(Decimal(str(mark)).normalize(), "f")


def _tags(markup: str) -> list[_Tag]:
    tags = []
    for like in _TAG_LIKE.finditer(markup):
        match = _TAG.fullmatch(like.group())
        column = like.start() + 1
        if match is None:
            shown = like.group().strip()
            raise _fault(
                sentence(
                    "rubric_no_tag",
                    "{tag} at column {at} is no point tag; write <Point1:2>, with the number of "
                    "the point, a colon and its mark, at both ends",
                    tag=repr(shown),
                    at=column,
                ),
                shown,
                column,
            )
        try:
            mark = Decimal(match["mark"].replace(",", "."))
        except InvalidOperation:  # pragma: no cover - the pattern admits only numbers
            no_mark = sentence("rubric_no_mark", "{mark} is no mark", mark=repr(match["mark"]))
            raise RubricError(no_mark, column=column) from None
        point_id = int(match["id"])
        if point_id < 1 or mark <= 0:
            raise _fault(
                sentence(
                    "rubric_zero",
                    "{tag} at column {at}: ids start at 1 and marks are above 0",
                    tag=match.group(),
                    at=column,
                ),
                f"Point{point_id}",
                column,
            )
        case = int(match["case"]) if match["case"] else None
        tags.append(_Tag(point_id, case, mark, like.start(), like.end()))
    return tags


def _pairs(tags: list[_Tag]) -> Iterable[tuple[_Tag, _Tag]]:
    """Each opening tag with the closing one that must come next: points do not nest."""
    for index in range(0, len(tags), 2):
        opening = tags[index]
        closing = tags[index + 1] if index + 1 < len(tags) else None
        if closing is None or (closing.id, closing.case) != (opening.id, opening.case):
            raise _fault(_not_closed(opening, closing), opening.name, opening.start + 1)
        yield opening, closing


def _not_closed(opening: _Tag, other: _Tag | None) -> Sentence:
    if other is None:
        return sentence(
            "rubric_not_closed",
            "{name} opened at column {at} is not closed with the same tag",
            name=opening.name,
            at=opening.start + 1,
        )
    return sentence(
        "rubric_crossed",
        "{name} opened at column {at} is not closed with the same tag; {other} comes first, at "
        "column {there}",
        name=opening.name,
        at=opening.start + 1,
        other=other.name,
        there=other.start + 1,
    )


def _fault(message: Sentence, point: str, column: int) -> RubricError:
    return RubricError(message, point=point, column=column)
