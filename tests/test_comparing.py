"""Two runs beside each other: what differs, and when they can't be compared."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import toy_run
from sklearn.metrics import cohen_kappa_score
from terminal_session import run_piped

from llmarking.errors import InputError
from llmarking.evaluation.comparing import Run, compare, sections, sentence
from llmarking.terminal import ExitCode


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A good grader and a better one."""
    toy = toy_run.course()
    first = toy_run.write(tmp_path / "a", toy_run.samples(toy, 1, 0.5))
    second = toy_run.write(tmp_path / "b", toy_run.samples(toy, 2, 2.0), shots=1)
    return first, second


def test_differences_are_those_of_the_metrics(runs: tuple[Path, Path]) -> None:
    a, b = map(Run.of, runs)
    result = compare(a, b)
    points = [[p for s in run.samples.values() for p in s["points"]] for run in (a, b)]
    truth = [point["teacher"] for point in points[0]]
    kappas = [cohen_kappa_score(truth, [point["held"] for point in run]) for run in points]
    found = result["levels"]["points"]["kappa"]
    assert (found["a"], found["b"]) == pytest.approx(kappas)
    assert found["difference"] == pytest.approx(kappas[1] - kappas[0])
    assert found["low"] <= found["difference"] <= found["high"]
    right = [[p["held"] == p["teacher"] for p in run] for run in points]
    pairs = list(zip(*right, strict=True))
    assert result["verdicts"] == {
        "both": pairs.count((True, True)), "a": pairs.count((True, False)),
        "b": pairs.count((False, True)), "neither": pairs.count((False, False)),
    }  # fmt: skip
    assert result["levels"]["answers"]["answers"] == result["answers"] == 24


def test_a_run_does_not_differ_from_itself(runs: tuple[Path, Path]) -> None:
    run = Run.of(runs[0])
    for level in compare(run, run)["levels"].values():
        for value in level.values():
            if isinstance(value, dict) and value["difference"] is not None:
                assert (value["difference"], value["low"], value["high"]) == (0, 0, 0)
                assert value["p"] == 1


def test_only_what_both_graded_counts(runs: tuple[Path, Path]) -> None:
    a, b = map(Run.of, runs)
    for key in list(b.samples)[:5]:
        del b.samples[key]
    result = compare(a, b)
    assert (result["answers"], result["only"]) == (19, [5, 0])
    assert "5 are in A only" in sentence(result)
    assert sections(result)[0].header[0] == "57 points"


def test_what_can_not_be_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = map(Run.of, runs)
    other = copy.deepcopy(b)
    next(iter(other.samples.values()))["points"][0]["teacher"] ^= True
    with pytest.raises(InputError, match="different data"):
        compare(a, other)
    other.samples.clear()
    with pytest.raises(InputError, match="no answers in common"):
        compare(a, other)
    (runs[0] / "samples.jsonl").unlink()
    with pytest.raises(InputError, match="holds no answers"):
        Run.of(runs[0])
    with pytest.raises(InputError, match="is no run"):
        Run.of(tmp_path)


def test_the_command(runs: tuple[Path, Path]) -> None:
    shown = run_piped("eval_short_batched.py", "--compare", *map(str, runs))
    assert shown.returncode == ExitCode.OK, shown.stderr
    text = shown.stdout.decode()
    assert "B − A" in text
    assert max(map(len, text.splitlines())) <= 80
    said = run_piped("eval_short_batched.py", "--compare", *map(str, runs), "--json")
    assert json.loads(said.stdout) == compare(*map(Run.of, runs))
    wrong = run_piped("eval_short_batched.py", "--compare", str(runs[0]), "nowhere")
    assert wrong.returncode == ExitCode.BAD_INPUT
    both = run_piped("eval_short_batched.py", "--list", "--compare", *map(str, runs))
    assert both.returncode == ExitCode.USAGE
