"""Figures and curves of a training run, from verdicts on questions that it never saw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmarking.errors import CalibrationError
from llmarking.marks import calibration
from llmarking.marks.calibration import Calibration
from llmarking.metrics.agreement import mean, point_metrics, to_json
from llmarking.metrics.calibration import expected_calibration_error
from llmarking.metrics.resampling import point_intervals

if TYPE_CHECKING:
    from llmarking.training.model import Readout

KINDS = ("points", "whole")


def held_out_figures(found: Sequence[Readout]) -> dict[str, float]:
    """Loss and agreement on held-out verdicts, by kind (`points`, `whole`) and as their mean.

    Every question is read with a calibration fitted on the others of its kind, as it would be in
    use: a model that only grows too sure of itself is not worse for it.

    Returns:
        `loss`: cross-entropy with true and false weighed alike; `kappa`; `auc`, each also with
        `_points` and `_whole`, NaN where there are none; `loss_raw` and `kappa_raw`: of the
        verdicts as they were read, without calibration.
    """
    figures: dict[str, float] = {}
    for kind in KINDS:
        mine = [r for r in found if r.kind == kind]
        names = ("loss", "kappa", "auc", "loss_raw", "kappa_raw")
        values = dict.fromkeys(names, math.nan)
        if mine:
            truth = np.array([r.label for r in mine], dtype=bool)
            odds = np.array([r.odds for r in mine], dtype=float)
            fair = np.array(_left_out(mine))
            numbers = point_metrics(truth, fair >= 0.5, fair)
            raw = point_metrics(truth, odds > 0)["kappa"]
            values = dict(
                zip(
                    names,
                    (_loss(_logit(fair), truth), numbers["kappa"], numbers["auc"],
                     _loss(odds, truth), raw),
                    strict=True,
                )
            )  # fmt: skip
        figures |= {f"{name}_{kind}": value for name, value in values.items()}
    means = {
        name: mean(figures[f"{name}_{kind}"] for kind in KINDS)
        for name in ("loss", "kappa", "auc", "loss_raw", "kappa_raw")
    }
    return means | figures


def _logit(chance: Any) -> Any:
    safe = np.clip(chance, 1e-9, 1 - 1e-9)
    return np.log(safe) - np.log1p(-safe)


def _loss(odds: Any, truth: Any) -> float:
    each = np.logaddexp(0.0, np.where(truth, -odds, odds))
    sides = [each[truth == side].mean() for side in (False, True) if (truth == side).any()]
    return float(np.mean(sides))


def _left_out(found: Sequence[Readout]) -> list[float]:
    """Calibrated on the other questions; as read where there are too few for that."""
    odds, labels = [r.odds for r in found], [r.label for r in found]
    try:
        return calibration.left_out(odds, labels, [r.group for r in found])
    except CalibrationError:
        plain = Calibration(model="", prompt="")
        return [plain.probability(x) for x in odds]


def fitted(
    found: Sequence[Readout], *, model: str, adapter: str, prompt: str, data: Sequence[str]
) -> Calibration:
    """A calibration from held-out verdicts, in the form that the server reads.

    Kinds weigh the same, however many verdicts each has: the courses to come may be of either.

    Raises:
        CalibrationError: there are not verdicts of both kinds.
    """
    odds, labels = [r.odds for r in found], [r.label for r in found]
    counts = {kind: sum(r.kind == kind for r in found) for kind in KINDS}
    kinds = sum(count > 0 for count in counts.values())
    weights = [len(found) / kinds / counts[r.kind] for r in found]
    overlap, usual = calibration.weigh_words(
        odds, [r.share for r in found], labels, weights=weights
    )
    overlap, usual = round(overlap, 4), round(usual, 4)
    weigh = Calibration(model="", prompt="", overlap=overlap, usual=usual).weighed
    found = [replace(r, odds=weigh(r.odds, r.share)) for r in found]
    slope, offset = calibration.fit([r.odds for r in found], labels, weights=weights)
    fair = _left_out(found)
    return Calibration(
        model=model,
        adapter=adapter,
        prompt=prompt,
        slope=round(slope, 4),
        offset=round(offset, 4),
        overlap=overlap,
        usual=usual,
        spread=calibration.USUAL_SPREAD,
        ece=round(expected_calibration_error(labels, fair), 4),
        verdicts=len(labels),
        data=tuple(data),
    )


def agreement(found: Sequence[Readout], by: Calibration, seed: int = 0) -> dict[str, Any]:
    """Metrics of calibrated verdicts with 95 % intervals over questions."""
    truth = [r.label for r in found]
    chance = [by.probability(by.weighed(r.odds, r.share)) for r in found]
    held = [p >= 0.5 for p in chance]
    bounds = point_intervals([r.group for r in found], truth, held, chance, seed=seed)
    numbers = to_json(point_metrics(truth, held, chance))
    return {
        name: value
        if name not in bounds
        else {
            "estimate": value,
            **to_json({"low": bounds[name].low, "high": bounds[name].high}),
        }
        for name, value in numbers.items()
    }


def curves(log: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """Loss by step, held-out loss and kappa by step, from the Trainer's log."""
    names = {
        "loss": "loss",
        "held_out_loss": "eval_loss",
        "held_out_kappa": "eval_kappa",
        "held_out_kappa_points": "eval_kappa_points",
        "held_out_kappa_whole": "eval_kappa_whole",
    }
    return {
        name: [
            [int(row["step"]), float(row[key])]
            for row in log
            if key in row and not math.isnan(float(row[key]))
        ]
        for name, key in names.items()
    }


def draw(found: Mapping[str, list[list[float]]], path: Path) -> None:
    """The curves as a picture, losses on the left and kappa on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, kappas = figure.subplots(1, 2)
    for axes, names in (
        (losses, ("loss", "held_out_loss")),
        (kappas, ("held_out_kappa", "held_out_kappa_points", "held_out_kappa_whole")),
    ):
        for name in names:
            if found[name]:
                steps, values = zip(*found[name], strict=True)
                axes.plot(steps, values, label=name.replace("_", " "), marker=".", linewidth=1)
        axes.set_xlabel("step")
        if axes.has_data():
            axes.legend()
    losses.set_ylabel("loss")
    kappas.set_ylabel("kappa")
    figure.savefig(path, dpi=110)
