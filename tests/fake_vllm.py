"""Stands in for the parts of vLLM's worker that ours touch, with a model of one matrix.

Importing vLLM takes many seconds; `test_vllm_engine` asks the real one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

WIDTH, VOCABULARY = 8, 50


class LogprobsTensors(NamedTuple):
    logprob_token_ids: Any
    logprobs: Any
    selected_token_ranks: Any


@dataclass
class CachedRequestState:
    sampling_params: Any
    num_prompt_tokens: int
    num_computed_tokens: int = 0
    in_progress_prompt_logprobs_cpu: Any = None


class LogitsProcessorWithLoRA(torch.nn.Module):
    """Takes as many rows as there are adapters of sampled rows, and adds each one's number."""

    def __init__(self, punica_wrapper: Any) -> None:
        super().__init__()
        self.punica_wrapper = punica_wrapper

    def forward(self, logits: Any) -> Any:
        adapters = self.punica_wrapper
        of = adapters._sampler_indices[: adapters.indices_len[1]]
        return logits + of.unsqueeze(-1) * torch.linspace(-1, 1, VOCABULARY)


class PunicaWrapperCPU:
    """The adapter of each token of a batch, and of each row that is sampled from."""

    def __init__(self, adapters: Sequence[int], sampled: Sequence[int]) -> None:
        self.token_lora_indices = torch.tensor(adapters)
        self._sampler_indices = torch.zeros(64, dtype=torch.long)
        self._sampler_indices[: len(sampled)] = torch.tensor(sampled)
        self.indices_len = [len(adapters), len(sampled), 0, 0]


class Model(torch.nn.Module):
    """A hidden state's logits are its product with one matrix."""

    def __init__(self, adapters: Any = None) -> None:
        super().__init__()
        self.matrix = torch.randn(WIDTH, VOCABULARY, generator=torch.Generator().manual_seed(1))
        self.last = LogitsProcessorWithLoRA(adapters) if adapters else None
        self.multiplied: list[int] = []

    def compute_logits(self, hidden_states: Any) -> Any:
        self.multiplied.append(len(hidden_states))
        logits = hidden_states @ self.matrix
        return self.last(logits) if self.last else logits


def hidden(tokens: int, seed: int = 0) -> Any:
    """Hidden states of so many tokens."""
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


def log_probabilities(model: Model, state: Any, token_ids: Sequence[int]) -> list[float]:
    """What a reading has to be at one place."""
    found = (state @ model.matrix).log_softmax(-1)[list(token_ids)]
    return [float(number) for number in found]


MODULES: dict[str, dict[str, Any]] = {
    "vllm.v1.outputs": {"LogprobsTensors": LogprobsTensors},
    "vllm.v1.worker.gpu_input_batch": {"CachedRequestState": CachedRequestState},
    "vllm.lora.layers": {"LogitsProcessorWithLoRA": LogitsProcessorWithLoRA},
    "vllm.lora.punica_wrapper.punica_cpu": {"PunicaWrapperCPU": PunicaWrapperCPU},
    "vllm.utils.torch_utils": {
        "async_tensor_h2d": lambda data, device, dtype: torch.tensor(data, dtype=dtype)
    },
    "vllm.v1.worker.gpu.sample.logprob": {
        "compute_token_logprobs": lambda logits, ids: logits.log_softmax(-1).gather(-1, ids)
    },
}


@pytest.fixture
def vllm_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of vLLM's that our workers' code imports."""
    for name in MODULES:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            package = ".".join(parts[:depth])
            monkeypatch.setitem(sys.modules, package, ModuleType(package))
    for name, content in MODULES.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


def first_runner(model: Model) -> Any:
    """As vLLM's first model runner; `passed_on` are the names that its own method was asked for."""
    runner = SimpleNamespace(
        model=model,
        device=torch.device("cpu"),
        requests={},
        num_prompt_logprobs={},
        input_batch=SimpleNamespace(req_id_to_index={}),
        query_start_loc=SimpleNamespace(np=[]),
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=False),
        passed_on=[],
    )

    def own(hidden_states: Any, num_scheduled_tokens: Any) -> dict[str, Any]:
        runner.passed_on.append(sorted(runner.num_prompt_logprobs))
        found = dict.fromkeys(runner.num_prompt_logprobs, "its own")
        runner.num_prompt_logprobs.clear()
        return found

    runner._get_prompt_logprobs_dict = own
    return runner
