"""From a grade to a row of marks, and what exactly a job grades with.

The configuration is settled when a job is submitted: model, revision, adapter, method, examples,
prompt and calibration. Its hash, together with the question's, is the name of a mark: no answer
gets two marks of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa

from llmarking.domain import Verdict
from llmarking.errors import UnknownModelError
from llmarking.grading.grader import Graded, GradeOptions, Grader, Setup
from llmarking.marks.calibration import Calibration
from llmarking.store.overview import calibration_of
from llmarking.store.schema import course_calibrations
from llmarking.store.submit import canonical_hash


def configuration(
    tx: sa.Connection, course: str, grader: Grader, options: GradeOptions
) -> dict[str, Any]:
    """Everything that a mark depends on besides its question and answer, as JSON.

    The calibration that was applied to the course last goes before the one that was shipped.
    """
    setup = grader.setup(options)
    calibration = _of_course(tx, course, setup)
    if options.method == "verdict" and calibration is not None:
        setup = replace(setup, calibration=calibration)
    return {
        "model": setup.model,
        "revision": setup.revision,
        "adapter": setup.adapter,
        "adapter_version": setup.adapter_version,
        "method": options.method,
        "shots": options.shots,
        "explain": options.explain,
        "risk": options.risk,
        "prompt": setup.prompt,
        "calibration": None if setup.calibration is None else _stored(setup.calibration),
    }


def options_of(config: Mapping[str, Any]) -> GradeOptions:
    """How to grade with a configuration."""
    stored = config["calibration"]
    return GradeOptions(
        method=config["method"],
        shots=config["shots"],
        explain=config["explain"],
        risk=config["risk"],
        adapter=config["adapter"],
        calibration=None if stored is None else _calibration(config, stored),
    )


def still_holds(config: Mapping[str, Any], grader: Grader) -> bool:
    """Whether this server can still grade exactly so: not after an update of model or prompts.

    Where the adapter is not loaded any more it can't grade otherwise either: each answer says so.
    """
    try:
        setup = grader.setup(options_of(config))
    except UnknownModelError:
        return True
    now = (setup.model, setup.revision, setup.adapter_version, setup.prompt)
    then = tuple(config.get(n) for n in ("model", "revision", "adapter_version", "prompt"))
    return now == then


def mark_hash(config: Mapping[str, Any], content_hash: str) -> str:
    """The name of the marks that a configuration gives to the answers of a question."""
    return canonical_hash({"config": dict(config), "question": content_hash})


def mark_row(graded: Graded, config: Mapping[str, Any], content_hash: str) -> dict[str, Any]:
    """Columns of `marks` for a grade, besides whose it is."""
    grade = graded.grade
    # An adapter may have been exchanged since the configuration was settled.
    used = {**config, "adapter_version": graded.adapter_version}
    return {
        "config_hash": mark_hash(used, content_hash),
        "mark": grade.mark,
        "full_mark": grade.question.full_mark,
        "verdicts": [verdict_row(verdict) for verdict in grade.verdicts],
        "flags": [flag.value for flag in grade.flags],
        "needs_review": grade.needs_review,
        "marks_at_risk": marks_at_risk(grade.verdicts),
        "confidence": confidence(grade.verdicts),
        "model": config["model"],
        "revision": config["revision"],
        "adapter": graded.adapter,
        "adapter_version": graded.adapter_version,
        "method": config["method"],
        "shots": graded.shots,
        "prompt_version": graded.prompt_version,
        "calibration": graded.calibration,
    }


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """A verdict as it is kept in a mark."""
    return {
        "id": verdict.point.id,
        "held": verdict.held,
        "probability": verdict.probability,
        "raw": verdict.raw,
        "evidence": verdict.evidence,
        "reason": verdict.reason,
        "needs_review": verdict.needs_review,
        "outcome": verdict.outcome.value,
    }


def marks_at_risk(verdicts: Sequence[Verdict]) -> float:
    """Marks that may be wrong: each point's times the probability of the other verdict.

    A point without a verdict is as uncertain as can be.
    """
    return round(
        sum(
            verdict.point.mark * min(p, 1 - p)
            for verdict in verdicts
            if (p := _probability(verdict)) is not None
        ),
        6,
    )


def confidence(verdicts: Sequence[Verdict]) -> float | None:
    """How sure the least certain verdict is, from 0.5 to 1; None where no verdict says."""
    known = [max(p, 1 - p) for verdict in verdicts if (p := _probability(verdict)) is not None]
    return min(known, default=None)


def _probability(verdict: Verdict) -> float | None:
    return 0.5 if verdict.held is None else verdict.probability


def _of_course(tx: sa.Connection, course: str, setup: Setup) -> Calibration | None:
    """The course's own calibration, if it was fitted on what these very weights had read."""
    table = course_calibrations
    row = tx.execute(
        sa.select(table)
        .where(
            table.c.course_id == course,
            table.c.state == "applied",
            table.c.model == setup.model,
            table.c.revision == setup.revision,
            table.c.adapter.is_not_distinct_from(setup.adapter),
            table.c.adapter_version.is_not_distinct_from(setup.adapter_version),
            table.c.prompt == setup.prompt,
        )
        .order_by(table.c.applied_at.desc(), table.c.created_at.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else calibration_of(row)


def _stored(calibration: Calibration) -> dict[str, Any]:
    kept = asdict(calibration)
    return {
        "identity": calibration.identity,
        **{name: kept[name] for name in ("slope", "offset", "spread", "verdicts")},
    }


def _calibration(config: Mapping[str, Any], stored: Mapping[str, Any]) -> Calibration:
    return Calibration(
        model=config["model"],
        adapter=config["adapter"],
        prompt=config["prompt"],
        slope=stored["slope"],
        offset=stored["offset"],
        # A job of an older version has none.
        spread=tuple(stored.get("spread", (0.0, 0.0, 0.0))),
        verdicts=stored["verdicts"],
    )
