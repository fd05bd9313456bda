"""Metrics by arithmetic done here, against scikit-learn and scipy, and by what must always hold."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from sklearn import metrics as field
from sklearn.calibration import calibration_curve

from llmarking.datasets import finding as datasets
from llmarking.datasets.finding import load
from llmarking.domain import Point
from llmarking.metrics.agreement import (
    COUNTS,
    answer_metrics,
    format_failures,
    mean,
    mean_over,
    point_metrics,
    quality,
    qwk,
    sliced,
    to_json,
)
from llmarking.metrics.baselines import (
    all_false,
    all_true,
    left_out_threshold,
    majority,
    token_overlap,
)
from llmarking.metrics.calibration import calibration_bins, expected_calibration_error
from llmarking.metrics.resampling import (
    answer_differences,
    answer_intervals,
    mean_intervals,
    point_differences,
    point_intervals,
)
from llmarking.metrics.selective import risk_coverage
from llmarking.metrics.sums import answer_statistic, from_confusion, point_statistic

# The first call of some functions takes longer than Hypothesis allows.
unhurried = settings(deadline=None)

NAN = math.nan
T, F = True, False
RNG = np.random.default_rng(7)


def close(ours: Mapping[str, float], expected: Mapping[str, float]) -> None:
    """Every expected number, to 1e-12; NaN is NaN."""
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


# Points


def test_points_by_hand() -> None:
    """Four hits, two false Trues, one miss, one right False: every number by its definition."""
    truth = [T, T, T, T, T, F, F, F]
    held = [T, T, T, T, F, T, T, F]
    # chance: (5/8)(6/8) True and (3/8)(2/8) False
    chance = Fraction(5 * 6 + 3 * 2, 64)
    close(
        point_metrics(truth, held),
        {
            "points": 8,
            "missing": 0,
            "accuracy": 5 / 8,
            "precision_true": 4 / 6,
            "recall_true": 4 / 5,
            "f1_true": 8 / 11,
            "precision_false": 1 / 2,
            "recall_false": 1 / 3,
            "f1_false": 2 / 5,
            "macro_f1": (8 / 11 + 2 / 5) / 2,
            "balanced_accuracy": (4 / 5 + 1 / 3) / 2,
            "kappa": float((Fraction(5, 8) - chance) / (1 - chance)),
            "auc": NAN,
            "brier": NAN,
            "ece": NAN,
            "ece_width": NAN,
        },
    )


def test_missing_verdicts_by_hand() -> None:
    """A verdict that could not be read costs recall and accuracy, and is neither True nor False."""
    ours = point_metrics([T, T, F, F], [T, None, F, NAN])
    close(
        ours,
        {
            "points": 4,
            "missing": 1 / 2,
            "accuracy": 1 / 2,
            "precision_true": 1,
            "recall_true": 1 / 2,
            "f1_true": 2 / 3,
            "precision_false": 1,
            "recall_false": 1 / 2,
            # by chance: 1/2 · 1/4, twice
            "kappa": (1 / 2 - 1 / 4) / (1 - 1 / 4),
        },
    )


def test_points_without_a_teacher_are_left_out() -> None:
    """Where the teacher said nothing there is nothing to agree with."""
    ours = point_metrics([T, NAN, F, None], [T, T, T, F], [0.9, 0.1, 0.8, 0.2])
    assert ours == pytest.approx(point_metrics([T, F], [T, T], [0.9, 0.8]), nan_ok=True)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_points_against_scikit_learn(missing: float) -> None:
    """The same numbers as the field's own implementation."""
    truth = RNG.random(500) < 0.6
    chances = np.clip(0.35 * truth + 0.8 * RNG.random(500), 0, 1).round(2)
    held = np.where(RNG.random(500) < missing, NAN, chances >= 0.6)
    responses = np.where(np.isnan(held), 2, held).astype(int)
    ours = point_metrics(truth, held, chances)
    for label, name in enumerate(("false", "true")):
        options = {"labels": [label], "average": "macro", "zero_division": 0}
        close(
            ours,
            {
                f"f1_{name}": field.f1_score(truth, responses, **options),
                f"precision_{name}": field.precision_score(truth, responses, **options),
                f"recall_{name}": field.recall_score(truth, responses, **options),
            },
        )
    close(
        ours,
        {
            "accuracy": field.accuracy_score(truth, responses),
            "kappa": field.cohen_kappa_score(truth, responses),
            "macro_f1": field.f1_score(truth, responses, labels=[0, 1], average="macro"),
            "auc": field.roc_auc_score(truth, chances),
            "brier": field.brier_score_loss(truth, chances),
        },
    )
    if not missing:
        close(ours, {"balanced_accuracy": field.balanced_accuracy_score(truth, responses)})


@pytest.mark.parametrize(
    ("truth", "held", "defined"),
    [
        ([], [], {"points": 0}),
        ([NAN], [T], {"points": 0}),
        ([T, T], [T, T], {"accuracy": 1, "f1_true": 1, "macro_f1": 1, "balanced_accuracy": 1}),
        ([F, F], [T, T], {"accuracy": 0, "kappa": 0, "f1_true": 0, "f1_false": 0, "macro_f1": 0}),
        ([T, F], [T, T], {"kappa": 0, "precision_true": 0.5, "f1_false": 0, "recall_false": 0}),
        ([T, F], [NAN, NAN], {"missing": 1, "accuracy": 0, "kappa": 0, "f1_true": 0}),
    ],
)
def test_degenerate_points(
    truth: list[float], held: list[float], defined: dict[str, float]
) -> None:
    """What is not defined is NaN, without a warning; what is, is right."""
    ours = point_metrics(truth, held, [0.5] * len(truth))
    close(ours, defined)
    if len(set(truth)) < 2:
        assert math.isnan(ours["auc"])
    if not ours["points"]:
        assert all(math.isnan(v) for name, v in ours.items() if name != "points")


def test_undefined_numbers() -> None:
    """The kappa of nothing but Trues, the F1 of a class that nobody named, precision of none."""
    ours = point_metrics([T, T], [T, T])
    for name in ("kappa", "f1_false", "recall_false", "precision_false"):
        assert math.isnan(ours[name])
    assert math.isnan(point_metrics([T, F], [F, F])["precision_true"])


def test_arrays_of_different_length() -> None:
    """A mistake of the caller's, not a number."""
    with pytest.raises(ValueError, match="arrays of one length"):
        point_metrics([T], [T, F])
    with pytest.raises(ValueError, match="arrays of one length"):
        answer_metrics([[1]], [[1]], 1)


def test_format_failures() -> None:
    """Counted by answer, not by point."""
    assert format_failures([T, NAN, NAN, F, T], ["a", "a", "a", "b", "c"]) == 1 / 3
    assert math.isnan(format_failures([], []))


VERDICTS = st.lists(st.tuples(st.booleans(), st.sampled_from([T, F, None])), min_size=1)


@unhurried
@given(VERDICTS)
def test_point_properties(pairs: list[tuple[bool, bool | None]]) -> None:
    """Bounds; order does not matter; swapping the classes swaps their numbers and nothing else."""
    truth, held = zip(*pairs, strict=True)
    ours = point_metrics(truth, held)
    for name, value in ours.items():
        if name not in COUNTS and not math.isnan(value):
            assert (-1 if name == "kappa" else 0) <= value <= 1 + 1e-12, name
    order = np.random.default_rng(len(pairs)).permutation(len(pairs))
    close(point_metrics(np.array(truth)[order], np.array(held, dtype=float)[order]), ours)
    turned = point_metrics([not t for t in truth], [None if h is None else not h for h in held])
    swap = {"true": "false", "false": "true"}
    for name, value in ours.items():
        stem, _, label = name.rpartition("_")
        other = f"{stem}_{swap[label]}" if label in swap else name
        close(turned, {other: value})


@unhurried
@given(VERDICTS)
def test_kappa_is_symmetric(pairs: list[tuple[bool, bool | None]]) -> None:
    """It does not matter who of the two is the teacher."""
    decided = [(t, h) for t, h in pairs if h is not None]
    truth, held = zip(*decided, strict=True) if decided else ((), ())
    close(point_metrics(held, truth), {"kappa": point_metrics(truth, held)["kappa"]})


# Probabilities


def test_calibration_by_hand() -> None:
    """Four points in two bins of equal mass; the same four in bins of equal width."""
    p, y = [0.1, 0.2, 0.8, 0.9], [F, T, T, T]
    table = calibration_bins(y, p, bins=2)
    assert table == pytest.approx(np.array([[2, 0.15, 0.5], [2, 0.85, 1.0]]))
    assert expected_calibration_error(y, p, bins=2) == pytest.approx(0.5 * 0.35 + 0.5 * 0.15)
    wide = calibration_bins(y, p, bins=5, binning="width")
    assert wide == pytest.approx(np.array([[1, 0.1, 0], [1, 0.2, 1], [2, 0.85, 1]]))
    error = expected_calibration_error(y, p, bins=5, binning="width")
    assert error == pytest.approx(0.25 * 0.1 + 0.25 * 0.8 + 0.5 * 0.15)


def test_bins() -> None:
    """Equal mass means equal counts, ties together; 1 belongs to the last bin of equal width."""
    p = RNG.permutation(1000) / 1000
    assert calibration_bins(p > 0.5, p)[:, 0].tolist() == [100] * 10
    assert calibration_bins([T, F, T], [0.3, 0.3, 0.3]).tolist() == [
        [3, pytest.approx(0.3), pytest.approx(2 / 3)]
    ]
    assert calibration_bins([T, T, F], [0, 0.1, 1], binning="width")[:, 0].tolist() == [1, 1, 1]
    assert calibration_bins([], []).shape == (0, 3)


def test_calibration_against_scikit_learn() -> None:
    """Bins of equal width are those of `calibration_curve`."""
    p = RNG.random(400)
    y = RNG.random(400) < p
    observed, predicted = calibration_curve(y, p, n_bins=10, strategy="uniform")
    ours = calibration_bins(y, p, binning="width")
    assert ours[:, 1] == pytest.approx(predicted)
    assert ours[:, 2] == pytest.approx(observed)


PROBABILITIES = st.lists(
    st.tuples(st.booleans(), st.floats(0, 1).map(lambda p: round(p, 2))), min_size=1
)


@unhurried
@given(PROBABILITIES)
def test_probability_properties(pairs: list[tuple[bool, float]]) -> None:
    """Bounds, order does not matter, and turning everything round keeps ECE, Brier and AUC."""
    truth, p = (np.array(column) for column in zip(*pairs, strict=True))
    names = ("auc", "brier", "ece", "ece_width")
    ours = {name: point_metrics(truth, p >= 0.5, p)[name] for name in names}
    for value in ours.values():
        assert math.isnan(value) or -1e-12 <= value <= 1 + 1e-12
    order = RNG.permutation(len(p))
    close(point_metrics(truth[order], (p >= 0.5)[order], p[order]), ours)
    turned = point_metrics(~truth, p < 0.5, 1 - p)
    close(turned, {"brier": ours["brier"], "auc": ours["auc"]})


def test_probabilities_that_are_missing() -> None:
    """The rest is measured."""
    ours = point_metrics([T, F, T, F], [T, F, T, F], [0.9, 0.2, NAN, NAN])
    close(ours, {"auc": 1, "brier": (0.1**2 + 0.2**2) / 2, "accuracy": 1})


# Answers


def test_answers_by_hand() -> None:
    """Four answers to questions worth 4 and 2."""
    teacher, mark, full = [4, 2, 0, 1], [3, 2, 1, 2], [4, 4, 2, 2]
    x, y = [1, 0.5, 0, 0.5], [0.75, 0.5, 0.5, 1]
    gaps = [-0.25, 0, 0.5, 0.5]
    # observed: (1 + 0 + 1 + 1) / 4; by chance: every pair of marks
    observed = 3 / 4
    chance = sum((t - m) ** 2 for t in teacher for m in mark) / 16
    mx, my = sum(x) / 4, sum(y) / 4
    top = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    bottom = math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))
    close(
        answer_metrics(teacher, mark, full),
        {
            "answers": 4,
            "failures": 0,
            "qwk": 1 - observed / chance,
            "pearson": top / bottom,
            "rmse": math.sqrt(sum(g * g for g in gaps) / 4),
            "mae": 1.25 / 4,
            "bias": 0.75 / 4,
            "exact": 1 / 4,
            "within_one": 1,
        },
    )


def test_failed_answers() -> None:
    """Counted, and left out of the rest; what the teacher did not mark does not count at all."""
    ours = answer_metrics([1, 2, NAN, 4], [1, NAN, 3, 2], 4)
    close(ours, {"answers": 3, "failures": 1 / 3, "mae": 0.25, "exact": 0.5, "within_one": 0.5})


def test_answers_against_the_field() -> None:
    """scikit-learn's quadratic kappa where marks are whole, scipy's correlation."""
    teacher = RNG.integers(0, 6, 300)
    mark = np.clip(teacher + RNG.integers(-2, 3, 300), 0, 5)
    labels = list(range(6))
    close(
        answer_metrics(teacher, mark, 5),
        {
            "qwk": field.cohen_kappa_score(teacher, mark, labels=labels, weights="quadratic"),
            "pearson": stats.pearsonr(teacher, mark).statistic,
            "rmse": field.root_mean_squared_error(teacher / 5, mark / 5),
            "mae": field.mean_absolute_error(teacher / 5, mark / 5),
        },
    )
    # Half marks are twice as many categories.
    assert qwk(teacher / 2, mark / 2) == pytest.approx(qwk(teacher, mark))


@pytest.mark.parametrize(
    ("teacher", "mark", "defined"),
    [
        ([], [], {"answers": 0, "failures": NAN, "qwk": NAN, "mae": NAN}),
        ([1, 2], [NAN, NAN], {"failures": 1, "qwk": NAN, "mae": NAN, "exact": NAN}),
        ([2, 2], [2, 2], {"qwk": NAN, "pearson": NAN, "rmse": 0, "exact": 1, "bias": 0}),
        ([2, 2], [1, 1], {"qwk": 0, "pearson": NAN, "exact": 0, "within_one": 1}),
        ([0.1 + 0.2], [0.3], {"qwk": NAN, "pearson": NAN, "exact": 1}),
        ([1, 2, 3], [2, 2, 2], {"qwk": 0, "pearson": NAN, "within_one": 1}),
    ],
)
def test_degenerate_answers(
    teacher: list[float], mark: list[float], defined: dict[str, float]
) -> None:
    """Constant marks, no marks, one answer."""
    close(answer_metrics(teacher, mark, 4), defined)


MARKS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1)


@unhurried
@given(MARKS)
def test_answer_properties(pairs: list[tuple[int, int]]) -> None:
    """Bounds, symmetry, order, and full agreement."""
    teacher, mark = (np.array(column) / 2 for column in zip(*pairs, strict=True))
    ours = answer_metrics(teacher, mark, 4)
    for name, value in ours.items():
        if name not in COUNTS and not math.isnan(value):
            low = -1 if name in ("qwk", "pearson", "bias") else 0
            assert low - 1e-9 <= value <= 1 + 1e-9, name
    assert abs(ours["bias"]) <= ours["mae"] + 1e-12 <= ours["rmse"] + 2e-12
    assert ours["exact"] <= ours["within_one"]
    back = answer_metrics(mark, teacher, 4)
    close(back, {**ours, "bias": -ours["bias"]})
    order = RNG.permutation(len(mark))
    close(answer_metrics(teacher[order], mark[order], 4), ours)
    same = answer_metrics(teacher, teacher, 4)
    close(same, {"qwk": NAN if np.ptp(teacher) == 0 else 1, "exact": 1, "rmse": 0})


# Slices and means


def test_slices() -> None:
    """By question, and the plain mean over questions of what is defined in each."""
    truth, held = [T, F, T, T], [T, T, T, T]
    by_question = sliced(["b", "b", "a", "a"], point_metrics, truth, held)
    assert list(by_question) == ["b", "a"]
    assert by_question["b"] == pytest.approx(point_metrics([T, F], [T, T]), nan_ok=True)
    over = mean_over(by_question)
    close(over, {"points": 4, "accuracy": 0.75, "kappa": 0, "f1_true": (2 / 3 + 1) / 2})
    assert mean_over({}) == {}
    assert math.isnan(mean([NAN]))


def test_quality() -> None:
    """Wrong, partial, right by the teacher's mark; what is unknown has no quality."""
    assert quality([0, 1, 0.1 + 0.2, NAN], [2, 2, 0.3, 1]).tolist() == [
        "wrong",
        "partial",
        "right",
        "",
    ]
    assert quality([], []).tolist() == []


def test_to_json() -> None:
    """JSON has no NaN."""
    assert to_json({"points": 3.0, "kappa": NAN, "bias": 0.5}) == {
        "points": 3,
        "kappa": None,
        "bias": 0.5,
    }


# Baselines


def test_constant_baselines() -> None:
    """All True is right as often as True is; a majority is True in a tie and skips the unknown."""
    truth = [T, T, F, NAN]
    close(point_metrics(truth, all_true(truth)), {"accuracy": 2 / 3, "kappa": 0, "f1_true": 0.8})
    close(point_metrics(truth, all_false(truth)), {"accuracy": 1 / 3, "kappa": 0})
    assert majority(truth).tolist() == [1] * 4
    assert majority([F, F, T]).tolist() == [0] * 3
    assert majority([T, F]).tolist() == [1, 1]
    assert majority([]).tolist() == []


@pytest.mark.parametrize(
    ("answer", "cases", "share"),
    [
        ("It stores pairs.", ("stores key-value PAIRS",), 1 / 2),
        ("fast", ("is slow", "very fast"), 1 / 2),
        ("", ("x",), 0),
        ("x", ("!?",), 0),
        ("白天储热", ("储热", "挡风"), 1),
        ("naïve café", ("CAFÉ",), 1),
    ],
)
def test_token_overlap(answer: str, cases: tuple[str, ...], share: float) -> None:
    """Distinct words of the point's best case that the answer has too; Chinese by sign."""
    assert token_overlap([answer], [Point(1, 1, cases)]).tolist() == [pytest.approx(share)]


def test_left_out_threshold() -> None:
    """Each question's threshold is the one that splits the others best."""
    score = [0.3, 0.2, 0.6, 0.5, 0.6, 0.2]
    truth = [T, F, T, F, T, F]
    question = ["a", "a", "b", "b", "c", "c"]
    held = left_out_threshold(score, truth, question)
    # Without a it is 0.6, without b 0.3; without c both err once, and 0.3 is the lower.
    assert held.tolist() == [0, 0, 1, 1, 1, 0]
    assert left_out_threshold([0.4, 0.5], [T, F], ["a", "a"]).tolist() == [0, 1]
    assert left_out_threshold([0.4, 0.5], [T, T], ["a", "b"]).tolist() == [0, 1]
    assert left_out_threshold([], [], []).tolist() == []


def test_left_out_threshold_is_the_best() -> None:
    """Against every threshold tried one by one."""
    score = RNG.random(120).round(1)
    truth = RNG.random(120) < score
    question = RNG.integers(0, 5, 120)
    held = left_out_threshold(score, truth, question)
    for name in range(5):
        others = question != name
        levels = np.unique(score)
        kappas = [field.cohen_kappa_score(truth[others], score[others] >= t) for t in levels]
        best = levels[int(np.argmax(kappas))]
        assert held[~others].tolist() == (score[~others] >= best).tolist()


# Intervals


def sample(points: int = 400, questions: int = 12) -> dict[str, np.ndarray]:
    """Made-up verdicts and marks with gaps, harder for some questions than for others."""
    rng = np.random.default_rng(points)
    question = rng.integers(0, questions, points)
    truth = (rng.random(points) < 0.2 + 0.6 * question / questions).astype(float)
    p = np.clip(0.3 * truth + 0.7 * rng.random(points), 0, 1).round(2)
    held = np.where(rng.random(points) < 0.05, NAN, p >= 0.5)
    truth[rng.random(points) < 0.05] = NAN
    p[rng.random(points) < 0.05] = NAN
    full = 1.0 + question % 4
    teacher = np.where(rng.random(points) < 0.05, NAN, (rng.random(points) * full).round())
    mark = np.clip(np.nan_to_num(teacher) + rng.integers(-1, 2, points), 0, full)
    mark[rng.random(points) < 0.05] = NAN
    names = np.array([f"q{number}" for number in question])
    return {
        "question": names,
        "truth": truth,
        "held": held,
        "p": p,
        "teacher": teacher,
        "mark": mark,
        "full": full,
    }


def test_draws_are_the_metrics() -> None:
    """For any draw, the sums give what the metrics give for the very answers drawn."""
    s = sample()
    _, codes = np.unique(s["question"], return_inverse=True)
    points = point_statistic(codes, 12, s["truth"], s["held"], s["p"])
    answers = answer_statistic(codes, 12, s["teacher"], s["mark"], s["full"])
    draws = np.vstack([np.ones(12), np.random.default_rng(0).multinomial(12, [1 / 12] * 12, 20)])
    by_points, by_answers = points(draws), answers(draws)
    for row, draw in enumerate(draws.astype(int)):
        rows = np.concatenate([np.flatnonzero(codes == c) for c in np.repeat(range(12), draw)])
        expected = point_metrics(s["truth"][rows], s["held"][rows], s["p"][rows])
        if row:
            # The bins stay those of the whole sample.
            del expected["ece"]
        del expected["points"]
        close({name: values[row] for name, values in by_points.items()}, expected)
        expected = answer_metrics(s["teacher"][rows], s["mark"][rows], s["full"][rows])
        del expected["answers"]
        close({name: values[row] for name, values in by_answers.items()}, expected)


@unhurried
@given(VERDICTS)
def test_confusion_is_the_metrics(pairs: list[tuple[bool, bool | None]]) -> None:
    """The formulas from counts and scikit-learn agree, undefined numbers too."""
    counts = np.zeros((2, 3))
    for truth, held in pairs:
        counts[int(truth), 2 if held is None else int(held)] += 1
    truth, held = zip(*pairs, strict=True)
    expected = point_metrics(truth, held)
    close(
        {name: float(v) for name, v in from_confusion(counts).items()},
        {name: expected[name] for name in from_confusion(counts)},
    )


def test_point_intervals() -> None:
    """They hold the estimate, are the same for the same seed, and grow with unlike questions."""
    s = sample()
    arrays = (s["truth"], s["held"], s["p"])
    ours = point_intervals(s["question"], *arrays)
    expected = point_metrics(*arrays)
    for name, interval in ours.items():
        assert interval.estimate == pytest.approx(expected[name], abs=1e-12)
        assert interval.low < interval.high
        assert name.startswith("ece") or interval.low <= interval.estimate <= interval.high
    assert ours == point_intervals(s["question"], *arrays)
    assert ours["kappa"] != point_intervals(s["question"], *arrays, seed=1)["kappa"]
    # As if every point were a question of its own, though questions differ: too hopeful.
    alone = point_intervals(np.arange(len(s["truth"])), *arrays)
    width = {k: v.high - v.low for k, v in ours.items()}
    assert width["precision_true"] > alone["precision_true"].high - alone["precision_true"].low


def test_interval_by_hand() -> None:
    """Two questions, one all right and one all wrong: accuracy is 0, ½ or 1 in ¼, ½, ¼ of draws."""
    interval = point_intervals(["a", "b"], [T, F], [T, T])["accuracy"]
    assert (interval.estimate, interval.low, interval.high) == (0.5, 0, 1)


def test_interval_covers() -> None:
    """Of 200 made-up courses with 30 questions, about 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        difficulty = rng.normal(0, 0.2, 30)
        teacher = np.zeros(300)
        mark = 0.5 + np.repeat(difficulty, 10) + rng.normal(0, 0.1, 300)
        question = np.repeat(np.arange(30), 10)
        interval = answer_intervals(question, teacher, mark, 1, draws=400)["bias"]
        hits += interval.low <= 0.5 <= interval.high
    assert 0.89 <= hits / 200 <= 0.99


def test_mean_intervals() -> None:
    """The mean over questions, undefined ones left out; counts have no interval."""
    s = sample()
    slices = sliced(s["question"], point_metrics, s["truth"], s["held"], s["p"])
    slices["q0"]["kappa"] = NAN
    ours = mean_intervals(slices)
    assert not set(ours) & COUNTS
    close(
        {name: v.estimate for name, v in ours.items()},
        {k: v for k, v in mean_over(slices).items() if k not in COUNTS},
    )
    assert ours["kappa"].low < ours["kappa"].estimate < ours["kappa"].high


def test_degenerate_intervals() -> None:
    """No question, one question, or a metric that is hardly ever defined: no bounds, no warning."""
    for question, truth in (([], []), (["a", "a"], [T, F])):
        for interval in point_intervals(question, truth, truth).values():
            assert math.isnan(interval.low)
            assert math.isnan(interval.high)
    assert mean_intervals({}) == {}
    # Kappa is defined only in draws with the one question that has a False: about two in three.
    rare = point_intervals(["a", "b", "c", "d"], [T, T, T, F], [T] * 4)
    assert (rare["kappa"].low, rare["kappa"].high) == (0, 0)
    none = answer_intervals(["a", "b"], [1, 1], [1, 1], 1)
    assert math.isnan(none["qwk"].low)
    assert (none["rmse"].low, none["rmse"].high) == (0, 0)


def test_differences() -> None:
    """Paired: what both runs share cancels out. A run differs from itself by nothing."""
    s = sample()
    same = point_differences(s["question"], s["truth"], (s["held"], s["held"]), (s["p"], s["p"]))
    assert all((d.estimate, d.low, d.high, d.p) == (0, 0, 0, 1) for d in same.values())
    worse = np.where(np.random.default_rng(1).random(len(s["held"])) < 0.3, 0.0, s["held"])
    ours = point_differences(s["question"], s["truth"], (worse, s["held"]))
    better = point_metrics(s["truth"], s["held"])["kappa"]
    kappa = ours["kappa"]
    assert kappa.estimate == pytest.approx(better - point_metrics(s["truth"], worse)["kappa"])
    assert 0 < kappa.low < kappa.estimate < kappa.high
    assert kappa.p < 0.05
    assert math.isnan(ours["auc"].estimate)
    assert math.isnan(ours["auc"].p)
    turned = point_differences(s["question"], s["truth"], (s["held"], worse))["kappa"]
    assert (turned.estimate, turned.p) == (-kappa.estimate, kappa.p)
    assert (turned.low, turned.high) == pytest.approx((-kappa.high, -kappa.low))


def test_answer_differences() -> None:
    """The same for marks."""
    s = sample()
    better = np.where(np.isnan(s["mark"]), NAN, s["teacher"])
    ours = answer_differences(s["question"], s["teacher"], (s["mark"], better), s["full"])
    assert ours["mae"].high < 0 < ours["qwk"].low
    assert (ours["failures"].estimate, ours["failures"].p) == (0, 1)


def test_intervals_are_fast() -> None:
    """Ten thousand points in two thousand draws take seconds, AUC included."""
    s = sample(10_000, 180)
    started = time.monotonic()
    point_intervals(s["question"], s["truth"], s["held"], s["p"])
    answer_intervals(s["question"], s["teacher"], s["mark"], s["full"])
    assert time.monotonic() - started < 30


# Risk and coverage


def test_risk_coverage_by_hand() -> None:
    """Right, right, then one of a tie of two wrong, and a point without a verdict."""
    curve = risk_coverage([0.9, 0.8, 0.6, 0.6, NAN], [T, T, F, T, F])
    assert curve.threshold.tolist() == [0.9, 0.8, 0.6]
    assert curve.coverage == pytest.approx([1 / 5, 2 / 5, 4 / 5])
    assert curve.risk.tolist() == [0, 0, 1 / 4]
    # In the tie errors come half and half: 0, 0, ½ of 3, 1 of 4.
    assert curve.area == pytest.approx((0 + 0 + 0.5 / 3 + 1 / 4) / 4)
    assert curve.coverage_at(0.1) == pytest.approx(2 / 5)
    assert curve.coverage_at(0.25) == pytest.approx(4 / 5)


def test_risk_coverage_can_fall() -> None:
    """A wrong verdict at the top may be made up for: the largest coverage counts."""
    curve = risk_coverage([0.9, 0.8, 0.7], [F, T, T])
    assert curve.coverage_at(0.5) == 1
    assert curve.coverage_at(0.3) == 0


@pytest.mark.parametrize("confidence", [[], [NAN, NAN]])
def test_no_curve(confidence: list[float]) -> None:
    """Without verdicts nothing is let through."""
    curve = risk_coverage(confidence, [T] * len(confidence))
    assert curve.coverage_at(1) == 0
    assert math.isnan(curve.area)


@unhurried
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1))
def test_risk_coverage_properties(pairs: list[tuple[int, bool]]) -> None:
    """Bounds, ends, order; without ties the area is the mean of the curve."""
    sure, right = (np.array(column) for column in zip(*pairs, strict=True))
    curve = risk_coverage(sure, right)
    assert curve.coverage[-1] == 1
    assert curve.risk[-1] == pytest.approx(1 - right.mean())
    assert (np.diff(curve.coverage) > 0).all()
    assert 0 <= curve.area <= 1
    assert curve.coverage_at(1) == 1
    order = RNG.permutation(len(sure))
    assert risk_coverage(sure[order], right[order]).area == pytest.approx(curve.area)
    apart = risk_coverage(np.arange(len(right)), right)
    assert apart.area == pytest.approx(apart.risk.mean())


# The published baselines


@pytest.mark.parametrize(("course", "f1"), [("INT", 0.787), ("CPT", 0.853)])
def test_all_true_on_real_courses(course: str, f1: float) -> None:
    """Marking everything True gives the F1 that the original's headline hides, and kappa 0."""
    home = datasets.default_root()
    if not (home / "llmarking").is_dir():
        pytest.skip(f"the data sets are not in {home}; set {datasets.VARIABLE} to their folder")
    truth = [v for a in load(course).answers for v in (a.verdicts or {}).values()]
    close(point_metrics(truth, all_true(truth)), {"kappa": 0})
    assert point_metrics(truth, all_true(truth))["f1_true"] == pytest.approx(f1, abs=5e-4)
