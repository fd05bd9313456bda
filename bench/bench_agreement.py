#!/usr/bin/env python
"""Agreement of the verdict method with teachers, by course and number of graded examples.

Reads every point's log-odds with the real engine, then reports what the shipped calibration makes
of them, and what one fitted on the other questions of the same course would. Course names are
those of `llmarking.datasets`. A question without graded examples of its own lends some of its
answers where examples are wanted; those are not asked about then.

    python bench/bench_agreement.py --courses EXAMPLE
    python bench/bench_agreement.py --courses INT CPT --shots 0 1 3 --save odds.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sklearn.metrics import cohen_kappa_score, f1_score, roc_auc_score

from bench.serving import merged_engine
from llmarking.datasets import finding as datasets
from llmarking.domain import Flag, Question, StudentAnswer
from llmarking.grading.grader import GradeOptions, Grader
from llmarking.grading.prompting import PLAIN_VERDICT
from llmarking.marks import calibration
from llmarking.marks.overlap import PointWords
from llmarking.metrics.calibration import expected_calibration_error
from llmarking.models import adapters, catalogue
from llmarking.screening.screen import screen
from llmarking.training.data import Group, with_examples

PLAIN = calibration.Calibration(model="", prompt="")


async def odds_of(
    grader: Grader, course: datasets.Course, shots: int, adapter: str | None
) -> dict[str, list[Any]]:
    """Log-odds, shares of words, teacher's verdicts, question codes and running numbers of the
    answers, of every point that has a verdict.

    Args:
        grader: one that knows no calibration, so that the log-odds are the model's alone.
    """
    parts = list(with_lent(course, shots))
    words = {group.question.code: PointWords(group.question) for group in parts}
    answers = [(group.question, answer) for group in parts for answer in group.answers]

    async def one(
        number: int, question: Question, answer: StudentAnswer
    ) -> list[tuple[float, float | None, bool, str, int]]:
        assert answer.verdicts
        options = GradeOptions(shots=min(shots, len(question.examples)), adapter=adapter)
        graded = await grader.grade(question, answer.text, options)
        screening = screen(answer.text, question)
        foreign = Flag.OTHER_LANGUAGE in screening.flags
        shares = words[question.code].shares(screening.text, foreign=foreign)
        return [
            # An answer without a letter is decided without the model; it has no log-odds.
            (
                -20.0 if v.raw is None else v.raw,
                share,
                answer.verdicts[v.point.id],
                question.code,
                number,
            )
            for v, share in zip(graded.grade.verdicts, shares, strict=True)
            if v.point.id in answer.verdicts
        ]

    found = await asyncio.gather(*(one(i, *each) for i, each in enumerate(answers)))
    columns = zip(*(row for rows in found for row in rows), strict=True)
    odds, shares, labels, groups, numbers = map(list, columns)
    return {
        "odds": odds, "shares": shares, "labels": labels, "groups": groups, "numbers": numbers,
        "answers": [len(answers)],
    }  # fmt: skip


def with_lent(course: datasets.Course, shots: int) -> Iterator[Group]:
    """Questions with their graded answers and, where it can be, with so many graded examples.

    The same answers are lent at every call.
    """
    for question in course.questions:
        answers = tuple(a for a in course.answers_to(question) if a.verdicts)
        group = Group(course.name, question, answers)
        yield with_examples(group, shots, random.Random(f"{course.name}/{question.code}")) or group


def figures(p: Sequence[float], labels: Sequence[bool]) -> dict[str, float]:
    """Kappa, macro-F1, area under the curve and expected calibration error of probabilities."""
    y, held = np.asarray(labels, bool), np.asarray(p) >= 0.5
    return {
        "kappa": round(float(cohen_kappa_score(y, held)), 3),
        "macro_f1": round(float(f1_score(y, held, average="macro")), 3),
        "auc": round(float(roc_auc_score(y, p)), 3) if 0 < y.mean() < 1 else math.nan,
        "ece": round(expected_calibration_error(y, p), 3),
    }


async def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", default=catalogue.default_model().name)
    parser.add_argument(
        "--adapter", metavar="FOLDER", help="a LoRA adapter instead of the shipped one"
    )
    parser.add_argument("--no-adapter", action="store_true", help="the bare model")
    parser.add_argument("--courses", nargs="+", default=["EXAMPLE"])
    parser.add_argument("--shots", nargs="+", type=int, default=[0, 1, 3])
    parser.add_argument(
        "--save", type=Path, help="keep log-odds and verdicts (no text) in this file"
    )
    parser.add_argument("--figures", type=Path, help="write the printed figures to this file")
    parser.add_argument("--gpu", action="store_true", help="a CUDA GPU runs the engine")
    parser.add_argument("flags", nargs="*", help="after --: further flags for vLLM")
    args = parser.parse_args()
    spec = catalogue.resolve(args.model)
    if args.adapter:
        used: adapters.Adapter | None = adapters.read(Path(args.adapter))
    else:
        used = None if args.no_adapter else adapters.shipped(spec)
    adapter = used.name if used else None
    engine = await merged_engine(spec, used, gpu=args.gpu, flags=args.flags)
    saved: dict[str, Any] = {
        "model": spec.name,
        "adapter": adapter,
        "prompt": used.prompt if used else PLAIN_VERDICT,
        "versions": engine.info.versions,
    }
    print(f"{spec.name}, adapter {adapter}, {engine.info.versions}")
    print(
        f"{'course':<14}shots verdicts  true | shipped: kappa  f1   auc   ece "
        "| left-out: kappa  f1   ece"
    )
    try:
        for name in args.courses:
            course = datasets.load(name)
            for shots in args.shots:
                # A grader of its own remembers nothing of the run before.
                grader = Grader(engine, calibration.Calibrations(Path(os.devnull)))
                started = time.perf_counter()
                read = await odds_of(grader, course, shots, adapter)
                seconds = time.perf_counter() - started
                known = Grader(engine).calibration_for(shots, adapter) or PLAIN
                weighed = list(map(known.weighed, read["odds"], read["shares"]))
                probabilities = list(map(known.probability, weighed))
                ours = figures(probabilities, read["labels"])
                out = figures(
                    calibration.left_out(weighed, read["labels"], read["groups"]),
                    read["labels"],
                )
                share = sum(read["labels"]) / len(read["labels"])
                print(
                    f"{name:<14}{shots:>5} {len(read['labels']):>8} {share:>5.2f} |"
                    f"{ours['kappa']:>14} {ours['macro_f1']:>5} {ours['auc']:>5} {ours['ece']:>5} |"
                    f"{out['kappa']:>15} {out['macro_f1']:>5} {out['ece']:>5}"
                    f"   {read['answers'][0] / seconds:.2f} answers/s",
                    flush=True,
                )
                saved[f"{name}/{shots}"] = {
                    **read,
                    "seconds": seconds,
                    "shipped": ours,
                    "left_out": out,
                }
                keep(saved, args.save, args.figures)
    finally:
        await engine.stop()
    return 0


def keep(saved: dict[str, Any], save: Path | None, only_figures: Path | None) -> None:
    """Write what there is so far: all of it, and what was printed."""
    if save:
        save.write_text(json.dumps(saved))
    if only_figures:
        kept = ("shipped", "left_out", "seconds", "answers")
        figures_only = {
            key: {name: value[name] for name in kept}
            if isinstance(value, dict) and "odds" in value
            else value
            for key, value in saved.items()
        }
        only_figures.write_text(json.dumps(figures_only, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
