#!/usr/bin/env python
"""What counted words add to a model's log-odds: alone, and beside them.

    python bench/bench_agreement.py --courses TRAIN_C1 TRAIN_C2 INT CPT --shots 0 --save odds.json
    python bench/words.py odds.json --fit TRAIN_C --out results/agreement/words.json

For every course that is not fitted on: how well log-odds, the share of the point's words, and both
together rank its verdicts (AUC), how many could stand unseen with at most 5 % of them wrong, and
how kappa and calibration come out with slope and offset from the course's other questions. What a
word weighs is always fitted on the courses of `--fit`, with the same number of examples.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from llmarking.marks.calibration import Calibration, left_out, weigh_words
from llmarking.metrics.calibration import expected_calibration_error
from llmarking.metrics.selective import risk_coverage

RISK = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("odds", type=Path, help="what bench_agreement.py saved")
    parser.add_argument(
        "--fit", required=True, help="courses with this prefix say what words weigh"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    saved = json.loads(args.odds.read_text())
    found: dict[str, Any] = {name: saved[name] for name in ("model", "adapter", "versions")}
    print(f"{'course':<40}by        auc  kappa   ece  unseen at {RISK:.0%}")
    for key in sorted(name for name in saved if "/" in name and not name.startswith(args.fit)):
        course, _, shots = key.partition("/")
        taught = [saved[k] for k in saved if k.startswith(args.fit) and k.endswith(f"/{shots}")]
        if not taught:
            continue
        columns = [
            [x for run in taught for x in run[name]] for name in ("odds", "shares", "labels")
        ]
        overlap, usual = weigh_words(*columns)
        weigh = Calibration(model="", prompt="", overlap=overlap, usual=usual).weighed
        run = saved[key]
        ways = {
            "odds": run["odds"],
            "words": [usual if share is None else share for share in run["shares"]],
            "both": list(map(weigh, run["odds"], run["shares"])),
        }
        found[key] = {"verdicts": len(run["labels"]), "overlap": round(overlap, 3)} | {
            name: figures(scores, run["labels"], run["groups"]) for name, scores in ways.items()
        }
        for name in ways:
            row = found[key][name]
            print(f"{course + ' ' + shots:<40}{name:<6}" + "".join(f"{x:>7}" for x in row.values()))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def figures(scores: list[float], labels: list[bool], groups: list[str]) -> dict[str, float]:
    """Ranking, and agreement with slope and offset from the other questions."""
    y, p = np.asarray(labels, bool), np.asarray(left_out(scores, labels, groups))
    curve = risk_coverage(np.maximum(p, 1 - p).tolist(), ((p >= 0.5) == y).tolist())
    return {
        "auc": round(float(roc_auc_score(y, scores)), 3),
        "kappa": round(float(cohen_kappa_score(y, p >= 0.5)), 3),
        "ece": round(expected_calibration_error(y, p), 3),
        "unseen": round(curve.coverage_at(RISK), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
