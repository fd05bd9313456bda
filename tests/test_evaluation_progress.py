"""Rate and time left, in a terminal and in a log."""

from __future__ import annotations

import pytest
from terminal_session import Session

from llmarking.evaluation.progress import pace, progress
from llmarking.terminal import Terminal


@pytest.mark.parametrize(
    ("count", "left", "seconds", "said"),
    [
        (10, 20, 5.0, "2.0 answers/s, 10 s left"),
        (1, 60, 4.0, "0.25 answers/s, 4 min left"),
        (1, 3600, 4.0, "0.25 answers/s, 4.0 h left"),
        (3, 0, 1.0, "3.0 answers/s, 0 s left"),
        (0, 5, 0.0, ""),
    ],
)
def test_pace(count: int, left: int, seconds: float, said: str) -> None:
    assert pace(count, left, seconds) == said


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """Every half minute, with what was there before counted for the total and not for the rate."""
    now = 0.0
    with progress(Terminal(), 100, 40, lambda: now) as tick:
        for _ in range(20):
            now += 4.0
            tick()
    assert capsys.readouterr().err.splitlines() == [
        "48 of 100 answers, 0.25 answers/s, 3 min left",
        "56 of 100 answers, 0.25 answers/s, 3 min left",
    ]


def test_a_terminal_gets_a_bar(live_server: str, tmp_path: object) -> None:
    """With the number of answers, the rate and the time left."""
    args = ("-c", "EXAMPLE", "--url", live_server, "--out", str(tmp_path), "--no-plots")
    with Session(
        "eval_short_batched.py", *args, env={"TERM": "xterm", "COLUMNS": "100"}
    ) as session:
        session.expect("/140")
        session.expect(" answers/s, ")
        session.expect(" left")
        session.expect("the model")
        assert session.end() == 0
