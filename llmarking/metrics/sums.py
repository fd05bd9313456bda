"""The formulas of `metrics` for thousands of draws of questions at once, from sums per question.

A draw says how often each question was drawn, so its sums are one matrix product away. Tests hold
the values for every question drawn once equal to those of `metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from llmarking.metrics.agreement import (
    COUNTS,
    FALSE,
    MISSING,
    SAME,
    TRUE,
    Verdicts,
    mark_arrays,
    verdict_arrays,
)
from llmarking.metrics.calibration import BINS, Floats, Ints, bin_codes

# Floats that a chunk of draws may take, for the one metric that needs every point of every draw.
_CHUNK = 4_000_000
_NOISE = 1e-12

# Draws [draws, questions], how often each question was drawn, to every metric's value [draws].
Statistic = Callable[[Floats], dict[str, Floats]]


def from_confusion(counts: Floats) -> dict[str, Floats]:
    """Agreement from counts by truth and response, shape [..., 2, 3]; values of shape [...]."""
    total = counts.sum((-2, -1))
    right = np.stack([counts[..., FALSE, FALSE], counts[..., TRUE, TRUE]], -1)
    given, said = counts.sum(-1), counts.sum(-2)
    precision = _ratio(right, said[..., :MISSING])
    recall = _ratio(right, given)
    f1 = _ratio(2 * right, given + said[..., :MISSING])
    by_chance = (given * said[..., :MISSING]).sum(-1)
    return {
        "missing": _ratio(said[..., MISSING], total),
        "accuracy": _ratio(right.sum(-1), total),
        "kappa": _ratio(total * right.sum(-1) - by_chance, total**2 - by_chance),
        "balanced_accuracy": _mean(recall),
        "macro_f1": _mean(f1),
        "precision_true": precision[..., TRUE],
        "recall_true": recall[..., TRUE],
        "f1_true": f1[..., TRUE],
        "precision_false": precision[..., FALSE],
        "recall_false": recall[..., FALSE],
        "f1_false": f1[..., FALSE],
    }


def point_statistic(
    codes: Ints, questions: int, truth: Verdicts, held: Verdicts, probability: Verdicts | None
) -> Statistic:
    """`metrics.point_metrics` of draws; `codes` number the questions, shape [points]."""
    decided = ~np.isnan(np.asarray(truth, dtype=float))
    teacher, ours, chances = verdict_arrays(truth, held, probability)
    codes = codes[decided]
    cells = _sums(codes, questions, np.eye(6)[teacher * 3 + ours])
    known = ~np.isnan(chances)
    p, y, among = chances[known], teacher[known].astype(float), codes[known]
    error = (p - y)[:, None]
    # The bins are those of the whole sample in every draw.
    gaps = [
        _sums(among, questions, np.eye(BINS)[bin_codes(p, BINS, binning)] * error)
        for binning in ("mass", "width")
    ]
    squares = _sums(among, questions, np.column_stack([np.ones(len(p)), (p - y) ** 2]))

    def statistic(draws: Floats) -> dict[str, Floats]:
        result = from_confusion((draws @ cells).reshape(-1, 2, 3))
        total, square = (draws @ squares).T
        result["auc"] = _auc(draws, among, p, y)
        result["brier"] = _ratio(square, total)
        for name, gap in zip(("ece", "ece_width"), gaps, strict=True):
            result[name] = _ratio(np.abs(draws @ gap).sum(-1), total)
        return result

    return statistic


def answer_statistic(
    codes: Ints, questions: int, teacher: Verdicts, mark: Verdicts, full_mark: ArrayLike
) -> Statistic:
    """`metrics.answer_metrics` of draws; `codes` number the questions, shape [answers]."""
    graded = ~np.isnan(np.asarray(teacher, dtype=float))
    theirs, ours, full = mark_arrays(teacher, mark, full_mark)
    codes = codes[graded]
    marked = ~np.isnan(ours)
    answers = _sums(codes, questions, np.column_stack([np.ones(len(codes)), ~marked]))
    theirs, ours, full = theirs[marked], ours[marked], full[marked]
    # Variances from sums lose digits unless the numbers are small.
    centre, middle = (np.mean(v) if len(v) else 0.0 for v in (theirs, theirs / full))
    a, b = theirs - centre, ours - centre
    x, y = theirs / full - middle, ours / full - middle
    gap = np.abs(ours - theirs)
    columns = [np.ones(len(a)), a, b, a * a, b * b, (a - b) ** 2, x, y, x * x, y * y, x * y]
    columns += [(x - y) ** 2, np.abs(x - y), gap <= SAME, gap <= 1 + SAME]
    sums = _sums(codes[marked], questions, np.column_stack(columns))

    def statistic(draws: Floats) -> dict[str, Floats]:
        total, failed = (draws @ answers).T
        n, *rest = (draws @ sums).T
        a, b, aa, bb, dd, x, y, xx, yy, xy, ee, e, exact, near = (_ratio(v, n) for v in rest)
        expected = _above_noise(aa - 2 * a * b + bb, aa + bb)
        spread = np.sqrt(_above_noise(xx - x * x, xx) * _above_noise(yy - y * y, yy))
        return {
            "failures": _ratio(failed, total),
            "qwk": 1 - _ratio(dd, expected),
            "pearson": _ratio(xy - x * y, spread),
            "rmse": np.sqrt(ee),
            "mae": e,
            "bias": y - x,
            "exact": exact,
            "within_one": near,
        }

    return statistic


def mean_statistic(slices: Mapping[str, Mapping[str, float]]) -> Statistic:
    """`metrics.mean_over` of draws."""
    rows = list(slices.values())
    names = [name for name in (rows[0] if rows else ()) if name not in COUNTS]
    table = np.array([[row[name] for name in names] for row in rows]).reshape(len(rows), len(names))
    defined = ~np.isnan(table)

    def statistic(draws: Floats) -> dict[str, Floats]:
        values = _ratio(draws @ np.where(defined, table, 0), draws @ defined.astype(float))
        return dict(zip(names, values.T, strict=True))

    return statistic


def _auc(draws: Floats, codes: Ints, probability: Floats, truth: Floats) -> Floats:
    """Area under the ROC curve of every draw, ties counted half, shape [draws]."""
    if not len(probability):
        return np.full(len(draws), math.nan)
    order = np.argsort(probability, kind="stable")
    codes, truth = codes[order], truth[order]
    _, starts = np.unique(probability[order], return_index=True)
    parts = []
    for chunk in np.array_split(draws, max(1, draws.shape[0] * len(codes) // _CHUNK)):
        weights = chunk[:, codes]
        true = np.add.reduceat(weights * truth, starts, axis=1)
        false = np.add.reduceat(weights * (1 - truth), starts, axis=1)
        below = np.cumsum(false, axis=1) - false / 2
        parts.append(_ratio((true * below).sum(1), true.sum(1) * false.sum(1)))
    return np.concatenate(parts)


def _sums(codes: Ints, questions: int, columns: Floats) -> Floats:
    """Sums per question of columns [n, k], shape [questions, k]."""
    sums = np.zeros((questions, columns.shape[1]))
    np.add.at(sums, codes, columns)
    return sums


def _ratio(above: Floats, below: Floats) -> Floats:
    """A quotient that is NaN where it divides by 0."""
    out = np.full(np.shape(below), math.nan)
    np.divide(above, below, out=out, where=below != 0)
    return out


def _above_noise(difference: Floats, size: Floats) -> Floats:
    """A difference of sums, 0 where it is no more than their rounding."""
    return np.where(difference <= _NOISE * (1 + size), 0, difference)


def _mean(values: Floats) -> Floats:
    """The mean over the last axis of those that are not NaN."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(-1), defined.sum(-1).astype(float))
