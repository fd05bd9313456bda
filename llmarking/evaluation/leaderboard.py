"""All runs below a folder side by side, with their baselines and the published figures of others.

The figures of others stand in a file with their sources. Where they are over other answers of a set
or with other prompts, the file says so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmarking.errors import DataError, InputError
from llmarking.evaluation import report
from llmarking.evaluation.folder import read_run
from llmarking.sentences import counted

OTHERS = "others.json"
INTERVAL = "95 %"  # of kappa, beside it
# Columns by level.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "points": {
        "kappa": "kappa",
        "macro_f1": "macro-F1",
        "f1_true": "F1(True)",
        "accuracy": "accuracy",
        "auc": "AUC",
        "ece": "ECE",
    },
    "answers": {"qwk": "QWK", "pearson": "Pearson", "rmse": "RMSE", "mae": "MAE", "bias": "bias"},
}
ABOUT = """\
Each table is one course. Kappa, macro-F1, F1(True), accuracy, AUC and ECE are over points, the \
others over answers; RMSE, MAE and bias are shares of the full mark, and bias above 0 is lenient. \
95 % is the interval of kappa, by resampling questions. *Unread* is the share of answers with a \
point for which no verdict could be read. Look at kappa: F1(True), the headline of many papers, is \
high for a grader that holds everything True."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A run by its folder, with what was run and what came out."""

    path: Path
    configuration: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def whole(self) -> bool:
        """Whether every answer of the course was graded."""
        return bool(self.metrics["graded"] == self.metrics["planned"])


def entries(folder: Path) -> list[Entry]:
    """Every run below a folder that has a teacher, by course and then by kappa, best first.

    Raises:
        DataError: the metrics of one can't be read.
        InputError: what was run in one can't be read.
    """
    found: list[Entry] = []
    for path in sorted(folder.rglob("metrics.json")):
        try:
            numbers = json.loads(path.read_text(encoding="utf-8"))
            compared = any(numbers["model"][level] for level in COLUMNS)
            numbers["planned"], numbers["graded"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"no metrics of a run: {error}", file=str(path)) from None
        entry = Entry(path.parent, read_run(path.parent)["configuration"], numbers)
        # A run that was published is below the folder twice; without a teacher there is no rank.
        if compared and (entry.configuration, numbers) not in (
            (e.configuration, e.metrics) for e in found
        ):
            found.append(entry)
    if not found:
        raise InputError(f"there is no run below {folder}; a run has a metrics.json")
    return sorted(found, key=lambda entry: (entry.configuration["course"], -_kappa(entry)))


def read_others(path: Path) -> dict[str, Any]:
    """Published figures: `sources`, `figures` by course, `elsewhere`, `remarks`.

    Raises:
        DataError: the file can't be read, or a figure names a source that is not listed.
    """
    try:
        others: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for figure in [*others["figures"], *others["elsewhere"]]:
            others["sources"][figure["source"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"no figures of others: {error!r}", file=str(path)) from None
    return others


def page(runs: Sequence[Entry], others: Mapping[str, Any], at: Path) -> str:
    """The tables as Markdown.

    Args:
        others: see `read_others`.
        at: the folder of the page, which links start from.
    """
    numbered = {key: place for place, key in enumerate(others["sources"], start=1)}
    parts = [ABOUT]
    for course in dict.fromkeys(run.configuration["course"] for run in runs):
        mine = [run for run in runs if run.configuration["course"] == course]
        remarks = [r for r in others["remarks"] if any(_fits(r, run) for run in mine)]
        section = report.Section(
            course,
            ("grader", "method", "examples", *_titles(), "unread", "source"),
            (
                *(_ours(run, remarks, at) for run in mine),
                *_baselines(mine[0]),
                *(_others(f, numbered) for f in others["figures"] if f["course"] == course),
            ),
        )
        parts += [f"## {report.cell(course)}", _about(mine[0]), table(section)]
        parts += [f"† {remark['text']}" for remark in remarks]
    if others["elsewhere"]:
        rows = [
            (f["set"], f["who"], f["figure"], f"[{numbered[f['source']]}]")
            for f in others["elsewhere"]
        ]
        section = report.Section("", ("data", "grader", "figure", "source"), tuple(rows))
        parts += ["## Elsewhere", "Published on data that was not run here.", table(section)]
    if numbered:
        listed = [f"{numbered[key]}. {said}" for key, said in others["sources"].items()]
        parts += ["## Sources", "\n".join(listed)]
    return "\n\n".join(parts) + "\n"


NOBODY: Mapping[str, Any] = {"sources": {}, "figures": [], "elsewhere": [], "remarks": []}


def as_json(runs: Sequence[Entry]) -> str:
    """The runs as one line of JSON: folder, what was run, pooled metrics with their intervals."""
    rows = [
        {
            "folder": str(run.path),
            "configuration": run.configuration,
            "graded": run.metrics["graded"],
            "planned": run.metrics["planned"],
            **{level: (run.metrics["model"][level] or {}).get("pooled") for level in COLUMNS},
        }
        for run in runs
    ]
    return json.dumps({"runs": rows}, ensure_ascii=False, allow_nan=False) + "\n"


def table(section: report.Section) -> str:
    """Like `report.table`, but a cell may hold a link."""
    rule = ["---"] * len(section.header)
    lines = [section.header, rule, *section.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _about(run: Entry) -> str:
    """What the table is over."""
    model, what = run.metrics["model"], run.configuration
    counts = [f"{model[level]['pooled'][level]} {level}" for level in COLUMNS if model[level]]
    questions = counted(len(model["by_question"]), "question", "questions")
    return f"{what['source']}: {questions}, {', '.join(counts)}."


def _titles() -> Iterator[str]:
    for columns in COLUMNS.values():
        for name, label in columns.items():
            yield label
            if name == "kappa":
                yield INTERVAL


def _ours(run: Entry, remarks: Sequence[Mapping[str, Any]], at: Path) -> tuple[str, ...]:
    what, metrics = run.configuration, run.metrics
    name = what["model"] + (f" + {what['adapter']}" if what["adapter"] else "")
    mark = " †" if any(_fits(remark, run) for remark in remarks) else ""
    part = "" if run.whole else f" ({metrics['graded']} of {metrics['planned']} answers)"
    shots = str(what["shots"])
    link = os.path.relpath(run.path / "metrics.json", at)
    unread = metrics["format_failures"]
    return (
        f"**{report.cell(name)}**{mark}{part}",
        what["method"],
        shots,
        *_cells({level: (metrics["model"][level] or {}).get("pooled") for level in COLUMNS}),
        "–" if unread is None else f"{unread:.1%}",
        f"[metrics]({link})",
    )


def _baselines(run: Entry) -> Iterator[tuple[str, ...]]:
    for key, name in report.BASELINES.items():
        of = run.metrics["baselines"][key]
        cells = _cells({level: (of[level] or {}).get("pooled") for level in COLUMNS})
        yield (f"*{name}*", "", "", *cells, "", "")


def _others(figure: Mapping[str, Any], numbered: Mapping[str, int]) -> tuple[str, ...]:
    """A published figure; what its source does not give stays empty."""
    cells: list[str] = []
    for columns in COLUMNS.values():
        for name in columns:
            cells.append("" if name not in figure else report.number(figure[name]))
            if name == "kappa":
                cells.append("")
    who = report.cell(figure["who"])
    return (
        who,
        figure["method"],
        figure["examples"],
        *cells,
        "",
        f"[{numbered[figure['source']]}]",
    )


def _cells(of: Mapping[str, Mapping[str, Any] | None]) -> Iterator[str]:
    for level, columns in COLUMNS.items():
        numbers = of[level]
        for name in columns:
            yield report.estimate(numbers[name]) if numbers else "–"
            if name == "kappa":
                yield report.bounds(numbers[name]) if numbers else "–"


def _fits(remark: Mapping[str, Any], run: Entry) -> bool:
    """Whether a remark is about this run: it names the course and what else has to be so."""
    return all(run.configuration.get(name) == value for name, value in remark["about"].items())


def _kappa(entry: Entry) -> float:
    points = entry.metrics["model"]["points"]
    kappa = points["pooled"]["kappa"]["estimate"] if points else None
    return -2.0 if kappa is None else float(kappa)
