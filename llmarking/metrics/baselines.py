"""What a grader has to beat: one answer to everything, and counting shared words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from llmarking.domain import Point
from llmarking.marks.overlap import share, words
from llmarking.metrics.agreement import Verdicts
from llmarking.metrics.calibration import Floats
from llmarking.metrics.sums import from_confusion


def all_true(truth: Verdicts) -> Floats:
    """Every point held, shape [points]."""
    return np.ones(len(np.asarray(truth)))


def all_false(truth: Verdicts) -> Floats:
    """No point held, shape [points]."""
    return np.zeros(len(np.asarray(truth)))


def majority(truth: Verdicts) -> Floats:
    """The teacher's more frequent verdict for every point, True in a tie; shape [points]."""
    values = np.asarray(truth, dtype=float)
    known = values[~np.isnan(values)]
    return np.full(len(values), float(2 * known.sum() >= len(known)))


def token_overlap(answers: Sequence[str], points: Sequence[Point]) -> Floats:
    """Share of a point's distinct words that the answer has too, for its best case; shape [points].

    Args:
        answers, points: the two texts of every verdict, of equal length.
    """
    return np.array(
        [
            max(share(words(case), said) or 0.0 for case in point.cases)
            for said, point in zip(map(words, answers), points, strict=True)
        ],
        dtype=float,
    )


def left_out_threshold(score: ArrayLike, truth: Verdicts, question: ArrayLike) -> Floats:
    """Verdicts `score >= threshold`, with the threshold of best kappa on all other questions.

    Of thresholds that are as good the lowest is taken. Without other questions that hold verdicts
    of both kinds it is 0.5. All of shape [points]; where the truth is NaN nothing is learnt.
    """
    scores, labels = np.asarray(score, dtype=float), np.asarray(truth, dtype=float)
    names, codes = np.unique(np.asarray(question), return_inverse=True)
    levels, places = np.unique(scores, return_inverse=True)
    counts = np.zeros((len(names), 2, len(levels)))
    known = ~np.isnan(labels)
    np.add.at(counts, (codes[known], labels[known].astype(int), places[known]), 1)
    held = np.empty(len(scores))
    for code in range(len(names)):
        mine = codes == code
        others = counts.sum(0) - counts[code]
        # True from a level on: what is at the level or above it.
        above = np.cumsum(others[:, ::-1], axis=1)[:, ::-1]
        below = others.sum(1, keepdims=True) - above
        table = np.stack([below, above, np.zeros_like(above)], -1)
        kappa = from_confusion(np.moveaxis(table, 0, 1))["kappa"]
        taught = others.sum(1).all() and not np.isnan(kappa).all()
        held[mine] = scores[mine] >= (levels[np.nanargmax(kappa)] if taught else 0.5)
    return held
