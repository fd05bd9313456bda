"""What a run found out, as a table in the terminal and as Markdown.

F1 of the class True, the headline of many papers, always stands beside its value for holding
everything True.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
}
ANSWERS = {
    "qwk": "QWK",
    "pearson": "Pearson",
    "rmse": "RMSE",
    "mae": "MAE",
    "bias": "bias",
    "exact": "exact",
}
LEVELS = {"points": ("points", POINTS), "answers": ("marks", ANSWERS)}
LEGEND = """\
95 %: interval of the number before it, by resampling questions. Token overlap has the threshold \
of best kappa on the other questions. RMSE, MAE and bias are shares of the full mark; bias above \
0 is lenient."""


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
    if points := metrics["model"]["points"]:
        ours = _number(points["pooled"]["f1_true"])
        theirs = _number(metrics["baselines"]["all_true"]["points"]["pooled"]["f1_true"])
        kappa = _number(points["pooled"]["kappa"])
        said.append(
            f"F1(True) {ours}; holding everything True scores {theirs}. Kappa {kappa}; holding "
            "everything True scores 0."
        )
    if failures := metrics["format_failures"]:
        said.append(f"{failures:.1%} of the answers came back without a verdict on every point.")
    if missing := metrics["planned"] - metrics["graded"]:
        said.append(
            f"{missing} of {metrics['planned']} answers were not graded and are not in these "
            "figures."
        )
    return " ".join(said)


def print_report(out: Console, run: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """The tables of points and of marks, baselines below the model."""
    out.print(Text(printable(title(run)), style="bold"))
    for header, rows in _tables(metrics):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column(header[0], no_wrap=True)
        for name in header[1:]:
            table.add_column(name, justify="right", no_wrap=True)
        for number, row in enumerate(rows):
            table.add_row(*row, style="bold" if number == 0 else "")
        out.print()
        out.print(table)
    out.print()
    if said := headline(metrics):
        out.print(Text(said))
    out.print(Text(LEGEND, style="dim"))


def markdown(run: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The same as a page."""
    parts = [f"# {_cell(title(run))}", headline(metrics)]
    for header, rows in _tables(metrics):
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        parts.append("\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))
    parts.append(LEGEND)
    what = run["configuration"]
    about = f"Data: {what['source']}, SHA-256 `{what['data_sha256']}`. Seed {what['seed']}."
    parts += [about, f"```sh\n{run['command']}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tables(metrics: Mapping[str, Any]) -> Iterator[tuple[list[str], list[list[str]]]]:
    for level, (noun, columns) in LEVELS.items():
        if not (ours := metrics["model"][level]):
            continue
        first, *others = columns.values()
        count = ours["pooled"][level]
        header = [f"{count} {noun if level == 'points' else 'answers'}", first, "95 %", *others]
        graders = [("the model", ours)]
        graders += [(name, metrics["baselines"][key][level]) for key, name in BASELINES.items()]
        yield header, [[name, *_row(of["pooled"], list(columns))] for name, of in graders]


def _row(numbers: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    cells = [_number(numbers[name]) for name in names]
    first = numbers[names[0]]
    bounds = "–"
    if first["low"] is not None:
        bounds = f"[{_digits(first['low'], 2)}, {_digits(first['high'], 2)}]"
    return [cells[0], bounds, *cells[1:]]


def _number(value: Mapping[str, Any]) -> str:
    return "–" if value["estimate"] is None else _digits(value["estimate"], 3)


def _digits(value: float, digits: int) -> str:
    # Adding 0 takes the sign from what rounds to -0.
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _cell(text: str) -> str:
    return printable(text).replace("\n", " ").replace("|", "\\|")
