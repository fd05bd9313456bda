"""What vLLM's worker learns from us: to score the rows of a prompt that are asked for, no others.

`vllm_arguments.py` names the class to vLLM, which makes it a base of its worker; `vllm_engine.py`
then calls it in every worker.
"""

from __future__ import annotations

from typing import Any


class WorkerExtension:
    """What vLLM's worker can do besides, by remote call."""

    model_runner: Any

    def score_wanted_rows(self) -> str:
        """Score wanted rows only from now on; says why not where that can't be, else nothing."""
        from llmarking.engines import vllm_first_runner, vllm_second_runner

        runner = self.model_runner
        second = hasattr(runner, "prompt_logprobs_worker")
        try:
            (vllm_second_runner if second else vllm_first_runner).score_wanted_rows(runner)
        except (NotImplementedError, AttributeError, ImportError) as error:
            # Another release of vLLM: it serves all the same, and reads in another way.
            return str(error)
        return ""
