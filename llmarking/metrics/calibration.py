"""Whether probabilities can be taken at their word: of points at 0.7, seven in ten are stated."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Binning = Literal["mass", "width"]
BINS = 10


def calibration_bins(
    truth: ArrayLike, probability: ArrayLike, bins: int = BINS, binning: Binning = "mass"
) -> Floats:
    """Predicted and observed share of True by bin: rows (count, mean probability, share True).

    Bins of equal mass hold about as many points each, equal probabilities in the same bin; bins of
    equal width cut [0, 1] evenly. Empty bins are left out.
    """
    p, y = np.asarray(probability, dtype=float), np.asarray(truth, dtype=float)
    codes = bin_codes(p, bins, binning)
    count = np.bincount(codes, minlength=bins).astype(float)
    sums = np.stack([np.bincount(codes, weights=v, minlength=bins) for v in (p, y)])
    full = count > 0
    return np.column_stack([count[full], *(sums[:, full] / count[full])])


def expected_calibration_error(
    truth: ArrayLike, probability: ArrayLike, bins: int = BINS, binning: Binning = "mass"
) -> float:
    """Mean distance of predicted and observed share of True over the bins; NaN without points."""
    table = calibration_bins(truth, probability, bins, binning)
    if not len(table):
        return math.nan
    return float(np.average(np.abs(table[:, 1] - table[:, 2]), weights=table[:, 0]))


def bin_codes(probability: Floats, bins: int, binning: Binning) -> Ints:
    """The bin of each probability, 0 to bins - 1, shape [points]."""
    if binning == "width":
        edges = np.arange(1, bins) / bins
    else:
        ordered = np.sort(probability)
        # The first of each bin, so that ties with it do not fall into the bin below.
        edges = ordered[np.arange(1, bins) * len(ordered) // bins] if len(ordered) else ordered
    return np.searchsorted(edges, probability, side="right").astype(np.int64)
