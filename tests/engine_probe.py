"""Serves the real engine and first asks it, from inside, what can't be asked over HTTP.

    python -m tests.engine_probe FOLDER DTYPE

Prints the answers as JSON on a line that begins with TOLD, then serves until a signal comes, as
vllm_server.py does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from llmarking.domain import Sampling
from llmarking.engines.vllm_engine import VLLMEngine
from llmarking.engines.vllm_reading import Room, Way, read_chain, read_rows, read_session
from llmarking.grading.explaining import EXPLAIN_TOKENS, explanation
from llmarking.server.serve import serve
from llmarking.settings import ServerSettings

PROMPT = (
    "Question: What is a stack?\nPoints:\n1. last in, first out\n2. constant time\nAnswer: {}\n"
)
TAILS = ("1. last in, first out =", " True\n2. constant time =", " False\n3. pop =")


async def ask(engine: VLLMEngine) -> dict[str, Any]:
    tokenizer = engine.tokenizer
    prompt = tokenizer.encode(PROMPT.format("It is LIFO."))
    tails = [tokenizer.encode(tail) for tail in TAILS]
    words = [tokenizer.encode(word)[0] for word in (" True", " False")]

    async def rows(of: list[int], each: list[list[int]], name: str) -> list[list[float]]:
        reading = await engine.read(of, each, words, request_id=name)
        return [list(row) for row in reading.logprobs]

    async def text(name: str, most: int = 24, **options: Any) -> dict[str, Any]:
        *_, last = [
            generation
            async for generation in engine.generate(
                tokenizer.encode("The capital of France is"),
                Sampling(max_tokens=most),
                request_id=name,
                **options,
            )
        ]
        return {"text": last.completions[0].text, "reason": last.completions[0].finish_reason}

    together = await rows(prompt, tails, "together")
    apart = []
    for count in range(1, len(tails) + 1):
        longer = [*prompt, *(token for tail in tails[:count] for token in tail)]
        apart += await rows(longer, [[]], f"apart-{count}")
    alone = await text("alone")
    # Readings and texts in one batch: neither may take anything from the other.
    crowd = await asyncio.gather(
        *(text(f"text-{i}") for i in range(6)),
        *(
            rows(tokenizer.encode(PROMPT.format(f"Answer {i}.")), tails, f"read-{i}")
            for i in range(6)
        ),
    )
    cancelled = asyncio.create_task(text("cancelled"))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    sampling = Sampling(max_tokens=5, n=3, temperature=1.0, seed=3)
    story = tokenizer.encode("Once upon a time")
    *_, samples = [g async for g in engine.generate(story, sampling, request_id="samples")]
    return {
        "together": together,
        "apart": apart,
        "alone": alone,
        "texts": crowd[:6],
        "readings": crowd[6:],
        "schema": [
            await text(f"schema-{spoken}", most=EXPLAIN_TOKENS, schema=explanation(spoken))
            for spoken in ("English", "Chinese")
        ],
        "choice": await text("choice", choices=["London", "Paris"]),
        "samples": [completion.text for completion in samples.completions],
        "sample_tokens": samples.completion_tokens,
    }


async def read_in_every_way(engine: VLLMEngine) -> dict[str, Any]:
    """The same answers by each way of reading, all at once; some prompts take several steps."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    inner: Any = engine._engine
    encode = engine.tokenizer.encode
    words = [encode(word)[0] for word in (" True", " False")]
    tails = [encode(tail) for tail in (*TAILS, " True\n4. push =")]
    answers = [PROMPT.format(f"Answer {i}. " + "It is LIFO. " * (i * 9 % 100)) for i in range(12)]

    def run(prompt: Any, params: Any, name: str) -> AsyncIterator[Any]:
        return engine._run(prompt, params, name, None)

    async def read(way: Way, i: int, name: str) -> list[list[float]]:
        head = [*encode(answers[i]), *tails[0]]
        reading = await way(run, head, tails[1 : 1 + i % 4], words, f"{name}-{i}")
        return [list(row) for row in reading.logprobs]

    async def read_all(way: Way, name: str) -> list[list[list[float]]]:
        return await asyncio.gather(*(read(way, i, name) for i in range(len(answers))))

    async def of_prompt(i: int, name: str) -> list[float]:
        """What vLLM itself finds each token of a prompt to be."""
        params = SamplingParams(
            max_tokens=1, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY
        )
        *_, last = [output async for output in run(encode(answers[i]), params, f"{name}-{i}")]
        return [next(iter(place.values())).logprob for place in last.prompt_logprobs[1:]]

    async def cut_short(i: int) -> None:
        reading = asyncio.create_task(read(read_rows, i, "cut"))
        await asyncio.sleep(i / 50)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    session = partial(read_session, room=Room.of(inner.vllm_config))
    told: dict[str, Any] = {"way": engine._read is read_rows}
    for name, way in (("chain", read_chain), ("session", session), ("rows", read_rows)):
        await inner.reset_prefix_cache()
        told[name] = await read_all(way, name)
    told["again"] = await read_all(read_rows, "again")
    await inner.reset_prefix_cache()
    told["prompts"] = [await of_prompt(i, "alone") for i in (3, 8)]
    told["mixed"], *told["mixed_prompts"], _ = await asyncio.gather(
        read_all(read_rows, "mixed"),
        *(of_prompt(i, "beside") for i in (3, 8)),
        asyncio.gather(*map(cut_short, range(len(answers)))),
    )
    return told


class Probe(VLLMEngine):
    """Answers `ask` as the last thing before it is ready."""

    async def start(self) -> None:
        await super().start()
        told = await ask(self) | {
            "ways": await read_in_every_way(self),
        }
        print("TOLD", json.dumps(told | {"running": self.running()}), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    # Steps of 256 tokens: a longer prompt takes several.
    flags = ("--max-num-batched-tokens", "256", "--dtype", sys.argv[2])
    engine = Probe(Path(sys.argv[1]), "probe", context=1024, extra=flags)
    raise SystemExit(asyncio.run(serve(engine, ServerSettings(port=0, drain_seconds=60))))
