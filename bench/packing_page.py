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


def page(files: Sequence[Path]) -> Iterator[str]:
    """The cells of some files as Markdown, line by line: a table a course for packings, and one
    for wordings."""
    found = [Cell(**cell) for file in files for cell in json.loads(file.read_text())["cells"]]
    cells = {(c.course, c.packing, c.wording, c.shots, c.steps > 0): c for c in found}
    trained = any(c.steps for c in found)
    names = ["kappa, raw", "kappa, left out", "AUC", "ECE"]
    more = [f"{name}, trained" for name in names] if trained else []
    for name in dict.fromkeys(c.course for c in found):
        sample = next(c for c in found if c.course == name)
        yield f"\n{name}, {sample.verdicts} verdicts:\n"
        yield _line(["packing", "examples", "tokens an answer", *names, *more])
        yield _line(["---"] * (3 + len(names) + len(more)))
        for packing in PACKINGS.values():
            for shots in sorted({c.shots for c in found}):
                pair = [
                    cells.get((name, packing.name, SHIPPED.name, shots, after))
                    for after in ((False, True) if trained else (False,))
                ]
                if one := next(filter(None, pair), None):
                    numbers = [text for cell in pair for text in _numbers(cell)]
                    yield _line([packing.title, str(shots), f"{one.tokens:.0f}", *numbers])
    words = [c for c in found if c.wording != SHIPPED.name]
    if not words:
        return
    courses = list(dict.fromkeys(c.course for c in words))
    yield "\nWordings, no examples; kappa raw, kappa left out, AUC, ECE:\n"
    yield _line(["wording", *courses])
    yield _line(["---"] * (1 + len(courses)))
    for wording in WORDINGS.values():
        row = [cells.get((name, "pass-text", wording.name, 0, False)) for name in courses]
        if any(row):
            yield _line([wording.title, *(", ".join(_numbers(cell)) for cell in row)])


def _numbers(cell: Cell | None) -> list[str]:
    if cell is None:
        return ["–"] * 4
    return [f"{cell.raw:.2f}", f"{cell.kappa:.2f}", f"{cell.auc:.2f}", f"{cell.ece:.2f}"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
