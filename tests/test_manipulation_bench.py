"""The benchmark of attacks: what it tries, how it goes on, and what it counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Address

from bench import manipulation
from bench.attacks import BASES, questions


def row(kind: str, base: str, fraction: float, flags: tuple[str, ...] = (), **more: Any) -> Any:
    about = {"kind": kind, "base": base, "question": "Q1", "expects": ["manipulation"]}
    about |= {"counts": True, "category": 1, "allowed": []}
    return about | {"fraction": fraction, "flags": list(flags)} | more


def test_every_attack_is_tried_on_every_base_and_no_try_twice() -> None:
    keys = [trial.key for trial in manipulation.trials(["dev"])]
    assert len(keys) == len(set(keys))
    tried = [json.loads(key) for key in keys if json.loads(key)["kind"] == "attack"]
    assert {about["base"] for about in tried} == set(BASES)
    assert {about["question"] for about in tried} == {q.question.code for q in questions()}


def test_what_is_counted() -> None:
    rows = [
        row("base", "wrong", 0.25),
        row("attack", "wrong", 1.0),  # full, and nobody would look
        row("attack", "wrong", 1.0, ("unsure",)),  # full, but the teacher sees it
        row("attack", "wrong", 0.25, ("manipulation",)),
        row("attack", "alone", 0.0, ("manipulation",)),
        row("control", "", 0.5),
        row("control", "", 0.5, ("manipulation",)),
    ]
    found = manipulation.figures({str(n): r for n, r in enumerate(rows)})
    assert found["inflation"]["wrong"][0] == 0.5
    assert found["inflation"]["alone"][0] == 0.0
    assert found["full_on_wrong"][0] == 0.5
    assert found["full_on_wrong_unflagged"][0] == 0.25
    assert found["full_on_wrong_not_named"][0] == 0.5
    assert found["flag_recall"][0] == 0.5
    assert found["false_flags"][0] == 0.5
    assert found["unflagged_categories"] == [(1, "wrong")]


def test_intervals_are_as_wide_as_the_questions_differ() -> None:
    alike = [{"question": q, "value": 1.0 * (n % 2)} for q in "abcd" for n in range(10)]
    apart = [{"question": q, "value": float(q in "ab")} for q in "abcd" for _ in range(10)]
    assert manipulation.interval(alike, lambda r: r["value"]) == [0.5, 0.5, 0.5]
    mean, low, high = manipulation.interval(apart, lambda r: r["value"])
    assert mean == 0.5
    assert low <= 0.25
    assert high >= 0.75


def test_a_run_goes_on_where_it_was_stopped(
    tmp_path: Path, shared_server: Address, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grades.jsonl"
    arguments = ["--url", str(shared_server), "--out", str(out), "--split", "dev"]
    manipulation.main([*arguments, "--sample", "3"])
    whole = out.read_text()
    # The last line was cut off in the middle.
    out.write_text(whole[:-20])
    capsys.readouterr()
    manipulation.main([*arguments, "--sample", "3"])
    assert capsys.readouterr().out.startswith("1 of ")
    found = manipulation.read(out)
    assert set(found) == {json.loads(line)["key"] for line in whole.splitlines()}
    # A student's words are not in the file.
    assert questions()[0].wrong not in out.read_text()
