"""`make demo`: it grades the shipped course on a server of its own and leaves nothing behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import ServerFactory

from llmarking.console import demo_server
from llmarking.console.demo import Demo, DemoSettings, choose
from llmarking.console.demo_report import Marked, kappa
from llmarking.console.demo_server import Running, started
from llmarking.datasets import courses
from llmarking.domain import Point, Question, StudentAnswer
from llmarking.engines.scripted import ScriptedEngine
from llmarking.errors import LLMarkingError, RequestRefused, ServerUnreachable
from llmarking.protocol.bodies import GradeResponse, Usage
from llmarking.terminal import ExitCode, Terminal

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "demo.py"


def environment(cache: Path) -> dict[str, str]:
    """The tests' own environment with an empty cache, and none of the user's addresses and keys."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LLMARKING_")}
    return kept | {"LLMARKING_CACHE": str(cache), "NO_COLOR": "1", "COLUMNS": "120"}


def demo(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script on the engine without a model."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def left_behind(cache: Path) -> list[psutil.Process]:
    """Processes that were started with this cache and still run."""
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LLMARKING_CACHE") == str(cache):
                left.append(process)
        except psutil.Error:
            continue
    return left


def test_the_whole_course_is_graded_and_summed_up(tmp_path: Path) -> None:
    """Every answer is printed, 80 columns wide, and the table counts what the course holds."""
    course = courses.example_course()

    result = demo(tmp_path, "-m", "scripted")

    assert result.returncode == ExitCode.OK, result.stderr
    for answer in course.answers:
        assert f"{answer.id}  {answer.quality}" in result.stdout
    assert "3 of them again, with evidence and reasons." in result.stdout
    assert "For evidence and reasons of all answers: --explain all" in result.stdout
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in result.stdout
    totals = next(line.split() for line in lines if line.startswith("all "))
    points = sum(len(course.question(a.question_code).points) for a in course.answers)
    assert totals[1:3] == [str(len(course.answers)), str(points)]
    assert left_behind(tmp_path) == []
    assert list((tmp_path / "logs").iterdir()) == []


def test_json_alone_is_on_standard_output(tmp_path: Path) -> None:
    """Its numbers add up, question by question."""
    result = demo(tmp_path, "-m", "scripted", "--json", "--limit", "3", "--shots", "3")

    assert result.returncode == ExitCode.OK, result.stderr
    summary = json.loads(result.stdout)
    rows = summary["questions"]
    assert [row["answers"] for row in rows] == [3] * 10
    for name in ("answers", "points", "points_for_review", "answers_for_review"):
        assert summary[name] == sum(row[name] for row in rows)
    agreed = sum(row["accuracy"] * row["points"] for row in rows)
    assert summary["accuracy"] == pytest.approx(agreed / summary["points"], abs=1e-3)
    assert summary["model"] == "scripted"
    assert summary["shots"] == 3
    assert summary["explained"] == 3
    assert summary["failed"] == 0
    assert "BIO001-03" in result.stderr


def test_verdicts_alone(tmp_path: Path) -> None:
    """Without explanations nothing is graded twice."""
    result = demo(tmp_path, "-m", "scripted", "--limit", "1", "--no-explain")

    assert result.returncode == ExitCode.OK, result.stderr
    assert "of them again" not in result.stdout
    assert "explained in" not in result.stdout
    assert result.stdout.count("BIO001-01") == 1


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_no_server_outlives_the_demo(tmp_path: Path, sent: signal.Signals, status: int) -> None:
    """Ctrl-C, SIGTERM and a closed terminal stop the server too."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "-m", "scripted"],
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "listening on" in line)
        assert len(left_behind(tmp_path)) == 2, line
        process.send_signal(sent)
        assert process.wait(timeout=60) == status
    finally:
        process.kill()
        process.communicate()
    assert left_behind(tmp_path) == []
    assert list((tmp_path / "logs").iterdir()) == []


def test_a_server_that_cannot_start_is_explained(tmp_path: Path) -> None:
    """The end of its log is shown, and the log is kept."""
    result = demo(tmp_path, "-m", "no such model")

    assert result.returncode == ExitCode.UNREACHABLE
    assert "the server ended before it was ready (status 2)" in result.stderr
    assert "no model, hub id or folder is called 'no such model'" in result.stderr
    (log,) = (tmp_path / "logs").iterdir()
    assert str(log) in result.stderr
    assert result.stdout == ""


def settings(url: str, **others: object) -> DemoSettings:
    return DemoSettings(model="scripted", url=url, **others)  # type: ignore[arg-type]


def test_a_running_server_is_used_and_left_alone(
    live_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        demo_ = Demo(settings(live_server, limit=1), courses.example_course(), Terminal())
        assert demo_.run() == ExitCode.OK
    assert "The server was ready after" not in capsys.readouterr().out


def test_a_key_is_sent(live_server_factory: ServerFactory) -> None:
    url = live_server_factory(api_keys=("a-key-of-the-test",))
    course = courses.example_course()

    with pytest.raises(RequestRefused, match="wants an API key"):
        Demo(settings(url, limit=1), course, Terminal()).run()
    wanted = settings(url, limit=1, api_key="a-key-of-the-test")
    assert Demo(wanted, course, Terminal()).run() == ExitCode.OK


def test_answers_that_do_not_fit_are_counted(
    live_server_factory: ServerFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are graded all the same, and the exit status says that some are missing."""
    question = courses.example_course().questions[0]
    long = " ".join(map(str, range(2000)))
    texts = ("water leaves the cells", long, "osmosis")
    answers = [StudentAnswer(f"A{n}", question.code, text) for n, text in enumerate(texts)]
    course = courses.Course("TEST", "", (question,), tuple(answers))
    url = live_server_factory(ScriptedEngine(context=4000))

    demo_ = Demo(settings(url, explain=0, as_json=True), course, Terminal())

    assert demo_.run() == ExitCode.PARTIAL
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert (summary["answers"], summary["failed"]) == (2, 1)
    assert summary["kappa"] is None
    assert "A1  not graded: answer: the prompt is" in shown.err


def marked(number: int, code: str, quality: str) -> Marked:
    point = Point(id=1, mark=1.0, cases=("a point",))
    question = Question(code, "?", 1.0, "a point", (point,))
    grade = GradeResponse(
        mark=0, full_mark=1, points=[], flags=[], needs_review=False, model="m", method="verdict",
        shots=0, prompt_version="v", usage=Usage(),
    )  # fmt: skip
    return Marked(question, StudentAnswer(f"{code}-{number}", code, "", quality=quality), grade)


def test_the_explained_answers_differ_in_question_and_quality() -> None:
    qualities = ("wrong", "right", "half", "manipulative")
    answers = [marked(n, code, q) for code in ("A", "B", "C") for n, q in enumerate(qualities)]

    chosen = [(one.question.code, one.answer.quality) for one in choose(answers, 4)]

    assert chosen == [("A", "half"), ("B", "right"), ("C", "manipulative"), ("A", "right")]
    assert choose(answers, None) == answers
    assert choose(answers, 0) == []
    everyone = choose(answers, 99)
    assert {one.answer.id for one in everyone} == {one.answer.id for one in answers}
    assert len(everyone) == len(answers)


@pytest.mark.parametrize(
    ("model", "hand", "expected"),
    [
        ("TTFF", "TTFF", 1.0),
        ("TTFF", "FFTT", -1.0),
        ("TFTF", "TTFF", 0.0),
        ("TTTT", "TTFF", 0.0),  # all True agrees half the time, as chance does
        ("TTTF", "TTFF", 0.5),
        ("TTTT", "TTTT", None),
        ("", "", None),
    ],
)
def test_kappa(model: str, hand: str, expected: float | None) -> None:
    assert kappa([c == "T" for c in model], [c == "T" for c in hand]) == expected


def test_kappa_is_that_of_the_metrics() -> None:
    """The demo has a small one of its own, for it starts without scipy and scikit-learn."""
    pytest.importorskip("sklearn")
    from llmarking.metrics.agreement import point_metrics

    for number in range(1, 256):
        model = [bool(number >> bit & 1) for bit in range(4)]
        hand = [bool(number >> bit & 1) for bit in range(4, 8)]
        ours, theirs = kappa(model, hand), point_metrics(hand, model)["kappa"]
        assert (ours is None and math.isnan(theirs)) or ours == pytest.approx(theirs, abs=1e-4)


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("INFO llmarking.server: here", flush=True)
time.sleep(600)
"""


def test_a_server_that_ignores_sigterm_is_killed_with_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "server.py"
    script.write_text(STUBBORN)
    monkeypatch.setattr(demo_server, "SERVER", script)
    monkeypatch.setattr(demo_server, "STOP_SECONDS", 0.2)
    monkeypatch.setenv("LLMARKING_CACHE", str(tmp_path))

    with started("a model", "auto") as server:
        while "here" not in server.log.read_text():
            assert server.process.poll() is None
        group = [p for p in left_behind(tmp_path) if os.getpgid(p.pid) == server.process.pid]
        assert len(group) == 2

    gone, alive = psutil.wait_procs(group, timeout=10)
    assert alive == [], gone


def test_a_server_that_dies_is_reported_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of ours are told while it loads; the libraries' are in the log only."""
    script = tmp_path / "server.py"
    script.write_text(
        "import sys, time\n"
        "print('INFO llmarking.server: loading it', flush=True)\n"
        "print('(EngineCore pid=1) noise of a library', flush=True)\n"
        "print('Some-Model from pypi: 40 %', flush=True)\n"
        "time.sleep(1)\n"
        "sys.exit(7)\n"
    )
    monkeypatch.setattr(demo_server, "SERVER", script)

    def load(server: Running) -> None:
        server.wait_ready(Terminal())

    with (
        pytest.raises(ServerUnreachable, match=r"(?s)\(status 7\).*noise of a library") as caught,
        started("a model", "auto", tmp_path) as server,
    ):
        load(server)

    assert isinstance(caught.value, LLMarkingError)
    told = capsys.readouterr().err
    assert "loading it" in told
    assert "Some-Model from pypi: 40 %" in told
    assert "noise" not in told
