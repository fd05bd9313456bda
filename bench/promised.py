#!/usr/bin/env python
"""How well runs order their verdicts, and what the promise of few errors was worth.

From the samples of verdict runs, which `publish.py --work` and `eval_short_batched.py` keep:
agreement, the area under risk and coverage, the errors among the surest half, and how many verdicts
would have stood without a look at a promised share of errors, with how many of those were wrong.

    python bench/promised.py FOLDER/*/MODEL+ADAPTER/verdict-* --out results/agreement/v2.json

`--before` names what the same script, or `recalibrate.py --figures`, wrote of other runs of the
same courses; the table then shows both.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from bench.recalibrate import figures, verdicts
from llmarking.grading.grader import DEFAULT_RISK

SHOWN = ("kappa", "auc", "ece", "risk_coverage_area", "wrong_in_surest_half")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--before", type=Path, help="figures of other runs to show beside these")
    parser.add_argument("--out", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    before = json.loads(args.before.read_text(encoding="utf-8")) if args.before else {}
    earlier = {_key(name): _last(row) for name, row in before.items()}
    found: dict[str, Any] = {}
    for run in sorted(args.runs):
        key = _key("/".join(run.parts[-3:]))
        found[key] = {"now": figures(run), "promise": promise(run, DEFAULT_RISK)}
        if key in earlier:
            found[key] = {"before": earlier[key], **found[key]}
    print("\n".join(table(found)))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def promise(run: Path, risk: float) -> dict[str, float]:
    """What stood alone at a promised share of errors, and how much of that was wrong."""
    p, truth = verdicts(run)
    return {"promised_wrong": risk, **shares(*standing(p, truth, risk), len(p))}


def standing(p: Any, truth: Any, risk: float) -> tuple[int, int]:
    """How many verdicts stand without a look at a promised share of errors; how many are wrong."""
    alone = np.maximum(p, 1 - p) >= 1 - risk
    wrong = (p >= 0.5) != truth
    return int(alone.sum()), int((alone & wrong).sum())


def shares(alone: int, wrong: int, verdicts: int) -> dict[str, float]:
    """The same as shares of all verdicts, and of those that stand."""
    return {
        "decided_alone": round(alone / verdicts, 3),
        "wrong_among_those": round(wrong / alone, 3) if alone else 0.0,
    }


def _key(run: str) -> str:
    """Course and number of examples: from a run's folder, or as it was written before."""
    course, *_, how = run.split("/")
    return f"{course}/{how.split('-')[1] if '-' in how else how}"


def _last(row: Mapping[str, Any]) -> Any:
    return row.get("now") or row["after"]


def table(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The figures as Markdown, with those before where they are known."""
    yield f"| run | verdicts | {' | '.join(name.replace('_', ' ') for name in SHOWN)} |"
    yield "|---" * (len(SHOWN) + 2) + "|"
    for run, row in found.items():
        course, _, shots = run.rpartition("/")
        sides = [row[side] for side in ("before", "now") if side in row]
        cells = [" → ".join(f"{side[name]:.3f}" for side in sides) for name in SHOWN]
        yield f"| {course}, {shots} examples | {row['now']['verdicts']} | {' | '.join(cells)} |"


if __name__ == "__main__":
    raise SystemExit(main())
