"""The plots of a run, drawn from `metrics.json` alone: SVG, the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmarking.sentences import counted
from llmarking.terminal import printable

OURS, OTHERS, FAINT = "#1f5fa8", "#c8641e", "#8a8f98"
MOST_NAMED = 30  # questions with a label each; more are drawn in order of size
STYLE: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "font.family": "sans-serif",
    "font.size": 9,
    "legend.frameon": False,
    "text.parse_math": False,  # a question's code may hold a dollar sign
    "svg.fonttype": "none",  # text stays text: small files, and it can be searched
    "svg.hashsalt": "llmarking",
}
# What is drawn, and the sentence that says how to read it.
CAPTIONS = {
    "confusion": "Verdicts by the teacher's (rows) and ours (columns): how many, and the share of "
    "the row.",
    "calibration": "How often points were stated that were given this probability. On the dashed "
    "line, probabilities can be taken at their word.",
    "risk_coverage": "Share of wrong verdicts among the surest, by how many of all are let "
    "through unseen.",
    "marks": "Marks as shares of the full mark; the area of a circle is the number of answers. "
    "Above the line we are more lenient than the teacher.",
    "questions": "Agreement by question. Kappa has no value where all verdicts are alike.",
}


def draw(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Every plot that the numbers of a run have data for, as SVG by the names of `CAPTIONS`."""
    model = numbers["model"]
    curves = model["curves"]
    points = model["points"]
    plots: dict[str, tuple[tuple[float, float], Callable[[Axes], None]]] = {}
    if points:
        plots["confusion"] = (4.2, 3.2), lambda axes: _confusion(axes, curves["confusion"])
    if points and curves["calibration"]:
        ece = points["pooled"]["ece"]["estimate"]
        plots["calibration"] = (
            (4.2, 4.0),
            lambda axes: _calibration(axes, curves["calibration"], ece),
        )
        plots["risk_coverage"] = (4.8, 3.4), lambda axes: _risk(axes, curves["risk_coverage"])
    if curves["marks"]:
        plots["marks"] = (4.2, 4.0), lambda axes: _marks(axes, curves["marks"])
    if points and model["by_question"]:
        rows = [(code, row["points"]) for code, row in model["by_question"].items()]
        rows = [(code, row) for code, row in rows if row["points"]]
        height = 1.2 + 0.24 * len(rows) if len(rows) <= MOST_NAMED else 3.4
        plots["questions"] = (6.4, height), lambda axes: _questions(axes, rows)
    return {name: _svg(size, paint) for name, (size, paint) in plots.items()}


def _svg(size: tuple[float, float], paint: Callable[[Axes], None]) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        out = io.StringIO()
        # Without a date, so that the same run gives the same file.
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": "LLMarking"})
    return out.getvalue()


def _confusion(axes: Axes, counts: Mapping[str, Mapping[str, int]]) -> None:
    names = ["true", "false"]
    if any(row["missing"] for row in counts.values()):
        names.append("missing")
    table = np.array([[counts[row][name] for name in names] for row in ("true", "false")])
    totals = table.sum(1, keepdims=True)
    share = np.divide(table, totals, out=np.zeros(table.shape), where=totals > 0)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(table):
        part = share[row, column]
        axes.text(
            column, row, f"{count}\n{part:.0%}", ha="center", va="center", fontsize=11,
            color="white" if part > 0.55 else "black",
        )  # fmt: skip
    axes.set_xticks(range(len(names)), [name.capitalize() for name in names])
    axes.set_yticks(range(2), ["True", "False"])
    axes.set(xlabel="our verdict", ylabel="teacher's verdict", title="Verdicts")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _calibration(axes: Axes, bins: Sequence[Mapping[str, float]], ece: float | None) -> None:
    predicted = np.array([row["predicted"] for row in bins])
    observed = np.array([row["observed"] for row in bins])
    count = np.array([row["count"] for row in bins])
    axes.plot([0, 1], [0, 1], "--", color=FAINT, linewidth=1)
    # One standard error of a share, so that a bin of ten points does not look like news.
    error = np.sqrt(observed * (1 - observed) / count)
    axes.errorbar(
        predicted, observed, yerr=error, fmt="o-", color=OURS, markersize=5, linewidth=1.2,
        elinewidth=0.8,
    )  # fmt: skip
    title = "Calibration" if ece is None else f"Calibration (ECE {ece:.3f})"
    axes.set(xlabel="probability given", ylabel="share stated", title=title)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")


def _risk(axes: Axes, found: Mapping[str, Any]) -> None:
    _, coverage, risk = np.array(found["curve"]).T
    axes.step(coverage, risk, where="post", color=OURS, linewidth=1.4)
    axes.axhline(risk[-1], linestyle="--", color=FAINT, linewidth=1)
    axes.text(0.01, risk[-1], f"all: {risk[-1]:.3f}", color=FAINT, va="bottom")
    axes.set(xlabel="share let through unseen, surest first", ylabel="share of them wrong")
    axes.set(title=f"Risk and coverage (area {found['area']:.3f})")
    axes.set(xlim=(0, 1.01), ylim=(0, max(0.05, 1.15 * float(risk.max()))))


def _marks(axes: Axes, pairs: Sequence[Sequence[float]]) -> None:
    teacher, mark, count = np.array(pairs).T
    axes.plot([0, 1], [0, 1], "--", color=FAINT, linewidth=1, zorder=0)
    # The most frequent pair gets a circle that still fits between quarters of the full mark.
    axes.scatter(
        teacher, mark, s=500 * count / count.max(), color=OURS, alpha=0.45, linewidth=0.6,
        edgecolor=OURS,
    )  # fmt: skip
    axes.set(xlabel="teacher's share of the full mark", ylabel="our share", title="Marks")
    axes.set(xlim=(-0.09, 1.09), ylim=(-0.09, 1.09), aspect="equal")


def _questions(axes: Axes, rows: Sequence[tuple[str, Mapping[str, float | None]]]) -> None:
    if len(rows) > MOST_NAMED:
        _many_questions(axes, rows)
        return
    rows = rows[::-1]
    places = np.arange(len(rows))
    for name, label, colour, marker in _SERIES:
        values = [_value(row[name]) for _, row in rows]
        axes.plot(values, places, marker, color=colour, label=label, markersize=6)
    axes.grid(axis="y", color=FAINT, linewidth=0.4)
    axes.set_axisbelow(True)
    axes.set_yticks(places, [_named(code, row) for code, row in rows])
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set(xlim=(min(-0.05, axes.get_xlim()[0]), 1.02), title="Questions")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def _many_questions(axes: Axes, rows: Sequence[tuple[str, Mapping[str, float | None]]]) -> None:
    for name, label, colour, marker in _SERIES:
        values = np.sort([_value(row[name]) for _, row in rows])
        values = values[~np.isnan(values)]
        axes.plot(np.arange(1, len(values) + 1), values, marker, color=colour, label=label, ms=3)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set(xlabel="questions, lowest first", ylabel="agreement", ylim=(None, 1.02))
    axes.set(title=counted(len(rows), "question", "questions"))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


_SERIES = (("accuracy", "accuracy", OTHERS, "D"), ("kappa", "kappa", OURS, "o"))


def _value(number: float | None) -> float:
    return np.nan if number is None else number


def _named(code: str, row: Mapping[str, float | None]) -> str:
    text = printable(code)
    return f"{text if len(text) <= 28 else text[:27] + '…'} ({row['points']})"
