#!/usr/bin/env python
"""What a teacher's confirmations do for a course: how sure verdicts are, and what stands alone.

From log-odds that `bench_agreement.py --save` kept, a class is marked with the calibration that
ships; then some of its answers are decided as the teachers did, the calibration is fitted to the
course as the server does it, and the rest is looked at: agreement, expected calibration error, and
at a promise of at most 5 % wrong how many verdicts stand alone and how many of those are wrong.
Answers are decided at random, as whoever reads a class from the top does, or the least sure first.

    python bench/bench_agreement.py --courses INT CPT --shots 0 1 3 --save odds.json
    python bench/confirming.py odds.json --out results/agreement/confirming.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from bench.bench_agreement import figures
from bench.promised import shares, standing
from llmarking.grading.grader import DEFAULT_RISK
from llmarking.grading.prompting import shot_name
from llmarking.marks.calibration import Calibration, Calibrations
from llmarking.marks.recalibrating import Confirmed, refit

ORDERS = ("random", "unsure")
DRAWS = 20


@dataclass(frozen=True, slots=True)
class Read:
    """A class as it was read: for every verdict the weighed log-odds, the teacher's, its answer."""

    odds: Any
    held: Any
    answer: Any

    @staticmethod
    def of(saved: Mapping[str, Any], known: Calibration) -> Read:
        """From what bench_agreement.py saved, with what words add."""
        odds = list(map(known.weighed, saved["odds"], saved["shares"]))
        return Read(np.array(odds), np.array(saved["labels"], bool), np.array(saved["numbers"]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("odds", type=Path, help="what bench_agreement.py saved")
    parser.add_argument("--counts", nargs="+", type=int, default=[0, 10, 20, 40])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    saved = json.loads(args.odds.read_text(encoding="utf-8"))
    found: dict[str, Any] = {name: saved[name] for name in ("model", "adapter", "versions")}
    print("| course, examples | answers decided | slope | kappa | ece | stand alone | wrong |")
    print("|---" * 7 + "|")
    for key in (key for key in saved if "/" in key):
        shots = int(key.rpartition("/")[2])
        prompt = f"verdict/{shot_name(shots)}.{saved['prompt']}"
        known = Calibrations().find(saved["model"], saved["adapter"], prompt)
        if known is None:
            parser.error(f"there is no calibration for {saved['adapter']} and {prompt}")
        found[key] = list(after(Read.of(saved[key], known), known, args.counts, args.seed))
        for row in found[key]:
            print(
                f"| {key} | {row['decided']} {row['order'] if row['decided'] else ''} | "
                f"{row['slope']:.2f} | {row['kappa']:.3f} | {row['ece']:.3f} | "
                f"{row['decided_alone']:.0%} | {row['wrong_among_those']:.1%} |"
            )
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def after(read: Read, known: Calibration, counts: list[int], seed: int) -> Iterator[dict[str, Any]]:
    """Figures of the verdicts that are left, for each number of decided answers and each order.

    Those at random are means over draws; what stands alone is counted over all draws together.
    """
    answers = np.unique(read.answer)
    random = np.random.default_rng(seed)
    p = np.array([known.probability(x) for x in read.odds])
    sure = [np.maximum(p, 1 - p)[read.answer == answer].min() for answer in answers]
    least_first = answers[np.argsort(sure, kind="stable")]
    for count in counts:
        # A class that is nearly read has too little left to tell anything of.
        if count > 0.6 * len(answers):
            continue
        for order in ORDERS if count else ORDERS[:1]:
            draws = DRAWS if count and order == "random" else 1
            rows = [
                _left(
                    read,
                    known,
                    least_first if order == "unsure" else random.permutation(answers),
                    count,
                )
                for _ in range(draws)
            ]
            alone, wrong, left = (
                int(sum(row[name] for row in rows)) for name in ("alone", "wrong", "left")
            )
            yield {
                "decided": count,
                "order": order,
                "draws": draws,
                **{
                    name: round(float(np.mean([row[name] for row in rows])), 3)
                    for name in ("slope", "offset", "kappa", "auc", "ece")
                },
                **shares(alone, wrong, left),
            }


def _left(read: Read, known: Calibration, order: Any, count: int) -> dict[str, float]:
    decided = np.isin(read.answer, order[:count])
    seen = [
        Confirmed(str(read.answer[i]), int(i), float(read.odds[i]), bool(read.held[i]))
        for i in np.flatnonzero(decided)
    ]
    now = refit(known, seen, known) if seen else known
    p = np.array([now.probability(x) for x in read.odds[~decided]])
    truth = read.held[~decided]
    alone, wrong = standing(p, truth, DEFAULT_RISK)
    return {
        **figures(p.tolist(), truth.tolist()),
        "slope": now.slope,
        "offset": now.offset,
        "left": len(p),
        "alone": alone,
        "wrong": wrong,
    }


if __name__ == "__main__":
    raise SystemExit(main())
