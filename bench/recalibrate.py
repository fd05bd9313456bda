#!/usr/bin/env python
"""Runs of the verdict method under another calibration, without reading an answer again.

    git worktree add ../before COMMIT
    python bench/recalibrate.py results/INT/MODEL/verdict-0-v1 --out moved \\
        --before ../before/llmarking/marks/calibrations

Log-odds are the same whatever calibration comes after them, and a calibration can be undone: from
the probabilities of a run and the calibration it was made with (`--before`) come its log-odds, with
the words that point and answer share, and from those what it would have found with the one that
ships now. The new run says so in `run.json`, with the identities of both. Metrics and reports are
made by `publish.py --page`, or by `eval_short_batched.py --resume`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from bench import bench_agreement
from llmarking.datasets import finding
from llmarking.domain import Flag, Question
from llmarking.evaluation.folder import read_run, read_samples
from llmarking.grading.grader import DEFAULT_RISK
from llmarking.marks.calibration import Calibration, Calibrations
from llmarking.marks.overlap import PointWords
from llmarking.metrics.selective import risk_coverage
from llmarking.screening.screen import screen


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="COURSE/MODEL/RUN folders")
    parser.add_argument("--before", type=Path, required=True, help="calibrations they were made by")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figures", type=Path, help="a JSON file for what it changes")
    args = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for run in args.runs:
        what = read_run(run)
        old = _calibration(Calibrations(args.before), what)
        if old.identity != what["configuration"]["calibration"]:
            parser.error(f"{run} was not made with the calibration in {args.before}")
        new = _calibration(Calibrations(), what)
        folder = args.out.joinpath(*run.parts[-3:])
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(sample, ensure_ascii=False) for sample in _moved(run, what, old, new)]
        (folder / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        what["configuration"]["calibration"] = new.identity
        what["recalibrated_from"] = old.identity
        (folder / "run.json").write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")
        found["/".join(run.parts[-3:])] = {"before": figures(run), "after": figures(folder)}
        print(folder)
    print("\n".join(table(found)))
    if args.figures:
        args.figures.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def verdicts(run: Path) -> tuple[Any, Any]:
    """Probabilities and the teacher's verdicts of all points that have one, as arrays."""
    points = [
        (point["probability"], point["teacher"])
        for sample in read_samples(run).values()
        for point in sample["points"]
        if point["teacher"] is not None
    ]
    p, truth = (np.asarray(column) for column in zip(*points, strict=True))
    return p, truth


def figures(run: Path) -> dict[str, float]:
    """Agreement of a run's verdicts, and how many of the surest half are wrong."""
    p, truth = verdicts(run)
    sure, right = np.maximum(p, 1 - p), (p >= 0.5) == truth
    half = np.argsort(-sure, kind="stable")[: len(p) // 2]
    agreement = bench_agreement.figures(p.tolist(), truth.tolist())
    return {
        "verdicts": len(p),
        **{name: agreement[name] for name in ("kappa", "auc", "ece")},
        "risk_coverage_area": round(risk_coverage(sure, right).area, 3),
        "wrong_in_surest_half": round(float(1 - right[half].mean()), 3),
    }


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """What the calibrations make of every run, as Markdown: before and after."""
    names = [name for name in next(iter(found.values()))["before"] if name != "verdicts"]
    yield f"| run | verdicts | {' | '.join(name.replace('_', ' ') for name in names)} |"
    yield "|---" * (len(names) + 2) + "|"
    for run, both in found.items():
        cells = [f"{both['before'][name]:.3f} → {both['after'][name]:.3f}" for name in names]
        yield f"| {run} | {both['before']['verdicts']} | {' | '.join(cells)} |"


def _calibration(known: Calibrations, what: dict[str, Any]) -> Calibration:
    names = ("model", "adapter", "prompt_version")
    found = known.find(*(what["configuration"][name] for name in names))
    if found is None:
        raise SystemExit(f"there is no calibration for {what['configuration']}")
    return found


def _moved(
    run: Path, what: dict[str, Any], old: Calibration, new: Calibration
) -> Iterator[dict[str, Any]]:
    """The samples of a run with the probabilities, marks and flags of another calibration."""
    if any(old.spread):
        raise SystemExit("a calibration that knows how courses differ can't be undone here")
    course = finding.load(what["configuration"]["course"])
    questions = {question.code: question for question in course.questions}
    texts = {(answer.question_code, answer.id): answer.text for answer in course.answers}
    words = {code: PointWords(question) for code, question in questions.items()}
    bar = 1 - DEFAULT_RISK
    for sample in read_samples(run).values():
        question = questions[sample["question"]]
        shares = _shares(question, texts[sample["question"], sample["id"]], words[question.code])
        for point in sample["points"]:
            if 0 < point["probability"] < 1:  # else the answer is empty, and nothing was read
                log = math.log(point["probability"]) - math.log1p(-point["probability"])
                share = shares[point["id"]]
                # What words added goes out with the old one, and in again with the new one.
                odds = (log - old.offset) / old.slope - old.weighed(0.0, share)
                point["probability"] = round(new.probability(new.weighed(odds, share)), 6)
                point["held"] = point["probability"] >= 0.5
        held = {point["id"] for point in sample["points"] if point["held"]}
        sample["mark"] = round(sum(p.mark for p in question.points if p.id in held), 6)
        doubt = any(max(p["probability"], 1 - p["probability"]) < bar for p in sample["points"])
        kept = [flag for flag in sample["flags"] if flag != Flag.UNSURE]
        sample["flags"] = [*kept, *([str(Flag.UNSURE)] if doubt else [])]
        yield sample


def _shares(question: Question, text: str, words: PointWords) -> dict[int, float | None]:
    screening = screen(text, question)
    shares = words.shares(screening.text, foreign=Flag.OTHER_LANGUAGE in screening.flags)
    return {point.id: share for point, share in zip(question.points, shares, strict=True)}


if __name__ == "__main__":
    sys.exit(main())
