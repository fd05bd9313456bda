"""Show a download in bytes: a bar on a terminal, a plain line every tenth elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any, Self


class Cancelled(Exception):
    """Raised in a transfer's own thread once the download was given up elsewhere."""


class Progress:
    """Count the bytes of one download; safe to use from several threads.

    `total` is in bytes. Messages go to the standard error of the moment it is made.
    """

    def __init__(self, label: str, total: int, *, show: bool = True) -> None:
        self.label = label
        self.total = total
        self.done = 0
        self._show = show
        self._lock = threading.Lock()
        self._cancelled = False
        self._started = time.monotonic()
        self._tenths = 0
        # Kept, for a library's own bars are hidden by pointing sys.stderr elsewhere.
        self._stream = sys.stderr
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._show and self._stream.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
                console=Console(file=self._stream),
            )
            self._task = self._bar.add_task(self.label, total=self.total)
            self._bar.start()
        else:
            self.say(f"{self.label}: {self.total / 1e6:,.1f} MB")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if kind is None:
            self.say(f"{self.label}: there after {time.monotonic() - self._started:.0f} s")

    def add(self, count: int) -> None:
        """Count `count` more bytes, or fewer where a transfer had to start anew.

        Raises Cancelled when the download was given up, which stops the thread that transfers.
        """
        with self._lock:
            if self._cancelled:
                raise Cancelled(self.label)
            self.done += count
            if self._bar is not None:
                self._bar.update(self._task, completed=self.done)
            elif self.total and self.done * 10 // self.total > self._tenths:
                self._tenths = self.done * 10 // self.total
                if self.done < self.total:
                    self.say(f"{self.label}: {self._tenths * 10} %")

    def cancel(self) -> None:
        """Stop every transfer that counts here at its next piece."""
        with self._lock:
            self._cancelled = True

    def stop(self) -> None:
        """Take the bar away, when what follows has no bytes to count."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, line: str) -> None:
        """Print a line next to the count."""
        if not self._show:
            return
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        else:
            print(line, file=self._stream, flush=True)
