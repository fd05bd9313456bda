"""Two runs over the same answers: what the second does better or worse, with paired intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from llmarking.errors import InputError
from llmarking.evaluation import report
from llmarking.evaluation.folder import Key, Sample, read_run, read_samples
from llmarking.metrics import agreement
from llmarking.metrics.resampling import Difference, answer_differences, point_differences
from llmarking.sentences import counted
from llmarking.terminal import printable

FORMAT = "llmarking-comparison/1"
NAMES = ("A", "B")
COLUMNS = {"points": {**report.POINTS, "f1_false": "F1(False)"}, "answers": report.ANSWERS}
LEGEND = """\
B − A: the second run less the first on the same answers. 95 %: by resampling questions, each draw \
the same for both runs. p: share of the draws on the other side of 0, doubled; with many numbers \
in a table some will look small by chance. Lower is better for ECE, RMSE and MAE; bias is best \
at 0."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that was kept: what was run, and its answers."""

    path: Path
    run: dict[str, Any]
    samples: dict[Key, Sample]

    @classmethod
    def of(cls, path: Path) -> Run:
        """Read a run's folder.

        Raises:
            InputError: it is none, or its answers are not there, as in runs that were published.
            DataError: a line of its answers can't be read.
        """
        run = read_run(path)
        samples = read_samples(path)
        if not samples:
            raise InputError(
                f"{path} holds no answers (samples.jsonl), and without them runs can't be paired; "
                "make the run again"
            )
        return cls(path, run, samples)


def compare(first: Run, second: Run, *, seed: int = 0) -> dict[str, Any]:
    """Differences of all metrics over the answers that both runs graded.

    Returns:
        `runs`, `answers` (graded by both), `only` (graded by one), `verdicts` (right in both, in
        one, in neither), and under `points` and `answers` for every metric `a`, `b`, `difference`,
        `low`, `high` and `p`.

    Raises:
        InputError: the runs are over different data, or share no answers.
    """
    shared = [key for key in first.samples if key in second.samples]
    if not shared:
        raise InputError(f"{first.path} and {second.path} have no answers in common")
    pairs = [(first.samples[key], second.samples[key]) for key in shared]
    _same_teacher(first, second, pairs)
    question = [a["question"] for a, _ in pairs for _ in a["points"]]
    truth = _floats([point["teacher"] for a, _ in pairs for point in a["points"]])
    held, chance = (
        tuple(
            _floats([point[name] for pair in pairs for point in pair[which]["points"]])
            for which in (0, 1)
        )
        for name in ("held", "probability")
    )
    asked = [a["question"] for a, _ in pairs]
    teacher, full = (_floats([a[name] for a, _ in pairs]) for name in ("teacher_mark", "full_mark"))
    marks = tuple(_floats([pair[which]["mark"] for pair in pairs]) for which in (0, 1))
    result: dict[str, Any] = {
        "format": FORMAT,
        "runs": [
            {"path": str(one.path), "configuration": one.run["configuration"]}
            for one in (first, second)
        ],
        "answers": len(shared),
        "only": [len(one.samples) - len(shared) for one in (first, second)],
        "seed": seed,
        "verdicts": _pairing(truth, held),
        "levels": {},
    }
    if not np.isnan(truth).all():
        found = point_differences(question, truth, _two(held), _two(chance), seed=seed)
        values = [agreement.point_metrics(truth, h, p) for h, p in zip(held, chance, strict=True)]
        result["levels"]["points"] = _level(found, values)
    if not np.isnan(teacher).all():
        found = answer_differences(asked, teacher, _two(marks), full, seed=seed)
        values = [agreement.answer_metrics(teacher, mark, full) for mark in marks]
        result["levels"]["answers"] = _level(found, values)
    return result


def print_comparison(out: Console, result: Mapping[str, Any]) -> None:
    """The tables, and which verdicts changed."""
    for name, run in zip(NAMES, result["runs"], strict=True):
        out.print(Text(f"{name}  {printable(report.title(run))}", style="bold"))
    for section in sections(result):
        out.print()
        report.print_table(out, section)
    out.print()
    out.print(Text(sentence(result)))
    out.print(Text(LEGEND, style="dim"))


def sections(result: Mapping[str, Any]) -> list[report.Section]:
    """A table for points and one for marks."""
    found = []
    for level, columns in COLUMNS.items():
        if not (numbers := result["levels"].get(level)):
            continue
        noun = "points" if level == "points" else "answers"
        header = (f"{numbers[level]} {noun}", *NAMES, "B − A", "95 %", "p")
        rows = tuple(
            (label, *_cells(numbers[name])) for name, label in columns.items() if name in numbers
        )
        found.append(report.Section(level.capitalize(), header, rows))
    return found


def sentence(result: Mapping[str, Any]) -> str:
    """Which verdicts one run has right and the other does not."""
    said = [f"{counted(result['answers'], 'answer is', 'answers are')} in both runs."]
    if any(result["only"]):
        said.append(
            f"{result['only'][0]} are in A only and {result['only'][1]} in B only; they are left "
            "out."
        )
    verdicts = result["verdicts"]
    if sum(verdicts.values()):
        said.append(
            f"Of the verdicts {verdicts['both']} are right in both, {verdicts['a']} in A only, "
            f"{verdicts['b']} in B only, {verdicts['neither']} in neither."
        )
    return " ".join(said)


def _same_teacher(first: Run, second: Run, pairs: Sequence[tuple[Sample, Sample]]) -> None:
    """Answers go by ids, which other data may use too: the teacher must have said the same."""

    def taught(sample: Sample) -> tuple[Any, ...]:
        points = [(point["id"], point["teacher"]) for point in sample["points"]]
        return points, sample["teacher_mark"], sample["full_mark"]

    for a, b in pairs:
        if taught(a) != taught(b):
            raise InputError(
                f"{first.path} and {second.path} are over different data: the teacher's verdicts "
                f"on {a['question']} {a['id']} differ"
            )


def _pairing(truth: Any, held: Sequence[Any]) -> dict[str, int]:
    decided = ~np.isnan(truth)
    a, b = (h[decided] == truth[decided] for h in held)
    counts = {"both": a & b, "a": a & ~b, "b": ~a & b, "neither": ~a & ~b}
    return {name: int(np.sum(which)) for name, which in counts.items()}


def _level(found: Mapping[str, Difference], values: Sequence[dict[str, float]]) -> dict[str, Any]:
    a, b = (agreement.to_json(numbers) for numbers in values)
    level: dict[str, Any] = {name: a[name] for name in a if name in agreement.COUNTS}
    for name, difference in found.items():
        between = {
            "difference": difference.estimate,
            "low": difference.low,
            "high": difference.high,
            "p": difference.p,
        }
        level[name] = {"a": a[name], "b": b[name], **agreement.to_json(between)}
    return level


def _cells(value: Mapping[str, Any]) -> list[str]:
    difference = value["difference"]
    sign = "+" if difference is not None and round(difference, 3) > 0 else ""
    cells = [report.number(value["a"]), report.number(value["b"])]
    cells += [sign + report.number(difference), report.bounds(value)]
    return [*cells, "–" if value["p"] is None else report.digits(value["p"], 3)]


def _floats(values: Sequence[Any]) -> Any:
    return np.array(values, dtype=float)


def _two(values: Sequence[Any]) -> tuple[Any, Any]:
    first, second = values
    return first, second


def as_json(result: Mapping[str, Any]) -> str:
    """The result as one line of JSON."""
    return json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n"
