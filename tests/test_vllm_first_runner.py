"""Rows of a prompt from vLLM's first model runner: which are scored when, and from what."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_vllm import (
    CachedRequestState,
    Model,
    PunicaWrapperCPU,
    first_runner,
    hidden,
    log_probabilities,
    vllm_worker,
)

from llmarking.engines.vllm_first_runner import asked, score_wanted_rows, told

__all__ = ["vllm_worker"]
pytestmark = pytest.mark.usefixtures("vllm_worker")


class Steps:
    """Drives a runner as vLLM does: prompts of several requests, a piece of each at a time."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.runner = first_runner(model)
        score_wanted_rows(self.runner)
        self.states: dict[str, Any] = {}
        self.found: dict[str, Any] = {}

    def add(self, name: str, tokens: int, *, cached: int = 0, **params: Any) -> None:
        sampling = SimpleNamespace(**{"extra_args": None, **params})
        self.states[name] = hidden(tokens, seed=len(self.states))
        self.runner.requests[name] = CachedRequestState(sampling, tokens, cached)
        self.runner.num_prompt_logprobs[name] = params["prompt_logprobs"]

    def step(self, **tokens: int) -> set[str]:
        """Compute so many more tokens of each; the names of those that were then told."""
        runner, batch, starts = self.runner, [], [0]
        runner.input_batch.req_id_to_index = {name: i for i, name in enumerate(tokens)}
        for name, count in tokens.items():
            begin = runner.requests[name].num_computed_tokens
            batch.append(self.states[name][begin : begin + count])
            starts.append(starts[-1] + count)
        runner.query_start_loc.np = starts
        found = runner._get_prompt_logprobs_dict(torch.cat(batch), tokens)
        for name, count in tokens.items():
            runner.requests[name].num_computed_tokens += count
        self.found |= found
        return set(found)

    def told(self, name: str, rows: int, token_ids: int) -> list[list[float]] | None:
        tensors = self.found[name]
        ids, numbers = tensors.logprob_token_ids.tolist(), tensors.logprobs.tolist()
        places = [
            {token: SimpleNamespace(logprob=number)}
            for (token,), (number,) in zip(ids, numbers, strict=True)
        ]
        return told(SimpleNamespace(prompt_logprobs=[None, *places]), rows, token_ids)

    def expected(self, name: str, rows: list[int], token_ids: list[int]) -> list[Any]:
        states = self.states[name]
        return [
            pytest.approx(log_probabilities(self.model, states[row], token_ids), abs=1e-5)
            for row in rows
        ]


def test_prompts_in_pieces_are_scored_at_their_rows_in_one_product_a_step() -> None:
    steps = Steps(Model())
    steps.add("a", 9, **asked([2, 5, 8], [7, 8], fresh=False))
    steps.add("b", 6, **asked([3, 5], [4, 9, 11], fresh=False))
    assert steps.step(a=4) == set()
    # "a" is preempted, or has to wait for its turn.
    assert steps.step(b=6) == {"b"}
    assert steps.step(a=5) == {"a"}
    assert steps.told("a", 3, 2) == steps.expected("a", [2, 5, 8], [7, 8])
    assert steps.told("b", 2, 3) == steps.expected("b", [3, 5], [4, 9, 11])
    assert steps.model.multiplied == [1, 2, 2]
    assert steps.runner.num_prompt_logprobs == {}


def test_a_batch_is_scored_together_and_each_gets_its_own_tokens() -> None:
    steps = Steps(Model())
    steps.add("a", 4, **asked([1, 3], [7, 8], fresh=False))
    steps.add("b", 5, **asked([0, 4], [1], fresh=False))
    assert steps.step(b=5, a=4) == {"a", "b"}
    assert steps.told("a", 2, 2) == steps.expected("a", [1, 3], [7, 8])
    assert steps.told("b", 2, 1) == steps.expected("b", [0, 4], [1])
    assert steps.model.multiplied == [4]


def test_more_rows_than_fit_are_scored_in_turns() -> None:
    steps = Steps(Model())
    rows = list(range(300))
    steps.add("a", 300, **asked(rows, [7, 8], fresh=False))
    steps.step(a=300)
    assert steps.told("a", 300, 2) == steps.expected("a", rows, [7, 8])
    assert steps.model.multiplied == [128, 128, 44]


def test_what_the_cache_held_is_not_told_but_what_lies_behind_it_is() -> None:
    steps = Steps(Model())
    steps.add("beyond", 8, cached=4, **asked([2, 7], [7, 8], fresh=False))
    steps.add("before", 8, cached=2, **asked([2, 7], [7, 8], fresh=False))
    assert steps.step(beyond=4, before=6) == {"beyond", "before"}
    assert steps.told("beyond", 2, 2) is None
    assert steps.told("before", 2, 2) == steps.expected("before", [2, 7], [7, 8])


def test_a_request_taken_up_again_from_the_cache_keeps_the_rows_it_had() -> None:
    steps = Steps(Model())
    steps.add("a", 9, **asked([1, 8], [7, 8], fresh=False))
    steps.step(a=6)
    # Preempted, and its first block is still there.
    steps.runner.requests["a"].num_computed_tokens = 4
    assert steps.step(a=5) == {"a"}
    assert steps.told("a", 2, 2) == steps.expected("a", [1, 8], [7, 8])


def test_requests_of_others_go_on_to_vllms_own_method() -> None:
    steps = Steps(Model())
    steps.add("a", 4, **asked([1, 3], [7, 8], fresh=False))
    steps.add("theirs", 4, prompt_logprobs=1)
    (ours,) = asked([1], [7], fresh=False)["extra_args"]
    # Under the name of ours, but nothing that we ask for.
    for name, extra in (("other", {"other": 1}), ("list", {ours: [1, 2]}), ("word", {ours: "a"})):
        steps.add(name, 4, prompt_logprobs=1, extra_args=extra)
    assert steps.step(a=2, theirs=4) == {"theirs", "other", "list", "word"}
    assert steps.step(a=2) == {"a"}
    assert steps.runner.passed_on == [["list", "other", "theirs", "word"], []]
    assert steps.found["theirs"] == "its own"
    assert steps.told("a", 2, 2) == steps.expected("a", [1, 3], [7, 8])


def test_each_row_has_the_adapter_of_its_request() -> None:
    """The last layer may be adapted, and vLLM knows adapters of sampled rows only."""
    adapters = PunicaWrapperCPU([1, 1, 1, 1, 3, 3, 3], sampled=[1, 3])
    model = Model(adapters)
    steps = Steps(model)
    steps.add("a", 4, **asked([0, 2, 3], [7, 8], fresh=False))
    steps.add("b", 3, **asked([1, 2], [7, 8], fresh=False))
    steps.step(a=4, b=3)
    assert adapters._sampler_indices[:5].tolist() == [1, 3, 0, 0, 0]
    assert adapters.indices_len[1] == 2
    by_hand = Model(PunicaWrapperCPU([1, 3], sampled=[1, 3]))
    ends = by_hand.compute_logits(
        torch.stack([steps.states["a"][3], steps.states["b"][2]])
    ).log_softmax(-1)[:, [7, 8]]
    for name, rows, end in (("a", 3, ends[0]), ("b", 2, ends[1])):
        found = steps.told(name, rows, 2)
        assert found is not None
        assert found[-1] == pytest.approx(end.tolist(), abs=1e-5)


@pytest.mark.parametrize("numbers", [[], [-1.0, -2.0, -3.0], [-1.0, -2.0, math.nan, -3.0]])
def test_scores_that_lack_something_are_none(numbers: list[float]) -> None:
    places = [None, *({7: SimpleNamespace(logprob=number)} for number in numbers)]
    assert told(SimpleNamespace(prompt_logprobs=places), 2, 2) is None
    assert told(SimpleNamespace(prompt_logprobs=None), 2, 2) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda runner: delattr(runner, "query_start_loc"), "no query_start_loc"),
        (lambda runner: setattr(runner, "_get_prompt_logprobs_dict", print), "other arguments"),
        (lambda runner: setattr(runner, "device", torch.device("meta")), "on a CPU only"),
        (
            lambda runner: setattr(runner.cache_config, "kv_sharing_fast_prefill", True),
            "leaves rows",
        ),
        (
            lambda runner: setattr(runner, "model", Model(SimpleNamespace())),
            "not on a CPU",
        ),
    ],
)
def test_a_runner_that_is_not_known_stays_as_it_is(change: Any, says: str) -> None:
    runner = first_runner(Model())
    change(runner)
    before = runner._get_prompt_logprobs_dict
    with pytest.raises(NotImplementedError, match=says):
        score_wanted_rows(runner)
    assert runner._get_prompt_logprobs_dict is before
