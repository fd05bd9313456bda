"""From the answers of a run to its metrics, with intervals and with what they have to beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmarking.datasets.finding import Course
from llmarking.evaluation import curves
from llmarking.evaluation.folder import Key, Sample
from llmarking.metrics import agreement
from llmarking.metrics.baselines import (
    all_false,
    all_true,
    left_out_threshold,
    majority,
    token_overlap,
)
from llmarking.metrics.calibration import Floats
from llmarking.metrics.resampling import (
    Interval,
    answer_intervals,
    mean_intervals,
    point_intervals,
)

FORMAT = "llmarking-metrics/1"
Numbers = dict[str, Any]


def measure(
    course: Course, plan: Sequence[Key], samples: Mapping[Key, Sample], *, seed: int
) -> Numbers:
    """The metrics of a run over the answers that were graded, whatever the order they came in.

    Returns:
        What `metrics.json` holds: under `model` and each of `baselines` the metrics of `points` and
        of `answers`, pooled and as the mean over questions, each with its 95 % interval; for the
        model also by question, by what the answer is worth, by what the data set calls it, and the
        `curves` that are drawn (see `curves`).
    """
    table = _Table.of(course, [samples[key] for key in plan if key in samples])
    truth = table.truth
    overlap = token_overlap(table.texts, table.wanted)
    held_by_overlap = left_out_threshold(overlap, truth, table.question)
    baselines: dict[str, tuple[Floats, Floats | None]] = {
        "all_true": (all_true(truth), None),
        "all_false": (all_false(truth), None),
        "majority": (majority(truth), None),
        "token_overlap": (held_by_overlap, overlap),
    }
    failures = agreement.format_failures(table.held, table.answer)
    return {
        "format": FORMAT,
        "planned": len(plan),
        "graded": len(table.mark),
        "format_failures": None if math.isnan(failures) else failures,
        "seed": seed,
        "model": {
            **_both(table, table.held, table.probability, table.mark, seed),
            "by_question": _slices(table, table.question, table.asked),
            "by_quality": _slices(table, table.quality[table.answer], table.quality),
            "by_label": _slices(table, table.label[table.answer], table.label),
            "curves": curves.curves(
                truth,
                table.held,
                table.probability,
                (table.teacher / table.full, table.mark / table.full),
            ),
        },
        "baselines": {
            name: _both(table, held, chance, table.marks_of(held), seed)
            for name, (held, chance) in baselines.items()
        },
    }


@dataclass(frozen=True, slots=True)
class _Table:
    """Arrays of points and, from `asked` on, of answers; `answer` leads from the one to the other.

    `wanted` and `texts` are the points and the answers they are looked for in; `label` is what the
    data set calls the answer, empty where it says nothing.
    """

    question: Any
    answer: Any
    truth: Floats
    held: Floats
    probability: Floats
    worth: Floats
    wanted: list[Any]
    texts: list[str]
    asked: Any
    teacher: Floats
    mark: Floats
    full: Floats
    quality: Any
    label: Any

    @classmethod
    def of(cls, course: Course, samples: Sequence[Sample]) -> _Table:
        questions = {question.code: question for question in course.questions}
        said = {(a.question_code, a.id): a for a in course.answers}
        rows = []
        wanted, texts = [], []
        for number, sample in enumerate(samples):
            code = sample["question"]
            points = {point.id: point for point in questions[code].points}
            for point in sample["points"]:
                wanted.append(points[point["id"]])
                texts.append(said[code, sample["id"]].text)
                rows.append((code, number, point["teacher"], point["held"], point["probability"]))
        columns = list(zip(*rows, strict=True)) or [()] * 5
        teacher = np.array([s["teacher_mark"] for s in samples], dtype=float)
        full = np.array([s["full_mark"] for s in samples], dtype=float)
        return cls(
            question=np.array(columns[0], dtype=str),
            answer=np.array(columns[1], dtype=np.int64),
            truth=np.array(columns[2], dtype=float),
            held=np.array(columns[3], dtype=float),
            probability=np.array(columns[4], dtype=float),
            worth=np.array([point.mark for point in wanted], dtype=float),
            wanted=wanted,
            texts=texts,
            asked=np.array([s["question"] for s in samples], dtype=str),
            teacher=teacher,
            mark=np.array([s["mark"] for s in samples], dtype=float),
            full=full,
            quality=agreement.quality(teacher, full),
            label=np.array([said[s["question"], s["id"]].quality for s in samples], dtype=str),
        )

    def marks_of(self, held: Floats) -> Floats:
        """What answers earn with these verdicts."""
        earned = np.bincount(self.answer, weights=self.worth * held, minlength=len(self.mark))
        return np.round(earned, 6)


def _both(
    table: _Table, held: Floats, probability: Floats | None, mark: Floats, seed: int
) -> Numbers:
    by_points = (table.truth, held, *([] if probability is None else [probability]))
    by_answers = (table.teacher, mark, table.full)
    return {
        "points": _level(agreement.point_metrics, point_intervals, table.question, by_points, seed),
        "answers": _level(
            agreement.answer_metrics, answer_intervals, table.asked, by_answers, seed
        ),
    }


def _level(
    metric: Callable[..., dict[str, float]],
    intervals: Callable[..., dict[str, Interval]],
    question: Any,
    arrays: Sequence[Floats],
    seed: int,
) -> Numbers | None:
    """None where the teacher said nothing at this level."""
    if np.isnan(arrays[0]).all():
        return None
    slices = agreement.sliced(question, metric, *arrays)
    return {
        "pooled": _with_bounds(metric(*arrays), intervals(question, *arrays, seed=seed)),
        "mean_over_questions": _with_bounds(
            agreement.mean_over(slices), mean_intervals(slices, seed=seed)
        ),
    }


def _with_bounds(numbers: dict[str, float], bounds: Mapping[str, Interval]) -> Numbers:
    """Counts as they are, every other number as {estimate, low, high}."""
    return {
        name: value
        if name in agreement.COUNTS
        else {
            "estimate": value,
            **agreement.to_json({"low": bounds[name].low, "high": bounds[name].high}),
        }
        for name, value in agreement.to_json(numbers).items()
    }


def _slices(table: _Table, of_points: Any, of_answers: Any) -> Numbers:
    points = agreement.sliced(
        of_points, agreement.point_metrics, table.truth, table.held, table.probability
    )
    answers = agreement.sliced(
        of_answers, agreement.answer_metrics, table.teacher, table.mark, table.full
    )
    return {
        label: {
            "points": agreement.to_json(points[label]),
            "answers": agreement.to_json(answers[label]),
        }
        for label in answers
        if label
    }
