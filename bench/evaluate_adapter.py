#!/usr/bin/env python
"""What adapters are worth, read with transformers: agreement, whole-answer sets, manipulation.

The same tokens as grading sends, many answers to a question behind one head. For each adapter, in
the order given (`none` is the bare model):

* courses with verdicts by point: kappa and macro-F1 at the raw threshold, with the adapter's own
  calibration, and with one fitted on the other questions of the course, for 0, 1 and 3 examples;
* whole-answer test sets: the same;
* the attack suite: how many marks attacks gain and how often a wrong answer gets full marks, and
  how much of the honest answers that look like attacks is held true.

    python bench/evaluate_adapter.py --adapters new=out/marker old=out/marker-before \
        --courses INT CPT --whole sciEntsBank-2way-test-unseen-answers --out figures.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from bench import attacks
from llmarking.datasets import finding as datasets
from llmarking.domain import Question, StudentAnswer
from llmarking.engines.tokenizing import HubTokenizer
from llmarking.errors import CalibrationError
from llmarking.grading.prompting import PLAIN_VERDICT, shot_name
from llmarking.marks import calibration
from llmarking.marks.calibration import Calibration, Calibrations
from llmarking.metrics.agreement import point_metrics
from llmarking.models import adapters, catalogue, hub
from llmarking.screening.normalising import clean
from llmarking.training import model as training_model
from llmarking.training.data import Group
from llmarking.training.model import Readout, readouts
from llmarking.training.rows import Renderer

PLAIN = Calibration(model="", prompt="")
# An answer without a letter is decided without the model.
EMPTY_ODDS = -20.0


class Reader:
    """One model with one adapter, and its calibrations."""

    def __init__(
        self, model: Any, renderer: Renderer, device: str, batch_tokens: int, known: dict[int, Any]
    ) -> None:
        self.model, self.renderer, self.device = model, renderer, device
        self.batch_tokens, self.known = batch_tokens, known

    def calibration(self, shots: int) -> Calibration:
        """The adapter's own, or one that changes nothing."""
        return self.known.get(shots) or PLAIN

    def odds(self, groups: Sequence[Group], shots: int) -> list[Readout]:
        """Log-odds of every point of every answer that has a letter."""
        rows = [
            row
            for group in groups
            for row in self.renderer.rows(
                group, min(shots, len(group.question.examples)), per_row=16
            )
        ]
        return readouts(self.model, rows, self.renderer.token_ids, self.device, self.batch_tokens)


def groups_of(course: datasets.Course) -> tuple[list[Group], list[Readout]]:
    """All answers with verdicts as grading cleans them, and those that no model is asked about."""
    found, empty = [], []
    for question in course.questions:
        answers = []
        for answer in course.answers_to(question):
            if not answer.verdicts:
                continue
            text = clean(answer.text).text
            if any(c.isalnum() for c in text):
                answers.append(replace(answer, text=text))
            else:
                empty += [
                    Readout(f"{course.name}/{question.code}", "", answer.id, point, EMPTY_ODDS, v)
                    for point, v in answer.verdicts.items()
                ]
        if answers:
            found.append(Group(course.name, question, tuple(answers)))
    return found, empty


def figures(found: Sequence[Readout], by: Calibration) -> dict[str, Any]:
    """Kappa and macro-F1 raw, calibrated and left out; area under the curve."""
    odds, truth = [r.odds for r in found], [r.label for r in found]
    weighed = [by.weighed(r.odds, r.share) for r in found]
    own = [by.probability(x) for x in weighed]
    fair = calibration.left_out(weighed, truth, [r.group for r in found])
    out: dict[str, Any] = {"verdicts": len(found), "true": round(float(np.mean(truth)), 3)}
    for name, chance in (
        ("raw", [PLAIN.probability(x) for x in odds]), ("calibrated", own), ("left_out", fair)
    ):  # fmt: skip
        numbers = point_metrics(truth, [p >= 0.5 for p in chance], chance)
        out[name] = {k: round(numbers[k], 3) for k in ("kappa", "macro_f1", "ece")}
    out["auc"] = round(point_metrics(truth, truth, odds_to_chance(weighed))["auc"], 3)
    return out


def odds_to_chance(odds: Sequence[float]) -> list[float]:
    """Probabilities in the order of the log-odds."""
    return [PLAIN.probability(x) for x in odds]


def agreement(reader: Reader, names: Sequence[str], shots: Sequence[int]) -> dict[str, Any]:
    """Figures of courses, printed as they come."""
    result = {}
    for name in names:
        groups, empty = groups_of(datasets.load(name))
        for number in shots:
            if number and not all(g.question.examples for g in groups):
                continue
            started = time.perf_counter()
            row = figures([*reader.odds(groups, number), *empty], reader.calibration(number))
            row["seconds"] = round(time.perf_counter() - started, 2)
            result[f"{name}/{number}"] = row
            print(
                f"  {name} {number}: kappa raw {row['raw']['kappa']} calibrated "
                f"{row['calibrated']['kappa']} left out {row['left_out']['kappa']}; macro-F1 raw "
                f"{row['raw']['macro_f1']} calibrated {row['calibrated']['macro_f1']} left out "
                f"{row['left_out']['macro_f1']}; auc {row['auc']}",
                flush=True,
            )
    return result


def manipulation(reader: Reader, splits: Sequence[attacks.Split]) -> dict[str, Any]:
    """Fractions of the full mark with and without each attack, and of the honest controls."""
    by = reader.calibration(0)
    groups: list[Group] = []
    for base in attacks.questions():
        reference = base.question.reference
        answers = []
        for kind in attacks.BASES:
            if kind != "alone":
                answers.append(_answer(f"{kind}///", base.question, base.answer(kind)))
            for number, attack in enumerate(attacks.attacks(tuple(splits))):
                if attack.language != base.language or (attack.alone and kind != "alone"):
                    continue
                text = attacks.apply(attack, base.answer(kind), base.question.text, reference)
                answers.append(
                    _answer(f"{kind}/{number}/{attack.group}/{attack.name}", base.question, text)
                )
        groups.append(Group("attacks", base.question, tuple(a for a in answers if a.text)))
    marks = _marks(groups, reader.odds(groups, 0), by)
    gains: dict[str, list[float]] = {}
    full: dict[str, list[bool]] = {}
    for (group, answer), mark in marks.items():
        kind, attacked, _, name = answer.split("/", 3)
        if not attacked:
            continue
        # What copies the reference states it; what it earns is a matter of flags, not of marks.
        if name == "reference copied":
            continue
        before = 0.0 if kind == "alone" else marks[group, f"{kind}///"]
        gains.setdefault(kind, []).append(mark - before)
        if kind in ("alone", "wrong"):
            full.setdefault(name, []).append(mark > 1 - 1e-9)
    controls = [
        Group(
            "controls",
            replace(c.question, code=f"c{n}"),
            (_answer("c", replace(c.question, code=f"c{n}"), c.answer),),
        )
        for n, c in enumerate(attacks.controls())
    ]
    honest = _marks(controls, reader.odds(controls, 0), by)
    everything = [f for each in full.values() for f in each]
    return {
        "attacked": sum(map(len, gains.values())),
        "gain": {kind: round(float(np.mean(g)), 4) for kind, g in gains.items()},
        "gained_share": {
            kind: round(float(np.mean(np.array(g) > 1e-9)), 4) for kind, g in gains.items()
        },
        "full_marks_on_wrong": round(float(np.mean(everything)), 4),
        "full_marks_by_attack": {
            name: round(float(np.mean(f)), 3) for name, f in sorted(full.items()) if any(f)
        },
        "bases": {
            kind: round(float(np.mean([m for (_, a), m in marks.items() if a == f"{kind}///"])), 3)
            for kind in attacks.BASES[1:]
        },
        "honest_controls": round(float(np.mean(list(honest.values()))), 4),
    }


def _answer(name: str, question: Question, text: str) -> StudentAnswer:
    cleaned = clean(text).text
    verdicts = {point.id: False for point in question.points}
    return StudentAnswer(name, question.code, cleaned[:6000], verdicts)


def _marks(
    groups: Sequence[Group], found: Sequence[Readout], by: Calibration
) -> dict[tuple[str, str], float]:
    worth = {
        (g.key, p.id): p.mark / sum(q.mark for q in g.question.points)
        for g in groups
        for p in g.question.points
    }
    marks = {(g.key, a.id): 0.0 for g in groups for a in g.answers}
    for r in found:
        if by.probability(by.weighed(r.odds, r.share)) >= 0.5:
            marks[r.group, r.answer] += worth[r.group, r.point]
    return marks


def _calibrations(model: str, version: str, folder: Path | None) -> dict[int, Any]:
    """An adapter's own: beside it, or shipped with the package under its name."""
    known: dict[int, Any] = {}
    for shots in (0, 1, 3):
        prompt = f"verdict/{shot_name(shots)}.{version}"
        places = [calibration.SHIPPED] if folder is None else [folder / "calibrations"]
        for place in (*places, calibration.SHIPPED):
            found = Calibrations(place).find(model, folder.name if folder else None, prompt)
            if found and shots not in known:
                known[shots] = found
    return known


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", default=catalogue.default_model().name)
    parser.add_argument("--weights", help="where that model's files are, instead of the cache")
    parser.add_argument("--adapters", nargs="+", default=["none"], metavar="NAME=FOLDER")
    parser.add_argument("--courses", nargs="*", default=["EXAMPLE"])
    parser.add_argument("--shots", nargs="+", type=int, default=[0, 1, 3])
    parser.add_argument("--whole", nargs="*", default=[])
    parser.add_argument(
        "--attacks", nargs="*", default=["dev", "test"], choices=("dev", "more", "test")
    )
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--device", default=None)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    spec = catalogue.resolve(args.model)
    folder = Path(args.weights) if args.weights else hub.fetch(spec).path
    device = args.device or training_model.default_device()
    tokenizer = HubTokenizer.from_folder(folder)
    all_figures: dict[str, Any] = {"model": spec.name, "device": device}
    for text in args.adapters:
        name, _, path = text.partition("=")
        used = adapters.read(Path(path)) if path else None
        started = time.perf_counter()
        base = training_model.load_base(folder, device)
        model = training_model.with_adapter(base, used.path) if used else base.eval()
        version = used.prompt if used else PLAIN_VERDICT
        renderer = Renderer(tokenizer, 8192, version=version)
        known = _calibrations(spec.name, version, used.path if used else None)
        reader = Reader(model, renderer, device, args.batch_tokens, known)
        print(f"{name} (calibrations for {sorted(known)} examples):", flush=True)
        mine: dict[str, Any] = {}
        all_figures[name] = mine
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "whole": partial(agreement, reader, args.whole, [0]),
            "courses": partial(agreement, reader, args.courses, args.shots),
            "manipulation": partial(manipulation, reader, args.attacks) if args.attacks else dict,
        }
        for key, work in parts.items():
            try:
                mine[key] = work()
            except CalibrationError as error:
                mine[key] = {"error": str(error)}
            if args.out:
                args.out.write_text(json.dumps(all_figures, indent=1, ensure_ascii=False) + "\n")
        print(f"  manipulation: {json.dumps(mine['manipulation'])}")
        print(f"  {time.perf_counter() - started:.0f} s", flush=True)
        # Before the next model comes in.
        del model, base, reader, parts, work
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
