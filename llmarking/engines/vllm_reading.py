"""Log-probabilities out of vLLM, at the end of every tail: the ways there are.

All ask for token ids and get rows back; `run` is the engine's own way to run one request. `way`
says which of them the vLLM at hand can take.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any, Protocol

from llmarking.domain import Reading
from llmarking.engines import vllm_first_runner
from llmarking.engines.engine import in_background
from llmarking.engines.vllm_arguments import WORKER_EXTENSION
from llmarking.errors import EngineError, InputError

log = logging.getLogger("llmarking.engine")

# Takes token ids, or the inputs of a session; sampling parameters; a name.
Run = Callable[[Any, Any, str], AsyncIterator[Any]]


class Way(Protocol):
    """One way to read the two words' log-probabilities behind head and behind every tail."""

    async def __call__(
        self,
        run: Run,
        head: list[int],
        tails: Sequence[Sequence[int]],
        token_ids: Sequence[int],
        request_id: str,
    ) -> Reading: ...


WAYS = ("rows", "prompt", "session", "chain")


def way_asked_for() -> str | None:
    """The way that `LLMARKING_READING` names, to compare them; None where it is not set.

    Raises:
        InputError: there is no such way.
    """
    name = os.environ.get("LLMARKING_READING") or None
    if name is not None and name not in WAYS:
        raise InputError(f"LLMARKING_READING is {name!r} and must be one of {', '.join(WAYS)}")
    return name


async def choose_way(engine: Any) -> Way:
    """The best way for an engine of vLLM's that has started, or the one that is asked for.

    Raises:
        InputError: that one can't be had here.
    """
    from vllm import SamplingParams

    name, config = way_asked_for(), engine.vllm_config
    second = getattr(config, "use_v2_model_runner", False)
    scores = second and hasattr(SamplingParams(), "prompt_logprob_token_ids")
    if name == "prompt" and not scores:
        raise InputError(
            "LLMARKING_READING=prompt can't be had: it takes vLLM's second model runner"
        )
    if name is None and scores:
        name = "prompt"
    if name in (None, "rows"):
        lacking = await _lacking_for_rows(engine)
        if not lacking:
            # The second runner is asked alike, whether its workers score more rows or fewer.
            return read_prompt if second else read_rows
        if name == "rows":
            raise InputError(f"LLMARKING_READING=rows can't be had: {lacking}")
        log.warning("vLLM's workers can't score the rows of a reading alone: %s", lacking)
    if name == "session":
        return partial(read_session, room=Room.of(config))
    return read_prompt if name == "prompt" else read_chain


async def _lacking_for_rows(engine: Any) -> str:
    """Let vLLM's workers score no more rows than are wanted; what keeps them from it, if so."""
    if engine.vllm_config.parallel_config.worker_extension_cls != WORKER_EXTENSION:
        return "they have another extension (--worker-extension-cls)"
    answers: list[str] = await engine.collective_rpc("score_wanted_rows")
    return next((answer for answer in answers if answer), "")


class Room:
    """Lets sessions in as long as their tokens fit: live ones first, then in the order they came.

    A session keeps its cache blocks between two inputs. Sessions that hold all blocks and each wait
    for one more would wait for ever, so no more are let in than fit.

    Args:
        tokens: of all sessions together.
        sessions: the most at once.
    """

    def __init__(self, tokens: int, sessions: int) -> None:
        self._tokens = self._all = tokens
        self._sessions = sessions
        self._waiting: list[tuple[bool, int, int, asyncio.Future[None]]] = []
        self._arrivals = count()

    @classmethod
    def of(cls, config: Any) -> Room:
        """Four fifths of an engine's cache, and as many sessions as it has places."""
        cache = config.cache_config
        # Before the cache has been sized, what one request may take.
        tokens = (cache.num_gpu_blocks or 0) * cache.block_size * 4 // 5
        return cls(
            max(tokens, config.model_config.max_model_len), config.scheduler_config.max_num_seqs
        )

    @asynccontextmanager
    async def take(self, tokens: int) -> AsyncGenerator[None]:
        """Wait for room and hold it; what is larger than all of it goes in alone."""
        tokens = min(tokens, self._all)
        turn = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (in_background.get(), next(self._arrivals), tokens, turn))
        self._let_in()
        try:
            await turn
            yield
        finally:
            # One that was cancelled while it waited has nothing to give back.
            if not turn.cancelled():
                self._tokens += tokens
                self._sessions += 1
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            _, _, tokens, turn = self._waiting[0]
            if not turn.cancelled():
                if not self._sessions or tokens > self._tokens:
                    return
                self._tokens -= tokens
                self._sessions -= 1
                turn.set_result(None)
            heappop(self._waiting)


async def read_session(
    run: Run,
    head: list[int],
    tails: Sequence[Sequence[int]],
    token_ids: Sequence[int],
    request_id: str,
    room: Room,
) -> Reading:
    """One session: head and first tail, then a tail at a time onto the blocks that are there.

    No token is computed twice, where requests of their own would compute what is behind the last
    full block again for every row. vLLM drops the token it sampled when the next input comes.
    """
    from vllm import SamplingParams, TokensPrompt
    from vllm.engine.protocol import StreamingInput
    from vllm.sampling_params import RequestOutputKind

    if not tails:
        return await read_chain(run, head, tails, token_ids, request_id)
    params = SamplingParams(
        max_tokens=1,
        temperature=0.0,
        detokenize=False,
        ignore_eos=True,
        logprob_token_ids=list(token_ids),
        output_kind=RequestOutputKind.DELTA,
    )

    async def inputs() -> AsyncGenerator[Any]:
        for ids in (head, *tails):
            yield StreamingInput(prompt=TokensPrompt(prompt_token_ids=list(ids)))

    length = len(head) + sum(map(len, tails))
    rows: list[list[float]] = []
    cached: int | None = None
    async with room.take(length + 1):
        async for output in run(inputs(), params, request_id):
            for sample in output.outputs:
                rows += [[row[token].logprob for token in token_ids] for row in sample.logprobs]
            if cached is None:
                cached = output.num_cached_tokens
    if len(rows) != len(tails) + 1:
        raise EngineError(f"vLLM returned {len(rows)} scores for {len(tails) + 1} points")
    return Reading(rows, length, cached or 0)


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


async def read_rows(
    run: Run,
    head: list[int],
    tails: Sequence[Sequence[int]],
    token_ids: Sequence[int],
    request_id: str,
) -> Reading:
    """Read all rows in one prefill (first model runner, with our extension in its worker)."""
    if not tails:
        return await read_chain(run, head, tails, token_ids, request_id)
    ids, wanted = _joined(head, tails)

    def asked(fresh: bool) -> dict[str, Any]:
        return vllm_first_runner.asked(wanted, token_ids, fresh=fresh)

    def told(output: Any) -> list[list[float]] | None:
        return vllm_first_runner.told(output, len(wanted), len(token_ids))

    return await _prefill(run, ids, request_id, asked, told)


async def read_prompt(
    run: Run,
    head: list[int],
    tails: Sequence[Sequence[int]],
    token_ids: Sequence[int],
    request_id: str,
) -> Reading:
    """Read all rows in one prefill (second model runner, whose vLLM scores tokens of a prompt)."""
    import numpy as np

    if not tails:
        return await read_chain(run, head, tails, token_ids, request_id)
    ids, wanted = _joined(head, tails)
    start = wanted[0]
    # One row for each prompt token from the first reading on; -1 leaves a row unread.
    grid = np.full((len(ids) - 1 - start, len(token_ids)), -1, dtype=np.int64)
    for row in wanted[:-1]:
        grid[row - start] = token_ids

    def asked(fresh: bool) -> dict[str, Any]:
        return {
            "logprob_token_ids": list(token_ids),
            "prompt_logprob_token_ids": grid,
            "prompt_logprob_start": start,
            "skip_reading_prefix_cache": fresh,
        }

    def told(output: Any) -> list[list[float]] | None:
        scores = output.prompt_token_id_logprobs
        if scores is None:
            return None
        last = output.outputs[0].logprobs[0]
        return [
            *([float(x) for x in scores[row - start]] for row in wanted[:-1]),
            [last[token].logprob for token in token_ids],
        ]

    return await _prefill(run, ids, request_id, asked, told)


def _joined(head: Sequence[int], tails: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Head and tails as one prompt, and where in it the head and every tail end."""
    ids = list(head)
    ends = [len(ids) - 1]
    for tail in tails:
        ids += tail
        ends.append(len(ids) - 1)
    return ids, ends


async def _prefill(
    run: Run,
    ids: list[int],
    request_id: str,
    asked: Callable[[bool], dict[str, Any]],
    told: Callable[[Any], list[list[float]] | None],
) -> Reading:
    """One request for all rows of a prompt, or two.

    Cached blocks are welcome as long as they end before the first row that is read. Where they
    reach further (the same answer again), its scores are missing: ask once more without the cache.

    Args:
        asked: sampling parameters that ask for the rows, with the prefix cache left unread or not.
        told: the rows in an output; None where some are missing.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    for attempt, fresh in enumerate((False, True)):
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **asked(fresh),
        )
        async for output in run(ids, params, f"{request_id}.{attempt}"):
            rows = told(output)
            if rows is not None:
                return Reading(rows, len(ids), output.num_cached_tokens or 0)
    raise EngineError("vLLM returned no scores for the prompt")
