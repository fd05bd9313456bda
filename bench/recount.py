#!/usr/bin/env python
"""Count the metrics of finished runs again, from nothing but their answers, and compare.

Kappa, F1 of both classes, accuracy and QWK are counted in exact fractions, without numpy, without
scikit-learn and without a line of the package. It is given folders of runs:

    python bench/recount.py results/INT/*/* results/CPT/*/*
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

CLOSE = 1e-9


def of_points(pairs: Sequence[tuple[bool, bool | None]]) -> dict[str, Fraction | None]:
    """Metrics of the teacher's verdicts and ours; a verdict that is missing agrees with nothing."""
    total = len(pairs)
    right = {c: sum(1 for t, h in pairs if t is c and h is c) for c in (True, False)}
    taught = {c: sum(1 for t, _ in pairs if t is c) for c in (True, False)}
    said = {c: sum(1 for _, h in pairs if h is c) for c in (True, False)}
    seen = Fraction(sum(right.values()), total)
    chance = sum(Fraction(taught[c] * said[c], total * total) for c in (True, False))
    numbers: dict[str, Fraction | None] = {
        "accuracy": seen,
        "kappa": (seen - chance) / (1 - chance) if chance != 1 else None,
    }
    for c in (True, False):
        below = taught[c] + said[c]
        numbers[f"f1_{str(c).lower()}"] = Fraction(2 * right[c], below) if below else None
    return numbers


def qwk(pairs: Sequence[tuple[Fraction, Fraction]]) -> Fraction | None:
    """Quadratic weighted kappa of marks: each mark of ours is paired with each of the teacher's."""
    n = len(pairs)
    seen = sum((Fraction((t - m) ** 2) for t, m in pairs), Fraction()) / n
    expected = sum((Fraction((t - m) ** 2) for t, _ in pairs for _, m in pairs), Fraction()) / n**2
    return 1 - seen / expected if expected else None


def recount(folder: Path) -> dict[str, tuple[float | None, float | None]]:
    """Every number that is counted again: as `metrics.json` has it, and as it is counted."""
    model = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["model"]
    with (folder / "samples.jsonl").open(encoding="utf-8") as lines:
        samples: list[dict[str, Any]] = [json.loads(line) for line in lines]
    points = [p for s in samples for p in s["points"] if p["teacher"] is not None]
    counted = {}
    if points:
        for name, value in of_points([(p["teacher"], p["held"]) for p in points]).items():
            counted[name] = (model["points"]["pooled"][name]["estimate"], value)
    marks = [
        (Fraction(str(s["teacher_mark"])), Fraction(str(s["mark"])))
        for s in samples
        if s["teacher_mark"] is not None and s["mark"] is not None
    ]
    if marks:
        counted["qwk"] = (model["answers"]["pooled"]["qwk"]["estimate"], qwk(marks))
    return {k: (a, None if b is None else float(b)) for k, (a, b) in counted.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Print both numbers of every metric; 1 if two of them differ by more than 1e-9."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    wrong = 0
    for folder in parser.parse_args(argv).folders:
        if not (folder / "metrics.json").exists():
            print(f"      not measured yet: {folder}")
            continue
        for name, (kept, counted) in recount(folder).items():
            same = kept == counted or (
                kept is not None and counted is not None and abs(kept - counted) <= CLOSE
            )
            wrong += not same
            shown = ["–" if v is None else f"{v:.12f}" for v in (kept, counted)]
            print(f"{'ok   ' if same else 'WRONG'} {name:<9} {shown[0]} {shown[1]}  {folder}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
