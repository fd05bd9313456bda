"""What the terminal scripts share: exit codes, messages, safe output, questions to the user.

Data goes to standard output and messages to standard error. Nothing here knows what is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from enum import IntEnum

from rich.console import Console
from rich.text import Text

from llmarking.errors import InputError, LLMarkingError, RequestRefused, ServerUnreachable

with contextlib.suppress(ImportError):
    # Only importing it gives `input` line editing and a history, which stays in memory.
    import readline  # noqa: F401

MAX_WIDTH = 100


class ExitCode(IntEnum):
    """What a script's exit status says; scripts may rely on it."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    BAD_INPUT = 3
    AUTH = 4
    UNREACHABLE = 5
    PARTIAL = 6
    INTERRUPTED = 130


EXIT_CODES = (
    "exit codes: 0 done, 1 unexpected error, 2 wrong usage, 3 bad input, 4 API key refused, "
    "5 server unreachable or not ready, 6 done in part, 130 stopped with Ctrl-C"
)


def exit_code(error: LLMarkingError) -> ExitCode:
    """The exit status for an error that ends a script."""
    if isinstance(error, ServerUnreachable):
        return ExitCode.UNREACHABLE
    if isinstance(error, InputError):
        return ExitCode.BAD_INPUT
    if isinstance(error, RequestRefused):
        if error.status in (401, 403):
            return ExitCode.AUTH
        if error.status in (429, 503):
            return ExitCode.UNREACHABLE
        if 400 <= error.status < 500:
            return ExitCode.BAD_INPUT
    return ExitCode.UNEXPECTED


def run(program: str, body: Callable[[], int]) -> int:
    """Run a script's body; what it raises on purpose becomes one line and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that can't show a letter must not end the program.
            stream.reconfigure(errors="replace")
    try:
        with _wakeful():
            status = body()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain again when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.UNEXPECTED
    except LLMarkingError as error:
        print(f"{program}: {printable(str(error))}", file=sys.stderr)
        return exit_code(error)
    return status


@contextlib.contextmanager
def _wakeful() -> Iterator[None]:
    """Interrupt every wait four times a second, so that no Ctrl-C is overlooked.

    Python looks for signals before it enters a blocking call: one that comes between the look and
    the call would be noticed only when the call returns, which may be minutes later.
    """
    try:
        before = signal.signal(signal.SIGALRM, lambda *_: None)
    except (AttributeError, ValueError):
        # No such signal here, or not the main thread, which is the one that gets Ctrl-C.
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, 0.25, 0.25)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every script which talks to a server has."""
    parser.add_argument(
        "--url", help="where the server is (default: $LLMARKING_URL or http://127.0.0.1:8000)"
    )
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help="the server's API key; $LLMARKING_API_KEY keeps it out of the process list",
    )
    parser.add_argument(
        "--no-color", action="store_true", help="no colour; NO_COLOR and TERM=dumb say the same"
    )


def add_grading_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that every script which grades has."""
    group.add_argument(
        "--method",
        choices=("verdict", "prose"),
        default="verdict",
        help="read the model's verdicts (default), or let it write them",
    )
    group.add_argument("--adapter", metavar="NAME", help="grade with this adapter of the server")
    group.add_argument(
        "-p", "--prompt-version", metavar="V", help="accepted; the server decides, and says which"
    )


# All control characters but line feed and tab: a model or a student could steer the terminal.
_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """The text without anything a terminal would obey."""
    return text.replace("\r\n", "\n").translate(_CONTROL)


def read_stdin() -> str:
    """Everything on standard input, without the line feed that ends it.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8 text: {error.reason}") from None


class Terminal:
    """Standard output and error with or without colour, and the user where there is one."""

    def __init__(self, *, color: bool = True) -> None:
        color = color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.out = _console(color)
        self.err = _console(color, stderr=True)

    @property
    def interactive(self) -> bool:
        """Whether somebody sits at the keyboard."""
        return sys.stdin.isatty()

    def ask(self, prompt: str) -> str:
        """One line from the user.

        Raises:
            EOFError: Ctrl-D.
            KeyboardInterrupt: Ctrl-C; the cursor stands on a new line.
        """
        if not sys.stdout.isatty():
            # Output that goes elsewhere holds data only.
            print(prompt, end="", file=sys.stderr, flush=True)
            prompt = ""
        try:
            return input(prompt)
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            raise

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Say on a terminal that something takes its time; the message goes when it is over."""
        if self.interactive and self.err.is_terminal and not self.err.is_dumb_terminal:
            return self.err.status(Text(text, style="dim"))
        return contextlib.nullcontext()

    def pause(self, seconds: float) -> None:
        """Sleep before a request is sent again, and say so if it takes long."""
        if seconds >= 1:
            self.note(f"the server is busy or loading; trying again in {seconds:.0f} s")
        time.sleep(seconds)

    def note(self, text: str) -> None:
        """A message about what is going on."""
        self.err.print(Text(printable(text), style="dim"))

    def complain(self, text: str) -> None:
        """A message about what went wrong."""
        self.err.print(Text(printable(text), style="red"))

    def write(self, text: str) -> None:
        """Write text as it is, at once; a terminal gets it without control characters."""
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()


def _console(color: bool, *, stderr: bool = False) -> Console:
    console = Console(
        stderr=stderr,
        color_system="auto" if color else None,
        markup=False,
        highlight=False,
        emoji=False,
    )
    console.width = min(console.width, MAX_WIDTH)
    return console
