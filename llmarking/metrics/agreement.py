"""How well verdicts and marks agree with the teacher's: plain numbers from arrays.

A verdict that could not be read is a third response that agrees with nothing: it lowers accuracy,
recall and kappa, and is never counted as True or False. A number that is not defined, as the kappa
where everything is True and held True, is NaN and comes without a warning; `to_json` makes it None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import pearsonr
from sklearn.metrics import (
    brier_score_loss,
    cohen_kappa_score,
    mean_absolute_error,
    precision_recall_fscore_support,
    roc_auc_score,
    root_mean_squared_error,
)

from llmarking.metrics.calibration import Floats, Ints, expected_calibration_error

# True, False, and None or NaN where there is nothing.
Verdicts = ArrayLike | Sequence[float | None]

FALSE, TRUE, MISSING = 0, 1, 2
COUNTS = frozenset({"points", "answers"})
# Marks are sums of decimals like 0.1, so equal ones may differ in the last bit.
SAME = 1e-9


def point_metrics(
    truth: Verdicts, held: Verdicts, probability: Verdicts | None = None
) -> dict[str, float]:
    """Agreement of verdicts, point by point.

    Args:
        truth: the teacher's verdicts, shape [points]; those that are NaN or None are left out.
        held: ours, shape [points]; NaN or None where none could be read.
        probability: P(point stated), shape [points]; NaN where there is none.

    Returns:
        `points` (how many), `missing` (share without a verdict), `accuracy`, `kappa`,
        `balanced_accuracy`, `macro_f1`, precision, recall and f1 of either class (`f1_true`),
        `auc`, `brier`, `ece` (bins of equal mass) and `ece_width` (bins of equal width).
    """
    teacher, ours, chances = verdict_arrays(truth, held, probability)
    names = ("points", "missing", "accuracy", "kappa", "balanced_accuracy", "macro_f1")
    of_class = ("precision", "recall", "f1")
    result = dict.fromkeys(names, math.nan)
    result |= {f"{name}_{c}": math.nan for c in ("true", "false") for name in of_class}
    result["points"] = float(len(teacher))
    if len(teacher):
        scores = precision_recall_fscore_support(
            teacher, ours, labels=[FALSE, TRUE], zero_division=np.nan
        )
        for name, (of_false, of_true) in zip(of_class, scores[:3], strict=True):
            result[f"{name}_true"], result[f"{name}_false"] = float(of_true), float(of_false)
        result["missing"] = float(np.mean(ours == MISSING))
        result["accuracy"] = float(np.mean(ours == teacher))
        result["balanced_accuracy"] = mean([result["recall_true"], result["recall_false"]])
        result["macro_f1"] = mean([result["f1_true"], result["f1_false"]])
        result["kappa"] = _kappa(teacher, ours)
    known = ~np.isnan(chances)
    result |= _probability_metrics(teacher[known], chances[known])
    return result


def answer_metrics(teacher: Verdicts, mark: Verdicts, full_mark: ArrayLike) -> dict[str, float]:
    """Agreement of marks, answer by answer.

    Args:
        teacher: the teacher's marks, shape [answers]; those that are NaN are left out.
        mark: ours, shape [answers]; NaN where an answer could not be marked.
        full_mark: what each question is worth, shape [answers] or one number.

    Returns:
        `answers` (how many), `failures` (share that could not be marked), over the others `qwk`
        (quadratic weighted kappa of marks), `exact` and `within_one` (share of marks that are the
        same or at most one apart), and on fractions of the full mark `pearson`, `rmse`, `mae` and
        `bias` (ours less the teacher's: above 0 is lenient).
    """
    theirs, ours, full = mark_arrays(teacher, mark, full_mark)
    answers = len(theirs)
    marked = ~np.isnan(ours)
    theirs, ours, full = theirs[marked], ours[marked], full[marked]
    names = ("qwk", "pearson", "rmse", "mae", "bias", "exact", "within_one")
    result = {"answers": float(answers), "failures": math.nan, **dict.fromkeys(names, math.nan)}
    if answers:
        result["failures"] = float(np.mean(~marked))
    if len(ours):
        gap = np.abs(ours - theirs)
        x, y = theirs / full, ours / full
        result |= {
            "qwk": qwk(theirs, ours),
            "pearson": _pearson(x, y),
            "rmse": float(root_mean_squared_error(x, y)),
            "mae": float(mean_absolute_error(x, y)),
            "bias": float(np.mean(y - x)),
            "exact": float(np.mean(gap <= SAME)),
            "within_one": float(np.mean(gap <= 1 + SAME)),
        }
    return result


def qwk(teacher: ArrayLike, mark: ArrayLike) -> float:
    """Quadratic weighted kappa of marks, shapes [answers]; NaN when all of both are the same.

    The weights are the squared distances of the marks themselves. scikit-learn's are those of their
    places in a list, which is the same only where marks are evenly spaced.
    """
    x, y = np.asarray(teacher, dtype=float), np.asarray(mark, dtype=float)
    if not len(x):
        return math.nan
    # What two markers with these marks would differ by, were they paired by chance.
    expected = float(np.var(x) + np.var(y) + (np.mean(x) - np.mean(y)) ** 2)
    if expected < SAME**2:
        return math.nan
    return 1.0 - float(np.mean((x - y) ** 2)) / expected


def format_failures(held: Verdicts, answer: ArrayLike) -> float:
    """Share of answers with at least one verdict that could not be read; both of shape [points]."""
    missing = np.isnan(np.asarray(held, dtype=float))
    answers = np.asarray(answer)
    if not len(missing):
        return math.nan
    return len(np.unique(answers[missing])) / len(np.unique(answers))


def quality(teacher: ArrayLike, full_mark: ArrayLike) -> NDArray[np.str_]:
    """`wrong` for no marks, `right` for all, `partial` between, empty for NaN; shape [answers]."""
    share = np.asarray(teacher, dtype=float) / np.asarray(full_mark, dtype=float)
    return np.select(
        [np.isnan(share), share <= SAME, share >= 1 - SAME], ["", "wrong", "right"], "partial"
    )


def sliced(
    labels: ArrayLike, metric: Callable[..., dict[str, float]], *arrays: Verdicts
) -> dict[str, dict[str, float]]:
    """A metric for every label by itself, in order of first appearance; all of shape [n]."""
    keys = np.asarray(labels)
    columns = [np.asarray(array) for array in arrays]
    return {
        str(key): metric(*(column[keys == key] for column in columns))
        for key in dict.fromkeys(keys.tolist())
    }


def mean_over(slices: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The plain mean of every number over the slices where it is defined; counts are added up."""
    rows = list(slices.values())
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: float(sum(row[name] for row in rows))
        if name in COUNTS
        else mean(row[name] for row in rows)
        for name in names
    }


def mean(values: Iterable[float]) -> float:
    """The mean of those that are not NaN; NaN if there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def to_json(numbers: Mapping[str, float]) -> dict[str, float | int | None]:
    """Numbers as JSON knows them: None for NaN, counts as integers."""
    return {
        name: None if math.isnan(value) else int(value) if name in COUNTS else value
        for name, value in numbers.items()
    }


def verdict_arrays(
    truth: Verdicts, held: Verdicts, probability: Verdicts | None
) -> tuple[Ints, Ints, Floats]:
    """Points that the teacher decided: 0 or 1; 0, 1 or MISSING; probability or NaN."""
    teacher, ours = np.asarray(truth, dtype=float), np.asarray(held, dtype=float)
    chances = np.full(len(teacher), np.nan)
    if probability is not None:
        chances = np.asarray(probability, dtype=float)
    _same_length(teacher, ours, chances)
    known = ~np.isnan(teacher)
    responses = np.where(np.isnan(ours), MISSING, ours != 0)
    return teacher[known].astype(np.int64), responses[known].astype(np.int64), chances[known]


def mark_arrays(
    teacher: Verdicts, mark: Verdicts, full_mark: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """Answers that the teacher marked: the teacher's mark, ours or NaN, the full mark."""
    theirs, ours = np.asarray(teacher, dtype=float), np.asarray(mark, dtype=float)
    _same_length(theirs, ours)
    full = np.broadcast_to(np.asarray(full_mark, dtype=float), theirs.shape)
    known = ~np.isnan(theirs)
    return theirs[known], ours[known], full[known]


def _probability_metrics(teacher: Ints, chances: Floats) -> dict[str, float]:
    result = dict.fromkeys(("auc", "brier", "ece", "ece_width"), math.nan)
    if len(teacher):
        result["brier"] = float(brier_score_loss(teacher, chances, labels=[FALSE, TRUE]))
        result["ece"] = expected_calibration_error(teacher, chances)
        result["ece_width"] = expected_calibration_error(teacher, chances, binning="width")
    if len(np.unique(teacher)) == 2:
        result["auc"] = float(roc_auc_score(teacher, chances))
    return result


def _kappa(teacher: Ints, ours: Ints) -> float:
    if len(np.unique(np.concatenate([teacher, ours]))) < 2:
        return math.nan
    return float(cohen_kappa_score(teacher, ours, labels=[FALSE, TRUE, MISSING]))


def _pearson(x: Floats, y: Floats) -> float:
    if min(np.ptp(x), np.ptp(y)) <= SAME:
        return math.nan
    return float(pearsonr(x, y).statistic)


def _same_length(*arrays: NDArray[np.float64]) -> None:
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 1:
        raise ValueError(f"arrays of one length are needed, not {[a.shape for a in arrays]}")
