"""Rows of a prompt's logits from vLLM's first model runner, the only one there is on a CPU.

Asked for `prompt_logprobs`, that runner scores every token of a prompt, one request after the
other, and for that leaves the prefix cache unread. A reading wants a row for each point, all of
them behind what a class shares. So the runner's own method is replaced: requests that name their
rows (`asked`) get those and no others, the rows of a whole batch at once; all others go on to
vLLM's. It runs inside vLLM's worker.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

# Rows of logits at once: 120 MB with the largest vocabularies.
CHUNK = 128
_METHOD = "_get_prompt_logprobs_dict"
_KEY = "llmarking_rows"

Scores = dict[str, Any]


def asked(rows: Sequence[int], token_ids: Sequence[int], *, fresh: bool) -> dict[str, Any]:
    """Sampling parameters that ask for some tokens at some rows of a prompt.

    Args:
        rows: places in the prompt, rising; what is read is which token comes next.
        token_ids: the tokens, the same at every row.
        fresh: leave the prefix cache unread. Without it, rows that the cache held are not scored.
    """
    return {
        # vLLM keeps account of the prefill for requests that want this, and passes the scores on.
        "prompt_logprobs": 0,
        "skip_reading_prefix_cache": fresh,
        "extra_args": {_KEY: {"rows": list(rows), "token_ids": list(token_ids)}},
    }


def told(output: Any, rows: int, token_ids: int) -> list[list[float]] | None:
    """Rows by tokens of log-probabilities in an output of vLLM's; None if a row was not scored."""
    # vLLM puts None before the first; each number is a place of its own.
    numbers = [
        next(iter(place.values())).logprob for place in (output.prompt_logprobs or [None])[1:]
    ]
    if len(numbers) != rows * token_ids or any(number != number for number in numbers):
        return None
    return [numbers[start : start + token_ids] for start in range(0, len(numbers), token_ids)]


def score_wanted_rows(runner: Any) -> None:
    """Replace the method of a runner.

    Raises:
        NotImplementedError: this vLLM's runner is not the one that is known here.
    """
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

    original = getattr(runner, _METHOD)
    lacking = [
        name
        for name in (
            "num_prompt_logprobs",
            "requests",
            "query_start_loc",
            "input_batch",
            "model",
            "device",
        )
        if not hasattr(runner, name)
    ]
    if "in_progress_prompt_logprobs_cpu" not in {f.name for f in fields(CachedRequestState)}:
        lacking.append("in_progress_prompt_logprobs_cpu")
    if lacking:
        raise NotImplementedError(f"its runner has no {', '.join(lacking)}")
    if list(inspect.signature(original).parameters) != ["hidden_states", "num_scheduled_tokens"]:
        raise NotImplementedError(f"its {_METHOD} takes other arguments")
    if runner.device.type != "cpu":
        raise NotImplementedError("its first runner has been tried on a CPU only")
    if runner.cache_config.kv_sharing_fast_prefill:
        raise NotImplementedError("--kv-sharing-fast-prefill leaves rows of the prompt out")
    head = Head(runner.model)
    setattr(runner, _METHOD, partial(_scores, runner, original, head))


class Head:
    """From hidden states to logits, with the adapter of each row.

    Where adapters may change the last layer, vLLM keeps one adapter for each row that is sampled
    from, and takes no other number of rows.
    """

    def __init__(self, model: Any) -> None:
        from vllm.lora.layers import LogitsProcessorWithLoRA
        from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

        self._model = model
        wrapped = [m for m in model.modules() if isinstance(m, LogitsProcessorWithLoRA)]
        self._adapters = [module.punica_wrapper for module in wrapped]
        if not all(isinstance(adapters, PunicaWrapperCPU) for adapters in self._adapters):
            raise NotImplementedError("adapters may change the last layer, and not on a CPU")

    def __call__(self, hidden_states: Any, places: Any) -> Any:
        """Logits (rows by vocabulary) of these places of a batch."""
        with contextlib.ExitStack() as stack:
            for adapters in self._adapters:
                stack.enter_context(_adapters_of(adapters, places))
            return self._model.compute_logits(hidden_states[places])


@contextlib.contextmanager
def _adapters_of(adapters: Any, places: Any) -> Iterator[None]:
    """Let vLLM's sampled rows be these places of the batch, for a while."""
    before, count = adapters._sampler_indices.clone(), adapters.indices_len[1]
    adapters._sampler_indices[: len(places)] = adapters.token_lora_indices[places]
    adapters.indices_len[1] = len(places)
    try:
        yield
    finally:
        adapters._sampler_indices.copy_(before)
        adapters.indices_len[1] = count


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one request that are computed in this step.

    `numbers` are its scores so far, rows by tokens; `rows` index them, `places` the batch.
    """

    numbers: Any
    token_ids: list[int]
    rows: list[int]
    places: list[int]


def _scores(
    runner: Any,
    original: Callable[[Any, Mapping[str, int]], Scores],
    head: Head,
    hidden_states: Any,
    num_scheduled_tokens: Mapping[str, int],
) -> Scores:
    """As vLLM's method: the scores of the requests whose prompts end in this step, by name."""
    waiting = runner.num_prompt_logprobs
    ours = {name: waiting.pop(name) for name in [n for n in waiting if _wanted(runner, n)]}
    found = original(hidden_states, num_scheduled_tokens)
    waiting.update(ours)
    parts = []
    for name in ours:
        # One that was preempted is not in this step, and keeps what it has for the next.
        if name not in num_scheduled_tokens:
            continue
        request = runner.requests[name]
        begin = request.num_computed_tokens
        end = begin + num_scheduled_tokens[name]
        if part := _part(runner, name, begin, end):
            parts.append(part)
        if end >= request.num_prompt_tokens:
            found[name] = request.in_progress_prompt_logprobs_cpu
            request.in_progress_prompt_logprobs_cpu = None
            del waiting[name]
    if parts:
        _fill(head, hidden_states, parts)
    return found


def _wanted(runner: Any, name: str) -> dict[str, list[int]] | None:
    """What `asked` put into a request; None in a request of others."""
    params = runner.requests[name].sampling_params
    wanted = (params.extra_args or {}).get(_KEY)
    # vLLM's own routes let clients put words, numbers and lists under any name, but no dict.
    return wanted if isinstance(wanted, dict) else None


def _part(runner: Any, name: str, begin: int, end: int) -> Part | None:
    """What of a request can be scored in a step that computes its tokens `begin` to `end`."""
    import torch
    from vllm.v1.outputs import LogprobsTensors

    request = runner.requests[name]
    wanted = _wanted(runner, name)
    assert wanted is not None
    rows, token_ids = wanted["rows"], wanted["token_ids"]
    kept = request.in_progress_prompt_logprobs_cpu
    if kept is None:
        count = len(rows) * len(token_ids)
        kept = request.in_progress_prompt_logprobs_cpu = LogprobsTensors(
            torch.tensor(token_ids * len(rows)).reshape(count, 1),
            torch.full((count, 1), torch.nan),
            torch.zeros(count, dtype=torch.int32),
        )
    now = [number for number, row in enumerate(rows) if begin <= row < end]
    if not now:
        return None
    start = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[name]]) - begin
    numbers = kept.logprobs.view(len(rows), len(token_ids))
    return Part(numbers, token_ids, now, [start + rows[number] for number in now])


def _fill(head: Head, hidden_states: Any, parts: Sequence[Part]) -> None:
    """Score the rows of all parts together."""
    import torch

    width = max(len(part.token_ids) for part in parts)
    ids = [
        [*part.token_ids, *[0] * (width - len(part.token_ids))] for part in parts for _ in part.rows
    ]
    places = torch.tensor([place for part in parts for place in part.places])
    columns = torch.tensor(ids)
    found = []
    for some, of in zip(places.split(CHUNK), columns.split(CHUNK), strict=True):
        logits = head(hidden_states, some)
        # With a tensor parallel worker that is not the first: nobody asks for what it says.
        if logits is None:
            return
        found.append(logits.log_softmax(dim=-1, dtype=torch.float32).gather(-1, of))
    numbers = torch.cat(found)
    for part, own in zip(parts, numbers.split([len(p.rows) for p in parts]), strict=True):
        part.numbers[part.rows] = own[:, : len(part.token_ids)]
