"""What marking by confidence buys: how many verdicts can stand unseen, and how many are wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from llmarking.metrics.calibration import Floats


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """Risk by coverage, from the surest verdict on; one entry for every distinct confidence.

    Attributes:
        threshold: the least confidence that is let through, falling.
        coverage: share of all points that are let through, rising.
        risk: share of those that are wrong.
        area: mean risk over all coverages there are (AURC, lower is better); NaN without verdicts.
    """

    threshold: Floats
    coverage: Floats
    risk: Floats
    area: float

    def coverage_at(self, risk: float) -> float:
        """The largest coverage whose risk is at most this; 0 when the surest are wrong more often.

        It is found on the very verdicts it speaks of, and so a little hopeful: a promise to a
        teacher comes from questions that were left out, see `calibration`.
        """
        fits = self.coverage[self.risk <= risk]
        return float(fits.max()) if len(fits) else 0.0


def risk_coverage(confidence: ArrayLike, right: ArrayLike) -> RiskCoverage:
    """The curve of verdicts by confidence.

    Args:
        confidence: the larger of p and 1 - p, shape [points]; NaN where there is no verdict, which
            is never let through but counts as a point.
        right: whether the verdict is the teacher's, shape [points].
    """
    sure, correct = np.asarray(confidence, dtype=float), np.asarray(right, dtype=bool)
    points = len(sure)
    known = ~np.isnan(sure)
    sure, correct = sure[known], correct[known]
    if not len(sure):
        none = np.zeros(0)
        return RiskCoverage(none, none, none, math.nan)
    levels, place = np.unique(-sure, return_inverse=True)
    count = np.bincount(place)
    wrong = np.bincount(place, weights=~correct)
    through, errors = np.cumsum(count), np.cumsum(wrong)
    # Among equals any order is as good, so within them errors come at their mean rate.
    each = np.cumsum(np.repeat(wrong / count, count))
    area = float(np.mean(each / np.arange(1, len(sure) + 1)))
    return RiskCoverage(-levels, through / points, errors / through, area)
