"""bench/recount.py agrees with the package, and notices when it should not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import toy_run
from terminal_session import ROOT

from llmarking.datasets import finding as datasets
from llmarking.evaluation.plan import key_of


def recount(*folders: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / "recount.py"), *map(str, folders)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_recount_agrees(tmp_path: Path) -> None:
    """Also where verdicts are missing; six numbers each."""
    toy = toy_run.course()
    kept = toy_run.samples(toy)
    whole = toy_run.write(tmp_path / "whole", kept)
    for sample in kept[::5]:
        sample["points"][0]["held"] = sample["mark"] = None
    gaps = toy_run.write(tmp_path / "gaps", kept)
    done = recount(whole, gaps, tmp_path / "nothing")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line[:5] for line in done.stdout.splitlines()] == ["ok   "] * 10 + ["     "]


def test_a_number_that_was_changed_is_found(tmp_path: Path) -> None:
    folder = toy_run.write(tmp_path / "run")
    numbers = json.loads((folder / "metrics.json").read_text("utf-8"))
    numbers["model"]["answers"]["pooled"]["qwk"]["estimate"] += 2e-9
    (folder / "metrics.json").write_text(json.dumps(numbers), "utf-8")
    done = recount(folder)
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if line.startswith("WRONG qwk")]


@pytest.mark.parametrize("name", ["INT", "CPT"])
def test_a_recount_agrees_on_real_answers(name: str, tmp_path: Path) -> None:
    """The teacher's verdicts of the original's courses, with invented ones beside them."""
    if not (datasets.default_root() / "llmarking").is_dir():
        pytest.skip("the original's courses are not here")
    course = datasets.load(name)
    kept = toy_run.samples(course)
    folder = tmp_path / name
    toy_run.write(folder, [], course=name)
    (folder / "metrics.json").write_text(json.dumps(toy_run.numbers(course, kept)), "utf-8")
    lines = "".join(json.dumps(sample) + "\n" for sample in kept)
    (folder / "samples.jsonl").write_text(lines, "utf-8")
    assert len({key_of(answer) for answer in course.answers}) == len(kept) == 81
    done = recount(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 5
