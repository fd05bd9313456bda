"""Rows of a prompt's logits from vLLM's second model runner, the one it takes on a GPU.

That runner scores given tokens at given rows, but multiplies every row from the first one that is
asked for with the whole vocabulary, one request after the other. A reading wants one row for each
point. With a model of 7B the others took a third of the time of a class. It runs inside vLLM's
worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

# Rows of logits at once: 0.6 GB with the largest vocabularies.
CHUNK = 1024
_METHOD = "compute_prompt_token_id_logprobs"


def score_wanted_rows(runner: Any) -> None:
    """Replace the methods of a runner's scorer.

    Raises:
        NotImplementedError: this vLLM's runner is not the one that is known here.
    """
    scorer = runner.prompt_logprobs_worker
    # In a pipeline only the last worker has one.
    if scorer is None:
        return
    if not (hasattr(scorer, _METHOD) and hasattr(scorer, "token_id_scores")):
        raise NotImplementedError("its runner can't score given tokens of a prompt")
    setattr(scorer, _METHOD, partial(_scores, scorer))
    scorer.add_request = partial(_add_request, scorer, scorer.add_request)


def _add_request(
    scorer: Any, original: Callable[..., None], req_id: str, req_idx: int, sampling_params: Any
) -> None:
    original(req_id, req_idx, sampling_params)
    if state := scorer.token_id_scores.get(req_id):
        ids = sampling_params.prompt_logprob_token_ids
        # Kept on this side, as asking the GPU which rows they are would wait for it.
        state.wanted = np.flatnonzero((ids >= 0).any(axis=1))


def _scores(
    scorer: Any,
    logits_of: Callable[[Any], Any],
    hidden_states: Any,
    batch: Any,
    prompt_lens: Any,
) -> dict[str, Any]:
    """As vLLM's `compute_prompt_token_id_logprobs`, with minus infinity in rows not asked for."""
    import torch

    states = scorer.token_id_scores
    if not states:
        return {}
    done: dict[str, Any] = {}
    # For each request: its state, its rows among those that it may score, and among the batch's.
    parts: list[tuple[Any, np.ndarray, np.ndarray]] = []
    for i, req_id in enumerate(batch.req_ids):
        state = states.get(req_id)
        if state is None:
            continue
        length = int(prompt_lens[batch.idx_mapping_np[i]])
        begin = int(batch.num_computed_prefill_tokens_np[i])
        end = begin + int(batch.num_scheduled_tokens[i])
        # Decoding, or taken up again after its scores were given: as vLLM does.
        if begin >= length or length < batch.prefill_len_np[i]:
            states.pop(req_id)
            continue
        if state.scores is None:
            # The cache held rows that are asked for: no scores, and who asked asks again.
            if begin > state.start:
                states.pop(req_id)
                continue
            state.scores = torch.empty_like(state.token_ids, dtype=torch.float32)
        rows = state.wanted
        rows = rows[(rows + state.start >= begin) & (rows + state.start < min(end, length - 1))]
        if len(rows):
            offset = int(batch.query_start_loc_np[i]) - begin + state.start
            parts.append((state, rows, rows + offset))
        if end >= length:
            done[req_id] = states.pop(req_id)
    if parts:
        _fill(scorer, logits_of, hidden_states, parts)
    # What is not asked for, rows and places in rows, says so.
    return {name: state.scores.masked_fill_(state.pad, -math.inf) for name, state in done.items()}


def _fill(
    scorer: Any,
    logits_of: Callable[[Any], Any],
    hidden_states: Any,
    parts: list[tuple[Any, np.ndarray, np.ndarray]],
) -> None:
    import torch
    from vllm.utils.torch_utils import async_tensor_h2d
    from vllm.v1.worker.gpu.sample.logprob import compute_token_logprobs

    both = np.concatenate([np.stack(part[1:]) for part in parts], axis=1)
    own, places = async_tensor_h2d(np.ascontiguousarray(both), scorer.device, torch.int64)
    logits_mode = scorer.logprobs_mode in ("raw_logits", "processed_logits")
    counts = [len(rows) for _, rows, _ in parts]
    # Requests may ask for unlike numbers of tokens.
    width = max(state.token_ids.shape[1] for state, _, _ in parts)
    ids = torch.cat(
        [
            torch.nn.functional.pad(state.token_ids[rows], (0, width - state.token_ids.shape[1]))
            for (state, _, _), rows in zip(parts, own.split(counts), strict=True)
        ]
    )
    found = []
    for some, of in zip(places.split(CHUNK), ids.split(CHUNK), strict=True):
        logits = logits_of(hidden_states[some])
        found.append(logits.gather(-1, of) if logits_mode else compute_token_logprobs(logits, of))
    numbers = torch.cat(found).float().split(counts)
    for (state, _, _), rows, one in zip(parts, own.split(counts), numbers, strict=True):
        state.scores[rows] = one[:, : state.token_ids.shape[1]]
