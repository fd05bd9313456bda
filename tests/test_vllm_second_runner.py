"""Rows of a prompt from vLLM's second model runner: only those asked for, of a batch at once."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_vllm import Model, hidden, log_probabilities, vllm_worker

from llmarking.engines.vllm_second_runner import score_wanted_rows

__all__ = ["vllm_worker"]
pytestmark = pytest.mark.usefixtures("vllm_worker")


class Scorer:
    """As vLLM's `PromptLogprobsWorker`: what it keeps of a request that has come."""

    device = torch.device("cpu")
    logprobs_mode = "raw_logprobs"

    def __init__(self) -> None:
        self.token_id_scores: dict[str, Any] = {}

    def add_request(self, req_id: str, req_idx: int, sampling_params: Any) -> None:
        ids = sampling_params.prompt_logprob_token_ids
        if ids is not None:
            given = torch.from_numpy(ids)
            self.token_id_scores[req_id] = SimpleNamespace(
                token_ids=given.clamp_min(0),
                pad=given < 0,
                start=sampling_params.prompt_logprob_start,
                scores=None,
            )

    def compute_prompt_token_id_logprobs(self) -> None:
        raise AssertionError("vLLM's own way")


def scorer() -> Any:
    own = Scorer()
    score_wanted_rows(SimpleNamespace(prompt_logprobs_worker=own))
    return own


def ask(own: Any, name: str, start: int, grid: list[list[int]] | None) -> None:
    ids = None if grid is None else np.array(grid, dtype=np.int64)
    params = SimpleNamespace(prompt_logprob_token_ids=ids, prompt_logprob_start=start)
    own.add_request(name, 0, params)


def batch(*requests: tuple[str, int, int, int]) -> tuple[Any, np.ndarray]:
    """A step: for each request its name, what is computed, how many tokens come, and its length."""
    names, computed, tokens, lengths = zip(*requests, strict=True)
    step = SimpleNamespace(
        req_ids=list(names),
        idx_mapping_np=np.arange(len(names)),
        num_computed_prefill_tokens_np=np.array(computed),
        num_scheduled_tokens=np.array(tokens),
        prefill_len_np=np.array(lengths),
        query_start_loc_np=np.concatenate([[0], np.cumsum(tokens)]),
    )
    return step, np.array(lengths)


NONE = [-1, -1]


def test_rows_of_a_batch_are_scored_in_one_product() -> None:
    model, own = Model(), scorer()
    ask(own, "a", 2, [[7, 8], NONE, NONE, [7, 8]])
    ask(own, "plain", 0, None)
    ask(own, "b", 0, [[1, 2, 3], [-1, -1, -1], [4, 5, 6]])
    states = hidden(7 + 3 + 4)
    found = own.compute_prompt_token_id_logprobs(
        model.compute_logits, states, *batch(("a", 0, 7, 7), ("plain", 0, 3, 3), ("b", 0, 4, 4))
    )
    assert model.multiplied == [4]
    assert sorted(found) == ["a", "b"]
    for name, row, place, token_ids in (
        ("a", 0, 2, [7, 8]),
        ("a", 3, 5, [7, 8]),
        ("b", 0, 10, [1, 2, 3]),
        ("b", 2, 12, [4, 5, 6]),
    ):
        assert found[name][row].tolist() == pytest.approx(
            log_probabilities(model, states[place], token_ids), abs=1e-5
        )
    assert found["a"][1].tolist() == [-math.inf] * 2
    assert own.token_id_scores == {}


def test_a_prompt_in_pieces_is_told_when_it_ends() -> None:
    model, own = Model(), scorer()
    ask(own, "a", 1, [[7, 8], NONE, [7, 8]])
    states = hidden(5)
    step = own.compute_prompt_token_id_logprobs
    assert step(model.compute_logits, states[:2], *batch(("a", 0, 2, 5))) == {}
    found = step(model.compute_logits, states[2:], *batch(("a", 2, 3, 5)))["a"]
    for row, place in ((0, 1), (2, 3)):
        expected = log_probabilities(model, states[place], [7, 8])
        assert found[row].tolist() == pytest.approx(expected, abs=1e-5)
    assert model.multiplied == [1, 1]


def test_scores_are_given_up_where_the_cache_held_a_row_or_they_were_told_before() -> None:
    model, own = Model(), scorer()
    ask(own, "cached", 1, [[7, 8], NONE])
    ask(own, "decoding", 1, [[7, 8], NONE])
    step = batch(("cached", 2, 2, 4), ("decoding", 4, 1, 4))
    assert own.compute_prompt_token_id_logprobs(model.compute_logits, hidden(3), *step) == {}
    assert (own.token_id_scores, model.multiplied) == ({}, [])
