"""`POST /generate`: free text, whole or streamed, and the probabilities of given choices."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from math import exp, fsum, isfinite

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from llmarking.domain import Generation, Message
from llmarking.engines.engine import Engine, last
from llmarking.errors import EngineError, InputError, PromptTooLong
from llmarking.grading.prompting import conversation_ids
from llmarking.protocol.bodies import ChoiceProbability, GenerateRequest, GenerateResponse, Usage
from llmarking.server import apidocs
from llmarking.server.service import Service, service_of
from llmarking.server.streaming import all_of, streaming, too_late, until_disconnect

router = APIRouter()


@router.post(
    "/generate",
    response_model=GenerateResponse,
    tags=["text"],
    responses=apidocs.or_streamed("application/x-ndjson"),
)
async def generate(body: GenerateRequest, request: Request) -> Response:
    """Free text from the model, whole or streamed; or the probabilities of given choices.

    A stream is one JSON object a line, `{"text": [...]}`, with the whole text so far.
    """
    service = service_of(request)
    service.require_ready()
    prompts = _prompts(body, service.engine)
    if body.stream:
        if len(prompts) > 1:
            raise InputError("a stream takes one prompt; send several requests", field="stream")
        lines = _stream_text(service, prompts[0], body)
        return await streaming(request, body.n, lines, "application/x-ndjson")
    if body.choices is not None:
        return await _choices(service, request, prompts, body.choices, body.adapter)
    with service.gate.admit(len(prompts) * body.n):
        results = await until_disconnect(
            request, all_of([last(_generations(service, ids, body)) for ids in prompts])
        )
    for result in results:
        service.count(result.prompt_tokens, result.cached_tokens)
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
        yield json.dumps({"error": too_late(error)}) + "\n"


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
        work = all_of([_choose(service, ids, tokens, adapter) for ids in prompts])
        results = await until_disconnect(request, work)
    listed = []
    for probabilities, prompt_tokens, cached_tokens in results:
        service.count(prompt_tokens, cached_tokens)
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

    results = await all_of([log_probability(tokens) for tokens in choices])
    top = max(total for total, _, _ in results)
    if not isfinite(top):
        raise EngineError("the engine returned no probabilities")
    weights = [exp(total - top) for total, _, _ in results]
    return (
        [weight / fsum(weights) for weight in weights],
        sum(tokens for _, tokens, _ in results),
        sum(cached for _, _, cached in results),
    )
