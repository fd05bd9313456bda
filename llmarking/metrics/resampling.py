"""How far to trust a number: 95 % intervals and differences of two runs, by resampling questions.

Answers to one question are alike, so whole questions are drawn, with replacement. The intervals are
the percentiles of the draws in which a metric is defined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from llmarking.metrics.agreement import Verdicts
from llmarking.metrics.calibration import Floats, Ints
from llmarking.metrics.sums import Statistic, answer_statistic, mean_statistic, point_statistic

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with the bounds of its interval; NaN where there are none."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference(Interval):
    """The second run less the first. `p` is the share of draws across 0, doubled."""

    p: float


def point_intervals(
    question: ArrayLike,
    truth: Verdicts,
    held: Verdicts,
    probability: Verdicts | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of `metrics.point_metrics`, pooled over questions; arrays of shape [points]."""
    codes, questions = _codes(question)
    statistic = point_statistic(codes, questions, truth, held, probability)
    return _intervals(statistic, questions, draws, seed)


def answer_intervals(
    question: ArrayLike,
    teacher: Verdicts,
    mark: Verdicts,
    full_mark: ArrayLike,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of `metrics.answer_metrics`, pooled over questions; arrays of shape [answers]."""
    codes, questions = _codes(question)
    statistic = answer_statistic(codes, questions, teacher, mark, full_mark)
    return _intervals(statistic, questions, draws, seed)


def mean_intervals(
    slices: Mapping[str, Mapping[str, float]], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Interval]:
    """Intervals of `metrics.mean_over`, from the metrics of every question by itself."""
    return _intervals(mean_statistic(slices), len(slices), draws, seed)


def point_differences(
    question: ArrayLike,
    truth: Verdicts,
    held: tuple[Verdicts, Verdicts],
    probability: tuple[Verdicts | None, Verdicts | None] = (None, None),
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Difference]:
    """The second run less the first on the same points, every draw the same for both."""
    codes, questions = _codes(question)
    first, second = (
        point_statistic(codes, questions, truth, h, p)
        for h, p in zip(held, probability, strict=True)
    )
    return _differences(first, second, questions, draws, seed)


def answer_differences(
    question: ArrayLike,
    teacher: Verdicts,
    mark: tuple[Verdicts, Verdicts],
    full_mark: ArrayLike,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Difference]:
    """The second run less the first on the same answers, every draw the same for both."""
    codes, questions = _codes(question)
    first, second = (answer_statistic(codes, questions, teacher, m, full_mark) for m in mark)
    return _differences(first, second, questions, draws, seed)


def _intervals(statistic: Statistic, questions: int, draws: int, seed: int) -> dict[str, Interval]:
    estimates = statistic(np.ones((1, questions)))
    values = statistic(_draws(questions, draws, seed))
    return {
        name: Interval(float(estimate[0]), *_bounds(values[name], questions))
        for name, estimate in estimates.items()
    }


def _differences(
    first: Statistic, second: Statistic, questions: int, draws: int, seed: int
) -> dict[str, Difference]:
    once, many = np.ones((1, questions)), _draws(questions, draws, seed)
    before, after = first(once), second(once)
    drawn, drawn_after = first(many), second(many)
    values = {name: drawn_after[name] - drawn[name] for name in drawn}
    result = {}
    for name, value in values.items():
        low, high = _bounds(value, questions)
        defined = value[~np.isnan(value)]
        p = math.nan
        if not math.isnan(low):
            across = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
            # One more on either side: no draw across 0 does not make it impossible.
            p = min(1.0, 2 * (across + 1) / (len(defined) + 1))
        result[name] = Difference(float(after[name][0] - before[name][0]), low, high, p)
    return result


def _bounds(values: Floats, questions: int) -> tuple[float, float]:
    """Percentiles; NaN for fewer than two questions, or where most draws leave it undefined."""
    defined = values[~np.isnan(values)]
    if questions < 2 or 2 * len(defined) < len(values) or not len(defined):
        return math.nan, math.nan
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def _draws(questions: int, draws: int, seed: int) -> Floats:
    """How often each question is drawn, shape [draws, questions]."""
    if not questions:
        return np.zeros((draws, 0))
    even = np.full(questions, 1 / questions)
    return np.random.default_rng(seed).multinomial(questions, even, size=draws).astype(float)


def _codes(question: ArrayLike) -> tuple[Ints, int]:
    names, codes = np.unique(np.asarray(question), return_inverse=True)
    return codes.astype(np.int64), len(names)
