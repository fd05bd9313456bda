"""What the plots of a run show, as numbers: counts, bins and curves, and nothing of any answer."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from llmarking.metrics.agreement import FALSE, MISSING, TRUE, verdict_arrays
from llmarking.metrics.calibration import Floats, calibration_bins
from llmarking.metrics.selective import risk_coverage

# Shares of wrong verdicts that a teacher may accept among those nobody looks at.
RISKS = (0.01, 0.02, 0.05, 0.1, 0.2)
STEPS = 100  # of a curve that is kept
_NAMES = {TRUE: "true", FALSE: "false", MISSING: "missing"}


def curves(
    truth: Floats, held: Floats, probability: Floats, marks: tuple[Floats, Floats]
) -> dict[str, Any]:
    """What `metrics.json` keeps for the plots.

    Args:
        truth, held, probability: shape [points], NaN where there is none.
        marks: the teacher's and ours as shares of the full mark, shape [answers] each.

    Returns:
        `confusion` (teacher's verdict, then ours, to a count), `calibration` (bins of equal mass:
        count, predicted, observed), `risk_coverage` (`area`, `coverage_at` a risk, and `curve` rows
        of least confidence, coverage and risk) and `marks` rows of the teacher's share, ours and
        how many answers. What has no data is None or empty.
    """
    teacher, ours, chances = verdict_arrays(truth, held, probability)
    known = ~np.isnan(chances)
    bins = calibration_bins(teacher[known], chances[known])
    return {
        "confusion": {
            _NAMES[row]: {
                name: int(np.sum((teacher == row) & (ours == column)))
                for column, name in _NAMES.items()
            }
            for row in (TRUE, FALSE)
        },
        "calibration": [
            {"count": int(count), "predicted": float(predicted), "observed": float(observed)}
            for count, predicted, observed in bins
        ],
        "risk_coverage": _selective(teacher, ours, chances) if known.any() else None,
        "marks": _pairs(*marks),
    }


def _selective(teacher: Any, ours: Any, chances: Floats) -> dict[str, Any]:
    found = risk_coverage(np.maximum(chances, 1 - chances), ours == teacher)
    steps = np.unique(np.linspace(0, len(found.coverage) - 1, STEPS).round().astype(int))
    return {
        "area": found.area,
        "coverage_at": {f"{risk:g}": found.coverage_at(risk) for risk in RISKS},
        "curve": [
            [
                round(float(column[step]), 6)
                for column in (found.threshold, found.coverage, found.risk)
            ]
            for step in steps
        ],
    }


def _pairs(teacher: Floats, mark: Floats) -> list[list[float]]:
    """Pairs of shares with how often they occur, in order; answers that lack either left out."""
    known = ~(np.isnan(teacher) | np.isnan(mark))
    pairs = Counter(
        zip(teacher[known].round(4).tolist(), mark[known].round(4).tolist(), strict=True)
    )
    return [[*pair, count] for pair, count in sorted(pairs.items())]
