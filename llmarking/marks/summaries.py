"""What a teacher wants to know of a whole class, counted from its marks; nothing here is stored."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from llmarking.domain import Flag
from llmarking.marks.decisions import State

BINS = 10
RISKS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)


@dataclass(frozen=True, slots=True)
class Marked:
    """One answer with the mark that stands, as far as a summary looks at it.

    Attributes:
        full_mark: what the question is worth under the version that was marked.
        flags: those of the model's mark, by their values.
        confidence: of the least sure verdict; None without probabilities.
        needs_review: what the model's mark says of itself.
        held: point id to the verdict that stands.
        model: point id to the model's verdict beneath the teacher's; empty where there is none.
    """

    code: str
    mark: float
    full_mark: float
    state: State
    flags: Sequence[str] = ()
    confidence: float | None = None
    needs_review: bool = False
    held: Mapping[int, bool | None] = field(default_factory=dict)
    model: Mapping[int, bool | None] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """Mark by full mark, in [0, 1]."""
        return self.mark / self.full_mark if self.full_mark else 0.0


@dataclass(frozen=True, slots=True)
class PointDifficulty:
    """How a class did on one point: share of answers that have it, and where teachers disagreed.

    Attributes:
        disagreed: share of the teacher's verdicts that differ from the model's; None without any.
    """

    id: int
    held: float
    disagreed: float | None


@dataclass(frozen=True, slots=True)
class QuestionDifficulty:
    """How a class did on one question; `mean` is the mean fraction of the full mark."""

    code: str
    answers: int
    mean: float
    points: tuple[PointDifficulty, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Verdicts that a teacher has given on points that the model had decided.

    Attributes:
        kappa: Cohen's; None where it is not defined, as when all are True.
    """

    verdicts: int
    agree: int
    kappa: float | None


def histogram(marked: Iterable[Marked], bins: int = BINS) -> list[int]:
    """Answers by fraction of the full mark, in `bins` bins of equal width; the last holds 1."""
    counts = [0] * bins
    for each in marked:
        # A little is added, as 0.3 / 1 may come out below three tenths.
        counts[min(bins - 1, max(0, math.floor(each.fraction * bins + 1e-9)))] += 1
    return counts


def difficulty(marked: Iterable[Marked]) -> list[QuestionDifficulty]:
    """Every question in order of first appearance."""
    of: dict[str, list[Marked]] = {}
    for each in marked:
        of.setdefault(each.code, []).append(each)
    return [
        QuestionDifficulty(
            code=code,
            answers=len(rows),
            mean=math.fsum(row.fraction for row in rows) / len(rows),
            points=tuple(_points(rows)),
        )
        for code, rows in of.items()
    ]


def _points(rows: Sequence[Marked]) -> Iterable[PointDifficulty]:
    answered: Counter[int] = Counter()
    stated: Counter[int] = Counter()
    compared: Counter[int] = Counter()
    differ: Counter[int] = Counter()
    for row in rows:
        for point, held in row.held.items():
            answered[point] += 1
            stated[point] += bool(held)
            if row.state is not State.PROPOSED and point in row.model:
                compared[point] += 1
                differ[point] += held != row.model[point]
    for point in sorted(answered):
        share = differ[point] / compared[point] if compared[point] else None
        yield PointDifficulty(point, stated[point] / answered[point], share)


def agreement(marked: Iterable[Marked]) -> Agreement:
    """The teacher's verdicts against the model's, over all answers that were decided."""
    pairs: Counter[tuple[bool | None, bool | None]] = Counter()
    for row in marked:
        if row.state is not State.PROPOSED:
            pairs.update(
                (held, row.model[point]) for point, held in row.held.items() if point in row.model
            )
    total = pairs.total()
    agree = sum(count for (theirs, ours), count in pairs.items() if theirs == ours)
    return Agreement(total, agree, _kappa(pairs))


def _kappa(pairs: Counter[tuple[bool | None, bool | None]]) -> float | None:
    """Cohen's kappa; a verdict that could not be read is a third response, which never agrees."""
    total = pairs.total()
    theirs: Counter[bool | None] = Counter()
    ours: Counter[bool | None] = Counter()
    for (a, b), count in pairs.items():
        theirs[a] += count
        ours[b] += count
    by_chance = sum(theirs[held] * ours[held] for held in (True, False))
    if total**2 == by_chance or not total:
        return None
    agree = sum(count for (a, b), count in pairs.items() if a == b)
    return (total * agree - by_chance) / (total**2 - by_chance)


def reading(marked: Iterable[Marked]) -> Callable[[float], int]:
    """How many undecided answers a teacher is left to read, as a function of how sure is enough.

    The answers are sorted here once, so that asking for many risks costs little.
    """
    at_any_rate = 0
    confidences: list[float] = []
    for each in marked:
        if each.state is not State.PROPOSED:
            continue
        if _wants_reading(each):
            at_any_rate += 1
        elif each.confidence is not None:
            confidences.append(each.confidence)
    confidences.sort()
    return lambda bar: at_any_rate + bisect_left(confidences, bar)


def unsettled(each: Marked, bar: float) -> bool:
    """Whether an answer should be read: for a flag, or for a verdict less sure than `bar`."""
    return _wants_reading(each) or (each.confidence is not None and each.confidence < bar)


def _wants_reading(each: Marked) -> bool:
    """Whether an answer should be read however sure its verdicts are."""
    if any(flag != Flag.UNSURE for flag in each.flags):
        return True
    return each.confidence is None and each.needs_review
