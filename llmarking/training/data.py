"""What an adapter is trained on: graded courses of every form, parted by question.

A question belongs to training or to the held-out part with all its answers, in whatever course it
stands; the held-out part is for stopping in time, for the calibration, and for comparing adapters.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from llmarking.datasets import finding as datasets
from llmarking.domain import GradedExample, Question, StudentAnswer
from llmarking.errors import InputError
from llmarking.screening.normalising import clean
from llmarking.screening.screen import canonical
from llmarking.sentences import counted


@dataclass(frozen=True, slots=True)
class Source:
    """A course with where it comes from, for the model card."""

    name: str
    licence: str
    sha256: str
    questions: tuple[Question, ...]
    answers: tuple[StudentAnswer, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A question with its graded answers.

    Attributes:
        source: the course's name; codes are unique only within it.
    """

    source: str
    question: Question
    answers: tuple[StudentAnswer, ...]

    @property
    def key(self) -> str:
        """Course and code."""
        return f"{self.source}/{self.question.code}"

    @property
    def kind(self) -> str:
        """`points`, or `whole` for a question that is marked as one."""
        return "points" if len(self.question.points) > 1 else "whole"


@dataclass(frozen=True, slots=True)
class Split:
    """What is trained on, and what is not."""

    train: tuple[Group, ...]
    held: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Balance:
    """How much a verdict counts, so that true and false weigh the same in every course."""

    weights: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def weight(self, source: str, verdict: bool) -> float:
        """The weight of a verdict of a course; 1 where the course is unknown."""
        return self.weights.get(source, (1.0, 1.0))[int(verdict)]


def question_key(question: Question) -> str:
    """A hash of what a question asks, the same in whatever course it stands."""
    return hashlib.sha256(canonical(question.text).encode()).hexdigest()[:16]


def load(names: Sequence[str], root: str | None = None) -> list[Source]:
    """Read courses to learn from, by name or path.

    Raises:
        InputError: there is no such course, or none has a verdict.
    """
    sources = read(names, root)
    if names and not any(a.verdicts for s in sources for a in s.answers):
        raise InputError(
            f"there is nothing to learn from {', '.join(names)}: no answer has a teacher's verdict"
        )
    return sources


def read(names: Sequence[str], root: str | None = None) -> list[Source]:
    """Read courses by name or path, with verdicts or without.

    Raises:
        DataError: there is no such course, or its files are wrong.
    """
    courses = [datasets.load(name, root) for name in names]
    return [Source(c.name, c.licence, c.sha256, c.questions, c.answers) for c in courses]


def groups(sources: Iterable[Source]) -> list[Group]:
    """Questions with those of their answers that a model would be asked about and a teacher marked.

    Answers come as grading would clean them; the same answer to the same question counts once.
    """
    found = []
    for source in sources:
        answers: dict[str, dict[str, StudentAnswer]] = {q.code: {} for q in source.questions}
        for answer in source.answers:
            text = clean(answer.text).text
            if answer.verdicts and any(c.isalnum() for c in text):
                answers[answer.question_code].setdefault(
                    canonical(text), replace(answer, text=text)
                )
        found += [
            Group(source.name, question, tuple(answers[question.code].values()))
            for question in source.questions
            if answers[question.code]
        ]
    return found


def split(all_groups: Sequence[Group], share: float, seed: int, most: int = 8) -> Split:
    """Hold out a share of every course's questions, at least one where there are three.

    More than `most` of a course would tell little more and be missing from training.

    Questions with the same text go the same way, in whatever courses they are.

    Raises:
        InputError: too few questions to hold any out.
    """
    by_source: dict[str, list[str]] = {}
    for group in all_groups:
        texts = by_source.setdefault(group.source, [])
        if (key := canonical(group.question.text)) not in texts:
            texts.append(key)
    held: set[str] = set()
    for source, texts in by_source.items():
        if share <= 0 or len(texts) < 3:
            continue
        order = sorted(texts)
        random.Random(f"{seed}/{source}").shuffle(order)
        held.update(order[: min(most, max(1, round(share * len(order))))])
    parts = Split(
        tuple(g for g in all_groups if canonical(g.question.text) not in held),
        tuple(g for g in all_groups if canonical(g.question.text) in held),
    )
    if not parts.train or (share > 0 and not parts.held):
        raise InputError(
            f"{counted(len(all_groups), 'question is', 'questions are')} too few to hold some "
            "out; add courses, or train without with --held-out 0"
        )
    return parts


def apart(all_groups: Sequence[Group], held: Sequence[Group]) -> Split:
    """All of `held` is held out, and the same questions of other courses are not trained on.

    Raises:
        InputError: nothing is left to train on.
    """
    asked = {canonical(group.question.text) for group in held}
    train = tuple(g for g in all_groups if canonical(g.question.text) not in asked)
    if not train or not held:
        raise InputError("the courses of --validation leave no question to train on, or have none")
    return Split(train, tuple(held))


def without(all_groups: Sequence[Group], left_out: Iterable[Source]) -> list[Group]:
    """The groups but those that ask what a course of `left_out` asks, in whatever course.

    Whether its answers have verdicts does not matter: a test by scores alone has none.
    """
    asked = {canonical(question.text) for source in left_out for question in source.questions}
    return [g for g in all_groups if canonical(g.question.text) not in asked]


def balance(train: Sequence[Group]) -> Balance:
    """Weights that make true and false equal in every course, within a factor of two."""
    counts: dict[str, list[int]] = {}
    for group in train:
        count = counts.setdefault(group.source, [0, 0])
        for answer in group.answers:
            for verdict in (answer.verdicts or {}).values():
                count[int(verdict)] += 1
    weights = {}
    for source, (false, true) in counts.items():
        half = (false + true) / 2
        weights[source] = (_clip(half / max(false, 1)), _clip(half / max(true, 1)))
    return Balance(weights)


def _clip(weight: float) -> float:
    return min(2.0, max(0.5, weight))


def with_examples(group: Group, shots: int, rng: random.Random) -> Group | None:
    """The group with at least so many graded examples, or None if it can't have them.

    A question without examples of its own lends some of its answers; those are not asked about.
    """
    if shots <= len(group.question.examples):
        return group
    if group.question.examples or len(group.answers) < shots + 2:
        return None
    lent = rng.sample(list(group.answers), shots)
    examples = tuple(GradedExample(a.text, dict(a.verdicts or {})) for a in lent)
    ids = {answer.id for answer in lent}
    return replace(
        group,
        question=replace(group.question, examples=examples),
        answers=tuple(a for a in group.answers if a.id not in ids),
    )


def describe(sources: Sequence[Source], parts: Split) -> list[dict[str, object]]:
    """Per course: licence, hash, and what is trained on and held out, for card and metrics."""
    rows: list[dict[str, object]] = []
    for source in sources:
        row: dict[str, object] = {
            "course": source.name,
            "licence": source.licence,
            "sha256": source.sha256,
        }
        for name, part in (("train", parts.train), ("held_out", parts.held)):
            mine = [g for g in part if g.source == source.name]
            row[name] = {
                "questions": len(mine),
                "answers": sum(len(g.answers) for g in mine),
                "verdicts": sum(len(a.verdicts or {}) for g in mine for a in g.answers),
            }
        rows.append(row)
    return rows
