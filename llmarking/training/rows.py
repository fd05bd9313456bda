"""Graded answers as rows of tokens: what the answers of a question share stands in a row once.

    head | answer, closing, tails | answer, closing, tails | …

Every answer sees the head and itself, at the positions that it would have alone, so what is learnt
is what grading asks, token for token, for a fraction of the tokens. Knows no torch.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from llmarking.domain import GradedExample, Point, Question, StudentAnswer
from llmarking.engines.engine import Tokenizer
from llmarking.grading.prompting import ClassPrompt, Template, class_prompt, versions
from llmarking.marks.overlap import PointWords
from llmarking.screening.languages import foreign_language
from llmarking.screening.normalising import fold
from llmarking.training.data import Balance, Group, with_examples
from llmarking.training.settings import TrainingSettings

# A point of another question is easily told from what an answer says: it must not drown the rest.
DECOY_WEIGHT = 0.25


@dataclass(frozen=True, slots=True)
class Segment:
    """What follows the head for one answer.

    Attributes:
        ids: the answer, what closes it, and all tails.
        rows: positions in `ids` after which a verdict is read.
        labels: the teacher's verdicts, one per row.
        weights: how much each counts in the loss.
        answer: the answer's id; `points` are the ids of the points, one per row.
        shares: how many of a point's words the answer has, one per row, see `marks.overlap`.
    """

    ids: tuple[int, ...]
    rows: tuple[int, ...]
    labels: tuple[bool, ...]
    weights: tuple[float, ...]
    answer: str
    points: tuple[int, ...]
    shares: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Answers to one question behind one head."""

    head: tuple[int, ...]
    segments: tuple[Segment, ...]
    group: str
    kind: str

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.head) + sum(len(segment.ids) for segment in self.segments)


def filled(
    head: tuple[int, ...],
    segments: Iterable[Segment],
    group: Group,
    row_tokens: int,
    per_row: int | None = None,
) -> Iterator[Row]:
    """Segments behind one head, at most `per_row` to a row, in rows of at most `row_tokens`.

    One that is longer by itself gets a row of its own.
    """
    waiting: list[Segment] = []
    length = len(head)
    for segment in segments:
        if waiting and (len(waiting) == per_row or length + len(segment.ids) > row_tokens):
            yield Row(head, tuple(waiting), group.key, group.kind)
            waiting, length = [], len(head)
        waiting.append(segment)
        length += len(segment.ids)
    if waiting:
        yield Row(head, tuple(waiting), group.key, group.kind)


class Renderer:
    """Makes rows with one version of the verdict prompts and a model's tokenizer.

    Args:
        max_tokens: answers that need more, even alone, are left out.
        row_tokens: a row that is longer holds one answer only; attention costs its square.
        version: of the prompts; the newest if it is None.

    Raises:
        PromptError: there is no such version.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        row_tokens: int = 2048,
        version: str | None = None,
    ) -> None:
        self.version = version or versions("verdict")[-1]
        self.tokenizer = tokenizer
        self.templates = {shots: Template("verdict", shots, self.version) for shots in (0, 1, 3)}
        self.max_tokens = max_tokens
        self.row_tokens = row_tokens
        self.left_out: set[str] = set()
        self._texts: dict[str, tuple[int, ...]] = {}

    def prompt(self, question: Question, shots: int) -> ClassPrompt:
        """What all answers to the question share, as grading renders it."""
        template = self.templates[shots if shots in self.templates else 3]
        return class_prompt(question, question.examples[:shots], template, self.tokenizer)

    @property
    def token_ids(self) -> tuple[int, int]:
        """The tokens of true and false."""
        probe = Question("", "", 1.0, "", (Point(1, 1.0, ("",)),))
        return self.prompt(probe, 0).token_ids

    def rows(
        self,
        group: Group,
        shots: int,
        per_row: int,
        weigh: Balance | None = None,
        decoys: frozenset[int] = frozenset(),
    ) -> list[Row]:
        """All answers of a group, at most `per_row` behind one head, none cut.

        Answers that don't fit `max_tokens` even alone are left out and remembered in `left_out`.
        """
        prompt = self.prompt(group.question, shots)
        weigh = weigh or Balance()
        segments = [self._segment(prompt, group, answer, weigh, decoys) for answer in group.answers]
        kept = []
        for segment in segments:
            if len(prompt.head) + len(segment.ids) > self.max_tokens:
                self.left_out.add(f"{group.key}/{segment.answer}")
            elif segment.rows:
                kept.append(segment)
        return list(filled(prompt.head, kept, group, self.row_tokens, per_row))

    def _segment(
        self,
        prompt: ClassPrompt,
        group: Group,
        answer: StudentAnswer,
        weigh: Balance,
        decoys: frozenset[int],
    ) -> Segment:
        if answer.text not in self._texts:
            self._texts[answer.text] = tuple(self.tokenizer.encode_plain(answer.text))
        ids = [*self._texts[answer.text], *prompt.closing]
        rows, labels, weights, points, shares = [], [], [], [], []
        foreign = foreign_language(answer.text, fold(answer.text), group.question) is not None
        said = PointWords(group.question).shares(answer.text, foreign=foreign)
        for point, tail, share in zip(group.question.points, prompt.tails, said, strict=True):
            ids += tail
            verdict = (answer.verdicts or {}).get(point.id)
            if verdict is None:
                continue
            rows.append(len(ids) - 1)
            labels.append(verdict)
            points.append(point.id)
            shares.append(share)
            weights.append(
                DECOY_WEIGHT if point.id in decoys else weigh.weight(group.source, verdict)
            )
        return Segment(
            tuple(ids), tuple(rows), tuple(labels), tuple(weights), answer.id, tuple(points),
            tuple(shares),
        )  # fmt: skip


class Mixer:
    """Draws the rows of one epoch after the other; the same seed, the same rows.

    Args:
        manipulations: sentences addressed to the grader. What an answer states does not change by
            one, and a sentence alone states nothing.
    """

    def __init__(
        self,
        train: Sequence[Group],
        renderer: Renderer,
        settings: TrainingSettings,
        weigh: Balance,
        manipulations: Sequence[str] = (),
    ) -> None:
        self._groups = train
        self._renderer = renderer
        self._settings = settings
        self._weigh = weigh
        self._manipulations = manipulations
        self._points = [(g.key, p) for g in train for p in g.question.points]

    def epoch(self, number: int) -> list[Row]:
        """The rows of one epoch, in random order."""
        rng = random.Random(f"{self._settings.seed}/{number}")
        rows: list[Row] = []
        for group in self._groups:
            times = self._settings.repeat_points if group.kind == "points" else 1
            for _ in range(times):
                answers = list(group.answers)
                rng.shuffle(answers)
                size = self._settings.answers_per_row
                for start in range(0, len(answers), size):
                    chunk = tuple(answers[start : start + size])
                    rows += self._varied(replace(group, answers=chunk), group, rng)
        rng.shuffle(rows)
        return rows

    def _varied(self, group: Group, whole: Group, rng: random.Random) -> list[Row]:
        settings = self._settings
        shots = rng.choices(list(settings.shot_mix), list(settings.shot_mix.values()))[0]
        # Examples are lent by answers that are not in the row.
        asked = {answer.id for answer in group.answers}
        others = tuple(a for a in whole.answers if a.id not in asked)
        if shots and not group.question.examples:
            lent = with_examples(replace(group, answers=others), shots, rng)
            if lent is None:
                shots = 0
            else:
                group = replace(group, question=lent.question)
        elif shots > len(group.question.examples):
            shots = len(group.question.examples)
        group = self._manipulated(group, rng)
        group = shuffled(group, rng)
        decoys: frozenset[int] = frozenset()
        if rng.random() < settings.decoys:
            group, decoys = with_decoys(group, self._points, rng)
        return self._renderer.rows(group, shots, settings.answers_per_row, self._weigh, decoys)

    def _manipulated(self, group: Group, rng: random.Random) -> Group:
        if not self._manipulations or not self._settings.manipulated:
            return group
        answers = []
        for answer in group.answers:
            if rng.random() < self._settings.manipulated:
                sentence = rng.choice(self._manipulations)
                place = rng.random()
                if place < 0.2:
                    nothing = dict.fromkeys(answer.verdicts or {}, False)
                    answer = replace(answer, text=sentence, verdicts=nothing)
                else:
                    parts = [answer.text, sentence] if place < 0.75 else [sentence, answer.text]
                    answer = replace(answer, text=rng.choice(("\n", " ")).join(parts))
            answers.append(answer)
        return replace(group, answers=tuple(answers))


def shuffled(group: Group, rng: random.Random) -> Group:
    """The same question with its points in another order, and sometimes fewer of them.

    A model that always saw point 1 first learns positions; this one has to read.
    """
    points = list(group.question.points)
    rng.shuffle(points)
    if len(points) > 2 and rng.random() < 0.3:
        points = points[: rng.randint(2, len(points) - 1)]
    return _renumbered(group, points)


def with_decoys(
    group: Group, others: Sequence[tuple[str, Point]], rng: random.Random
) -> tuple[Group, frozenset[int]]:
    """The group with points of other questions beside its own, which no answer states.

    Returns:
        the group and the ids of the decoys in it.
    """
    own = {point.text for point in group.question.points}
    drawn = rng.sample(others, min(len(others), rng.randint(1, 3)))
    foreign = [p for key, p in drawn if key != group.key and p.text not in own]
    top = max(point.id for point in group.question.points)
    extra = [replace(point, id=top + 1 + i) for i, point in enumerate(foreign)]
    points = [*group.question.points, *extra]
    rng.shuffle(points)
    absent = dict.fromkeys((point.id for point in extra), False)
    question = replace(
        group.question,
        points=tuple(points),
        examples=tuple(
            GradedExample(e.answer, {**e.verdicts, **absent}, e.reasons)
            for e in group.question.examples
        ),
    )
    answers = tuple(replace(a, verdicts={**(a.verdicts or {}), **absent}) for a in group.answers)
    order = {point.id: number for number, point in enumerate(points, start=1)}
    wide = _renumbered(replace(group, question=question, answers=answers), points)
    return wide, frozenset(order[i] for i in absent)


def _renumbered(group: Group, points: Sequence[Point]) -> Group:
    new_id = {point.id: number for number, point in enumerate(points, start=1)}

    def moved(verdicts: Iterable[tuple[int, bool]]) -> dict[int, bool]:
        return {new_id[i]: verdict for i, verdict in verdicts if i in new_id}

    question = replace(
        group.question,
        points=tuple(replace(point, id=new_id[point.id]) for point in points),
        examples=tuple(
            GradedExample(
                e.answer,
                moved(e.verdicts.items()),
                {new_id[i]: r for i, r in e.reasons.items() if i in new_id},
            )
            for e in group.question.examples
        ),
    )
    answers = tuple(replace(a, verdicts=moved((a.verdicts or {}).items())) for a in group.answers)
    return replace(group, question=question, answers=answers)


def batches(
    rows: Sequence[Row], batch_tokens: int, rng: random.Random | None = None
) -> Iterator[list[Row]]:
    """Rows of like length together, each batch at most `batch_tokens` with its padding.

    A row that is longer stands alone. With `rng`, lengths are jittered and the batches come in
    random order.
    """
    order = sorted(rows, key=lambda row: row.length * (1 + (rng.random() * 0.2 if rng else 0.0)))
    out: list[list[Row]] = []
    batch: list[Row] = []
    longest = 0
    for row in order:
        longest = max(longest, row.length)
        if batch and longest * (len(batch) + 1) > batch_tokens:
            out.append(batch)
            batch, longest = [], row.length
        batch.append(row)
    if batch:
        out.append(batch)
    if rng:
        rng.shuffle(out)
    yield from out
