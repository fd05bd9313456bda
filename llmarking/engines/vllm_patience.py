"""Lets vLLM's processes sleep while they wait for each other, where they share the cores.

vLLM's engine and its worker hand their messages over in shared memory, and whoever waits for one
looks for it without a pause for a second before it goes to sleep. On a GPU that saves microseconds.
On a CPU a step takes most of a second, in which the waiting engine takes a core from the worker
that it waits for: with two cores every fourth answer (docs/benchmarks.md).
"""

from __future__ import annotations

import logging

from vllm.v1.executor.multiproc_executor import MultiprocExecutor

log = logging.getLogger("llmarking.engine")


class PatientExecutor(MultiprocExecutor):  # type: ignore[misc]
    """vLLM's executor of worker processes; `vllm_arguments.py` names it to vLLM on a CPU."""

    def _init_executor(self) -> None:
        super()._init_executor()
        # The workers are there, so nobody misses a call any more that comes while it falls asleep.
        if not wait_patiently():
            log.warning("vLLM's processes wait in another way than is known here, and keep it")
        self.collective_rpc("wait_patiently")


def wait_patiently() -> bool:
    """Sleep at once from now on wherever this process waits for a message; False if unknown how."""
    try:
        from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
    except ImportError:
        return False
    # Seconds to look without a pause: an attribute that every waiter sets when it is made.
    SpinCondition.busy_loop_s = property(lambda waiter: 0.0, lambda waiter, seconds: None)
    return True
