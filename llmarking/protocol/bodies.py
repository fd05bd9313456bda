"""Request and response bodies: pydantic at the wire only.

Unknown fields are refused and every number has a bound, so that nothing a caller sends reaches the
engine unchecked. Grammars, schemas and chat templates can't be sent at all.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmarking import rubric
from llmarking.domain import (
    Flag,
    Grade,
    GradedExample,
    Outcome,
    Question,
    Sampling,
    Verdict,
)

MAX_TEXT = 200_000
MAX_PROMPTS = 256
MAX_SEQUENCES = 256
_REMEMBERED = 20_000  # characters of a question that is kept as it was understood

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Method = Literal["verdict", "prose"]


class Wire(BaseModel):
    """Base of every body: no unknown fields."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Sent(Wire):
    """Base of what clients send: no silent conversion of numbers from strings either."""

    model_config = ConfigDict(strict=True)


class ChatTurn(Sent):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


class GenerateRequest(Sent):
    """Free text, streamed or whole; or the probabilities of given `choices`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "Name three sorting algorithms.", "max_tokens": 64},
                {
                    "messages": [{"role": "user", "content": "Is water wet? Answer Yes or No."}],
                    "choices": ["Yes", "No"],
                },
            ]
        }
    )

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)] | None = (
        Field(default=None, description="Plain text, or a batch of them, completed as it stands.")
    )
    messages: Annotated[list[ChatTurn], Field(min_length=1, max_length=1024)] | None = Field(
        default=None, description="A conversation; the model's own chat template is applied."
    )
    stream: bool = Field(
        default=False, description='One JSON object a line, {"text": [text so far]}.'
    )
    n: int = Field(default=1, ge=1, le=64, description="Samples per prompt.")
    max_tokens: int = Field(default=512, ge=1, le=32_768)
    temperature: float = Field(default=0.0, ge=0.0, le=2.0, description="0 is greedy.")
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0, le=100_000, description="0 means no limit.")
    stop: list[Stop] = Field(default_factory=list, max_length=16)
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    choices: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=1000)]],
            Field(min_length=2, max_length=32),
        ]
        | None
    ) = Field(
        default=None,
        description="Answer with one of these; the reply carries the probability of each.",
    )
    adapter: str | None = Field(default=None, max_length=200)

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        if self.choices is not None:
            if len(set(self.choices)) != len(self.choices):
                raise ValueError("choices must differ from one another")
            if self.stream or self.n > 1:
                raise ValueError("choices go with neither stream nor n above 1")
        count = len(self.prompt) if isinstance(self.prompt, list) else 1
        if count * self.n > MAX_SEQUENCES:
            raise ValueError(f"prompts times n is {count * self.n}; at most {MAX_SEQUENCES}")
        if self.n > 1 and self.temperature == 0:
            raise ValueError("n above 1 needs a temperature above 0, or all samples are the same")
        return self

    def sampling(self) -> Sampling:
        """The sampling parameters as the engine takes them."""
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            n=self.n,
            stop=tuple(self.stop),
            seed=self.seed,
        )


class StreamOptions(Sent):
    """What a stream of chat completions tells besides its text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class ChatRequest(Sent):
    """A chat completion as OpenAI's clients ask for it: what a chat needs, and no more.

    Schemas, grammars, templates, media and tools that callers send are the source of most of vLLM's
    advisories; none of them gets as far as vLLM.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 16}]
        }
    )

    model: Annotated[str, Field(max_length=200)] | None = None
    messages: Annotated[list[ChatTurn], Field(min_length=1, max_length=1024)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=16)
    max_tokens: int | None = Field(default=None, ge=1, le=32_768)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=32_768)
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=-1, le=100_000)
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)
    presence_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    frequency_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    repetition_penalty: float | None = Field(default=None, gt=0.0, le=2.0)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    user: Annotated[str, Field(max_length=200)] | None = None


class Usage(Wire):
    """Tokens a request cost; `cached_tokens` of the prompt were already computed."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class ChoiceProbability(Wire):
    """One of the allowed choices. Probabilities of all choices add up to 1."""

    text: str
    probability: float


class GenerateResponse(Wire):
    """All samples, those of the first prompt first."""

    text: list[str]
    model: str
    finish_reasons: list[str]
    choices: list[list[ChoiceProbability]] | None = None
    usage: Usage


class WirePointVerdict(Sent):
    """The teacher's verdict on one point of a graded example."""

    id: int = Field(ge=1, le=1000)
    verdict: bool
    reason: Annotated[str, Field(max_length=2000)] = ""


class WireExample(Sent):
    """A graded answer; every point of the question needs a verdict."""

    answer: Text
    points: Annotated[list[WirePointVerdict], Field(min_length=1, max_length=100)]


class WireQuestion(Sent):
    """A question with its marked reference answer and, optionally, graded examples."""

    code: Annotated[str, Field(max_length=200)] = ""
    text: Text = Field(description="The question as the student saw it.")
    reference: Text = Field(description="<Point1:2>…<Point1:2> marks what earns marks.")
    full_mark: float | None = Field(
        default=None, gt=0, le=10_000, description="Checked against the sum of the points."
    )
    subject: Annotated[str, Field(max_length=200)] = ""
    examples: Annotated[list[WireExample], Field(max_length=16)] = Field(default_factory=list)

    def question(self) -> Question:
        """Parse the markup and check that every example covers every point.

        Raises:
            RubricError: the markup is at fault.
            ValueError: an example lacks a point, or has one too many.
        """
        sent = (self.code, self.text, self.reference, self.full_mark, self.subject)
        short = len(self.text) + len(self.reference) <= _REMEMBERED
        question = (_question if short else _question.__wrapped__)(*sent)
        if not self.examples:
            return question
        known = {p.id for p in question.points}
        examples = []
        for number, example in enumerate(self.examples, start=1):
            given = [p.id for p in example.points]
            if len(set(given)) != len(given) or set(given) != known:
                raise ValueError(
                    f"example {number} has verdicts for points {sorted(given)}; the reference has "
                    f"{sorted(known)}, each exactly once"
                )
            examples.append(
                GradedExample(
                    answer=example.answer,
                    verdicts={p.id: p.verdict for p in example.points},
                    reasons={p.id: p.reason for p in example.points if p.reason},
                )
            )
        return replace(question, examples=tuple(examples))


@lru_cache(maxsize=256)
def _question(
    code: str, text: str, reference: str, full_mark: float | None, subject: str
) -> Question:
    """A question without examples; a class sends the same one with every answer."""
    parsed = rubric.parse(reference, full_mark)
    return Question(
        code=code,
        text=text,
        full_mark=parsed.full_mark,
        reference=parsed.prose,
        points=parsed.points,
        subject=subject,
    )


class GradeRequest(Sent):
    """One answer to be marked."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "question": {
                        "text": "What is a hash table?",
                        "full_mark": 3,
                        "reference": "A hash table <Point1:2>stores key-value pairs<Point1:2> and "
                        "<Point2:1>finds a key in constant time on average<Point2:1>.",
                    },
                    "answer": "It keeps values under keys, and look-up takes O(1) on average.",
                    "explain": True,
                }
            ]
        }
    )

    question: WireQuestion
    answer: Text
    method: Method = Field(
        default="verdict",
        description="verdict: calibrated probabilities; prose: free text in the original's form.",
    )
    shots: int = Field(
        default=0, ge=0, le=16, description="How many of the question's examples the model sees."
    )
    explain: bool = Field(
        default=False, description="Also quote the evidence and give a reason for every point."
    )
    risk: float | None = Field(
        default=None,
        gt=0,
        lt=0.5,
        description="Mark points for review so that at most this share of the others is wrong.",
    )
    adapter: str | None = Field(default=None, max_length=200)
    stream: bool = Field(default=False, description="Server-sent events: point, reason, grade.")


class PointResult(Wire):
    """The verdict on one point. `held` is null only where a prose reply could not be read."""

    id: int
    mark: float
    text: str
    held: bool | None
    probability: float | None = None
    outcome: Outcome = Outcome.DECIDED
    needs_review: bool = False
    evidence: str | None = None
    reason: str | None = None

    @classmethod
    def of(cls, verdict: Verdict) -> PointResult:
        return cls(
            id=verdict.point.id,
            mark=verdict.point.mark,
            text=verdict.point.text,
            held=verdict.held,
            probability=None if verdict.probability is None else round(verdict.probability, 6),
            outcome=verdict.outcome,
            needs_review=verdict.needs_review,
            evidence=verdict.evidence,
            reason=verdict.reason,
        )


class GradeResponse(Wire):
    """A marked answer, with what is needed to get the same mark again."""

    mark: float
    full_mark: float
    points: list[PointResult]
    flags: list[Flag]
    needs_review: bool
    model: str
    adapter: str | None = None
    adapter_version: str | None = None
    method: Method
    shots: int
    prompt_version: str
    calibration: str | None = None
    usage: Usage

    @classmethod
    def of(cls, grade: Grade, **about: Any) -> GradeResponse:
        return cls(
            mark=grade.mark,
            full_mark=grade.question.full_mark,
            points=[PointResult.of(v) for v in grade.verdicts],
            flags=list(grade.flags),
            needs_review=grade.needs_review,
            **about,
        )


class Problem(BaseModel):
    """Problem details, RFC 9457. `field` is the path of the faulty field, if there is one.

    Where `detail` is one of our sentences, `code` is its name and `values` what was filled into it.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str | None = None
    field: str | None = None
    code: str | None = None
    values: dict[str, Any] | None = None
    errors: list[dict[str, Any]] | None = None


class AdapterRequest(Wire):
    """Which adapter of the server's folder to load."""

    name: str = Field(min_length=1, max_length=100)


class AdapterCard(BaseModel):
    """An adapter that requests may name."""

    name: str
    base: str
    rank: int
    version: str
    calibrations: list[str]
    default: bool


class ModelCard(BaseModel):
    """What the server runs."""

    model: str
    context: int
    revision: str
    dtype: str
    adapters: list[str]
    versions: dict[str, str]
    methods: list[str] = ["verdict", "prose"]
    calibration: str | None = None
    prompts: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of every prompt template, by its name."
    )
    scoring: dict[str, Any] = Field(default_factory=dict)
