"""Tell before a download whether a model fits in the memory of this machine."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

from llmarking.errors import InputError, NotEnoughMemory
from llmarking.models.catalogue import GIB, ModelSpec, models

CGROUP_FILES = (  # (limit, in use): version 2, then version 1
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def ram_gib(cgroups: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the GiB of memory that are free, within the limit of a container if there is one."""
    free = psutil.virtual_memory().available
    for limit_name, used_name in CGROUP_FILES:
        try:
            limit = (cgroups / limit_name).read_text().strip()
            used = int((cgroups / used_name).read_text())
        except (OSError, ValueError):
            continue
        if limit.isdigit():
            free = min(free, max(0, int(limit) - used))
        break
    return free / GIB


def gpu_gib() -> tuple[float, ...]:
    """Return the free GiB of every GPU this process may use, by nvidia-smi; empty without one.

    Where it does not say (a slice of a card, memory shared with the CPU) the number is infinite.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = ["--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(
            [program, *query], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    free: dict[str, float] = {}
    for line in result.stdout.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3:
            gib = int(fields[2]) / 1024 if fields[2].isdigit() else math.inf
            free[fields[0]] = free[fields[1]] = gib
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(gib for name, gib in free.items() if name.isdigit())
    chosen = [name.strip() for name in visible.split(",")]
    slices = {name: math.inf for name in chosen if name.startswith("MIG-") and free}
    return tuple((free | slices)[name] for name in chosen if name in free | slices)


def usable_gib(
    gpus: Sequence[float], flags: Sequence[str], tensor_parallel: int
) -> tuple[float, int]:
    """Return the GiB that one copy of a model may use, and the number of GPUs it is spread on.

    vLLM takes the first ones and gives each the same share, so the fullest of them decides.

    Args:
        gpus: the free GiB of each.
        flags: vLLM's own flags, of which --tensor-parallel-size and --pipeline-parallel-size win
            over `tensor_parallel`.

    Raises:
        InputError: vLLM is told to use more GPUs than there are.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--tensor-parallel-size", "-tp", default=str(tensor_parallel))
    parser.add_argument("--pipeline-parallel-size", "-pp", default="1")
    known, _ = parser.parse_known_args(flags)
    sizes = [known.tensor_parallel_size, known.pipeline_parallel_size]
    # What is no number is refused by vLLM in its own words.
    used = math.prod(int(size) for size in sizes if size.isdecimal())
    if used > len(gpus):
        raise InputError(f"vLLM is told to use {used} GPUs, and {len(gpus)} are there")
    return used * min(gpus[:used], default=0.0), used


def check_memory(
    spec: ModelSpec, available_gib: float, device: str, devices: int | None = None
) -> None:
    """Raise NotEnoughMemory, with the numbers and what would fit, for a model that does not fit.

    `available_gib` is what the model may use on `device` (GPU or RAM), over all `devices` it is
    spread on. A model of unknown size passes.
    """
    need = spec.memory_gib
    if need is None or need <= available_gib:
        return
    where = "GPU memory" if device.casefold() in ("gpu", "cuda") else "memory"
    fitting = sorted(
        (m for m in models() if (m.parameters or 0) > 1 and (m.memory_gib or 0) <= available_gib),
        key=lambda m: (m.trust_remote_code or m.gated, -(m.memory_gib or 0)),
    )
    names = ", ".join(f"{m.name} ({m.memory_gib} GiB)" for m in fitting[:3])
    help_ = f"Models that fit: {names}" if names else "No model of the catalogue fits"
    place = f" on {devices} GPU{'s' if devices > 1 else ''}" if devices else ""
    raise NotEnoughMemory(
        f"{spec.name} needs about {need} GiB of {where} and {available_gib:.1f} GiB is free"
        f"{place}. {help_}"
    )
