"""From the model's log-odds to a probability that can be stood behind, and to a promise about the
errors.

A small model's log-odds rank answers well and are biased: it says True too readily. A calibration
maps them to probabilities with a slope and an offset, p = 1 / (1 + exp(-(slope * odds + offset))),
fitted on answers to *other* questions. Before that it may weigh in how many of the point's words
the answer has. It belongs to one model, adapter and prompt template. Its risk table says how sure a
verdict has to be for a promised share of errors among those that nobody looks at.
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

FORMAT = "llmarking-calibration/1"
SHIPPED = Path(__file__).parent / "calibrations"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Slope and offset, and what they were fitted on.

    Attributes:
        overlap: log-odds that all of a point's words are worth more than none of them, see
            `llmarking.marks.overlap`.
        usual: the share of words at which that says nothing either way.
        risk_table: pairs (confidence, share of errors among verdicts at least that confident), by
        rising
            confidence, from verdicts on questions that were left out of the fit.
        ece: expected calibration error of those left-out verdicts, ten bins of equal mass.
    """

    model: str
    prompt: str
    adapter: str | None = None
    slope: float = 1.0
    offset: float = 0.0
    overlap: float = 0.0
    usual: float = 0.0
    risk_table: tuple[tuple[float, float], ...] = ()
    ece: float | None = None
    verdicts: int = 0
    data: tuple[str, ...] = ()
    format: str = field(default=FORMAT, repr=False)

    def weighed(self, odds: float, share: float | None) -> float:
        """Log-odds of the model with what the point's words add; unknown shares add nothing."""
        return odds if share is None else odds + self.overlap * (share - self.usual)

    def probability(self, odds: float) -> float:
        """Calibrated P(point stated), within (0, 1)."""
        return _sigmoid(self.slope * odds + self.offset)

    def confidence_for(self, risk: float) -> float:
        """How probable a verdict must be so that at most `risk` of those as sure are wrong.

        Without a risk table the probabilities are taken at their word: 1 - risk.
        """
        if not self.risk_table:
            return 1.0 - risk
        # From the sure end: as long as the promise holds, the bar may be lowered.
        bar = math.inf
        for confidence, share in reversed(self.risk_table):
            if share > risk:
                break
            bar = confidence
        return bar

    @property
    def identity(self) -> str:
        """A short hash of everything that changes a verdict."""
        basis: list[object] = [self.model, self.adapter, self.prompt, self.slope, self.offset]
        if self.overlap:
            basis += [self.overlap, self.usual]
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
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise CalibrationError(f"{path.name}: its format is not {FORMAT!r}")
        data["risk_table"] = tuple((float(c), float(r)) for c, r in data.get("risk_table", ()))
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
    # Falsified by a NaN as well, which compares as unequal to everything.
    confidences = [confidence for confidence, _ in calibration.risk_table]
    if confidences != sorted(confidences) or not all(
        0.5 <= confidence <= 1 and 0 <= share <= 2 for confidence, share in calibration.risk_table
    ):
        raise CalibrationError(
            f"{path.name}: risk_table must be pairs of a confidence from 0.5 to 1 and a share, "
            "by rising confidence"
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
    odds: Sequence[float],
    labels: Sequence[bool],
    *,
    prior: Calibration | None = None,
    strength: float = 40.0,
    weights: Sequence[float] | None = None,
) -> tuple[float, float]:
    """Slope and offset by penalised maximum likelihood (Newton's method).

    With a `prior`, the fit is pulled towards it as if `strength` further verdicts had been seen
    that agree with it: a course with few confirmed verdicts hardly moves, one with hundreds goes
    its own way.

    Args:
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
    slope, offset = (prior.slope, prior.offset) if prior else (1.0, 0.0)
    centre = np.array([slope, offset])
    # A slight pull towards slope 1, offset 0 keeps separable data finite.
    if prior is None:
        penalty = np.diag([1e-2, 1e-3])
    else:
        # The information that `strength` verdicts near the decision carry: p(1-p) = 1/4 each.
        spread = float(np.mean(x**2)) if len(x) else 1.0
        penalty = strength / 4 * np.diag([max(spread, 1e-6), 1.0])
    slope, offset = _maximise(np.stack([x, np.ones_like(x)], axis=1), y, w, centre, penalty)
    return max(slope, 1e-3), offset


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
    slope, _, worth = _maximise(design, y, w, centre, np.diag([1e-2, 1e-3, 1e-2]))
    return max(worth, 0.0) / max(slope, 1e-3), usual


def _maximise(design: Any, y: Any, w: Any, centre: Any, penalty: Any) -> list[float]:
    """Coefficients of a weighted logistic regression, pulled towards `centre` by `penalty`."""
    import numpy as np

    theta = centre.copy()

    def loss(theta: Any) -> float:
        line, pull = design @ theta, theta - centre
        return float(w @ (np.logaddexp(0, line) - y * line) + pull @ penalty @ pull / 2)

    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -50, 50)))
        gradient = design.T @ (w * (y - p)) - penalty @ (theta - centre)
        hessian = (design * (w * p * (1 - p))[:, None]).T @ design + penalty
        step = np.linalg.solve(hessian, gradient)
        # Far from the optimum a full Newton step overshoots, and further each time.
        before = loss(theta)
        while np.abs(step).max() > 1e-10 and loss(theta + step) > before:
            step /= 2
        theta += step
        if np.abs(step).max() < 1e-10:
            break
    return [float(value) for value in theta]


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


def risk_table(
    probabilities: Sequence[float], labels: Sequence[bool], steps: int = 50
) -> tuple[tuple[float, float], ...]:
    """Error share among the verdicts at least as confident as each of up to `steps` quantiles.

    Confidence is max(p, 1 - p). Each share is raised by one standard error, so that a promise made
    from few verdicts is kept more often than not, and shares never fall as the bar is lowered.
    """
    import numpy as np

    p, y = np.asarray(probabilities, float), np.asarray(labels, bool)
    if not len(p):
        return ()
    confidence = np.maximum(p, 1 - p)
    wrong = (p >= 0.5) != y
    table: list[tuple[float, float]] = []
    worst = 0.0
    # A bar that only a handful of verdicts clear tells nothing about risk.
    for bar in sorted(
        set(np.quantile(confidence, np.linspace(0, 0.96, steps)).tolist()), reverse=True
    ):
        above = confidence >= bar
        share, count = float(wrong[above].mean()), int(above.sum())
        upper = share + math.sqrt(max(share * (1 - share), 0.25 / count) / count)
        worst = max(worst, upper)
        table.append((round(float(bar), 6), round(worst, 6)))
    return tuple(reversed(table))


def _sigmoid(x: float) -> float:
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))
