"""A course's own calibration: fitted on what its teacher confirmed, and what it would change.

The fit starts from the calibration that shipped with the model and leaves it as far and as fast as
courses are known to differ; how sure verdicts are follows from what is then known. Only the choice
of answers that a teacher looks at depends on the model's odds, not what she decides about them, so
that the least certain ones come first does not bias the fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from llmarking.domain import Flag, Verdict
from llmarking.errors import CalibrationError
from llmarking.marks import calibration as calibrations
from llmarking.marks.calibration import Calibration
from llmarking.sentences import sentence

# Without a shipped calibration there is nothing to be pulled towards but the model's bare odds.
FEWEST_WITHOUT_PRIOR = 20


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A verdict of the teacher with the model's log-odds for the same point.

    Attributes:
        answer: answers with the same text to the same question share it.
        point: id of the point.
    """

    answer: str
    point: int
    odds: float
    held: bool


def refit(prior: Calibration | None, seen: Iterable[Confirmed], like: Calibration) -> Calibration:
    """The course's calibration.

    Args:
        prior: the calibration that shipped, if any.
        like: whose model, adapter and prompt it is for.

    Raises:
        CalibrationError: there is not enough to go by.
    """
    # A hundred copies of one answer, decided with one click, are one piece of evidence.
    distinct = list({(each.answer, each.point): each for each in seen}.values())
    if not distinct:
        raise CalibrationError(
            sentence(
                "nothing_confirmed",
                "no verdict of a model has been confirmed or overridden yet; decide some answers "
                "first",
            )
        )
    if prior is None and len(distinct) < FEWEST_WITHOUT_PRIOR:
        raise CalibrationError(
            sentence(
                "too_few_confirmed",
                "{count} confirmed verdicts are too few: no calibration came with {model}, so "
                "{needed} are needed",
                count=len(distinct),
                model=like.model,
                needed=FEWEST_WITHOUT_PRIOR,
            )
        )
    slope, offset, spread = calibrations.posterior(
        prior, [each.odds for each in distinct], [each.held for each in distinct]
    )
    return replace(
        prior or like,
        model=like.model,
        adapter=like.adapter,
        prompt=like.prompt,
        slope=round(slope, 6),
        offset=round(offset, 6),
        spread=spread,
        ece=None,
        verdicts=len(distinct),
        data=("confirmed in the course",),
    )


def recalibrated(
    verdicts: Sequence[Verdict], calibration: Calibration, bar: float, flags: Sequence[Flag] = ()
) -> tuple[Verdict, ...]:
    """The same readings with other probabilities; evidence and reason go where a verdict turns.

    Args:
        bar: how probable a verdict must be to go without a review.
        flags: of the answer; where evidence was looked for in vain, the doubt stays.
    """
    return tuple(_again(v, calibration, bar, Flag.NO_EVIDENCE in flags) for v in verdicts)


def _again(verdict: Verdict, calibration: Calibration, bar: float, doubted: bool) -> Verdict:
    if verdict.raw is None:  # nothing was read: the answer is empty, or the method another
        return verdict
    probability = calibration.probability(verdict.raw)
    held = probability >= 0.5
    turned = held != verdict.held
    if doubted and held and not turned and verdict.evidence is None:
        probability = 0.5 + (probability - 0.5) / 2
    return replace(
        verdict,
        held=held,
        probability=probability,
        needs_review=max(probability, 1 - probability) < bar,
        # They speak for a verdict that is no longer given.
        evidence=None if turned else verdict.evidence,
        reason=None if turned else verdict.reason,
    )
