"""From log-odds to probabilities, and a promise about errors that holds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from llmarking.errors import CalibrationError
from llmarking.marks import calibration
from llmarking.marks.calibration import (
    USUAL_SPREAD,
    Calibration,
    Calibrations,
    between,
    fit,
    posterior,
    weigh_words,
)
from llmarking.metrics.calibration import expected_calibration_error


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def synthetic(count: int, slope: float, offset: float, seed: int) -> tuple[list[float], list[bool]]:
    """Log-odds, and verdicts drawn with the probabilities that slope and offset give them."""
    random = np.random.default_rng(seed)
    odds = random.normal(1.0, 3.0, count)
    return odds.tolist(), (random.random(count) < sigmoid(slope * odds + offset)).tolist()


# Probabilities


@pytest.mark.parametrize(
    ("slope", "offset", "odds", "probability"),
    [
        (1, 0, 0, 0.5),
        (1, 0, math.log(3), 0.75),
        (2, 0, math.log(3), 0.9),
        (1, -math.log(3), math.log(3), 0.5),
        (0.5, 1, -2, 0.5),
        (1, 0, 1e6, 1.0),
        (1, 0, -1e6, 0.0),
        (1, 0, math.inf, 1.0),
        (1, 0, -math.inf, 0.0),
    ],
)
def test_probability_is_the_logistic_of_a_line(
    slope: float, offset: float, odds: float, probability: float
) -> None:
    c = Calibration("m", "p", slope=slope, offset=offset)
    assert c.probability(odds) == pytest.approx(probability, abs=1e-12)


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0.01, 5), st.floats(-5, 5))
def test_a_calibration_never_changes_the_order_of_two_answers(
    a: float, b: float, slope: float, offset: float
) -> None:
    c = Calibration("m", "p", slope=slope, offset=offset)
    low, high = sorted((a, b))
    assert c.probability(low) <= c.probability(high)


# The fit


def test_a_fit_of_one_odds_value_is_the_share_of_true() -> None:
    """With all odds alike no slope can help, and the probability must be the share: 3 of 4."""
    slope, offset = fit([0.0] * 400, [True] * 300 + [False] * 100)
    assert sigmoid(np.array(offset)) == pytest.approx(0.75, abs=1e-4)
    assert slope == pytest.approx(1.0)


def test_a_fit_of_two_odds_values_goes_through_both_shares() -> None:
    """20 % True at odds -1 and 90 % at +1: the line is solved by hand from two logits."""
    odds = [-1.0] * 1000 + [1.0] * 1000
    labels = [True] * 200 + [False] * 800 + [True] * 900 + [False] * 100
    slope, offset = fit(odds, labels)
    low, high = math.log(0.2 / 0.8), math.log(0.9 / 0.1)
    assert slope == pytest.approx((high - low) / 2, abs=1e-3)
    assert offset == pytest.approx((high + low) / 2, abs=1e-3)


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.4, -1.5), (2.0, 1.0), (0.1, -3.0)])
def test_a_fit_agrees_with_scikit_learn(slope: float, offset: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    odds, labels = synthetic(4000, slope, offset, seed=1)
    ours = fit(odds, labels)
    theirs = linear_model.LogisticRegression(C=1e6, tol=1e-10).fit(np.array(odds)[:, None], labels)
    assert ours == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), abs=1e-3)
    assert ours == pytest.approx((slope, offset), abs=0.25)


def test_a_fit_weighs_verdicts_as_if_they_were_repeated() -> None:
    odds, labels = [-1.0, 0.5, 1.0, 2.0, -0.5], [False, True, False, True, True]
    weights = [1, 2, 3, 1, 2]
    repeated = [(o, v) for o, v, w in zip(odds, labels, weights, strict=True) for _ in range(w)]
    weighted = fit(odds, labels, weights=weights)
    assert weighted == pytest.approx(fit([o for o, _ in repeated], [v for _, v in repeated]))


def test_verdicts_that_the_odds_separate_get_a_finite_line() -> None:
    slope, offset = fit([-2.0, -1.0, 1.0, 2.0], [False, False, True, True])
    assert 0 < slope < 100
    assert abs(offset) < 1


def test_odds_that_point_the_wrong_way_never_turn_verdicts_round() -> None:
    slope, _ = fit([-2.0, -1.0, 1.0, 2.0], [True, True, False, False])
    assert slope > 0


@pytest.mark.parametrize(
    ("odds", "labels", "words"),
    [
        ([], [], "of both kinds"),
        ([1.0, 2.0], [True, True], "of both kinds"),
        ([1.0, 2.0], [False, False], "of both kinds"),
        ([1.0], [True, False], "1 log-odds and 2 verdicts"),
        ([1.0, math.nan], [True, False], "finite"),
        ([1.0, math.inf], [True, False], "finite"),
    ],
)
def test_what_can_not_be_fitted_is_refused(
    odds: list[float], labels: list[bool], words: str
) -> None:
    with pytest.raises(CalibrationError, match=words):
        fit(odds, labels)


# What other courses say, and this one

PRIOR = Calibration("m", "p", slope=0.5, offset=-2.0, spread=(0.04, 0.0, 1.0))


def test_without_verdicts_a_course_is_what_is_known_of_others() -> None:
    slope, offset, spread = posterior(PRIOR, [], [])
    assert (slope, offset) == pytest.approx((0.5, -2.0))
    assert spread == pytest.approx(PRIOR.spread, abs=1e-6)


def test_one_kind_of_verdict_is_enough_where_there_is_a_prior() -> None:
    _, offset, _ = posterior(PRIOR, [1.0, 2.0, 0.0], [True, True, True])
    assert -2.0 < offset < 0.0


def test_the_more_verdicts_the_further_a_course_goes_its_own_way_and_the_less_is_open() -> None:
    truth = np.array([1.5, 1.0])
    distances, open_still = [], []
    for count in (0, 5, 50, 500, 5000, 50_000):
        slope, offset, spread = posterior(PRIOR, *synthetic(count, *truth, seed=3))
        distances.append(float(np.linalg.norm(np.array([slope, offset]) - truth)))
        open_still.append((spread[0], spread[2]))
    assert distances == sorted(distances, reverse=True)
    assert open_still == sorted(open_still, reverse=True)
    assert distances[-1] < 0.2


def test_the_less_courses_differ_the_closer_the_fit_stays() -> None:
    odds, labels = synthetic(100, 1.5, 1.0, seed=4)
    moved = []
    for variance in (10.0, 1.0, 0.1, 0.01, 1e-8):
        prior = replace(PRIOR, spread=(variance, 0.0, variance))
        slope, offset, _ = posterior(prior, odds, labels)
        moved.append(math.hypot(slope - prior.slope, offset - prior.offset))
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 1e-2


def test_an_offset_alone_moves_by_bayes_rule() -> None:
    """At odds 0 the slope has no say. Gradient zero: n (share - p) = offset / variance."""
    prior = Calibration("m", "p", spread=(0.01, 0.0, 0.25))
    _, offset, spread = posterior(prior, [0.0] * 60, [True] * 45 + [False] * 15)
    p = 1 / (1 + math.exp(-offset))
    assert 60 * (0.75 - p) == pytest.approx(offset / 0.25, abs=1e-5)
    assert 1 / spread[2] == pytest.approx(60 * p * (1 - p) + 1 / 0.25, abs=1e-5)


def test_a_calibration_that_does_not_say_how_courses_differ_is_left_as_usual() -> None:
    silent = Calibration("m", "p", slope=0.5, offset=-2.0)
    seen = synthetic(30, 1.0, 0.0, seed=2)
    assert posterior(silent, *seen) == posterior(replace(silent, spread=USUAL_SPREAD), *seen)


# How courses differ


def many_courses(count: int, spread: tuple[float, float], verdicts: int, seed: int) -> Any:
    """Verdicts of courses whose lines are drawn around slope 0.6, offset -0.5."""
    random = np.random.default_rng(seed)
    odds: list[float] = []
    labels: list[bool] = []
    names: list[str] = []
    for course in range(count):
        slope = 0.6 + random.normal(0, spread[0])
        offset = -0.5 + random.normal(0, spread[1])
        x = random.normal(0, 6, verdicts)
        odds += x.tolist()
        labels += (random.random(verdicts) < sigmoid(slope * x + offset)).tolist()
        names += [str(course)] * verdicts
    return odds, labels, names


def test_how_far_courses_go_apart_is_found_again() -> None:
    of_slope, both, of_offset = between(*many_courses(150, (0.1, 0.8), 400, seed=1))
    assert math.sqrt(of_slope) == pytest.approx(0.1, rel=0.25)
    assert math.sqrt(of_offset) == pytest.approx(0.8, rel=0.2)
    assert abs(both) < 0.3 * math.sqrt(of_slope * of_offset)


def test_chance_alone_is_not_taken_for_a_difference_of_courses() -> None:
    """The lines of twenty verdicts each go far apart, by themselves; the courses are all alike."""
    odds, labels, names = many_courses(200, (0.0, 0.0), 60, seed=2)
    apart = np.cov(
        np.transpose(
            [
                posterior(None, odds[i : i + 60], labels[i : i + 60])[:2]
                for i in range(0, len(odds), 60)
            ]
        )
    )
    of_slope, _, of_offset = between(odds, labels, names)
    assert of_offset < 0.35 * apart[1, 1]
    assert of_slope < 0.6 * apart[0, 0]


def test_one_course_tells_nothing_of_differences() -> None:
    with pytest.raises(CalibrationError, match="from one alone"):
        between([0.0, 1.0], [True, False], ["a", "a"])


@pytest.mark.parametrize("odds", [-12.0, -3.0, -0.5, 0.0, 2.0, 9.0])
@pytest.mark.parametrize("spread", [(0.003, -0.02, 1.1), (0.0, 0.0, 0.3), (0.05, 0.0, 0.0)])
def test_a_probability_is_the_mean_over_the_lines_a_course_may_have(
    odds: float, spread: tuple[float, float, float]
) -> None:
    a, b, c = spread
    lines = np.random.default_rng(1).multivariate_normal([0.5, -0.4], [[a, b], [b, c]], 200_000)
    mean = float(sigmoid(lines @ [odds, 1.0]).mean())
    found = Calibration("m", "p", slope=0.5, offset=-0.4, spread=spread).probability(odds)
    assert found == pytest.approx(mean, abs=0.015)


@given(st.floats(-60, 60), st.floats(0.01, 3), st.floats(-5, 5), st.floats(0, 1), st.floats(0, 4))
def test_what_is_not_known_makes_less_sure_and_never_turns_round(
    odds: float, slope: float, offset: float, of_slope: float, of_offset: float
) -> None:
    sure = Calibration("m", "p", slope=slope, offset=offset)
    p = sure.probability(odds)
    q = replace(sure, spread=(of_slope, 0.0, of_offset)).probability(odds)
    assert abs(q - 0.5) <= abs(p - 0.5) + 1e-12
    assert (p - 0.5) * (q - 0.5) >= 0


# Leaving questions out


def test_left_out_probabilities_come_from_the_other_questions_alone() -> None:
    odds, labels = synthetic(600, 0.7, -1.0, seed=5)
    groups = [f"q{i % 3}" for i in range(600)]
    out = calibration.left_out(odds, labels, groups)
    others = [i for i in range(600) if i % 3 != 1]
    slope, offset = fit([odds[i] for i in others], [labels[i] for i in others])
    expected = sigmoid(slope * np.array(odds) + offset)
    assert [out[i] for i in range(1, 600, 3)] == pytest.approx(expected[1::3].tolist())


def test_turning_a_question_round_does_not_change_its_own_left_out_probabilities() -> None:
    """The proof that nothing leaks: a question's verdicts have no say in its own probabilities."""
    odds, labels = synthetic(300, 0.7, -1.0, seed=6)
    groups = [f"q{i % 3}" for i in range(300)]
    turned = [not v if g == "q0" else v for v, g in zip(labels, groups, strict=True)]
    before = calibration.left_out(odds, labels, groups)
    after = calibration.left_out(odds, turned, groups)
    assert before[0::3] == after[0::3]
    assert before[1::3] != after[1::3]


def test_one_question_alone_can_not_be_left_out() -> None:
    with pytest.raises(CalibrationError):
        calibration.left_out([1.0, 2.0], [True, False], ["q", "q"])


# The promise


@pytest.mark.parametrize("risk", [0.02, 0.05, 0.1, 0.2])
def test_a_promised_risk_holds_on_courses_nobody_has_seen(risk: float) -> None:
    """Courses of one half say how they differ; errors are counted on those of the other."""
    odds, labels, names = many_courses(160, (0.08, 1.5), 200, seed=4)
    half = 80 * 200
    line = Calibration("m", "p", slope=0.6, offset=-0.5)
    known = replace(line, spread=between(odds[:half], labels[:half], names[:half]))
    truth = np.array(labels[half:])

    def wrong_at_the_bar(calibration: Calibration) -> float:
        """Among the least sure of those that may stand alone."""
        p = np.array([calibration.probability(x) for x in odds[half:]])
        sure = np.maximum(p, 1 - p)
        edge = (sure >= 1 - risk) & (sure < 1 - risk * 0.7)
        assert edge.sum() > 150
        return float(((p >= 0.5) != truth)[edge].mean())

    assert wrong_at_the_bar(known) <= risk
    # Taking the line of most courses for that of each breaks it.
    assert wrong_at_the_bar(line) > risk


# Calibration error


def test_a_fit_mends_the_calibration_error_of_a_lenient_model() -> None:
    odds, labels = synthetic(3000, 0.5, -2.0, seed=8)
    raw = sigmoid(np.array(odds)).tolist()
    slope, offset = fit(odds[:1500], labels[:1500])
    mended = sigmoid(slope * np.array(odds[1500:]) + offset).tolist()
    assert expected_calibration_error(labels[1500:], raw[1500:]) > 0.25
    assert expected_calibration_error(labels[1500:], mended) < 0.06


# Files


def test_a_calibration_comes_back_from_its_file(tmp_path: Path) -> None:
    c = Calibration(
        "model", "verdict/zeroshot.v1", "adapter", 0.31, -2.5,
        spread=(0.04, -0.01, 0.9), ece=0.04, verdicts=812, data=("course", "other"),
    )  # fmt: skip
    path = tmp_path / "deep" / "c.json"
    c.save(path)
    assert calibration.load(path) == c


def test_a_file_of_the_first_version_is_read_without_its_table_of_errors(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    table = {"format": "llmarking-calibration/1", "risk_table": [[0.5, 0.3], [0.9, 0.05]]}
    path.write_text(json.dumps(GOOD | table))
    assert calibration.load(path) == Calibration("m", "p")


def test_a_calibration_is_found_for_exactly_its_model_adapter_and_prompt(tmp_path: Path) -> None:
    c = Calibration("model", "prompt", None, 0.5, 1.0)
    c.save(tmp_path / "c.json")
    known = Calibrations(tmp_path)
    assert known.find("model", None, "prompt") == c
    assert known.find("model", "adapter", "prompt") is None
    assert known.find("model", None, "prompt2") is None
    assert known.find("Model", None, "prompt") is None
    assert Calibrations(tmp_path / "nothing").find("model", None, "prompt") is None


@pytest.mark.parametrize("name", ["model", "prompt", "adapter", "slope", "offset"])
def test_whatever_changes_a_verdict_changes_the_identity(name: str) -> None:
    values: dict[str, Any] = {"model": "m", "prompt": "p", "adapter": "a", "slope": 1, "offset": 0}
    other = values | {name: 2 if isinstance(values[name], int) else "x"}
    assert Calibration(**values).identity != Calibration(**other).identity
    assert Calibration(**values).identity == Calibration(**values, verdicts=9).identity


GOOD = {"format": calibration.FORMAT, "model": "m", "prompt": "p", "slope": 1.0, "offset": 0.0}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a calibration"),
        (b"{", "not a calibration"),
        (b"\xff\xfe", "not a calibration"),
        (b"[]", "format"),
        (b'"text"', "format"),
        (b"{}", "format"),
        (json.dumps(GOOD | {"format": "llmarking-calibration/3"}).encode(), "format"),
        (json.dumps({"format": calibration.FORMAT}).encode(), "not a calibration"),
        (json.dumps(GOOD | {"surplus": 1}).encode(), "not a calibration"),
        (json.dumps(GOOD | {"slope": "1.0"}).encode(), "not a calibration"),
        (json.dumps(GOOD | {"offset": None}).encode(), "not a calibration"),
        (json.dumps(GOOD | {"slope": math.nan}).encode(), "finite"),
        (json.dumps(GOOD | {"offset": -math.inf}).encode(), "finite"),
        (json.dumps(GOOD | {"slope": 0}).encode(), "turn verdicts round"),
        (json.dumps(GOOD | {"slope": -0.5}).encode(), "turn verdicts round"),
        (json.dumps(GOOD | {"spread": 5}).encode(), "not a calibration"),
        (json.dumps(GOOD | {"spread": [0.1, 0.0]}).encode(), "not a calibration"),
        (json.dumps(GOOD | {"spread": [0.1, 0.0, "x"]}).encode(), "not a calibration"),
        (json.dumps(GOOD | {"spread": [-0.1, 0.0, 1.0]}).encode(), "go together"),
        (json.dumps(GOOD | {"spread": [0.1, 0.5, 1.0]}).encode(), "go together"),
        (json.dumps(GOOD | {"spread": [0.1, 0.0, math.nan]}).encode(), "go together"),
        (json.dumps(GOOD | {"spread": [0.1, 0.0, math.inf]}).encode(), "go together"),
    ],
)
def test_a_malformed_file_is_refused_by_name(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=rf"bad\.json: .*{words}"):
        calibration.load(path)
    with pytest.raises(CalibrationError):
        Calibrations(tmp_path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"none\.json"):
        calibration.load(tmp_path / "none.json")


def test_every_calibration_that_ships_can_be_read() -> None:
    Calibrations()


def test_what_comes_with_an_adapters_weights_is_all_it_has(tmp_path: Path) -> None:
    shipped = Calibration("model", "prompt", "mine", 0.5, 1.0)
    shipped.save(tmp_path / "c.json")
    known = Calibrations(tmp_path)
    own = Calibration("model", "other", "mine", 0.7, 0.0)
    known.put("mine", [own])
    assert known.find("model", "mine", "other") == own
    # Those that ship belong to other weights of that name.
    assert known.find("model", "mine", "prompt") is None
    assert known.prompts("model", "mine") == ["other"]
    known.put("mine", [])
    assert known.find("model", "mine", "prompt") is None
    assert known.prompts("model", "mine") == []
    known.forget("mine")
    assert known.find("model", "mine", "prompt") == shipped
    assert known.prompts("model", "mine") == ["prompt"]
    assert known.prompts("another", "mine") == []


def test_words_are_weighed_as_they_were_drawn() -> None:
    """20,000 verdicts drawn with p = sigmoid(0.5 * odds + 1.5 * (share - 0.4)): 3 log-odds of the
    model for all words, whatever is not known left aside."""
    rng = np.random.default_rng(3)
    odds, shares = rng.normal(0, 3, 20_000), rng.beta(2, 3, 20_000)
    labels = rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * odds + 1.5 * (shares - 0.4))))
    known = [*shares.tolist(), None]
    overlap, usual = weigh_words([*odds.tolist(), 50.0], known, [*labels.tolist(), False])
    assert overlap == pytest.approx(3.0, abs=0.4)
    assert usual == pytest.approx(0.4, abs=0.01)


def test_words_that_mislead_weigh_nothing() -> None:
    labels = [True, False] * 50
    overlap, _ = weigh_words([0.0] * 100, [0.0 if held else 1.0 for held in labels], labels)
    assert overlap == 0


def test_nothing_is_weighed_where_nothing_is_known() -> None:
    assert weigh_words([1.0, -1.0], [None, None], [True, False]) == (0, 0)
    assert weigh_words([1.0, -1.0], [0.5, 0.1], [True, True]) == (0, 0)


def test_an_unknown_share_adds_nothing_and_the_usual_one_neither() -> None:
    calibration = Calibration(model="m", prompt="p", overlap=4.0, usual=0.25)
    assert calibration.weighed(1.0, None) == 1.0
    assert calibration.weighed(1.0, 0.25) == 1.0
    assert calibration.weighed(1.0, 0.75) == 3.0


def test_the_identity_of_a_calibration_names_its_words() -> None:
    plain = Calibration(model="m", prompt="p")
    assert plain.identity != replace(plain, overlap=1.0).identity
    assert replace(plain, overlap=1.0).identity != replace(plain, overlap=1.0, usual=0.5).identity
