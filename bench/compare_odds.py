#!/usr/bin/env python
"""Compare adapters by log-odds that were read and saved: how they order verdicts, how they mark.

    python bench/bench_agreement.py --adapter FOLDER --courses … --shots 0 1 3 --save a.json
    python bench/compare_odds.py one=a.json other=b.json,c.json --courses TRAIN_E INT CPT \\
        --fit TRAIN_E --words TRAIN_E TRAIN_C --out results/training/NAME.json

*Left out* is with slope and offset from the other questions of the same course, by the log-odds
alone; *fitted* is as it would ship, with a calibration from the courses of --fit. Courses whose
names begin alike are taken together. Without a --fit nothing is fitted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sklearn.metrics import cohen_kappa_score, roc_auc_score

from bench.fit_calibration import Verdicts, fitted
from llmarking.marks.calibration import Calibration, left_out
from llmarking.metrics.calibration import expected_calibration_error


def figures(
    saved: dict[str, Any], course: str, shots: int, calibration: Calibration | None
) -> dict[str, float]:
    """What an adapter's log-odds are worth on the courses whose names begin so."""
    read = Verdicts.of(saved, [course], shots)
    fair = left_out(read.odds, read.labels, read.groups)
    row: dict[str, float] = {
        "verdicts": len(read.labels),
        "auc": float(roc_auc_score(read.labels, read.odds)),
        "kappa_left_out": _kappa(read.labels, fair),
        "ece_left_out": expected_calibration_error(read.labels, fair),
    }
    if calibration is not None:
        weighed = list(map(calibration.weighed, read.odds, read.shares))
        probabilities = list(map(calibration.probability, weighed))
        row |= {
            "auc_fitted": float(roc_auc_score(read.labels, weighed)),
            "kappa_fitted": _kappa(read.labels, probabilities),
            "ece_fitted": expected_calibration_error(read.labels, probabilities),
        }
    return {name: round(value, 4) for name, value in row.items()}


def _kappa(labels: Sequence[bool], probabilities: Sequence[float]) -> float:
    return float(cohen_kappa_score(labels, [p >= 0.5 for p in probabilities]))


def main() -> int:
    """Print a table for every figure, and write all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("odds", nargs="+", metavar="NAME=FILE[,FILE…]")
    parser.add_argument("--courses", nargs="+", required=True, help="beginnings of their names")
    parser.add_argument("--fit", nargs="+", default=[], help="fit a calibration on these")
    parser.add_argument("--words", nargs="+", help="as in fit_calibration.py")
    parser.add_argument("--spread", nargs="+", help="as in fit_calibration.py")
    parser.add_argument("--machine", default="", help="where they were read, for the file")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    found: dict[str, dict[str, dict[str, float]]] = {}
    for argument in args.odds:
        name, _, files = argument.partition("=")
        saved: dict[str, Any] = {}
        for file in files.split(","):
            saved |= json.loads(Path(file).read_text())
        cells = {
            (course, int(key.rpartition("/")[2]))
            for course in args.courses
            for key in saved
            if key.startswith(course) and "/" in key
        }
        fits = {
            shots: fitted(saved, shots, args.fit, args.words, args.spread, None)
            for shots in sorted({shots for _, shots in cells} if args.fit else ())
        }
        found[name] = {
            f"{course}/{shots}": figures(saved, course, shots, fits.get(shots))
            for course, shots in sorted(cells, key=lambda c: (args.courses.index(c[0]), c[1]))
        }
    print(table(found))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        said = {"machine": args.machine, "fit": args.fit, "words": args.words or args.fit}
        args.out.write_text(json.dumps({**said, "adapters": found}, indent=1) + "\n")
    return 0


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """One table for each figure: courses by adapters, with 0 / 1 / 3 examples in a cell."""
    lines = []
    names = {name for rows in found.values() for row in rows.values() for name in row}
    courses = dict.fromkeys(key.rpartition("/")[0] for rows in found.values() for key in rows)
    for figure in sorted(names - {"verdicts"}):
        lines += [f"\n{figure}\n", f"| | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
        for course in courses:
            cells = []
            for rows in found.values():
                mine = [row for key, row in rows.items() if key.rpartition("/")[0] == course]
                cells.append(" / ".join(f"{row[figure]:.3f}" for row in mine if figure in row))
            lines.append(f"| {course} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
