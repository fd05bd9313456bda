"""Log-probabilities out of vLLM, at the end of every tail: the two ways there are.

Both ask for token ids and get rows back; `run` is the engine's own way to run one request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from llmarking.domain import Reading
from llmarking.errors import EngineError

Run = Callable[[Sequence[int], Any, str], AsyncIterator[Any]]


async def read_chain(
    run: Run,
    head: list[int],
    tails: Sequence[Sequence[int]],
    token_ids: Sequence[int],
    request_id: str,
) -> Reading:
    """One request per row: the one before plus a tail, so that the prefix cache has the rest.

    Decoding the tails as forced tokens would read the same in one request, but on a CPU a
    token costs several times as much to decode as to prefill.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        max_tokens=1,
        temperature=0.0,
        detokenize=False,
        logprob_token_ids=list(token_ids),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    ids = list(head)
    rows: list[list[float]] = []
    cached = 0
    for number in range(len(tails) + 1):
        if number:
            ids = [*ids, *tails[number - 1]]
        last = None
        async for output in run(ids, params, f"{request_id}.{number}"):
            last = output
        if last is None:
            raise EngineError("vLLM ended a reading without a result")
        logprobs = last.outputs[0].logprobs[0]
        rows.append([logprobs[token].logprob for token in token_ids])
        if not number:
            cached = last.num_cached_tokens or 0
    return Reading(rows, len(ids), cached)


async def read_prompt(
    run: Run,
    head: list[int],
    tails: Sequence[Sequence[int]],
    token_ids: Sequence[int],
    request_id: str,
) -> Reading:
    """Read all rows from the prompt's own logits in one prefill (second model runner only)."""
    import numpy as np
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    ids = list(head)
    wanted = [len(ids) - 1]
    for tail in tails:
        ids += tail
        wanted.append(len(ids) - 1)
    start = wanted[0]
    # One row for each prompt token from the first reading on; -1 leaves a row unread.
    grid = np.full((len(ids) - 1 - start, len(token_ids)), -1, dtype=np.int64)
    for row in wanted[:-1]:
        grid[row - start] = token_ids
    for attempt, fresh in enumerate((False, True)):
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            logprob_token_ids=list(token_ids),
            prompt_logprob_token_ids=grid,
            prompt_logprob_start=start,
            # Cached blocks are welcome as long as they end before the first row that is read.
            # Where they reach further (the same answer again), vLLM drops the scores: ask once
            # more without.
            skip_reading_prefix_cache=fresh,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        async for output in run(ids, params, f"{request_id}.{attempt}"):
            scores = output.prompt_token_id_logprobs
            if scores is None:
                break
            rows = [[float(x) for x in scores[row - start]] for row in wanted[:-1]]
            last = output.outputs[0].logprobs[0]
            rows.append([last[token].logprob for token in token_ids])
            return Reading(rows, len(ids), output.num_cached_tokens or 0)
    raise EngineError("vLLM returned no scores for the prompt")
