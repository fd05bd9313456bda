"""What `packings.py` found, as tables in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.packing_prompts import PACKINGS, SHIPPED, WORDINGS


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table: how well one course is marked in one way.

    Attributes:
        tokens: prompt tokens an answer that the prefix cache leaves to compute.
        steps: of training; 0 for the bare model.
        raw: Cohen's kappa at log-odds 0; `kappa` and `ece` with a calibration fitted on the
            course's other questions.
    """

    course: str
    packing: str
    wording: str
    shots: int
    steps: int
    answers: int
    verdicts: int
    tokens: float
    raw: float
    kappa: float
    auc: float
    ece: float


NAMES = ("kappa, raw", "kappa, left out", "AUC", "ECE")
MISSING = "–"


def page(files: Sequence[Path]) -> Iterator[str]:
    """The cells of some files as Markdown, line by line: a table a course for packings, and one
    for wordings. Numbers of examples stand beside each other, divided by strokes."""
    found = [Cell(**cell) for file in files for cell in json.loads(file.read_text())["cells"]]
    cells = {(c.course, c.packing, c.wording, c.shots, c.steps > 0): c for c in found}
    shots = sorted({c.shots for c in found if c.wording == SHIPPED.name})
    trained = any(c.steps for c in found)
    more = ["steps", *(f"{name}, trained" for name in NAMES)] if trained else []
    for name in dict.fromkeys(c.course for c in found):
        sample = next(c for c in found if c.course == name)
        examples = ", ".join(map(str, shots))
        yield f"\n{name}, {sample.verdicts} verdicts; with {examples} examples:\n"
        yield _line(["packing", "tokens an answer", *NAMES, *more])
        yield _line(["---"] * (2 + len(NAMES) + len(more)))
        for packing in PACKINGS.values():
            bare, after = (
                [cells.get((name, packing.name, SHIPPED.name, n, learnt)) for n in shots]
                for learnt in (False, True)
            )
            if one := next(filter(None, [*bare, *after]), None):
                row = [packing.title, f"{one.tokens:.0f}", *_columns(bare)]
                if trained:
                    steps = next((str(c.steps) for c in after if c), MISSING)
                    row += [steps, *_columns(after)]
                yield _line(row)
    words = [c for c in found if c.wording != SHIPPED.name]
    if not words:
        return
    courses = list(dict.fromkeys(c.course for c in words))
    yield f"\nWordings, no examples; {', '.join(NAMES)}:\n"
    yield _line(["wording", *courses])
    yield _line(["---"] * (1 + len(courses)))
    for wording in WORDINGS.values():
        asked = [cells.get((name, "pass-text", wording.name, 0, False)) for name in courses]
        if any(asked):
            yield _line([wording.title, *(", ".join(_numbers(cell)) for cell in asked)])


def _columns(cells: Sequence[Cell | None]) -> list[str]:
    """One text for each name, over the numbers of examples."""
    if not any(cells):
        return [MISSING] * len(NAMES)
    return [" / ".join(column) for column in zip(*map(_numbers, cells), strict=True)]


def _numbers(cell: Cell | None) -> list[str]:
    if cell is None:
        return [MISSING] * len(NAMES)
    return [f"{cell.raw:.2f}", f"{cell.kappa:.2f}", f"{cell.auc:.2f}", f"{cell.ece:.2f}"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
