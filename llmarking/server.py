"""The HTTP service: `create_app(engine, settings)` is everything a client can reach.

The engine is started and stopped in the lifespan; importing this module starts nothing. The app
knows HTTP, `grading` knows marking, the engine knows tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    MutableMapping,
    Sequence,
)
from dataclasses import replace
from math import exp, fsum, isfinite
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope, Send

from llmarking import __version__, apidocs, problems
from llmarking.admission import Gate
from llmarking.domain import Generation, Message
from llmarking.engine import Engine
from llmarking.errors import (
    EngineDead,
    EngineError,
    InputError,
    LLMarkingError,
    PromptTooLong,
    UnknownModelError,
)
from llmarking.grading import (
    Event,
    Graded,
    GradeOptions,
    Grader,
    PointDecided,
)
from llmarking.middleware import ApiKeys, BodyLimit, LastResort, RequestId
from llmarking.problems import problem, type_and_place
from llmarking.prompting import conversation_ids
from llmarking.protocol import (
    ChatRequest,
    ChoiceProbability,
    GenerateRequest,
    GenerateResponse,
    GradeRequest,
    GradeResponse,
    ModelCard,
    PointResult,
    Problem,
    Usage,
)
from llmarking.settings import ServerSettings

log = logging.getLogger("llmarking.server")
T = TypeVar("T")
HEALTH_INTERVAL = 1.0
SLOWEST_READ = 60.0


class Service:
    """What the routes share: the engine and its state, the grader, the gate, the counters."""

    def __init__(
        self, engine: Engine, settings: ServerSettings, on_death: Callable[[str], None]
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.gate = Gate(settings.max_queue)
        self.failure: str | None = None
        self.ready = asyncio.Event()
        self.grader: Grader | None = None
        self._on_death = on_death
        self.registry = CollectorRegistry()
        self.graded = Counter(
            "llmarking_answers_graded_total", "Answers graded.", ["method"], registry=self.registry
        )
        self.points = Counter(
            "llmarking_points_decided_total", "Points decided.", ["outcome"], registry=self.registry
        )
        self.prompt_tokens = Counter(
            "llmarking_prompt_tokens_total", "Prompt tokens.", ["cached"], registry=self.registry
        )
        Gauge(
            "llmarking_requests_held", "Accepted and unfinished.", registry=self.registry
        ).set_function(lambda: self.gate.held)

    async def run(self) -> None:
        """Load the engine, then watch it; says so once when it fails or dies."""
        try:
            await self.engine.start()
            self.grader = Grader(self.engine, default_adapter=self.settings.default_adapter)
            if self.grader.calibration_for(0, None) is None:
                log.warning(
                    "no calibration for %s: its own probabilities are too lenient",
                    self.engine.info.model,
                )
            self.ready.set()
            log.info("ready: %s, context %d", self.engine.info.model, self.engine.info.context)
            while True:
                await asyncio.sleep(HEALTH_INTERVAL)
                await self.engine.check_health()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = str(error) or type(error).__name__
        self.ready.clear()
        # An engine's traceback may show prompts, so only the place is logged.
        log.error("the engine has failed: %s (%s)", self.failure, type_and_place(error))
        self._on_death(self.failure)

    def require_ready(self) -> Grader:
        """The grader, once the engine can work.

        Raises:
            EngineDead: it cannot any more.
            NotReady: it cannot yet.
        """
        if self.failure is not None:
            raise EngineDead(f"the engine has failed: {self.failure}")
        if self.grader is None or not self.ready.is_set():
            raise NotReady("the model is still being loaded; /health/ready tells when it is done")
        return self.grader


class NotReady(EngineDead):
    """The engine is still loading; like a dead one it answers 503, but it will come."""


def create_app(
    engine: Engine,
    settings: ServerSettings | None = None,
    *,
    on_death: Callable[[str], None] = lambda reason: None,
) -> FastAPI:
    """The application around one engine.

    Args:
        on_death: called once with the reason when the engine can't be started or dies.
    """
    settings = settings or ServerSettings()
    service = Service(engine, settings, on_death)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Loading takes minutes; the health checks answer meanwhile.
        watcher = asyncio.create_task(service.run())
        try:
            yield
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
            await engine.stop()

    app = FastAPI(
        title="LLMarking",
        version=__version__,
        description=apidocs.DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=_errors(401, 500),
    )
    app.state.service = service
    app.include_router(router)
    apidocs.attach(app)
    problems.install(app)
    if settings.api_keys:
        app.add_middleware(ApiKeys, keys=settings.api_keys)
    app.add_middleware(BodyLimit, limit=settings.max_body)
    app.add_middleware(LastResort)
    app.add_middleware(RequestId)
    return app


router = APIRouter()
ERRORS = {
    400: "The body can't be read",
    401: "A key is needed, and this is none",
    404: "There is no adapter or model of that name",
    413: "The body is too long",
    422: "Wrong input: which field, and what to do",
    429: "Busy; Retry-After says when to come back",
    500: "Something went wrong inside",
    503: "Loading, or the engine has failed",
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer besides success, for its documentation."""
    return {status: {"model": Problem, "description": ERRORS[status]} for status in statuses}


TAKES_WORK = _errors(400, 404, 413, 422, 429, 503)


def _or_streamed(media_type: str) -> dict[int | str, dict[str, Any]]:
    """What a route that takes work may answer, where success may be a stream."""
    return TAKES_WORK | {200: {"content": {media_type: {}}}}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.post(
    "/generate",
    response_model=GenerateResponse,
    tags=["text"],
    responses=_or_streamed("application/x-ndjson"),
)
async def generate(body: GenerateRequest, request: Request) -> Response:
    """Free text from the model, whole or streamed; or the probabilities of given choices.

    A stream is one JSON object a line, `{"text": [...]}`, with the whole text so far.
    """
    service = _service(request)
    service.require_ready()
    prompts = _prompts(body, service.engine)
    if body.stream:
        if len(prompts) > 1:
            raise InputError("a stream takes one prompt; send several requests", field="stream")
        lines = _stream_text(service, prompts[0], body)
        return await _streaming(request, body.n, lines, "application/x-ndjson")
    if body.choices is not None:
        return await _choices(service, request, prompts, body.choices, body.adapter)
    with service.gate.admit(len(prompts) * body.n):
        results = await until_disconnect(
            request, _all([_complete(service, ids, body) for ids in prompts])
        )
    for result in results:
        _count(service, result.prompt_tokens, result.cached_tokens)
    return JSONResponse(
        GenerateResponse(
            text=[c.text for r in results for c in r.completions],
            model=service.engine.info.model,
            finish_reasons=[c.finish_reason or "abort" for r in results for c in r.completions],
            usage=Usage(
                prompt_tokens=sum(r.prompt_tokens for r in results),
                cached_tokens=sum(r.cached_tokens for r in results),
                completion_tokens=sum(r.completion_tokens for r in results),
            ),
        ).model_dump(exclude_none=True)
    )


@router.post(
    "/grade",
    response_model=GradeResponse,
    tags=["marking"],
    responses=_or_streamed("text/event-stream"),
)
async def grade(body: GradeRequest, request: Request) -> Response:
    """Mark one answer point by point.

    With `stream`, server-sent events: `point` for every verdict, `reason` for every explanation,
    `grade` with the whole at the end, or `error`.
    """
    service = _service(request)
    grader = service.require_ready()
    try:
        question = body.question.question()
    except ValueError as error:
        raise InputError(f"question.examples: {error}", field="question.examples") from error
    options = GradeOptions(
        method=body.method,
        shots=body.shots,
        explain=body.explain,
        risk=body.risk,
        adapter=body.adapter,
    )
    if body.stream:
        events = _grade_events(service, grader.stream(question, body.answer, options), body)
        return await _streaming(request, 1, events, "text/event-stream")
    with service.gate.admit():
        graded = await until_disconnect(request, grader.grade(question, body.answer, options))
    return JSONResponse(_grade_response(service, graded, body).model_dump(mode="json"))


@router.get(
    "/models", response_model=dict[str, list[ModelCard]], tags=["server"], responses=_errors(503)
)
async def models(request: Request) -> dict[str, list[ModelCard]]:
    """What this server runs."""
    service = _service(request)
    grader = service.require_ready()
    info = service.engine.info
    calibration = grader.calibration_for(0, None)
    return {
        "models": [
            ModelCard(
                model=info.model,
                context=info.context,
                revision=info.revision,
                dtype=info.dtype,
                adapters=list(info.adapters),
                versions={"llmarking": __version__, **info.versions},
                calibration=calibration.identity if calibration else None,
            )
        ]
    }


@router.get("/adapters", tags=["server"], responses=_errors(503))
async def adapters(request: Request) -> dict[str, list[str]]:
    """Adapters that `adapter` may name."""
    service = _service(request)
    service.require_ready()
    return {"adapters": list(service.engine.info.adapters)}


@router.get("/health/live", response_class=PlainTextResponse, tags=["server"])
async def live() -> str:
    """The process answers."""
    return "alive\n"


@router.get(
    "/health/ready", response_class=PlainTextResponse, tags=["server"], responses=_errors(503)
)
async def ready(request: Request) -> str:
    """The model is loaded and its engine runs; 503 otherwise."""
    service = _service(request)
    service.require_ready()
    await service.engine.check_health()
    return "ready\n"


@router.get("/metrics", response_class=PlainTextResponse, tags=["server"])
async def metrics(request: Request) -> Response:
    """Prometheus metrics: ours, then the engine's own."""
    service = _service(request)
    body = generate_latest(service.registry) + service.engine.metrics()
    return Response(body, media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/models", tags=["openai"], responses=_errors(404, 503))
async def openai_models(request: Request) -> Response:
    """vLLM's own model list, as OpenAI clients expect it."""
    return JSONResponse(await _openai(request).models())


@router.post("/v1/chat/completions", tags=["openai"], responses=_or_streamed("text/event-stream"))
async def openai_chat(body: ChatRequest, request: Request) -> Response:
    """vLLM's own chat completions on the same engine; tools, media and schemas are refused."""
    serving = _openai(request)
    service = _service(request)
    chat = serving.check(body)
    if chat.stream:
        # Errors of a malformed request must come before the stream does.
        status, events = await serving.chat(chat)
        if isinstance(events, dict):
            return JSONResponse(events, status)
        return await _streaming(request, chat.n, events, "text/event-stream")
    with service.gate.admit(chat.n):
        status, result = await until_disconnect(request, serving.chat(chat))
    return JSONResponse(result, status)


def _openai(request: Request) -> Any:
    service = _service(request)
    service.require_ready()
    make = getattr(service.engine, "openai_serving", None)
    if make is None:
        raise UnknownModelError(f"{service.engine.info.model} has no OpenAI-compatible interface")
    return make()


class ClientGone(EngineError):
    """The client closed the connection; nobody reads the answer."""


async def until_disconnect(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled as soon as the client is gone.

    Raises:
        ClientGone: it went first.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.ensure_future(work)
    watcher = asyncio.create_task(gone())
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("the client closed the connection")
    finally:
        for pending in (task, watcher):
            pending.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _all(work: Sequence[Awaitable[T]]) -> list[T]:
    """All results in order; if one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


class Stream(StreamingResponse):
    """A streamed response that closes what it streams however it ends.

    Starlette leaves that to the garbage collector when the client is gone between two chunks. A
    client that stops reading is let go after `SLOWEST_READ` seconds: it would hold its place in the
    queue for ever.
    """

    def __init__(self, first: str, rest: AsyncGenerator[str], media_type: str) -> None:
        async def chunks() -> AsyncIterator[str]:
            yield first
            async for chunk in rest:
                yield chunk

        super().__init__(chunks(), media_type=media_type)
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: MutableMapping[str, Any]) -> None:
            async with asyncio.timeout(SLOWEST_READ):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            log.warning("a client stopped reading; its stream was ended")
        finally:
            await self._rest.aclose()


async def _streaming(
    request: Request, units: int, chunks: AsyncIterator[str], media_type: str
) -> Stream:
    """A streamed response that holds its place in the queue until it ends.

    The first chunk is awaited before the status line goes out: until then an error can still be a
    status.
    """
    service = _service(request)

    async def admitted() -> AsyncGenerator[str]:
        with service.gate.admit(units):
            async with contextlib.aclosing(chunks) as closing:  # type: ignore[type-var]
                async for chunk in closing:
                    yield chunk

    stream = admitted()
    try:
        first = await until_disconnect(request, anext(stream))
    except StopAsyncIteration:
        first = ""
    return Stream(first, stream, media_type)


def _prompts(body: GenerateRequest, engine: Engine) -> list[list[int]]:
    if body.messages is not None:
        turns: list[Message] = [{"role": m.role, "content": m.content} for m in body.messages]
        prompts = [conversation_ids(turns, engine.tokenizer)]
        field = "messages"
    else:
        texts = [body.prompt] if isinstance(body.prompt, str) else list(body.prompt or ())
        prompts = [engine.tokenizer.encode_prompt(text) for text in texts]
        field = "prompt"
    limit = engine.info.context - 1
    for number, ids in enumerate(prompts):
        if len(ids) > limit:
            where = f"{field}.{number}" if len(prompts) > 1 else field
            raise PromptTooLong(len(ids), limit, field=where)
        if not ids:
            raise InputError("an empty prompt can't be completed", field=field)
    return prompts


async def _generations(
    service: Service, ids: list[int], body: GenerateRequest
) -> AsyncIterator[Generation]:
    sampling = body.sampling()
    room = service.engine.info.context - len(ids)
    if sampling.max_tokens > room:
        sampling = replace(sampling, max_tokens=room)
    stream = service.engine.generate(
        ids, sampling, request_id=f"text-{uuid.uuid4().hex}", adapter=body.adapter
    )
    async with contextlib.aclosing(stream) as generations:  # type: ignore[type-var]
        async for generation in generations:
            yield generation


async def _complete(service: Service, ids: list[int], body: GenerateRequest) -> Generation:
    last = None
    async for generation in _generations(service, ids, body):
        last = generation
    if last is None:
        raise EngineError("the engine ended without an answer")
    return last


async def _stream_text(
    service: Service, ids: list[int], body: GenerateRequest
) -> AsyncIterator[str]:
    started = False
    try:
        async for generation in _generations(service, ids, body):
            yield json.dumps({"text": [c.text for c in generation.completions]}) + "\n"
            started = True
    except Exception as error:
        if not started:
            raise
        # The status line is long gone; the last line says what happened instead.
        yield json.dumps({"error": _too_late(error)}) + "\n"


async def _choices(
    service: Service,
    request: Request,
    prompts: Sequence[list[int]],
    choices: Sequence[str],
    adapter: str | None,
) -> Response:
    """Every prompt with the probability of each choice, normalised over the choices."""
    tokens = [service.engine.tokenizer.encode_plain(choice) for choice in choices]
    for choice, ids in zip(choices, tokens, strict=True):
        if not ids:
            raise InputError(f"the model has no tokens for the choice {choice!r}", field="choices")
    longest = max(map(len, prompts)) + max(map(len, tokens))
    limit = service.engine.info.context
    if longest > limit:
        raise PromptTooLong(longest, limit, field="choices")
    with service.gate.admit(len(prompts) * len(choices)):
        work = _all([_choose(service, ids, tokens, adapter) for ids in prompts])
        results = await until_disconnect(request, work)
    listed = []
    for probabilities, prompt_tokens, cached_tokens in results:
        _count(service, prompt_tokens, cached_tokens)
        pairs = zip(choices, probabilities, strict=True)
        listed.append([ChoiceProbability(text=text, probability=p) for text, p in pairs])
    return JSONResponse(
        GenerateResponse(
            text=[max(options, key=lambda o: o.probability).text for options in listed],
            model=service.engine.info.model,
            finish_reasons=["choice"] * len(listed),
            choices=listed,
            usage=Usage(
                prompt_tokens=sum(r[1] for r in results), cached_tokens=sum(r[2] for r in results)
            ),
        ).model_dump(exclude_none=True)
    )


async def _choose(
    service: Service, prompt: list[int], choices: Sequence[list[int]], adapter: str | None
) -> tuple[list[float], int, int]:
    """Probability of each choice as the continuation of a prompt, then prompt and cached tokens."""

    async def log_probability(tokens: list[int]) -> tuple[float, int, int]:
        wanted = list(dict.fromkeys(tokens))
        # An empty first tail reads what follows the prompt itself.
        reading = await service.engine.read(
            prompt,
            [[], *([token] for token in tokens[:-1])],
            wanted,
            request_id=f"choice-{uuid.uuid4().hex}",
            adapter=adapter,
        )
        total = fsum(row[wanted.index(t)] for row, t in zip(reading.logprobs, tokens, strict=True))
        return total, reading.prompt_tokens, reading.cached_tokens

    results = await _all([log_probability(tokens) for tokens in choices])
    top = max(total for total, _, _ in results)
    if not isfinite(top):
        raise EngineError("the engine returned no probabilities")
    weights = [exp(total - top) for total, _, _ in results]
    return (
        [weight / fsum(weights) for weight in weights],
        sum(tokens for _, tokens, _ in results),
        sum(cached for _, _, cached in results),
    )


async def _grade_events(
    service: Service, events: AsyncIterator[Event], body: GradeRequest
) -> AsyncIterator[str]:
    started = False
    try:
        async with contextlib.aclosing(events) as closing:  # type: ignore[type-var]
            async for event in closing:
                started = True
                if isinstance(event, Graded):
                    yield _sse(
                        "grade", _grade_response(service, event, body).model_dump(mode="json")
                    )
                elif isinstance(event, PointDecided):
                    yield _sse("point", PointResult.of(event.verdict).model_dump(mode="json"))
                else:
                    verdict = event.verdict
                    yield _sse(
                        "reason",
                        {
                            "id": verdict.point.id,
                            "evidence": verdict.evidence,
                            "reason": verdict.reason,
                        },
                    )
    except Exception as error:
        if not started:
            raise
        yield _sse("error", _too_late(error))


def _too_late(error: Exception) -> dict[str, Any]:
    """The problem that ends a stream; logged here where nobody else will see it."""
    if not isinstance(error, LLMarkingError):
        log.error("a stream failed: %s", type_and_place(error))
    return problem(error)


def _sse(event: str, data: dict[str, Any]) -> str:
    return f"event: {event}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _grade_response(service: Service, graded: Graded, body: GradeRequest) -> GradeResponse:
    service.graded.labels(method=body.method).inc()
    for verdict in graded.grade.verdicts:
        service.points.labels(outcome=verdict.outcome.value).inc()
    _count(service, graded.prompt_tokens, graded.cached_tokens)
    return GradeResponse.of(
        graded.grade,
        model=service.engine.info.model,
        adapter=graded.adapter,
        method=body.method,
        shots=graded.shots,
        prompt_version=graded.prompt_version,
        calibration=graded.calibration,
        usage=Usage(
            prompt_tokens=graded.prompt_tokens,
            cached_tokens=graded.cached_tokens,
            completion_tokens=graded.completion_tokens,
        ),
    )


def _count(service: Service, prompt_tokens: int, cached_tokens: int) -> None:
    service.prompt_tokens.labels(cached="yes").inc(cached_tokens)
    service.prompt_tokens.labels(cached="no").inc(max(0, prompt_tokens - cached_tokens))
