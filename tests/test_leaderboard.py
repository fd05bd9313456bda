"""Runs and published figures beside each other, and the page of the documents."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import toy_run
from terminal_session import ROOT, run_piped

from llmarking.errors import DataError, InputError
from llmarking.evaluation import leaderboard, report
from llmarking.terminal import ExitCode

OTHERS = ROOT / "results" / "others.json"
AGREEMENT = ROOT / "results" / "agreement"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs, the better one with an adapter; and one of them in a second place."""
    toy = toy_run.course()
    weak, good = toy_run.samples(toy, 1, 0.2), toy_run.samples(toy, 2, 2.0)
    toy_run.write(tmp_path / "TOY" / "toy-1b" / "verdict-0-v1", weak)
    toy_run.write(tmp_path / "TOY" / "toy-1b+fine" / "verdict-0-v1", good, adapter="fine")
    toy_run.write(tmp_path / "published" / "TOY" / "toy-1b" / "verdict-0-v1", weak)
    return tmp_path


def others(**changes: Any) -> dict[str, Any]:
    figure = {"course": "TOY", "who": "Somebody", "method": "trained", "examples": "",
              "kappa": 0.5, "source": "them"}  # fmt: skip
    elsewhere = {"set": "Other", "who": "X", "figure": "QWK 0.7", "source": "them"}
    remark = {"about": {"course": "TOY", "adapter": "fine"}, "text": "It has seen this."}
    return {
        "sources": {"them": "Them, 2020."},
        "figures": [figure],
        "elsewhere": [elsewhere],
        "remarks": [remark],
    } | changes


def rows(page: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_best_stands_first(folder: Path) -> None:
    """Every run once, then the baselines, then others; numbers are those of metrics.json."""
    runs = leaderboard.entries(folder)
    assert len(runs) == 2
    page = leaderboard.page(runs, others(), folder)
    header, _, *table = rows(page)
    names = [row[0] for row in table]
    assert names[:3] == ["**toy-1b + fine** †", "**toy-1b**", "*all True*"]
    assert names[6] == "Somebody"
    kappa = header.index("kappa")
    for row, run in zip(table, runs, strict=False):
        value = run.metrics["model"]["points"]["pooled"]["kappa"]
        assert row[kappa : kappa + 2] == [report.estimate(value), report.bounds(value)]
    assert table[6][kappa] == "0.500"
    assert {len(row) for row in table[:7]} == {len(header)}
    for part in ("† It has seen this.", "1. Them, 2020.", "QWK 0.7", "4 questions, 72 points"):
        assert part in page
    for link in re.findall(r"\]\(([^)]+)\)", page):
        assert (folder / link).exists()


def test_what_is_not_whole_says_so(folder: Path) -> None:
    path = folder / "TOY" / "toy-1b" / "verdict-0-v1" / "metrics.json"
    numbers = json.loads(path.read_text("utf-8")) | {"planned": 30}
    path.write_text(json.dumps(numbers), "utf-8")
    page = leaderboard.page(leaderboard.entries(folder / "TOY"), leaderboard.NOBODY, folder)
    assert "**toy-1b** (24 of 30 answers)" in page
    assert "†" not in page


def test_without_a_teacher_there_is_no_rank(folder: Path) -> None:
    path = folder / "TOY" / "toy-1b+fine" / "verdict-0-v1" / "metrics.json"
    numbers = json.loads(path.read_text("utf-8"))
    numbers["model"] |= {"points": None, "answers": None}
    path.write_text(json.dumps(numbers), "utf-8")
    assert [run.configuration["adapter"] for run in leaderboard.entries(folder)] == [None]


def test_what_can_not_be_read(folder: Path) -> None:
    with pytest.raises(InputError, match="no run below"):
        leaderboard.entries(folder / "nowhere")
    broken = folder / "TOY" / "toy-1b" / "verdict-0-v1" / "metrics.json"
    broken.write_text("{}", "utf-8")
    with pytest.raises(DataError, match=r"metrics\.json"):
        leaderboard.entries(folder)
    path = folder / "others.json"
    path.write_text(json.dumps(others(sources={})), "utf-8")
    with pytest.raises(DataError, match="them"):
        leaderboard.read_others(path)


def test_the_command(folder: Path) -> None:
    options = ("--leaderboard", "--out", str(folder))
    shown = run_piped("eval_short_batched.py", *options)
    assert shown.returncode == ExitCode.OK, shown.stderr
    assert "**toy-1b**" in shown.stdout.decode()
    said = json.loads(run_piped("eval_short_batched.py", *options, "--json").stdout)
    assert [run["configuration"]["adapter"] for run in said["runs"]] == ["fine", None]


# What the documents say.


def publish() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_publish", ROOT / "bench" / "publish.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_publish"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_of_results_is_what_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every figure in it comes from a file below results/, and none was changed by hand."""
    module = publish()
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    monkeypatch.setattr(module, "PAGE", ROOT / "docs" / ".results.md")
    try:
        module.write_page()
        again = (ROOT / "docs" / ".results.md").read_text("utf-8")
    finally:
        (ROOT / "docs" / ".results.md").unlink(missing_ok=True)
    assert page == again


def test_published_runs_are_whole_and_hold_figures_only() -> None:
    runs = leaderboard.entries(ROOT / "results" / "published")
    for run in runs:
        assert run.whole, run.path
        names = {path.name for path in run.path.iterdir()}
        assert names == {"run.json", "metrics.json", "plots"}, run.path
        assert len(run.configuration["data_sha256"]) == 64
        assert all(run.configuration["prompt_sha256"].values()), run.path
        text = (run.path / "run.json").read_text("utf-8")
        assert not re.search(r"/(?:home|root|tmp|work)/", text), run.path


def test_others_have_sources() -> None:
    known = leaderboard.read_others(OTHERS)
    used = {figure["source"] for figure in [*known["figures"], *known["elsewhere"]]}
    assert used == set(known["sources"])


def test_the_table_of_agreement_is_what_was_measured() -> None:
    """Kappa, AUC, ECE, area under risk and coverage, errors in the surest half; both times."""
    text = (ROOT / "docs" / "grading.md").read_text("utf-8")
    table = [row for row in rows(text) if any("→" in cell for cell in row)]
    measured = json.loads((AGREEMENT / "v2.json").read_text("utf-8"))
    assert len(table) == len(measured)
    for (name, verdicts, *cells), (run, both) in zip(table, measured.items(), strict=True):
        course, _, shots = run.rpartition("/")
        assert name == f"{course}, {shots} examples"
        assert int(verdicts) == both["before"].pop("verdicts") == both["now"].pop("verdicts")
        shown = [[float(side) for side in cell.split("→")] for cell in cells]
        assert shown == [[both[side][n] for side in ("before", "now")] for n in both["before"]]


def test_what_is_said_to_be_now_is_what_is_published() -> None:
    published = {}
    for run in leaderboard.entries(ROOT / "results" / "published"):
        what = run.configuration
        if what["method"] == "verdict" and "qwen" in str(what["adapter"]):
            pooled = run.metrics["model"]["points"]["pooled"]
            published[f"{what['course']}/{what['shots']}"] = pooled
    measured = json.loads((AGREEMENT / "v2.json").read_text("utf-8"))
    for key, row in measured.items():
        for name in ("kappa", "auc", "ece"):
            assert row["now"][name] == round(published[key][name]["estimate"], 3), key
