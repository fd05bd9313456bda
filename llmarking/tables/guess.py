"""What all recognisers of files share: their result, and what is found alike in every file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmarking.datasets.tables import comparable
from llmarking.sentences import sentence
from llmarking.tables import names
from llmarking.tables.columns import Columns, Item, Kind
from llmarking.tables.grid import Row

NO_IMPORT = sentence(
    "no_import", "the platform reads no such file back: marks come in columns of their own"
)
PEEK = 200  # rows that are looked at to tell what a column holds


@dataclass(frozen=True, slots=True)
class Guess:
    """What a recogniser found.

    Attributes:
        aside: numbers of rows, counted below the headers, that are no student's.
    """

    kind: Kind
    columns: Columns
    unclear: dict[str, tuple[int, ...]] = field(default_factory=dict)
    aside: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


def people(headers: Sequence[str]) -> Columns:
    """Who the student is, by the usual names."""
    full = names.first(headers, names.FULL_NAME)
    parts = (names.first(headers, names.FIRST_NAME), names.first(headers, names.LAST_NAME))
    both = tuple(place for place in parts if place is not None)
    return Columns(
        student=names.first(headers, names.STUDENT),
        names=both or (() if full is None else (full,)),
    )


def only(rows: Sequence[Row], place: int, holds: Callable[[str], bool]) -> bool:
    """Whether all cells of a column that are filled are so, and one is."""
    cells = [row[place] for row in rows if not row.blank and place < len(row.raw)]
    filled = [cell for cell in cells if cell.strip()]
    return bool(filled) and all(holds(cell) for cell in filled)


def asked_in(headers: Sequence[str], rows: Sequence[Row], start: int = 0) -> tuple[Item, ...]:
    """The questions of a file that gives each of them columns of its own, with a number."""
    families = {
        name: columns
        for name, columns in names.series(headers).items()
        if min(columns.values()) >= start
    }
    roles = {
        role: next((families[key] for key in map(comparable, known) if key in families), {})
        for role, known in (
            ("answer", names.RESPONSES),
            ("text", names.QUESTIONS),
            ("reference", names.REFERENCES),
            ("mark", names.MARKS),
            ("full_mark", names.FULL_MARKS),
            ("feedback", names.FEEDBACKS),
        )
    }
    if not roles["answer"]:
        named = [columns for columns in roles.values() if columns]
        strange = [columns for columns in families.values() if columns not in named]
        if start and strange:  # Moodle's, in a language that is not on the list
            found = _by_variety(strange, rows)
            roles.update({role: columns for role, columns in found.items() if columns})
        elif not any(roles[role] for role in ("text", "reference", "mark")):
            asked = next(
                (families[k] for k in map(comparable, names.ASKED_ONLY) if k in families), {}
            )
            roles["answer"] = asked if len(asked) > 1 else {}
    return tuple(
        Item(
            headers[place].strip(),
            answer=place,
            text=roles["text"].get(n),
            reference=roles["reference"].get(n),
            mark=roles["mark"].get(n),
            full_mark=roles["full_mark"].get(n),
            feedback=roles["feedback"].get(n),
        )
        for n, place in sorted(roles["answer"].items())
    )


def _by_variety(strange: list[dict[int, int]], rows: Sequence[Row]) -> dict[str, dict[int, int]]:
    """Students' answers differ, while a question and its right answer are the same in all rows.

    Moodle writes the question before the answer and the right answer behind it.
    """

    def variety(columns: dict[int, int]) -> int:
        return sum(len({row[place] for row in rows[:PEEK]}) for place in columns.values())

    answers = max(strange, key=variety)
    first = min(answers.values())
    return {
        "answer": answers,
        "text": next((c for c in strange if min(c.values()) < first), {}),
        "reference": next((c for c in strange if min(c.values()) > first), {}),
    }
