"""Serves the real engine and first asks it, from inside, what can't be asked over HTTP.

    python -m tests.engine_probe FOLDER

Prints the answers as JSON on a line that begins with TOLD, then serves until a signal comes, as
vllm_server.py does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from llmarking.domain import Sampling
from llmarking.engines.vllm_engine import VLLMEngine
from llmarking.grading.explaining import EXPLANATION
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

    async def text(name: str, **options: Any) -> dict[str, Any]:
        *_, last = [
            generation
            async for generation in engine.generate(
                tokenizer.encode("The capital of France is"),
                Sampling(max_tokens=24),
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
        "schema": [await text(f"schema-{i}", schema=EXPLANATION) for i in range(2)],
        "choice": await text("choice", choices=["London", "Paris"]),
        "samples": [completion.text for completion in samples.completions],
        "sample_tokens": samples.completion_tokens,
        "running": engine.running(),
    }


class Probe(VLLMEngine):
    """Answers `ask` as the last thing before it is ready."""

    async def start(self) -> None:
        await super().start()
        print("TOLD", json.dumps(await ask(self)), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    engine = Probe(Path(sys.argv[1]), "probe", context=1024)
    raise SystemExit(asyncio.run(serve(engine, ServerSettings(port=0, drain_seconds=60))))
