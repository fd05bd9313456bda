#!/usr/bin/env python
"""Fit calibrations from saved log-odds and write them where the package looks for them.

    python bench/bench_agreement.py --courses TRAIN_C1 TRAIN_C2 … --shots 0 1 3 --save odds.json
    python bench/fit_calibration.py odds.json --prefix TRAIN_C --adapter qwen2.5-coder-1.5b-marker

One file is written for each number of examples. Slope and offset come from all verdicts of the
chosen courses; error figures and risk table from fits that left out the verdict's own question.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llmarking.grading.prompting import shot_name
from llmarking.marks.calibration import (
    SHIPPED,
    Calibration,
    fit,
    left_out,
    risk_table,
    weigh_words,
)
from llmarking.metrics.calibration import expected_calibration_error
from llmarking.metrics.selective import risk_coverage

RISKS = (0.01, 0.02, 0.05, 0.1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("odds", type=Path, help="what bench_agreement.py saved")
    parser.add_argument("--prefix", nargs="+", required=True, help="use courses with these names")
    parser.add_argument("--adapter", help="the adapter they were read with (default: as saved)")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    args = parser.parse_args()
    saved = json.loads(args.odds.read_text())
    adapter = args.adapter or saved["adapter"]
    by_shots: dict[int, list[str]] = {}
    for key in saved:
        course, found, number = key.partition("/")
        if found and course.startswith(tuple(args.prefix)):
            by_shots.setdefault(int(number), []).append(key)
    for shots, keys in sorted(by_shots.items()):
        odds = [x for key in keys for x in saved[key]["odds"]]
        shares = [x for key in keys for x in saved[key]["shares"]]
        labels = [bool(y) for key in keys for y in saved[key]["labels"]]
        groups = [g for key in keys for g in saved[key]["groups"]]
        weights = _balanced({key: len(saved[key]["labels"]) for key in keys}, args.prefix)
        overlap, usual = (round(x, 4) for x in weigh_words(odds, shares, labels, weights=weights))
        weigh = Calibration(model="", prompt="", overlap=overlap, usual=usual).weighed
        weighed = list(map(weigh, odds, shares))
        slope, offset = fit(weighed, labels, weights=weights)
        fair = left_out(weighed, labels, groups, weights=weights)
        prompt = f"verdict/{shot_name(shots)}.{saved['prompt']}"
        calibration = Calibration(
            model=saved["model"],
            adapter=adapter,
            prompt=prompt,
            slope=round(slope, 4),
            offset=round(offset, 4),
            overlap=overlap,
            usual=usual,
            risk_table=risk_table(fair, labels),
            ece=round(expected_calibration_error(labels, fair), 4),
            verdicts=len(labels),
            data=tuple(key.partition("/")[0] for key in keys),
        )
        name = f"{adapter or saved['model'].lower()}.{shot_name(shots)}.json"
        calibration.save(args.out / name)
        print(f"{name}: slope {slope:.3f}, offset {offset:.3f}, {len(labels)} verdicts")
        curve = risk_coverage(
            [max(p, 1 - p) for p in fair],
            [(p >= 0.5) == y for p, y in zip(fair, labels, strict=True)],
        )
        alone = ", ".join(f"{curve.coverage_at(risk):.0%} at {risk:.0%}" for risk in RISKS)
        print(f"  left out: ECE {calibration.ece}; can stand unseen, by share wrong: {alone}")
    return 0


def _balanced(sizes: dict[str, int], prefixes: Sequence[str]) -> list[float]:
    """Weights with a mean of 1 by which each of the prefixes has as large a part as the others."""
    of = {key: next(p for p in prefixes if key.startswith(p)) for key in sizes}
    totals = Counter[str]()
    for key, size in sizes.items():
        totals[of[key]] += size
    share = sum(sizes.values()) / len(totals)
    return [share / totals[of[key]] for key, size in sizes.items() for _ in range(size)]


if __name__ == "__main__":
    raise SystemExit(main())
