#!/usr/bin/env python
"""Fit calibrations from saved log-odds and write them where the package looks for them.

    python bench/bench_agreement.py --courses TRAIN_E1 TRAIN_C1 … --shots 0 1 3 --save odds.json
    python bench/fit_calibration.py odds.json --prefix TRAIN_E --words TRAIN_E TRAIN_C \\
        --spread TRAIN_E TRAIN_C

One file is written for each number of examples. Slope and offset come from all verdicts of the
chosen courses; the calibration error from fits that left out the verdict's own question.
What words are worth and how far courses differ may come from more of them: those that decided when
to stop a training make its verdicts look too sure, which slope and offset must not learn, and tell
of words and of differences all the same.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llmarking.grading.prompting import shot_name
from llmarking.marks.calibration import (
    SHIPPED,
    Calibration,
    between,
    fit,
    left_out,
    weigh_words,
)
from llmarking.metrics.calibration import expected_calibration_error


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("odds", type=Path, help="what bench_agreement.py saved")
    parser.add_argument("--prefix", nargs="+", required=True, help="use courses with these names")
    parser.add_argument(
        "--words",
        nargs="+",
        help="what words are worth from courses with these names (as --prefix)",
    )
    parser.add_argument(
        "--spread",
        nargs="+",
        help="how far slope and offset go from course to course by these (as --prefix)",
    )
    parser.add_argument("--adapter", help="the adapter they were read with (default: as saved)")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    args = parser.parse_args()
    saved = json.loads(args.odds.read_text())
    adapter = args.adapter or saved["adapter"]
    shown = {int(key.rpartition("/")[2]) for key in saved if key.startswith(tuple(args.prefix))}
    for shots in sorted(shown):
        calibration = fitted(saved, shots, args.prefix, args.words, args.spread, adapter)
        name = f"{adapter or saved['model'].lower()}.{shot_name(shots)}.json"
        calibration.save(args.out / name)
        of_slope, _, of_offset = calibration.spread
        print(
            f"{name}: slope {calibration.slope:.3f} ± {math.sqrt(of_slope):.3f}, offset "
            f"{calibration.offset:.3f} ± {math.sqrt(of_offset):.3f}, {calibration.verdicts} "
            f"verdicts, ECE left out {calibration.ece}"
        )
    return 0


def fitted(
    saved: dict[str, Any],
    shots: int,
    prefixes: Sequence[str],
    words: Sequence[str] | None,
    spread: Sequence[str] | None,
    adapter: str | None,
) -> Calibration:
    """The calibration for a number of examples by the courses that are named, see the flags."""
    read = Verdicts.of(saved, prefixes, shots)
    counted = Verdicts.of(saved, words, shots) if words else read
    overlap, usual = (
        round(x, 4)
        for x in weigh_words(counted.odds, counted.shares, counted.labels, weights=counted.weights)
    )
    weigh = Calibration(model="", prompt="", overlap=overlap, usual=usual).weighed
    weighed = list(map(weigh, read.odds, read.shares))
    labels = read.labels
    slope, offset = fit(weighed, labels, weights=read.weights)
    apart = Verdicts.of(saved, spread or prefixes, shots)
    of_slope, both, of_offset = between(
        list(map(weigh, apart.odds, apart.shares)), apart.labels, apart.courses
    )
    fair = left_out(weighed, labels, read.groups, weights=read.weights)
    return Calibration(
        model=saved["model"],
        adapter=adapter,
        prompt=f"verdict/{shot_name(shots)}.{saved['prompt']}",
        slope=round(slope, 4),
        offset=round(offset, 4),
        overlap=overlap,
        usual=usual,
        spread=(round(of_slope, 6), round(both, 6), round(of_offset, 6)),
        ece=round(expected_calibration_error(labels, fair), 4),
        verdicts=len(labels),
        data=tuple(dict.fromkeys(read.courses)),
    )


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What was read of some courses with one number of examples, a value for each verdict.

    Attributes:
        groups: the question of each.
        weights: of mean 1, by which each of the prefixes counts as much as the others.
        courses: the course of each.
    """

    odds: list[float]
    shares: list[float | None]
    labels: list[bool]
    groups: list[str]
    weights: list[float]
    courses: list[str]

    @staticmethod
    def of(saved: dict[str, Any], prefixes: Sequence[str], shots: int) -> Verdicts:
        """Those of the courses whose names begin with one of the prefixes."""
        keys = [
            key
            for key in saved
            if key.startswith(tuple(prefixes)) and key.rpartition("/")[2] == str(shots)
        ]
        return Verdicts(
            odds=[x for key in keys for x in saved[key]["odds"]],
            shares=[x for key in keys for x in saved[key]["shares"]],
            labels=[bool(y) for key in keys for y in saved[key]["labels"]],
            groups=[g for key in keys for g in saved[key]["groups"]],
            weights=_balanced({key: len(saved[key]["labels"]) for key in keys}, prefixes),
            courses=[key.rpartition("/")[0] for key in keys for _ in saved[key]["labels"]],
        )


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
