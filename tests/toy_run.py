"""Small runs over a made-up course, measured as real ones are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmarking.datasets.finding import Course, teacher_mark
from llmarking.domain import Point, Question, StudentAnswer
from llmarking.evaluation.folder import Key, Sample, key
from llmarking.evaluation.run_metrics import measure

CODES = ("Q1", "Q2", "Q3", "Q4")


def course(codes: Sequence[str] = CODES, answers: int = 6) -> Course:
    """Questions of three points, worth 1, 2 and 1; every answer has the teacher's verdicts."""
    rng = np.random.default_rng(3)
    points = tuple(
        Point(i, mark, (f"statement {i}",)) for i, mark in ((1, 1.0), (2, 2.0), (3, 1.0))
    )
    questions = tuple(Question(code, f"What of {code}?", 4.0, "All.", points) for code in codes)
    given = tuple(
        StudentAnswer(
            f"{code}-{number}",
            code,
            f"An answer that says statement {number}, in words of its own.",
            {i: bool(rng.random() < 0.6) for i in (1, 2, 3)},
            ("good", "bad", "")[number % 3],
        )
        for code in codes
        for number in range(answers)
    )
    return Course("TOY", "A toy", questions, given, "ours", "made up", "0" * 64)


def samples(of: Course, seed: int = 0, skill: float = 1.0) -> list[Sample]:
    """What a grader might have said; the more skilled, the nearer to the teacher."""
    rng = np.random.default_rng(seed)
    questions = {question.code: question for question in of.questions}
    kept = []
    for answer in of.answers:
        question = questions[answer.question_code]
        marks = {point.id: point.mark for point in question.points}
        assert answer.verdicts is not None
        points = []
        for i, taught in answer.verdicts.items():
            chance = float(np.clip(0.5 + skill * (0.3 if taught else -0.3) * rng.random()
                                   + 0.25 * rng.standard_normal(), 0.01, 0.99))  # fmt: skip
            points.append(
                {"id": i, "held": chance >= 0.5, "probability": chance, "outcome": "decided",
                 "teacher": taught}
            )  # fmt: skip
        kept.append(
            {
                "id": answer.id,
                "question": answer.question_code,
                "shots": 0,
                "points": points,
                "mark": round(sum(marks[p["id"]] for p in points if p["held"]), 6),
                "full_mark": question.full_mark,
                "teacher_mark": teacher_mark(question, answer),
                "flags": [],
                "seconds": 0.1,
            }
        )
    return kept


def configuration(**changes: Any) -> dict[str, Any]:
    """What `run.json` says of a run."""
    return {
        "course": "TOY", "source": "made up", "data_sha256": "0" * 64, "model": "toy-1b",
        "revision": "", "dtype": "bfloat16", "adapter": None, "adapter_version": None,
        "method": "verdict", "shots": 0,
        "prompt_version": "verdict/zeroshot.v1", "prompt_sha256": {"verdict/zeroshot.v1": "1" * 64},
        "calibration": None, "seed": 0,
    } | changes  # fmt: skip


def record(**changes: Any) -> dict[str, Any]:
    """A whole `run.json`."""
    return {
        "format": "llmarking-run/1",
        "configuration": configuration(**changes),
        "limit": None,
        "answers": 24,
        "command": "python eval_short_batched.py -c TOY",
        "versions": {"llmarking": "0"},
        "servers": [{"versions": {"vllm": "0"}}],
        "sessions": [
            {"began": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:00:02+00:00",
             "seconds": 2.0, "answers": 24}
        ],
    }  # fmt: skip


def numbers(of: Course, kept: Sequence[Sample]) -> dict[str, Any]:
    """What `metrics.json` says of it."""
    by_key: dict[Key, Sample] = {key(sample): sample for sample in kept}
    plan = [(answer.question_code, answer.id) for answer in of.answers]
    return {**measure(of, plan, by_key, seed=0), "failed": []}


def write(folder: Path, kept: Sequence[Sample] | None = None, **changes: Any) -> Path:
    """A folder as a run leaves it."""
    toy = course()
    kept = samples(toy) if kept is None else kept
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record(**changes)), "utf-8")
    (folder / "metrics.json").write_text(json.dumps(numbers(toy, kept)), "utf-8")
    lines = "".join(json.dumps(sample) + "\n" for sample in kept)
    (folder / "samples.jsonl").write_text(lines, "utf-8")
    return folder
