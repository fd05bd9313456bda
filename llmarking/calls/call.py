"""What can be asked of an LLMarking server and how each answer is read: bytes in, values out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter

from llmarking import rubric
from llmarking.calls.attempts import CONNECT_TIMEOUT, Unreadable, refusal
from llmarking.domain import Message, Question
from llmarking.errors import InputError
from llmarking.protocol.bodies import (
    GenerateResponse,
    GradeResponse,
    Method,
    ModelCard,
    PointResult,
    WireQuestion,
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
AnyQuestion = Question | WireQuestion | Mapping[str, Any]


class GenerateOptions(TypedDict, total=False):
    """What may be said about a generation; the server has defaults and bounds."""

    n: int
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    stop: list[str]
    seed: int | None
    choices: list[str] | None
    adapter: str | None


class GradeOptions(TypedDict, total=False):
    """What may be said about marking an answer; the server has defaults and bounds."""

    method: Method
    shots: int
    explain: bool
    risk: float | None
    adapter: str | None


class PointReason(BaseModel):
    """Why a point was decided as it was, and the words of the answer that show it."""

    id: int
    evidence: str | None = None
    reason: str | None = None


# What a streamed grade says: ("point", …) as each is decided, ("reason", …), and ("grade", …) last.
GradeEvent = (
    tuple[Literal["point"], PointResult]
    | tuple[Literal["reason"], PointReason]
    | tuple[Literal["grade"], GradeResponse]
)


class Decoder(Protocol[T_co]):
    """Turns the bytes of a successful answer into values as they arrive."""

    def feed(self, data: bytes) -> Iterable[T_co]: ...

    def finish(self) -> Iterable[T_co]:
        """The answer is over; raises `Unreadable` if it can't be."""
        ...


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request and how to read its answer.

    Attributes:
        method: GET without content and POST with it, where nothing else is said.
        patient: whether it is worth trying again.
        once: it leaves a trace on the server, so what may have arrived is not sent again.
        slow: the server may work for long before it answers a GET.
    """

    path: str
    decoder: Callable[[], Decoder[T]]
    content: bytes | None = None
    stream: bool = False
    patient: bool = True
    method: str | None = None
    once: bool = False
    slow: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    def request(self, timeout: float) -> dict[str, Any]:
        """Arguments for httpx's `stream`; `timeout` is how long the server may work in silence."""
        bare = self.content is None
        asks = bare and self.method is None
        return {
            "method": self.method or ("GET" if bare else "POST"),
            "url": self.path,
            "content": self.content,
            "headers": {**({} if bare else {"Content-Type": "application/json"}), **self.headers},
            "timeout": httpx.Timeout(
                connect=CONNECT_TIMEOUT,
                read=min(timeout, 10.0) if asks and not self.slow else timeout,
                write=30.0,
                pool=None,
            ),
        }


def generate(
    prompt: str | Sequence[str] | None,
    messages: Sequence[Message] | None,
    options: GenerateOptions,
) -> Call[GenerateResponse]:
    content = json_body(prompt=prompt, messages=messages, **options)
    return Call("/generate", lambda: Whole(reader(GenerateResponse)), content)


def stream_generate(
    prompt: str | None, messages: Sequence[Message] | None, options: GenerateOptions
) -> Call[str]:
    if options.get("n", 1) != 1 or not isinstance(prompt, str | None):
        raise InputError("a stream carries one text: give one prompt, and no n above 1", field="n")
    content = json_body(prompt=prompt, messages=messages, **options, stream=True)
    return Call("/generate", _TextSoFar, content, stream=True)


def grade(question: AnyQuestion, answer: str, options: GradeOptions) -> Call[GradeResponse]:
    content = json_body(question=question_body(question), answer=answer, **options)
    return Call("/grade", lambda: Whole(reader(GradeResponse)), content)


def stream_grade(question: AnyQuestion, answer: str, options: GradeOptions) -> Call[GradeEvent]:
    content = json_body(question=question_body(question), answer=answer, **options, stream=True)
    return Call("/grade", _GradeEvents, content, stream=True)


def json_body(**fields: Any) -> bytes:
    """What is given, as JSON; None is left out."""
    return encoded({name: value for name, value in fields.items() if value is not None})


def encoded(value: Any) -> bytes:
    """A value as JSON in UTF-8.

    Raises:
        InputError: it can't be written so.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise InputError("the text holds bytes that are not valid UTF-8") from None
    except ValueError as error:
        raise InputError(f"the request can't be written as JSON: {error}") from None


def question_body(question: AnyQuestion) -> dict[str, Any]:
    """A question as `/grade` takes it, its points marked in place in the reference again."""
    if isinstance(question, WireQuestion):
        return question.model_dump(mode="json", exclude_unset=True)
    if not isinstance(question, Question):
        return dict(question)
    return {
        "code": question.code,
        "text": question.text,
        "reference": _marked(question),
        "full_mark": question.full_mark,
        "subject": question.subject,
        "examples": [
            {
                "answer": example.answer,
                "points": [
                    {"id": i, "verdict": held, "reason": example.reasons.get(i, "")}
                    for i, held in example.verdicts.items()
                ],
            }
            for example in question.examples
        ],
    }


def _marked(question: Question) -> str:
    """The reference with each point between its tags, or the points alone if one can't be found."""
    texts = [case for point in question.points for case in point.cases]
    tagged = rubric.render(question.points, separator="\0").split("\0")
    spans: list[tuple[int, int, str]] = []
    # The longest first: a short point may also stand inside a long one.
    for text, markup in sorted(zip(texts, tagged, strict=False), key=lambda pair: -len(pair[0])):
        start = question.reference.find(text)
        while start >= 0 and any(start < b and a < start + len(text) for a, b, _ in spans):
            start = question.reference.find(text, start + 1)
        if start < 0:
            return rubric.render(question.points)
        spans.append((start, start + len(text), markup))
    parts, position = [], 0
    for start, end, markup in sorted(spans):
        parts += [question.reference[position:start], markup]
        position = end
    return "".join([*parts, question.reference[position:]])


class Whole(Generic[T]):
    """One value from a whole body."""

    def __init__(self, read: Callable[[bytes], T]) -> None:
        self._read = read
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterable[T]:
        self._data += data
        return ()

    def finish(self) -> Iterable[T]:
        return (_readable(self._read, bytes(self._data)),)


class _Lines:
    """Lines that end in a line feed only: JSON may hold U+2028, at which `splitlines` would cut."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [line.removesuffix(b"\r") for line in lines]


class _TextSoFar:
    """The text so far from newline-delimited JSON."""

    def __init__(self) -> None:
        self._lines = _Lines()
        self._any = False

    def feed(self, data: bytes) -> Iterable[str]:
        for line in self._lines.feed(data):
            said = _readable(json.loads, line or b"null")
            match said:
                case {"error": problem}:
                    raise refusal(problem)
                case {"text": [str(text), *_]}:
                    self._any = True
                    yield text
                case None:
                    pass
                case _:
                    raise Unreadable(repr(line[:80]))

    def finish(self) -> Iterable[str]:
        if self._lines.rest or not self._any:
            raise Unreadable("the stream ended too early")
        return ()


class _GradeEvents:
    """Server-sent events of a grade; an event of a kind not known here is passed over."""

    def __init__(self) -> None:
        self._lines = _Lines()
        self._event = ""
        self._data: list[bytes] = []
        self._done = False

    def feed(self, data: bytes) -> Iterable[GradeEvent]:
        for line in self._lines.feed(data):
            name, _, value = line.partition(b":")
            if not line:
                yield from self._dispatch()
            elif name == b"event":
                self._event = value.strip().decode(errors="replace")
            elif name == b"data":
                self._data.append(value.removeprefix(b" "))

    def _dispatch(self) -> Iterable[GradeEvent]:
        event, data = self._event, b"\n".join(self._data)
        self._event, self._data = "", []
        if event == "point":
            yield "point", _readable(reader(PointResult), data)
        elif event == "reason":
            yield "reason", _readable(reader(PointReason), data)
        elif event == "grade":
            self._done = True
            yield "grade", _readable(reader(GradeResponse), data)
        elif event == "error":
            raise refusal(_readable(json.loads, data))

    def finish(self) -> Iterable[GradeEvent]:
        if not self._done:
            raise Unreadable("the stream ended before the grade")
        return ()


def _readable(read: Callable[[bytes], T], data: bytes) -> T:
    try:
        return read(data)
    except ValueError as error:
        raise Unreadable(str(error).splitlines()[0]) from error


def reader(kind: type[T]) -> Callable[[bytes], T]:
    """A reader that passes over what a newer server may say besides what is known here."""
    adapter = TypeAdapter(kind)
    return lambda data: adapter.validate_json(data, extra="ignore")


class _Models(BaseModel):
    models: list[ModelCard]


READY: Call[None] = Call("/health/ready", lambda: Whole(lambda data: None), patient=False)
MODELS = Call("/models", lambda: Whole(lambda data: reader(_Models)(data).models))
METRICS = Call("/metrics", lambda: Whole(bytes.decode))
