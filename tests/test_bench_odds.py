"""Saved log-odds become calibrations, and adapters are compared by them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bench.compare_odds import figures, table
from bench.fit_calibration import fitted

COUNT = 300
THREE = ("A1", "A2", "B")


def saved(slope: float, offset: float, noise: float, courses: tuple[str, ...]) -> dict[str, Any]:
    """Log-odds of an adapter that is off by slope and offset, and errs as the noise says."""
    found: dict[str, Any] = {"model": "tiny", "adapter": "marker", "prompt": "v2"}
    for course in courses:
        rng = random.Random(course)
        labels = [rng.random() < 0.5 for _ in range(COUNT)]
        true = [(2.0 if held else -2.0) + rng.gauss(0, noise) for held in labels]
        found[f"{course}/0"] = {
            "odds": [(x - offset) / slope for x in true],
            "shares": [None] * COUNT,
            "labels": labels,
            "groups": [f"{course}-{n % 10}" for n in range(COUNT)],
        }
    return found


def test_a_calibration_is_fitted_by_the_named_courses_only() -> None:
    odds = saved(0.5, 1.0, 1.5, ("A1", "A2", "B1"))
    odds["B1/0"]["labels"] = [not held for held in odds["B1/0"]["labels"]]
    calibration = fitted(odds, 0, ["A"], None, None, "marker")
    assert calibration.data == ("A1", "A2")
    assert calibration.verdicts == 2 * COUNT
    assert calibration.prompt == "verdict/zeroshot.v2"
    # 2 stands for the mean, which with a spread of 1.5 is worth 2 / 1.5² · 2 log-odds for each.
    assert calibration.slope == pytest.approx(0.5 * 2 * 2 / 1.5**2, rel=0.2)
    assert calibration.ece is not None
    assert calibration.ece < 0.05


def test_adapters_are_told_apart_by_the_order_and_by_the_fit() -> None:
    odds = {noise: saved(0.5, 1.0, noise, THREE) for noise in (1.0, 4.0)}
    sharp, blunt = (
        figures(each, "B", 0, fitted(each, 0, ["A"], None, None, None)) for each in odds.values()
    )
    assert sharp["auc"] > 0.95 > 0.8 > blunt["auc"]
    assert sharp["kappa_fitted"] > blunt["kappa_fitted"]
    # The calibration of A mends B, which is off alike.
    assert sharp["kappa_fitted"] == pytest.approx(sharp["kappa_left_out"], abs=0.03)
    assert sharp["ece_fitted"] < 0.06
    assert "kappa_fitted" not in figures(saved(1, 0, 1, ("B",)), "B", 0, None)


def test_the_table_has_a_row_for_a_course_and_a_cell_for_an_adapter() -> None:
    rows = {"B/0": {"auc": 0.91234}, "B/1": {"auc": 0.8}}
    lines = table({"one": rows, "other": {"B/0": {"auc": 0.5}}}).splitlines()
    assert "| B | 0.912 / 0.800 | 0.500 |" in lines
