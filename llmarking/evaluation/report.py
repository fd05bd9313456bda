"""What a run found out, as tables: in the terminal, as Markdown, and for the HTML page.

F1 of the class True, the headline of many papers, always stands beside its value for holding
everything True.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmarking.terminal import printable

BASELINES = {
    "all_true": "all True",
    "all_false": "all False",
    "majority": "majority",
    "token_overlap": "token overlap",
}
# The columns of each level; F1(False) follows from F1(True) and macro-F1.
POINTS = {
    "kappa": "kappa",
    "macro_f1": "macro-F1",
    "f1_true": "F1(True)",
    "accuracy": "accuracy",
    "auc": "AUC",
    "ece": "ECE",
}
ANSWERS = {
    "qwk": "QWK",
    "pearson": "Pearson",
    "rmse": "RMSE",
    "mae": "MAE",
    "bias": "bias",
    "exact": "exact",
    "within_one": "± 1",
}
LEVELS = {"points": ("points", POINTS), "answers": ("marks", ANSWERS)}
# What the pages list besides, with intervals of their own.
OTHERS = {
    "points": {
        "balanced_accuracy": "balanced accuracy",
        "f1_false": "F1(False)",
        "precision_true": "precision, True",
        "recall_true": "recall, True",
        "precision_false": "precision, False",
        "recall_false": "recall, False",
        "brier": "Brier score",
        "ece_width": "ECE, bins of equal width",
        "missing": "without a verdict",
    },
    "answers": {"failures": "without a mark"},
}
LEGEND = """\
95 %: interval of the number before it, by resampling questions. Token overlap has the threshold \
of best kappa on the other questions. ECE is the expected calibration error. RMSE, MAE and bias \
are shares of the full mark; bias above 0 is lenient. Exact and ± 1: shares of the marks that are \
the same, or at most one apart."""


@dataclass(frozen=True, slots=True)
class Section:
    """A table with a title; the first column is text, the others are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def title(run: Mapping[str, Any]) -> str:
    """What was run, in one line."""
    what = run["configuration"]
    parts = [what["course"], what["model"], *([what["adapter"]] if what["adapter"] else [])]
    parts += [f"{what['method']} method", f"{what['shots']} examples", what["prompt_version"]]
    parts.append(f"calibration {what['calibration'] or 'none'}")
    return " · ".join(parts)


def headline(metrics: Mapping[str, Any]) -> str:
    """F1(True) beside its baseline, and what did not come back as it should, in sentences."""
    said = []
    if not any(metrics["model"][level] for level in LEVELS):
        said.append("The course holds no verdict and no mark of a teacher to compare with.")
    if points := metrics["model"]["points"]:
        ours = estimate(points["pooled"]["f1_true"])
        theirs = estimate(metrics["baselines"]["all_true"]["points"]["pooled"]["f1_true"])
        kappa = estimate(points["pooled"]["kappa"])
        said.append(
            f"F1(True) {ours}; holding everything True scores {theirs}. Kappa {kappa}; holding "
            "everything True scores 0."
        )
    if selective := metrics["model"]["curves"]["risk_coverage"]:
        share = selective["coverage_at"]["0.05"]
        said.append(f"The surest {share:.0%} of the verdicts hold at most 5 % errors.")
    if failures := metrics["format_failures"]:
        said.append(f"{failures:.1%} of the answers came back without a verdict on every point.")
    if missing := metrics["planned"] - metrics["graded"]:
        said.append(
            f"{missing} of {metrics['planned']} answers were not graded and are not in these "
            "figures."
        )
    return " ".join(said)


def print_report(out: Console, run: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """The tables of points, of marks and by the answers' quality, baselines below the model."""
    out.print(Text(printable(title(run)), style="bold"))
    for section in [*levels(metrics), *by_quality(metrics)]:
        out.print()
        print_table(out, section)
    out.print()
    if said := headline(metrics):
        out.print(Text(said))
    out.print(Text(LEGEND, style="dim"))


def print_table(out: Console, section: Section) -> None:
    """One table, its first row in bold. Where it would not fit, columns stand closer together."""
    wide = _drawn(section, gap=2)
    wanted = out.measure(wide, options=out.options.update_width(10_000)).maximum
    out.print(wide if wanted <= out.width else _drawn(section, gap=1))


def _drawn(section: Section, gap: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    table.add_column(section.header[0], no_wrap=True)
    for name in section.header[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for number, row in enumerate(section.rows):
        table.add_row(*row, style="bold" if number == 0 else "")
    return table


def markdown(
    run: Mapping[str, Any], metrics: Mapping[str, Any], plots: Mapping[str, str] | None = None
) -> str:
    """The same as a page, with a row for every question.

    Args:
        plots: captions by the names of the plots beside it.
    """
    parts = [f"# {cell(title(run))}", headline(metrics)]
    parts += [table(section) for section in levels(metrics)]
    parts.append(LEGEND)
    for section in details(metrics):
        parts += [f"## {section.title}", table(section)]
    if plots:
        parts.append("## Plots")
        parts += [f"![{name}](plots/{name}.svg)\n{caption}" for name, caption in plots.items()]
    what = run["configuration"]
    about = f"Data: {what['source']}, SHA-256 `{what['data_sha256']}`. Seed {what['seed']}."
    parts += [about, f"```sh\n{run['command']}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(section: Section) -> str:
    """A section's table in Markdown."""
    rule = ("---", *["---:"] * (len(section.header) - 1))
    lines = [section.header, rule, *section.rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def levels(metrics: Mapping[str, Any]) -> Iterator[Section]:
    """Points and marks: the model pooled and as the mean over questions, then the baselines."""
    for level, (noun, columns) in LEVELS.items():
        if not (ours := metrics["model"][level]):
            continue
        first, *others = columns.values()
        count = ours["pooled"][level]
        header = (f"{count} {noun if level == 'points' else 'answers'}", first, "95 %", *others)
        graders = [("the model", ours["pooled"]), (". by question", ours["mean_over_questions"])]
        graders += [
            (name, metrics["baselines"][key][level]["pooled"]) for key, name in BASELINES.items()
        ]
        rows = tuple((name, *_row(numbers, list(columns))) for name, numbers in graders)
        yield Section(noun.capitalize(), header, rows)


def details(metrics: Mapping[str, Any]) -> Iterator[Section]:
    """What the pages hold besides: every number with its interval, and the parts of the course."""
    yield from every_number(metrics)
    yield from by_quality(metrics)
    yield from by_label(metrics)
    yield from by_question(metrics)


def every_number(metrics: Mapping[str, Any]) -> Iterator[Section]:
    """All numbers of the model, pooled and as the mean over questions, each with its interval."""
    header = ("pooled", "95 %", "mean over questions", "95 %")
    for level, (noun, columns) in LEVELS.items():
        if not (ours := metrics["model"][level]):
            continue
        both = [ours["pooled"], ours["mean_over_questions"]]
        rows = tuple(
            (title, *(cell for n in both for cell in (estimate(n[name]), bounds(n[name]))))
            for name, title in {**columns, **OTHERS[level]}.items()
        )
        yield Section(f"Every number of {noun}", (noun, *header), rows)


def by_quality(metrics: Mapping[str, Any]) -> Iterator[Section]:
    """What becomes of answers that the teacher gave nothing, a part, or everything."""
    slices = metrics["model"]["by_quality"]
    known = {name: slices[name] for name in ("wrong", "partial", "right") if name in slices}
    return _slices("By quality", "teacher's mark", known, _OF_POINTS)


def by_label(metrics: Mapping[str, Any]) -> Iterator[Section]:
    """The same by what the data set calls the answers."""
    return _slices("By label", "label", metrics["model"]["by_label"], _OF_POINTS)


def by_question(metrics: Mapping[str, Any]) -> Iterator[Section]:
    """The same by question, where kappa means something."""
    columns = {**_OF_POINTS, "kappa": "kappa", "f1_true": "F1(True)"}
    return _slices("By question", "question", metrics["model"]["by_question"], columns)


_OF_POINTS = {"points": "points", "accuracy": "right"}
_OF_ANSWERS = {"answers": "answers", "exact": "exact", "mae": "MAE", "bias": "bias"}


def _slices(
    name: str, what: str, slices: Mapping[str, Mapping[str, Any]], of_points: Mapping[str, str]
) -> Iterator[Section]:
    if not slices:
        return
    header = (what, *_OF_ANSWERS.values(), *of_points.values())
    rows = tuple(
        (
            label,
            *(number(numbers["answers"][column]) for column in _OF_ANSWERS),
            *(number(numbers["points"][column]) for column in of_points),
        )
        for label, numbers in slices.items()
    )
    yield Section(name, header, rows)


def _row(numbers: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    cells = [estimate(numbers[name]) for name in names]
    return [cells[0], bounds(numbers[names[0]]), *cells[1:]]


def bounds(value: Mapping[str, Any]) -> str:
    """The interval of a number, or a dash."""
    if value["low"] is None:
        return "–"
    return f"[{digits(value['low'], 2)}, {digits(value['high'], 2)}]"


def estimate(value: Mapping[str, Any]) -> str:
    """A number that has an interval."""
    return number(value["estimate"])


def number(value: float | None) -> str:
    """A count as it is, other numbers with three digits, a dash for what is not defined."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else digits(value, 3)


def digits(value: float, places: int) -> str:
    """A number with so many digits after the point."""
    # Adding 0 takes the sign from what rounds to -0.
    return f"{round(value, places) + 0.0:.{places}f}"


def cell(text: str) -> str:
    """Text as it may stand in a cell of a Markdown table."""
    return printable(text).replace("\n", " ").replace("|", "\\|")
