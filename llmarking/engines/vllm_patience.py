"""Lets vLLM's processes nap while they wait for each other, where they share the cores.

vLLM's engine and its worker hand their messages over in shared memory, and whoever waits for one
looks for it without a pause for a second before it goes to sleep. On a GPU that saves microseconds.
On a CPU a step takes far longer than that, and all the while the waiting engine takes a core from
the worker that it waits for.
"""

from __future__ import annotations

import logging
import time

from vllm.v1.executor.multiproc_executor import MultiprocExecutor

log = logging.getLogger("llmarking.engine")

# Seconds: nothing beside a step on a CPU, and long beside looking whether there is a message.
NAP = 0.0005


class PatientExecutor(MultiprocExecutor):  # type: ignore[misc]
    """vLLM's executor of worker processes; `vllm_arguments.py` names it to vLLM on a CPU."""

    def _init_executor(self) -> None:
        super()._init_executor()
        if not wait_patiently():
            log.warning("vLLM's processes wait in another way than is known here, and keep it")
        self.collective_rpc("wait_patiently")


def wait_patiently() -> bool:
    """Nap from now on wherever this process waits for a message; False where that is unknown.

    The naps take the place of yielding the core, between two looks. That vLLM goes to sleep after a
    second stays: from sleep only a call wakes it, which is lost where it comes too early.
    """
    try:
        from vllm.distributed.device_communicators import shm_broadcast
    except ImportError:
        return False
    if not hasattr(shm_broadcast, "sched_yield"):
        return False
    shm_broadcast.sched_yield = lambda: time.sleep(NAP)
    return True
