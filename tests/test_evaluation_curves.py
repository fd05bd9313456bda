"""What is drawn is what was measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
import toy_run
from sklearn.metrics import confusion_matrix

from llmarking.evaluation.curves import RISKS, STEPS, curves

NAN = math.nan


def test_curves_by_hand() -> None:
    truth = np.array([1, 1, 0, 0, NAN])
    held = np.array([1, 0, 0, NAN, 1])
    chance = np.array([0.9, 0.4, 0.2, NAN, 0.8])
    marks = np.array([0.5, 0.5, 1.0, NAN]), np.array([0.5, 0.5, 0.0, 1.0])
    found = curves(truth, held, chance, marks)
    assert found["confusion"] == {
        "true": {"true": 1, "false": 1, "missing": 0},
        "false": {"true": 0, "false": 1, "missing": 1},
    }
    assert sum(row["count"] for row in found["calibration"]) == 3
    assert found["marks"] == [[0.5, 0.5, 2], [1.0, 0.0, 1]]
    # By confidence: 0.9 right, 0.8 right, 0.6 wrong, and one without a verdict, never let through.
    right = pytest.approx(1 / 3, abs=1e-6)
    assert found["risk_coverage"]["curve"] == [[0.9, 0.25, 0], [0.8, 0.5, 0], [0.6, 0.75, right]]
    assert found["risk_coverage"]["coverage_at"]["0.05"] == 0.5


def test_curves_of_a_run() -> None:
    """They add up to the metrics they stand beside."""
    toy = toy_run.course(answers=60)
    kept = toy_run.samples(toy)
    measured = toy_run.numbers(toy, kept)
    found, pooled = measured["model"]["curves"], measured["model"]["points"]["pooled"]
    points = [point for sample in kept for point in sample["points"]]
    table = confusion_matrix([p["teacher"] for p in points], [p["held"] for p in points])
    assert found["confusion"]["true"]["false"] == table[1, 0]
    assert found["confusion"]["false"]["true"] == table[0, 1]
    bins = found["calibration"]
    gap = sum(row["count"] * abs(row["predicted"] - row["observed"]) for row in bins)
    assert gap / len(points) == pytest.approx(pooled["ece"]["estimate"], abs=1e-12)
    curve = np.array(found["risk_coverage"]["curve"])
    assert len(curve) <= STEPS
    assert (np.diff(curve[:, 1]) > 0).all()
    assert curve[-1, 1:] == pytest.approx([1, 1 - pooled["accuracy"]["estimate"]], abs=1e-6)
    assert set(found["risk_coverage"]["coverage_at"]) == {f"{risk:g}" for risk in RISKS}
    assert sum(count for *_, count in found["marks"]) == len(kept)


def test_nothing_to_draw() -> None:
    empty = np.zeros(0)
    found = curves(empty, empty, empty, (empty, empty))
    assert (found["calibration"], found["risk_coverage"], found["marks"]) == ([], None, [])
