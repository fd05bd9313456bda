"""A course's calibration from what its teacher confirmed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from llmarking.domain import Flag, Point, Verdict
from llmarking.errors import CalibrationError
from llmarking.marks.calibration import Calibration
from llmarking.marks.recalibrating import Confirmed, recalibrated, refit

SHIPPED = Calibration("m", "verdict/zeroshot.v1", slope=0.5, offset=0.2, spread=(0.01, 0.0, 0.2))
PLAIN = Calibration("m", "verdict/zeroshot.v1")


def confirmed(count: int, slope: float, offset: float, seed: int = 3) -> list[Confirmed]:
    """Verdicts of a teacher whose chances follow a line in the model's odds."""
    random = np.random.default_rng(seed)
    odds = random.normal(0.5, 3.0, count)
    held = random.random(count) < 1 / (1 + np.exp(-(slope * odds + offset)))
    return [
        Confirmed(f"a{i}", 1, float(o), bool(h))
        for i, (o, h) in enumerate(zip(odds, held, strict=True))
    ]


def test_a_few_verdicts_hardly_move_it_and_many_do() -> None:
    strict = confirmed(3000, 1.0, -2.0)
    few, many = refit(SHIPPED, strict[:4], SHIPPED), refit(SHIPPED, strict, SHIPPED)
    assert abs(few.offset - SHIPPED.offset) < 0.3
    assert many.offset == pytest.approx(-2.0, abs=0.3)
    assert many.slope == pytest.approx(1.0, abs=0.2)
    assert few.offset > many.offset


def test_which_answers_were_looked_at_first_does_not_bias_it() -> None:
    """The least certain half of a class gives the same line as the class."""
    everything = confirmed(8000, 0.8, -1.0)
    unsure = sorted(everything, key=lambda c: abs(0.8 * c.odds - 1.0))[:4000]
    half = refit(SHIPPED, unsure, SHIPPED)
    assert half.offset == pytest.approx(-1.0, abs=0.2)
    assert half.slope == pytest.approx(0.8, abs=0.2)


def test_copies_of_an_answer_count_once() -> None:
    one = Confirmed("same", 1, 2.0, False)
    assert refit(SHIPPED, [one] * 500, SHIPPED) == refit(SHIPPED, [one], SHIPPED)


def test_the_more_is_confirmed_the_surer_verdicts_like_them_are() -> None:
    """Of a course that is like the others, so that the line stays where it was."""
    p = [SHIPPED.probability(5.0)]
    for count in (40, 400, 4000):
        found = refit(SHIPPED, confirmed(count, 0.5, 0.2), SHIPPED)
        assert found.verdicts == count
        p.append(replace(found, slope=0.5, offset=0.2).probability(5.0))
    assert p == sorted(p)
    assert p[-1] == pytest.approx(1 / (1 + math.exp(-2.7)), abs=1e-3)


def test_without_any_verdict_it_says_what_to_do() -> None:
    with pytest.raises(CalibrationError, match="decide some answers first"):
        refit(SHIPPED, [], SHIPPED)


def test_without_a_shipped_one_it_needs_more() -> None:
    with pytest.raises(CalibrationError, match="19 confirmed verdicts are too few"):
        refit(None, confirmed(19, 1, 0), PLAIN)
    with pytest.raises(CalibrationError, match="both kinds"):
        refit(None, [Confirmed(str(i), 1, 1.0, True) for i in range(40)], PLAIN)
    found = refit(None, confirmed(2000, 1.0, -2.0), PLAIN)
    assert found.offset == pytest.approx(-2.0, abs=0.4)
    assert max(found.spread) < 0.02


# What it changes


def verdict(raw: float | None, held: bool, **fields: object) -> Verdict:
    return Verdict(Point(1, 2.0, ("a point",)), held, raw=raw, **fields)  # type: ignore[arg-type]


def test_a_verdict_turns_and_loses_its_reason() -> None:
    strict = Calibration("m", "p", slope=1.0, offset=-3.0)
    before = verdict(2.0, True, probability=0.8, evidence="words", reason="it says so")
    [after] = recalibrated([before], strict, bar=0.7)
    assert (after.held, after.evidence, after.reason) == (False, None, None)
    assert after.probability == pytest.approx(1 / (1 + math.e))
    assert not after.needs_review
    [unsure] = recalibrated([before], strict, bar=0.75)
    assert unsure.needs_review


def test_what_stays_keeps_its_reason_and_its_doubt() -> None:
    same = Calibration("m", "p", slope=1.0, offset=0.0)
    before = verdict(math.log(9), True, reason="it says so")
    [found] = recalibrated([before], same, 0.5, [Flag.NO_EVIDENCE])
    assert (found.held, found.reason) == (True, "it says so")
    assert found.probability == pytest.approx(0.7)
    [sure] = recalibrated([before], same, 0.5)
    assert sure.probability == pytest.approx(0.9)


def test_what_was_not_read_is_left_alone() -> None:
    empty = verdict(None, False, probability=0.0)
    assert recalibrated([empty], Calibration("m", "p", offset=9.0), 0.99) == (empty,)
