"""Marks an answer: verdicts read from the model, calibrated, added up here, then explained.

Knows neither HTTP nor vLLM. A student's text reaches the model only through `prompting`, and what
comes back is a pair of log-probabilities per point, so there is no reply that could be malformed or
obeyed.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isnan
from typing import Literal

from llmarking.domain import (
    Flag,
    Grade,
    Outcome,
    Point,
    Question,
    Reading,
    Sampling,
    Verdict,
)
from llmarking.engines.engine import Engine, last
from llmarking.errors import EngineError, InputError, PromptTooLong
from llmarking.grading import evidence, prose
from llmarking.grading.explaining import explain
from llmarking.grading.prompting import (
    PLAIN_VERDICT,
    ClassPrompt,
    Method,
    Template,
    class_prompt,
    versions,
)
from llmarking.grading.request_ids import request_id
from llmarking.marks.calibration import Calibration, Calibrations
from llmarking.marks.overlap import PointWords
from llmarking.models.adapters import Adapter
from llmarking.screening.screen import Screening
from llmarking.screening.screeners import Screeners
from llmarking.sharing import Shared, in_order

DEFAULT_RISK = 0.05
PROSE_TOKENS_PER_POINT = 96


@dataclass(frozen=True, slots=True)
class GradeOptions:
    """How to grade, apart from what.

    Attributes:
        calibration: in place of the one that the server knows for the model, adapter and prompt.
    """

    method: Literal["verdict", "prose"] = "verdict"
    shots: int = 0
    explain: bool = False
    risk: float | None = None
    adapter: str | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True)
class Setup:
    """What a grade depends on besides the question, the answer and the options."""

    model: str
    revision: str
    adapter: str | None
    prompt: str
    calibration: Calibration | None
    adapter_version: str | None = None


@dataclass(frozen=True, slots=True)
class Graded:
    """A grade with what is needed to get it again, and what it cost in tokens."""

    grade: Grade
    prompt_version: str
    calibration: str | None
    adapter: str | None
    shots: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int = 0
    adapter_version: str | None = None


@dataclass(frozen=True, slots=True)
class PointDecided:
    """A point has its verdict."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class PointExplained:
    """A point has its evidence and reason."""

    verdict: Verdict


Event = PointDecided | PointExplained | Graded


class Grader:
    """Grades answers on an engine.

    Args:
        prompt: version of the verdict prompt for a model without adapter. An adapter is asked in
            the one that it was trained in.
        remember: how many readings are kept, so that the same answer again costs nothing and gets
            the same mark.
        screeners: what screens the answers; without it, that is done in this process.
    """

    def __init__(
        self,
        engine: Engine,
        calibrations: Calibrations | None = None,
        *,
        default_adapter: str | None = None,
        prompt: str = PLAIN_VERDICT,
        remember: int = 50_000,
        screeners: Screeners | None = None,
    ) -> None:
        self._engine = engine
        self._screeners = screeners or Screeners()
        self._calibrations = calibrations or Calibrations()
        self._default_adapter = default_adapter
        self._version = {
            "verdict": prompt,
            "prose": versions("prose")[-1],
            "explain": versions("explain")[-1],
        }
        self._classes: OrderedDict[tuple[str, str], tuple[ClassPrompt, PointWords]] = OrderedDict()
        self._readings = Shared(remember)
        # Apart from them, so that the passages of a few answers don't push whole answers out.
        self._passages = Shared(min(remember, 1_000))

    def forget(self) -> None:
        """Let go of every reading that is remembered under the text of an answer."""
        self._readings.forget()
        self._passages.forget()

    async def grade(self, question: Question, answer: str, options: GradeOptions) -> Graded:
        """Grade one answer.

        Raises:
            PromptTooLong: question, examples and answer don't fit the context; nothing is ever cut.
            InputError: more examples are asked for than the question has.
            EngineError: the engine could not answer.
        """
        result: Graded | None = None
        async for event in self.stream(question, answer, options):
            if isinstance(event, Graded):
                result = event
        assert result is not None  # the stream ends with it, or raises
        return result

    async def stream(
        self, question: Question, answer: str, options: GradeOptions
    ) -> AsyncIterator[Event]:
        """Grade one answer and tell what is known at once: points, explanations, the grade."""
        if options.shots > len(question.examples):
            raise InputError(
                f"shots is {options.shots}, but the question has {len(question.examples)} graded "
                "examples; add some or lower shots",
                field="shots",
            )
        screening = await self._screeners.screen(answer, question)
        if options.method == "prose":
            graded = await self._prose(question, screening, options)
        else:
            graded = await self._verdicts(question, screening, options)
        for verdict in graded.grade.verdicts:
            yield PointDecided(verdict)
        if options.explain and options.method == "verdict":
            verdicts = []
            # Of prompts, of those what had been computed before, and written.
            tokens = [0, 0, 0]
            bar = _bar(options.risk)
            template = _template("explain", 0, self._version["explain"])

            async def mark(passage: str) -> Sequence[Verdict]:
                # Nothing that can be flagged is new in a part of what was screened.
                part = replace(screening, text=passage, key=passage)
                found = await self._verdicts(question, part, options, self._passages)
                tokens[0] += found.prompt_tokens
                tokens[1] += found.cached_tokens
                return found.grade.verdicts

            shown = await evidence.find(screening.text, graded.grade.verdicts, mark)
            work = (
                explain(self._engine, template, question, screening.text, verdict, quote, bar)
                for verdict, quote in zip(graded.grade.verdicts, shown, strict=True)
            )
            async with aclosing(in_order(work)) as explained:
                async for verdict, written in explained:
                    verdicts.append(verdict)
                    if written is not None:
                        tokens[0] += written.prompt_tokens
                        tokens[1] += written.cached_tokens
                        tokens[2] += written.completion_tokens
                    yield PointExplained(verdict)
            flags = list(graded.grade.flags)
            if any(v.held and v.evidence is None for v in verdicts):
                flags.append(Flag.NO_EVIDENCE)
            if any(v.needs_review for v in verdicts) and Flag.UNSURE not in flags:
                flags.append(Flag.UNSURE)
            graded = replace(
                graded,
                grade=replace(graded.grade, verdicts=tuple(verdicts), flags=tuple(flags)),
                prompt_tokens=graded.prompt_tokens + tokens[0],
                cached_tokens=graded.cached_tokens + tokens[1],
                completion_tokens=graded.completion_tokens + tokens[2],
            )
        yield graded

    def setup(self, options: GradeOptions) -> Setup:
        """What a grade with these options would depend on besides them.

        Raises:
            UnknownModelError: the adapter is not loaded.
        """
        info = self._engine.info
        verdicts = options.method == "verdict"
        adapter = options.adapter or (self._default_adapter if verdicts else None)
        used = info.adapter(adapter)
        template = self._template(options.method, options.shots, used)
        calibration = options.calibration or self._calibration(template.name, adapter)
        return Setup(
            info.model,
            info.revision,
            adapter,
            template.name,
            calibration if verdicts else None,
            used.version if used else None,
        )

    def calibration_for(self, shots: int, adapter: str | None) -> Calibration | None:
        """The calibration that a grade with these options would use."""
        adapter = adapter or self._default_adapter
        used = self._engine.info.adapters.get(adapter) if adapter else None
        return self._calibration(self._template("verdict", shots, used).name, adapter)

    def _template(self, method: Method, shots: int, adapter: Adapter | None) -> Template:
        version = self._version[method]
        if method == "verdict" and adapter is not None:
            version = adapter.prompt
        return _template(method, shots, version)

    def calibrated_prompts(self, adapter: str) -> list[str]:
        """The prompt templates that an adapter has a calibration for."""
        return self._calibrations.prompts(self._engine.info.model, adapter)

    def _calibration(self, prompt: str, adapter: str | None) -> Calibration | None:
        return self._calibrations.find(self._engine.info.model, adapter, prompt)

    async def _verdicts(
        self,
        question: Question,
        screening: Screening,
        options: GradeOptions,
        readings: Shared | None = None,
    ) -> Graded:
        """Verdicts, from what `readings` remember where that has been read already."""
        readings = self._readings if readings is None else readings
        try:
            return await self._read_verdicts(question, screening, options, readings)
        except _Swapped:
            # Once more, with the adapter and calibration that have taken their place.
            return await self._verdicts(question, screening, options, readings)

    async def _read_verdicts(
        self, question: Question, screening: Screening, options: GradeOptions, readings: Shared
    ) -> Graded:
        setup = self.setup(options)
        adapter, calibration, version = setup.adapter, setup.calibration, setup.adapter_version
        template = self._template("verdict", options.shots, self._engine.info.adapter(adapter))
        bar = _bar(options.risk)
        shots = options.shots
        if Flag.EMPTY in screening.flags and not any(c.isalnum() for c in screening.text):
            # There is nothing a point could be stated with, and nothing for a model to look at.
            # A lone sign that the reference has too (≤, ∞) is no empty answer.
            verdicts = tuple(
                Verdict(point, held=False, probability=0.0) for point in question.points
            )
            grade = Grade(question, verdicts, screening.flags)
            return Graded(
                grade, template.name, _identity(calibration), adapter, shots, 0, 0, 0, version
            )
        fingerprint = _fingerprint(question, shots)
        shared, words = self._class(question, fingerprint, template, shots)
        prompt = shared.with_answer(screening.text, self._engine.tokenizer)
        limit = self._engine.info.context - 1
        if prompt.length > limit:
            raise PromptTooLong(prompt.length, limit, field="answer")

        async def read() -> Reading:
            found = await self._engine.read(
                prompt.ids,
                prompt.tails,
                prompt.token_ids,
                request_id=request_id("grade"),
                adapter=adapter,
            )
            # Not a number, or neither of the two possible: a failure, never a guess.
            if any(isnan(row[0] - row[1]) for row in found.logprobs):
                raise EngineError("the engine returned no probabilities")
            if found.adapter not in (None, version):
                raise _Swapped
            return found

        key = (fingerprint, template.name, adapter, version, screening.key)
        reading, known = await readings.get(key, read)
        shares: Sequence[float | None] = [None] * len(question.points)
        if calibration is not None and calibration.overlap:
            foreign = Flag.OTHER_LANGUAGE in screening.flags
            shares = words.shares(screening.text, foreign=foreign)
        verdicts = tuple(
            _verdict(point, row[0] - row[1], share, calibration, bar)
            for point, row, share in zip(question.points, reading.logprobs, shares, strict=True)
        )
        flags = list(screening.flags)
        if any(v.needs_review for v in verdicts):
            flags.append(Flag.UNSURE)
        return Graded(
            Grade(question, verdicts, tuple(flags)),
            template.name,
            _identity(calibration),
            adapter,
            shots,
            reading.prompt_tokens,
            reading.prompt_tokens if known else reading.cached_tokens,
            adapter_version=version,
        )

    def _class(
        self, question: Question, fingerprint: str, template: Template, shots: int
    ) -> tuple[ClassPrompt, PointWords]:
        """What all answers to a question share."""
        key = (fingerprint, template.name)
        if key not in self._classes:
            examples, tokenizer = question.examples[:shots], self._engine.tokenizer
            prompt = class_prompt(question, examples, template, tokenizer)
            self._classes[key] = prompt, PointWords(question)
            while len(self._classes) > 1024:
                self._classes.popitem(last=False)
        self._classes.move_to_end(key)
        return self._classes[key]

    async def _prose(
        self, question: Question, screening: Screening, options: GradeOptions
    ) -> Graded:
        template = Template("prose", options.shots, self._version["prose"])
        ids = prose.prompt(
            question,
            question.examples[: options.shots],
            screening.text,
            template,
            self._engine.tokenizer,
        )
        room = self._engine.info.context - len(ids)
        wanted = PROSE_TOKENS_PER_POINT * len(question.points) + 64
        if room < 32 * len(question.points):
            limit = self._engine.info.context - 32 * len(question.points)
            raise PromptTooLong(len(ids), limit, field="answer")
        used = self._engine.info.adapter(options.adapter)
        generation = await last(
            self._engine.generate(
                ids,
                Sampling(max_tokens=min(wanted, room)),
                request_id=request_id("prose"),
                adapter=options.adapter,
            )
        )
        text = generation.completions[0].text
        reading = prose.parse(text, [p.id for p in question.points])
        verdicts = tuple(
            Verdict(
                point,
                held=(found := reading.verdicts[point.id]).held,
                outcome=found.outcome,
                reason=found.reason,
                needs_review=found.outcome is not Outcome.DECIDED,
            )
            for point in question.points
        )
        flags = [*screening.flags, *([Flag.FORMAT] if reading.failures else [])]
        return Graded(
            Grade(question, verdicts, tuple(flags)),
            template.name,
            None,
            options.adapter,
            options.shots,
            generation.prompt_tokens,
            generation.cached_tokens,
            generation.completion_tokens,
            used.version if used else None,
        )


class _Swapped(Exception):
    """Another adapter took the name between looking for it and reading with it."""


def _verdict(
    point: Point, odds: float, share: float | None, calibration: Calibration | None, bar: float
) -> Verdict:
    calibration = calibration or _PLAIN
    odds = calibration.weighed(odds, share)
    probability = calibration.probability(odds)
    return Verdict(
        point,
        held=probability >= 0.5,
        probability=probability,
        raw=odds,
        needs_review=max(probability, 1 - probability) < bar,
    )


_PLAIN = Calibration(model="", prompt="")


# Files of templates don't change under a server, and every answer asks for the same few.
_template = lru_cache(maxsize=64)(Template)


def _bar(risk: float | None) -> float:
    """How probable a verdict must be to go without a review."""
    return 1.0 - (DEFAULT_RISK if risk is None else risk)


def _identity(calibration: Calibration | None) -> str | None:
    return calibration.identity if calibration else None


def _fingerprint(question: Question, shots: int) -> str:
    """A hash of everything about a question that the model sees."""
    seen = [
        question.text,
        question.reference,
        [[p.id, p.mark, p.cases] for p in question.points],
        [[e.answer, sorted(e.verdicts.items())] for e in question.examples[:shots]],
    ]
    text = json.dumps(seen, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
