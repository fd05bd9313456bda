"""Which mark of an answer stands, and what a decision or a new rubric makes of it.

The marks of an answer are a log that only grows. These are plain functions of it: the store keeps
a pointer to the mark that stands, and `standing` says where it has to point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from llmarking.domain import Flag, Question, Verdict
from llmarking.errors import InputError


class Kind(StrEnum):
    """Who a mark is from. A trial is what a model would give under a rubric that is not in use."""

    MODEL = "model"
    HUMAN = "human"
    UNDO = "undo"
    TRIAL = "trial"


class State(StrEnum):
    """What a teacher has made of an answer's mark."""

    PROPOSED = "proposed"
    CONFIRMED = "confirmed"
    OVERRIDDEN = "overridden"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of an answer's log. `supersedes` is the row that an undo takes back."""

    id: int
    kind: Kind
    supersedes: int | None = None


def standing(log: Iterable[Entry]) -> int | None:
    """The row that stands: the newest human one not taken back, else the model's newest.

    Args:
        log: all rows of one answer, in any order; rows are newer the higher their id.
    """
    rows = list(log)
    undone = {row.supersedes for row in rows if row.kind is Kind.UNDO}
    human = [row.id for row in rows if row.kind is Kind.HUMAN and row.id not in undone]
    model = [row.id for row in rows if row.kind is Kind.MODEL]
    return max(human or model, default=None)


def decided(
    question: Question, held: Mapping[int, bool], model: Sequence[Verdict] = ()
) -> tuple[Verdict, ...]:
    """The teacher's verdicts, one for each point of the question.

    Evidence and reason of the model stay with the verdicts that agree with it.

    Raises:
        InputError: a point has no verdict, or a verdict has no point.
    """
    known = {point.id for point in question.points}
    if set(held) != known:
        given = ", ".join(map(str, sorted(held))) or "none"
        raise InputError(
            f"verdicts are for the points {given}; the question has "
            f"{', '.join(map(str, sorted(known)))}, and each needs one",
            field="verdicts",
        )
    before = {verdict.point.id: verdict for verdict in model}
    verdicts = []
    for point in question.points:
        theirs = before.get(point.id)
        agrees = theirs is not None and theirs.held == held[point.id]
        verdicts.append(
            Verdict(
                point,
                held=held[point.id],
                evidence=theirs.evidence if theirs and agrees else None,
                reason=theirs.reason if theirs and agrees else None,
            )
        )
    return tuple(verdicts)


def state(
    human: Mapping[int, bool | None] | None, model: Mapping[int, bool | None] | None
) -> State:
    """Confirmed where the teacher decided as the model did on every point; verdicts by point id."""
    if human is None:
        return State.PROPOSED
    return State.CONFIRMED if human == model else State.OVERRIDDEN


class Touch(StrEnum):
    """What a new version of a question asks to be done with marks under the old one."""

    NOTHING = "nothing"
    SUM = "sum"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Revision:
    """A question before and after its rubric was edited.

    Attributes:
        carried: new point id to old point id, where the verdict stays: same wording, same question.
    """

    old: Question
    new: Question
    carried: Mapping[int, int]

    @classmethod
    def between(cls, old: Question, new: Question, shots: int = 0) -> Revision:
        """Match the points of two versions.

        A verdict belongs to the question, to the point's own wording and to the graded examples
        that the model saw; not to what a point is worth, or where in the list it stands.
        """
        carried: dict[int, int] = {}
        if _context(old, shots) == _context(new, shots):
            left = {point.id: point.cases for point in old.points}
            for point in new.points:
                same = [i for i, cases in left.items() if cases == point.cases]
                if same:
                    carried[point.id] = same[0]
                    del left[same[0]]
        return cls(old, new, carried)

    @property
    def touch(self) -> Touch:
        """Nothing at all, marks to be added up anew, or answers to be read again."""
        if any(point.id not in self.carried for point in self.new.points):
            return Touch.READ
        same = [(p.id, p.mark, p.cases) for p in self.old.points] == [
            (p.id, p.mark, p.cases) for p in self.new.points
        ]
        return Touch.NOTHING if same else Touch.SUM

    def verdicts(
        self, before: Sequence[Verdict], read: Sequence[Verdict] = ()
    ) -> tuple[Verdict, ...]:
        """Verdicts under the new version: carried where the wording stayed, else as read again.

        Raises:
            KeyError: a point has neither.
        """
        kept = {v.point.id: v for v in before}
        fresh = {v.point.id: v for v in read}
        return tuple(
            replace(
                kept[self.carried[point.id]] if point.id in self.carried else fresh[point.id],
                point=point,
            )
            for point in self.new.points
        )


def _context(question: Question, shots: int) -> tuple[object, ...]:
    examples = [(e.answer, sorted(e.verdicts.items())) for e in question.examples[:shots]]
    return question.text, examples


def carried_flags(
    flags: Iterable[Flag], verdicts: Iterable[Verdict], *, explained: bool
) -> tuple[Flag, ...]:
    """Flags after verdicts were exchanged: those that speak of verdicts are set anew."""
    listed = list(verdicts)
    kept: list[Flag] = [flag for flag in flags if flag not in (Flag.UNSURE, Flag.NO_EVIDENCE)]
    if explained and any(v.held and v.evidence is None for v in listed):
        kept.append(Flag.NO_EVIDENCE)
    if any(v.needs_review for v in listed):
        kept.append(Flag.UNSURE)
    return tuple(kept)
