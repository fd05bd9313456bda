"""A server of our own in the background: started, watched while it loads, and always stopped.

It listens on this machine only, wants a key that nobody else knows, and writes to a log in the
cache folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.status import Status
from rich.text import Text

from llmarking.client import Client
from llmarking.errors import ServerUnreachable
from llmarking.models.cache import cache_root
from llmarking.terminal import Terminal, printable

SERVER = Path(__file__).resolve().parents[2] / "vllm_server.py"
STOP_SECONDS = 30.0
SILENT_SECONDS = 1800.0  # ten per cent of a slow download fit into it
TAIL_LINES = 25

_OURS = re.compile(r"(?:INFO|WARNING|ERROR) llmarking[\w.]*: (?P<said>.+)")
_DOWNLOAD = re.compile(r"(?P<said>.+ from (?:huggingface|modelscope|pypi): .+)")
_UNPACKING = re.compile(r"(?P<said>.+: unpacking to .+|another process is fetching .+)")


@dataclass(frozen=True, slots=True)
class Running:
    """A server that has been started and may not be ready yet."""

    url: str
    key: str = field(repr=False)
    log: Path
    process: subprocess.Popen[bytes]

    def wait_ready(self, terminal: Terminal) -> float:
        """Return the seconds it took until the server could work, telling meanwhile what it does.

        Raises:
            ServerUnreachable: it ended, or nothing was heard of it for a long time.
        """
        began = heard = time.monotonic()
        with (
            Client(self.url, self.key, timeout=2.0) as client,
            self.log.open(encoding="utf-8", errors="replace") as log,
            _Teller(terminal) as teller,
        ):
            while not client.ready():
                lines = log.readlines()
                now = time.monotonic()
                heard = now if lines else heard
                teller.tell(lines, now - began)
                if self.process.poll() is not None:
                    raise self.explain("the server ended before it was ready")
                if now - heard > SILENT_SECONDS:
                    raise self.explain(f"the server has said nothing for {SILENT_SECONDS:.0f} s")
                time.sleep(0.3)
            teller.tell(log.readlines(), time.monotonic() - began)
        return time.monotonic() - began

    def explain(self, what: str) -> ServerUnreachable:
        """An error with the end of the log in it."""
        status = self.process.poll()
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        ending = "" if status is None else f" (status {status})"
        return ServerUnreachable(
            "\n".join([f"{what}{ending}; the end of its log, {self.log}:", *lines])
        )


@contextlib.contextmanager
def started(
    model: str, source: str, folder: Path | None = None, flags: Sequence[str] = ()
) -> Iterator[Running]:
    """Run `vllm_server.py` on a free port until the block ends; after an error its log is kept.

    Args:
        folder: where its log goes.
        flags: more of its flags.
    """
    folder = folder or cache_root() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"demo-server-{os.getpid()}.log"
    key = secrets.token_urlsafe(24)
    # Another server may be using the user's own folder; this one has nothing to keep.
    home = tempfile.TemporaryDirectory(prefix="llmarking-demo-")
    own = {"LLMARKING_API_KEYS": key, "LLMARKING_HOME": home.name, "PYTHONUNBUFFERED": "1"}
    port = _free_port()
    command = [sys.executable, str(SERVER), "--model", model, "--source", source]
    command += ["--host", "127.0.0.1", "--port", str(port), "--drain-seconds", "2", *flags]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            # A group of its own: Ctrl-C reaches us alone, and with the group go vLLM's workers.
            start_new_session=True,
            env=os.environ | own,
        )
    kept = False
    try:
        yield Running(f"http://127.0.0.1:{port}", key, log, process)
    except Exception:
        kept = True
        raise
    finally:
        _stop(process)
        home.cleanup()
        if not kept:
            log.unlink()


@contextlib.contextmanager
def signals_end_the_block() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the block as Ctrl-C does, so that clean-up runs."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask, then insist. Whatever happens meanwhile, no process of its group is left."""
    try:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Teller:
    """Says what is of interest in the server's log, on a terminal in one line that changes."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._last = "starting the server"
        self._told = 0.0
        moving = terminal.err.is_terminal and not terminal.err.is_dumb_terminal
        self._status = Status(self._text(0), console=terminal.err) if moving else None

    def __enter__(self) -> _Teller:
        if self._status:
            self._status.start()
        else:
            self._terminal.note(self._last)
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def tell(self, lines: list[str], seconds: float) -> None:
        """New lines of the log, and the seconds since the start."""
        for line in lines:
            if said := _worth_telling(line.strip()):
                self._last, self._told = said, seconds
                if not self._status or "WARNING" in line:
                    self._terminal.note(said)
        if self._status:
            self._status.update(self._text(seconds))
        elif seconds - self._told >= 30:
            self._told = seconds
            self._terminal.note(f"still at it after {seconds:.0f} s")

    def _text(self, seconds: float) -> Text:
        return Text(f"{printable(self._last)} ({seconds:.0f} s)", style="dim", overflow="ellipsis")


def _worth_telling(line: str) -> str | None:
    """What a line of the log says, if it is ours; what vLLM and its libraries log is not told."""
    for pattern in (_OURS, _DOWNLOAD, _UNPACKING):
        if match := pattern.fullmatch(line):
            return match["said"]
    return None
