"""Exit codes and safe text, which all scripts share."""

from __future__ import annotations

import pytest

from llmarking.errors import (
    DataError,
    EngineDead,
    InputError,
    LLMarkingError,
    RequestRefused,
    ServerUnreachable,
)
from llmarking.terminal import ExitCode, Terminal, exit_code, printable, run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), ExitCode.BAD_INPUT),
        (DataError("x", file="f", line=1), ExitCode.BAD_INPUT),
        (ServerUnreachable("x"), ExitCode.UNREACHABLE),
        (RequestRefused("x", status=401), ExitCode.AUTH),
        (RequestRefused("x", status=403), ExitCode.AUTH),
        (RequestRefused("x", status=422), ExitCode.BAD_INPUT),
        (RequestRefused("x", status=429), ExitCode.UNREACHABLE),
        (RequestRefused("x", status=503), ExitCode.UNREACHABLE),
        (RequestRefused("x", status=500), ExitCode.UNEXPECTED),
        (EngineDead("x"), ExitCode.UNEXPECTED),
    ],
)
def test_an_error_ends_a_script(
    error: LLMarkingError, code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its exit status and one line on standard error."""

    def body() -> int:
        raise error

    assert exit_code(error) == code
    assert run("script.py", body) == code
    assert capsys.readouterr() == ("", f"script.py: {error}\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("a\r\nb\rc", "a\nb\ufffdc"),
        ("\x1b]0;title\x07", "\ufffd]0;title\ufffd"),
        ("\x9b2J\x7f", "\ufffd2J\ufffd"),
        ("键值 é 😀 \u2028", "键值 é 😀 \u2028"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    """Nothing a terminal would obey is left; every letter is."""
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("environment", "flag", "colored"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm"}, False, False),
    ],
)
def test_color(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], flag: bool, colored: bool
) -> None:
    """On a terminal (here: said to be one), unless it is not wanted."""
    for name in ("NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal(color=flag)
    assert (terminal.out.color_system is not None, terminal.err.color_system is not None) == (
        colored,
        colored,
    )
