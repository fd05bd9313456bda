#!/usr/bin/env python
"""Can a calibration learn from a class's answers without anybody's verdicts on them?

Reads runs of `eval_short_batched.py` (their samples), turns probabilities back into log-odds, and
compares ways to calibrate them that use no verdict of the tested course:

    shipped       slope and offset as they ship
    real          slope and offset fitted on the other tested courses, answers of real students
    label shift   the share of stated points estimated from the class by expectation-maximisation
                  (Saerens, Latinne and Decaestecker 2002)
    point mean    two slopes, fitted on our own courses: of the log-odds, and of their mean over all
                  answers to the same point
    within        the same with the point's mean less that of its question's points
    left out      for comparison: fitted on the course's own other questions, with their verdicts

    python bench/class_calibration.py --fit OWN_RUNS --test RUNS --out results/calibration/NAME.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sklearn.linear_model import LogisticRegression

from bench.bench_agreement import figures
from llmarking.marks.calibration import Calibrations, fit, left_out

Array = Any  # numpy's, one number or word for every verdict


@dataclass(frozen=True, slots=True)
class Read:
    """The verdicts of a run: log-odds, the teacher's, point and question, all of one length."""

    odds: Array
    labels: Array
    points: Array
    questions: Array
    shipped: Array

    def means(self, groups: Array) -> Array:
        """For every verdict the mean log-odds of its group."""
        _, places = np.unique(groups, return_inverse=True)
        return (np.bincount(places, self.odds) / np.bincount(places))[places]


def read(folder: Path) -> Read | None:
    """The verdicts of a run's folder; None for short runs and where words were counted as well."""
    run = json.loads((folder / "run.json").read_text())["configuration"]
    known = Calibrations().find(run["model"], run["adapter"], run["prompt_version"])
    rows = []
    for line in (folder / "samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        for point in sample["points"]:
            if point["probability"] is not None and point["teacher"] is not None:
                # Kept with six digits, so that the surest are a little less sure here.
                p = min(max(point["probability"], 1e-6), 1 - 1e-6)
                code = sample["question"]
                rows.append(
                    (math.log(p / (1 - p)), point["teacher"], f"{code}/{point['id']}", code)
                )
    if known is None or known.overlap or len(rows) < 150:
        return None
    logit, labels, points, questions = map(np.array, zip(*rows, strict=True))
    odds = (logit - known.offset) / known.slope
    return Read(odds, labels.astype(bool), points, questions, _sigmoid(logit))


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, -50, 50)))


def label_shift(p: Array, prior: float) -> Array:
    """Probabilities under the share of stated points that makes the class likeliest."""
    share = prior
    found = p
    for _ in range(500):
        ratio = share / prior * p, (1 - share) / (1 - prior) * (1 - p)
        found = ratio[0] / (ratio[0] + ratio[1])
        share = float(np.clip(found.mean(), 1e-4, 1 - 1e-4))
    return found


Features = Callable[[Read], Array]


def _alone(run: Read) -> Array:
    return run.odds[:, None]


def _point_mean(run: Read) -> Array:
    return np.stack([run.odds, run.means(run.points)], axis=1)


def _within(run: Read) -> Array:
    return np.stack([run.odds, run.means(run.points) - run.means(run.questions)], axis=1)


def transferred(runs: list[Read], test: Read, features: Features) -> Array:
    """Probabilities from a fit on other courses, each of which counts the same."""
    model = LogisticRegression(C=100, max_iter=1000)
    weights = np.concatenate([np.full(len(run.odds), 1000 / len(run.odds)) for run in runs])
    model.fit(
        np.concatenate([features(run) for run in runs]),
        np.concatenate([run.labels for run in runs]),
        weights,
    )
    return model.predict_proba(features(test))[:, 1]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fit", type=Path, required=True, help="runs of our own courses")
    parser.add_argument("--test", type=Path, required=True, help="runs of the courses to test")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    own = [run for run in map(read, _folders(args.fit, "verdict-0")) if run]
    tested = {
        (folder.parents[1].name, int(folder.name.split("-")[1])): run
        for folder in _folders(args.test, "verdict-")
        if (run := read(folder))
    }
    prior = float(np.mean([run.labels.mean() for run in own]))
    found: dict[str, Any] = {}
    print(f"{'':<44}{'verdicts':>8}  {'  '.join(f'{name:>13}' for name in WAYS)}   (kappa, ECE)")
    for (course, shots), run in sorted(tested.items()):
        real = [other for (name, n), other in tested.items() if name != course and n in (0, shots)]
        ways = {name: way(run, own, real, prior) for name, way in WAYS.items()}
        row = {
            name: {k: v for k, v in figures(p, run.labels).items() if k in ("kappa", "ece")}
            for name, p in ways.items()
        }
        found[f"{course}/{shots}"] = {"verdicts": len(run.labels), **row}
        cells = "  ".join(f"{row[name]['kappa']:>6.2f} {row[name]['ece']:>6.3f}" for name in WAYS)
        print(f"{course}/{shots:<{43 - len(course)}}{len(run.labels):>8}  {cells}", flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _folders(parent: Path, kind: str) -> list[Path]:
    """Folders of runs with the default model's adapter."""
    return [
        path.parent
        for path in sorted(parent.glob(f"*/*-marker/{kind}*/samples.jsonl"))
        if (path.parent / "run.json").exists()
    ]


WAYS: dict[str, Callable[[Read, list[Read], list[Read], float], Array]] = {
    "shipped": lambda run, own, real, prior: run.shipped,
    "real": lambda run, own, real, prior: _real(run, real),
    "label shift": lambda run, own, real, prior: label_shift(run.shipped, prior),
    "point mean": lambda run, own, real, prior: transferred(own, run, _point_mean),
    "within": lambda run, own, real, prior: transferred(own, run, _within),
    "left out": lambda run, own, real, prior: np.array(
        left_out(run.odds.tolist(), run.labels.tolist(), run.questions.tolist())
    ),
}


def _real(run: Read, real: list[Read]) -> Array:
    slope, offset = fit(
        np.concatenate([other.odds for other in real]).tolist(),
        np.concatenate([other.labels for other in real]).tolist(),
        weights=np.concatenate([np.full(len(o.odds), 500 / len(o.odds)) for o in real]).tolist(),
    )
    return _sigmoid(slope * run.odds + offset)


if __name__ == "__main__":
    raise SystemExit(main())
