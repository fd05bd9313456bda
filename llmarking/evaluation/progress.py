"""How far a run is, with rate and time left: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from llmarking.terminal import Terminal

QUIET = 30.0  # seconds between two lines where there is no bar
SHOWN = "{task.fields[said]}"


@contextlib.contextmanager
def progress(
    terminal: Terminal, total: int, done: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], None]]:
    """Yields what is called once for every answer that is finished.

    Args:
        done: answers that were there before; they count for the bar and not for the rate.
    """
    err = terminal.err
    began = told = clock()
    count = 0
    moving = err.is_terminal and not err.is_dumb_terminal
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(SHOWN))
    with Progress(*columns, console=err, transient=True, disable=not moving) as bar:
        task = bar.add_task("", total=total, completed=done, said="")

        def tick() -> None:
            nonlocal count, told
            count += 1
            now = clock()
            said = pace(count, total - done - count, now - began)
            bar.update(task, advance=1, said=said)
            if not moving and now - told >= QUIET:
                told = now
                terminal.note(f"{done + count} of {total} answers, {said}")

        yield tick


def pace(count: int, left: int, seconds: float) -> str:
    """Rate and time left, as `3.2 answers/s, 4 min left`."""
    if seconds <= 0:
        return ""
    rate = count / seconds
    return f"{rate:.{1 if rate >= 1 else 2}f} answers/s, {_duration(left / rate)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
