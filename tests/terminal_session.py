"""A script in a terminal of its own, with a test at the keyboard."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
CTRL_C = "\x03"
CTRL_D = "\x04"


def environment(changes: Mapping[str, str] | None) -> dict[str, str]:
    """This process' environment for a script, without what would change what it does."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LLMARKING_", "NO_COLOR"))}
    return {**kept, "COLUMNS": "80", "TERM": "dumb", "PYTHONUNBUFFERED": "", **(changes or {})}


def run_piped(
    script: str, *args: str, stdin: bytes = b"", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a script without a terminal."""
    return subprocess.run(
        [sys.executable, ROOT / script, *args],
        input=stdin,
        capture_output=True,
        env=environment(env),
        timeout=60,
        check=False,
    )


class Session:
    """A running script. Use it in a `with` block, which kills what is still running."""

    def __init__(
        self,
        script: str,
        *args: str,
        stdout: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._master, slave = pty.openpty()
        self.seen = ""
        self._raw = b""
        self._position = 0

        # The first terminal that a new session opens is its own: only there is Ctrl-C a signal.
        take = ["/bin/sh", "-c", 'exec 0<>"$0"; exec "$@"', os.ttyname(slave)]
        self.process = subprocess.Popen(
            [*take, sys.executable, str(ROOT / script), *args],
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            env=environment(env),
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def expect(self, text: str, timeout: float = 30.0) -> str:
        """Wait until the screen shows this after what was expected before; return all between."""
        deadline = time.monotonic() + timeout
        while (found := self.seen.find(text, self._position)) < 0:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{text!r} never came; the screen shows:\n{self.seen}")
        between = self.seen[self._position : found]
        self._position = found + len(text)
        return between

    def end(self, timeout: float = 30.0) -> int:
        """Wait until the script ends; return its exit status."""
        deadline = time.monotonic() + timeout
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(1.0, deadline - time.monotonic()))

    def _read(self, timeout: float) -> bool:
        if timeout <= 0 or not select.select([self._master], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            # How Linux says that nobody has the other end open any more.
            data = b""
        self._raw += data
        self.seen = self._raw.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)
