"""The count of a download's bytes, as people see it."""

from __future__ import annotations

import io

import pytest

from llmarking.models.progress import Cancelled, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_is_printed_at_every_tenth_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("tiny", 1000) as progress:
        for _ in range(100):
            progress.add(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "tiny: 0.0 MB"
    assert lines[1:-1] == [f"tiny: {tenth} %" for tenth in range(10, 100, 10)]
    assert lines[-1].startswith("tiny: there after ")


def test_bytes_fetched_again_are_taken_off_first(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("tiny", 1000) as progress:
        progress.add(400)
        progress.add(-400)
        progress.add(1000)
        assert progress.done == 1000


def test_nothing_is_printed_when_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("tiny", 1000, show=False) as progress:
        progress.add(1000)
        progress.say("a message")
    assert capsys.readouterr() == ("", "")


def test_a_failed_download_is_not_said_to_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), Progress("tiny", 1000):
        raise RuntimeError
    assert "there after" not in capsys.readouterr().err


def test_a_transfer_stops_at_its_next_piece_once_cancelled() -> None:
    with Progress("tiny", 1000, show=False) as progress:
        progress.add(10)
        progress.cancel()
        with pytest.raises(Cancelled):
            progress.add(10)


def test_a_terminal_sees_a_bar_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with Progress("tiny", 2_000_000) as progress:
        progress.add(2_000_000)
        progress.stop()
        assert "2.0/2.0 MB" in terminal.getvalue()
        before = len(terminal.getvalue())
        progress.say("unpacking")
        assert terminal.getvalue()[before:] == "unpacking\n"
