"""What our extension does in vLLM's worker, and what it says where it can't."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fake_vllm import Model, first_runner, vllm_worker

from llmarking.engines.vllm_arguments import WORKER_EXTENSION
from llmarking.engines.vllm_worker import WorkerExtension

__all__ = ["vllm_worker"]


def test_vllm_is_told_where_the_extension_is() -> None:
    assert f"{WorkerExtension.__module__}.{WorkerExtension.__name__}" == WORKER_EXTENSION


@pytest.mark.usefixtures("vllm_worker")
def test_each_runner_learns_it_its_own_way() -> None:
    worker = WorkerExtension()
    worker.model_runner = runner = first_runner(Model())
    own = runner._get_prompt_logprobs_dict
    assert worker.score_wanted_rows() == ""
    assert runner._get_prompt_logprobs_dict is not own
    # The second, in the middle of a pipeline: there is nothing to score.
    worker.model_runner = SimpleNamespace(prompt_logprobs_worker=None)
    assert worker.score_wanted_rows() == ""


@pytest.mark.usefixtures("vllm_worker")
def test_a_runner_of_another_release_is_left_alone_and_named() -> None:
    worker = WorkerExtension()
    worker.model_runner = SimpleNamespace()
    assert "_get_prompt_logprobs_dict" in worker.score_wanted_rows()
    worker.model_runner = SimpleNamespace(prompt_logprobs_worker=SimpleNamespace())
    assert "can't score" in worker.score_wanted_rows()
