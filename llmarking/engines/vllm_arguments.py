"""What vLLM is started with: its environment, and its engine arguments for this machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from llmarking.errors import InputError
from llmarking.models.catalogue import GIB

WORKER_EXTENSION = "llmarking.engines.vllm_worker.WorkerExtension"


def prepare_environment(*, gpu: bool) -> None:
    """Set what vLLM reads from the environment; what the operator has set stays."""
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Weights are local by now; nothing may be fetched while serving.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_MAX_N_SEQUENCES": "128",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    if not gpu:
        cores = sorted(os.sched_getaffinity(0))
        # One core is left to HTTP and tokenizing where there are enough of them.
        used = cores[:-1] if len(cores) > 4 else cores
        available = psutil.virtual_memory().available // GIB
        defaults |= {
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, used)),
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, min(40, available // 5))),
        }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def engine_arguments(
    folder: Path, name: str, extra: Sequence[str], *, gpu: bool, context: int, tensor_parallel: int
) -> Any:
    """vLLM's engine arguments: our defaults for this machine, then what the operator passed on.

    Args:
        extra: vLLM's own command-line flags, which win over the defaults.
        context: what the model can hold, in tokens.

    Raises:
        InputError: vLLM does not know a flag or refuses its value; its own words are in the
        message.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> Any:
            raise InputError(f"vLLM's engine arguments: {message} (see --engine-help)")

    parser = AsyncEngineArgs.add_cli_args(Parser(prog="vllm_server.py"))
    defaults = [
        "--model", str(folder),
        "--served-model-name", name,
        "--max-model-len", str(min(context, 16_384 if gpu else 4_096)),
        "--enable-prefix-caching",
        # The model's own generation_config would change sampling defaults behind the caller's back.
        "--generation-config", "vllm",
        # A class that is being graded lets everything that somebody waits for go first.
        "--scheduling-policy", "priority",
        # A reading asks its workers for a few rows of the prompt (vllm_reading.py).
        "--worker-extension-cls", WORKER_EXTENSION,
    ]  # fmt: skip
    if gpu:
        defaults += ["--tensor-parallel-size", str(tensor_parallel)]
    else:
        # Compiling takes a minute at every start and gains little on a CPU.
        defaults += ["--enforce-eager", "--max-num-seqs", "128", "--block-size", "32"]
    namespace: argparse.Namespace = parser.parse_args([*defaults, *extra])
    return AsyncEngineArgs.from_cli_args(namespace)


# What vLLM takes as its highest rank.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def lora_arguments(ranks: Sequence[int], *, more: bool, gpu: bool) -> list[str]:
    """vLLM's flags for adapters of these ranks; with `more`, others may come while it runs."""
    highest = max([*ranks, 16] if more else ranks)
    rank = next((rank for rank in RANKS if rank >= highest), RANKS[-1])
    # So many different ones can be in one batch; requests with further ones wait for the next.
    together = len(ranks)
    if gpu:
        together = max(together + 2, 4) if more else together
        kept = max(together, 32) if more else together
    else:
        # There none can be kept but in such a place, of which one stays empty (vllm_adapters.py).
        together = kept = together + (8 if more else 0) + 1
    flags = ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(together)]
    return [*flags, "--max-cpu-loras", str(kept)]


def engine_help() -> str:
    """The help text of vLLM's own engine arguments."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return str(AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(prog="vLLM")).format_help())
