"""From the model's log-odds to a probability that can be stood behind.

A small model's log-odds rank answers well and are biased: it says True too readily. A calibration
maps them to probabilities with a slope and an offset, fitted on answers to *other* questions.
Before that it may weigh in how many of the point's words the answer has. It belongs to one model,
adapter and prompt template.

Teachers differ in how strict they are and courses in how hard they are to read, so the line that is
right for a course is not the one that is right for most. A calibration therefore knows how far
slope and offset go from course to course, and a probability is the mean over those that the course
may have (random effects). What a teacher confirms tells which it has: the fit moves, and what is
not known of it shrinks. So a verdict that is said to be wrong with at most 5 % may go unread also
where no course like it was seen before.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmarking.errors import CalibrationError
from llmarking.sentences import sentence

FORMAT = "llmarking-calibration/2"
# The first version had a table of errors in place of `spread`, which is not read any more.
EARLIER = "llmarking-calibration/1"
SHIPPED = Path(__file__).parent / "calibrations"

# Variance of the slope, covariance, variance of the offset.
Spread = tuple[float, float, float]
# Log-odds beyond which nothing changes any more.
_FAR = 1e6
# What is taken where a calibration does not say: about that of the default model (see its files).
USUAL_SPREAD: Spread = (0.0025, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Slope and offset, and what they were fitted on.

    Attributes:
        overlap: log-odds that all of a point's words are worth more than none of them, see
            `llmarking.marks.overlap`.
        usual: the share of words at which that says nothing either way.
        spread: how far slope and offset go from course to course, or what is not known of those
            of this course; zeros take the line as certain.
        ece: expected calibration error of those left-out verdicts, ten bins of equal mass.
    """

    model: str
    prompt: str
    adapter: str | None = None
    slope: float = 1.0
    offset: float = 0.0
    overlap: float = 0.0
    usual: float = 0.0
    spread: Spread = (0.0, 0.0, 0.0)
    ece: float | None = None
    verdicts: int = 0
    data: tuple[str, ...] = ()
    format: str = field(default=FORMAT, repr=False)

    def weighed(self, odds: float, share: float | None) -> float:
        """Log-odds of the model with what the point's words add; unknown shares add nothing."""
        return odds if share is None else odds + self.overlap * (share - self.usual)

    def probability(self, odds: float) -> float:
        """Calibrated P(point stated), within (0, 1).

        The mean of the logistic function over a normal distribution of lines, by the usual
        approximation with a probit (MacKay 1992, "The evidence framework applied to classification
        networks"). It never turns a verdict round.
        """
        # A tokenizer without one of the words leaves infinite odds, whose variance is no number.
        odds = max(-_FAR, min(_FAR, odds))
        slope, both, offset = self.spread
        variance = slope * odds * odds + 2 * both * odds + offset
        line = self.slope * odds + self.offset
        return _sigmoid(line / math.sqrt(1 + math.pi / 8 * max(variance, 0.0)))

    @property
    def identity(self) -> str:
        """A short hash of everything that changes a verdict."""
        basis: list[object] = [self.model, self.adapter, self.prompt, self.slope, self.offset]
        if self.overlap:
            basis += [self.overlap, self.usual]
        if any(self.spread):
            basis.append(self.spread)
        return hashlib.sha256(json.dumps(basis).encode()).hexdigest()[:12]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Calibration:
    """Read a calibration file.

    Raises:
        CalibrationError: it is not one, or its numbers make no sense.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("format") not in (FORMAT, EARLIER):
            raise CalibrationError(f"{path.name}: its format is not {FORMAT!r}")
        if data.pop("format") == EARLIER:
            data.pop("risk_table", None)
        slope, both, offset = map(float, data.get("spread", (0, 0, 0)))
        data["spread"] = (slope, both, offset)
        data["data"] = tuple(data.get("data", ()))
        calibration = Calibration(**data)
        numbers = ("slope", "offset", "overlap", "usual")
        finite = all(math.isfinite(getattr(calibration, name)) for name in numbers)
    except (OSError, ValueError, TypeError) as error:
        raise CalibrationError(f"{path.name}: not a calibration: {error}") from error
    if not finite:
        raise CalibrationError(f"{path.name}: {', '.join(numbers)} must be finite numbers")
    if calibration.slope <= 0:
        raise CalibrationError(
            f"{path.name}: a slope of {calibration.slope:g} would turn verdicts round"
        )
    # A NaN compares as false with everything.
    if not (slope >= 0 and offset >= 0 and both**2 <= slope * offset < math.inf):
        raise CalibrationError(
            f"{path.name}: spread must be a variance, a covariance and a variance that go together"
        )
    return calibration


class Calibrations:
    """All calibrations known to a server, found by model, adapter and prompt."""

    def __init__(self, folder: Path = SHIPPED) -> None:
        self._known = {
            (c.model, c.adapter, c.prompt): c
            for c in (load(path) for path in sorted(folder.glob("*.json")))
        }
        self._own: dict[str, dict[tuple[str, str], Calibration]] = {}

    def put(self, adapter: str, own: Sequence[Calibration]) -> None:
        """From now on an adapter has these, and no others: they came with its weights."""
        self._own[adapter] = {(c.model, c.prompt): c for c in own}

    def forget(self, adapter: str) -> None:
        """Undo `put`."""
        self._own.pop(adapter, None)

    def find(self, model: str, adapter: str | None, prompt: str) -> Calibration | None:
        """The calibration for exactly this combination, or None."""
        if adapter in self._own:
            return self._own[adapter].get((model, prompt))
        return self._known.get((model, adapter, prompt))

    def prompts(self, model: str, adapter: str) -> list[str]:
        """The prompts that have one for this model and adapter."""
        keys = [(m, p) for m, a, p in self._known if a == adapter]
        if adapter in self._own:
            keys = list(self._own[adapter])
        return sorted(prompt for found, prompt in keys if found == model)


def fit(
    odds: Sequence[float], labels: Sequence[bool], *, weights: Sequence[float] | None = None
) -> tuple[float, float]:
    """Slope and offset by penalised maximum likelihood (Newton's method).

    Args:
        odds, labels: log-odds and the teacher's verdicts, of equal length.

    Raises:
        CalibrationError: there is nothing to fit, or only one class.
    """
    slope, offset, _ = posterior(None, odds, labels, weights=weights)
    return slope, offset


def posterior(
    prior: Calibration | None,
    odds: Sequence[float],
    labels: Sequence[bool],
    *,
    weights: Sequence[float] | None = None,
) -> tuple[float, float, Spread]:
    """Slope and offset of a course by what was seen of it, and what is still not known of them.

    Args:
        prior: what is known of other courses. It says how far they go apart, and so how fast the
            fit leaves it; without one there is nothing to be pulled towards.
        odds, labels: log-odds and the teacher's verdicts, of equal length.

    Raises:
        CalibrationError: there is nothing to fit, or only one class and no prior.
    """
    import numpy as np

    x = np.asarray(odds, dtype=float)
    y = np.asarray(labels, dtype=float)
    if len(x) != len(y):
        raise CalibrationError(f"{len(x)} log-odds and {len(y)} verdicts")
    if not np.isfinite(x).all():
        raise CalibrationError("every log-odds must be a finite number")
    if prior is None and (len(x) == 0 or y.min() == y.max()):
        raise CalibrationError(
            sentence("both_kinds", "verdicts of both kinds are needed to fit a calibration")
        )
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=float)
    if prior is None:
        # A slight pull towards slope 1, offset 0 keeps separable data finite.
        centre, penalty = np.array([1.0, 0.0]), np.diag([1e-2, 1e-3])
    else:
        of_slope, both, of_offset = prior.spread if any(prior.spread) else USUAL_SPREAD
        centre = np.array([prior.slope, prior.offset])
        # A slope that is the same in all courses has no inverse; hardly any spread is as good.
        penalty = np.linalg.inv([[of_slope + 1e-9, both], [both, of_offset + 1e-9]])
    design = np.stack([x, np.ones_like(x)], axis=1)
    (slope, offset), information = _maximise(design, y, w, centre, penalty)
    (of_slope, both), (_, of_offset) = np.linalg.inv(information).tolist()
    return max(slope, 1e-3), offset, (of_slope, both, of_offset)


def between(odds: Sequence[float], labels: Sequence[bool], courses: Sequence[str]) -> Spread:
    """How far slope and offset go from course to course, by the method of moments.

    The covariance of the lines that were fitted course by course, less what they owe to each having
    few verdicts (DerSimonian and Laird 1986, with equal weights).

    Args:
        odds, labels, courses: of every verdict, of equal length.

    Raises:
        CalibrationError: there are not two courses, or one has verdicts of one kind only.
    """
    import numpy as np

    x, y, of = np.asarray(odds, float), np.asarray(labels, bool), np.asarray(courses)
    lines, errors = [], []
    for course in dict.fromkeys(courses):
        slope, offset, error = posterior(None, x[of == course].tolist(), y[of == course].tolist())
        lines.append((slope, offset))
        errors.append(error)
    if len(lines) < 2:
        raise CalibrationError("how courses differ can't be told from one alone")
    a, b, c = np.mean(errors, axis=0)
    values, vectors = np.linalg.eigh(np.cov(np.transpose(lines)) - [[a, b], [b, c]])
    # Nothing differs less than not at all.
    (of_slope, both), (_, of_offset) = (vectors * np.maximum(values, 0)) @ vectors.T
    return float(of_slope), float(both), float(of_offset)


def weigh_words(
    odds: Sequence[float],
    shares: Sequence[float | None],
    labels: Sequence[bool],
    *,
    weights: Sequence[float] | None = None,
) -> tuple[float, float]:
    """`overlap` and `usual` of a calibration, from a joint fit with slope and offset.

    Args:
        odds, shares, labels: the model's log-odds, the share of the point's words that the answer
            has (None: not known), and the teacher's verdicts, of equal length.

    Returns:
        The worth of all words in log-odds of the model, never negative, and the mean known share;
        zeros where too little is known.
    """
    import numpy as np

    known = [share is not None for share in shares]
    x = np.asarray(odds, dtype=float)[known]
    y = np.asarray(labels, dtype=float)[known]
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=float)[known]
    said = np.array([share for share in shares if share is not None], dtype=float)
    if not len(x) or y.min() == y.max():
        return 0.0, 0.0
    usual = float(np.average(said, weights=w))
    design = np.stack([x, np.ones_like(x), said - usual], axis=1)
    centre = np.array([1.0, 0.0, 0.0])
    (slope, _, worth), _ = _maximise(design, y, w, centre, np.diag([1e-2, 1e-3, 1e-2]))
    return max(worth, 0.0) / max(slope, 1e-3), usual


def _maximise(design: Any, y: Any, w: Any, centre: Any, penalty: Any) -> tuple[list[float], Any]:
    """Coefficients of a weighted logistic regression, pulled towards `centre` by `penalty`, and
    the information matrix there."""
    import numpy as np

    theta = centre.copy()

    def loss(theta: Any) -> float:
        line, pull = design @ theta, theta - centre
        return float(w @ (np.logaddexp(0, line) - y * line) + pull @ penalty @ pull / 2)

    def chances(theta: Any) -> Any:
        return 1 / (1 + np.exp(-np.clip(design @ theta, -50, 50)))

    def information(p: Any) -> Any:
        return (design * (w * p * (1 - p))[:, None]).T @ design + penalty

    for _ in range(100):
        p = chances(theta)
        gradient = design.T @ (w * (y - p)) - penalty @ (theta - centre)
        step = np.linalg.solve(information(p), gradient)
        # Far from the optimum a full Newton step overshoots, and further each time.
        before = loss(theta)
        while np.abs(step).max() > 1e-10 and loss(theta + step) > before:
            step /= 2
        theta += step
        if np.abs(step).max() < 1e-10:
            break
    return [float(value) for value in theta], information(chances(theta))


def left_out(
    odds: Sequence[float],
    labels: Sequence[bool],
    groups: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
) -> list[float]:
    """Calibrated probabilities where each question's come from a fit on all other questions."""
    import numpy as np

    x, y, g = np.asarray(odds, float), np.asarray(labels, bool), np.asarray(groups)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    out = np.empty(len(x))
    for group in dict.fromkeys(groups):
        held = g == group
        rest = ~held
        slope, offset = fit(x[rest].tolist(), y[rest].tolist(), weights=w[rest].tolist())
        out[held] = 1 / (1 + np.exp(-np.clip(slope * x[held] + offset, -50, 50)))
    return [float(p) for p in out]


def _sigmoid(x: float) -> float:
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))
