"""The evaluation as a process of its own, over real servers with an engine without a model."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import serving, wait_until
from terminal_session import ROOT, environment, run_piped

from bench.evaluation_memory import peak
from llmarking.calls.attempts import Retry
from llmarking.datasets import finding as datasets
from llmarking.engines.scripted import ScriptedEngine
from llmarking.evaluation.run import Evaluation, EvaluationSettings
from llmarking.settings import ServerSettings
from llmarking.terminal import ExitCode, Terminal

SCRIPT = "eval_short_batched.py"
EXAMPLE = str(ROOT / "data" / "examples" / "course.json")
Serve = Callable[..., str]


class Pausing(ScriptedEngine):
    """The scripted engine; counts its readings, and how many there were at once at most.

    After `most` readings the others wait until `go` is set.
    """

    def __init__(self, pause: float = 0.0, most: float = math.inf) -> None:
        super().__init__(sleep=self._pause)
        self.readings = self.now = self.peak = 0
        self.go = threading.Event()
        self._seconds, self._most = pause, most

    async def _pause(self, _: float) -> None:
        self.readings += 1
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            await asyncio.sleep(self._seconds)
            while self.readings > self._most and not self.go.is_set():  # noqa: ASYNC110 - a thread's
                await asyncio.sleep(0.005)
        finally:
            self.now -= 1


class Result:
    """What a run left and said."""

    def __init__(self, out: Path, done: subprocess.CompletedProcess[bytes]) -> None:
        self.code = done.returncode
        self.stdout, self.stderr = done.stdout.decode(), done.stderr.decode()
        found = list(out.rglob("run.json"))
        self.folder = found[0].parent if found else out

    @property
    def run(self) -> dict[str, Any]:
        return json.loads((self.folder / "run.json").read_text("utf-8"))

    @property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.folder / "metrics.json").read_text("utf-8"))

    @property
    def samples(self) -> list[dict[str, Any]]:
        lines = (self.folder / "samples.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]


def evaluate(out: Path, *args: str, course: str = EXAMPLE, plots: bool = False) -> Result:
    drawn = () if plots else ("--no-plots",)
    return Result(out, run_piped(SCRIPT, "-c", course, "--out", str(out), *drawn, *args))


def start(out: Path, *args: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, ROOT / SCRIPT, "-c", EXAMPLE, "--out", str(out), *args]
    return subprocess.Popen(
        command, env=environment(None), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def answered(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.rglob("samples.jsonl"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run over the shipped course that nothing disturbed."""
    with serving(ScriptedEngine(), ServerSettings()) as url:
        return evaluate(tmp_path_factory.mktemp("whole"), "--url", url, plots=True)


def test_a_run_leaves_everything_and_says_it(whole: Result) -> None:
    assert whole.code == ExitCode.OK, whole.stderr
    assert whole.folder.parts[-3:] == ("EXAMPLE", "scripted", "verdict-0-v1")
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {
        *("run.json", "samples.jsonl", "metrics.json", "report.md", "report.html", "plots")
    }
    what = whole.run["configuration"]
    assert what["prompt_version"] == "verdict/zeroshot.v1"
    assert what["data_sha256"] == datasets.load(EXAMPLE).sha256
    assert len({s["id"] for s in whole.samples}) == whole.metrics["graded"] == 140
    report = (whole.folder / "report.md").read_text("utf-8")
    for shown in (whole.stdout, report):
        for part in ("F1(True)", "all True", "token overlap", "QWK", "518 points", "0.518"):
            assert part in shown
    assert "\x1b" not in whole.stdout
    assert "…" not in whole.stdout
    assert max(map(len, whole.stdout.splitlines())) <= 80


def test_metrics_are_those_of_an_independent_recount(whole: Result) -> None:
    """Kappa, F1 and QWK by counting, from nothing but samples.jsonl."""
    pairs = [(p["teacher"], p["held"]) for s in whole.samples for p in s["points"]]
    n = len(pairs)
    tp, fp, fn = (pairs.count(pair) for pair in [(True, True), (False, True), (True, False)])
    tn = n - tp - fp - fn
    chance = ((tp + fn) * (tp + fp) + (tn + fp) * (tn + fn)) / n**2
    counted = {
        "kappa": ((tp + tn) / n - chance) / (1 - chance),
        "f1_true": 2 * tp / (2 * tp + fp + fn),
        "f1_false": 2 * tn / (2 * tn + fp + fn),
        "accuracy": (tp + tn) / n,
    }
    pooled = whole.metrics["model"]["points"]["pooled"]
    assert pooled["points"] == n == 518
    for name, value in counted.items():
        assert math.isclose(pooled[name]["estimate"], value, abs_tol=1e-9), name
        assert pooled[name]["low"] <= value <= pooled[name]["high"], name
    marks = [(s["teacher_mark"], s["mark"]) for s in whole.samples]
    seen = sum((a - b) ** 2 for a, b in marks) / len(marks)
    expected = sum((a - b) ** 2 for a, _ in marks for _, b in marks) / len(marks) ** 2
    qwk = whole.metrics["model"]["answers"]["pooled"]["qwk"]["estimate"]
    assert math.isclose(qwk, 1 - seen / expected, abs_tol=1e-9)
    true = sum(teacher for teacher, _ in pairs)
    baseline = whole.metrics["baselines"]["all_true"]["points"]["pooled"]
    assert math.isclose(baseline["f1_true"]["estimate"], 2 * true / (n + true), abs_tol=1e-9)
    assert set(whole.metrics["baselines"]) == {
        *("all_true", "all_false", "majority", "token_overlap")
    }


def test_a_killed_run_is_resumed(live_server_factory: Serve, tmp_path: Path, whole: Result) -> None:
    """kill -9 in the middle of a line; no answer is graded twice, and the metrics are the same."""
    engine = Pausing(most=100)
    url = live_server_factory(engine)
    out = tmp_path / "killed"
    process = start(out, "--url", url, "-t", "3")
    wait_until(lambda: answered(out) >= 20)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = answered(out)
    assert kept < 140
    engine.go.set()
    (samples,) = out.rglob("samples.jsonl")
    with samples.open("ab") as file:
        file.write(b'{"id": "BIO001-0')
    wait_until(lambda: engine.now == 0)
    before = engine.readings
    again = evaluate(out, "--url", url, "-t", "50", "--resume")
    assert again.code == ExitCode.OK, again.stderr
    assert engine.readings - before <= 140 - kept
    assert len(again.samples) == 140
    assert again.metrics == whole.metrics
    killed, last = again.run["sessions"]
    assert (killed["ended"], killed["answers"], last["answers"]) == (None, kept, 140 - kept)
    assert killed["began"] <= last["began"] <= last["ended"]


def test_ctrl_c_keeps_what_is_done(
    live_server_factory: Serve, tmp_path: Path, whole: Result
) -> None:
    engine = Pausing(most=60)
    url = live_server_factory(engine)
    process = start(tmp_path / "stopped", "--url", url, "-t", "3")
    wait_until(lambda: answered(tmp_path / "stopped") >= 10)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == ExitCode.INTERRUPTED
    kept = answered(tmp_path / "stopped")
    assert 10 <= kept < 140
    engine.go.set()
    again = evaluate(tmp_path / "stopped", "--url", url, "-t", "50", "--resume")
    assert [session["answers"] for session in again.run["sessions"]] == [kept, 140 - kept]
    assert again.metrics == whole.metrics


def test_servers_share_the_work(live_server_factory: Serve, tmp_path: Path, whole: Result) -> None:
    """So many answers in flight over both."""
    one, two = Pausing(0.01), Pausing(0.01)
    urls = [part for e in (one, two) for part in ("--url", live_server_factory(e))]
    shared = evaluate(tmp_path / "shared", *urls, "-t", "6")
    (session,) = shared.run["sessions"]
    assert sum(session["by_server"]) == 140
    assert min(session["by_server"]) >= 40
    assert 2 <= max(one.peak, two.peak) <= 3
    assert shared.metrics == whole.metrics


def test_a_server_that_dies_is_left_out(live_server_factory: Serve, tmp_path: Path) -> None:
    dying = Pausing(0.01)
    urls = (live_server_factory(dying), live_server_factory(Pausing(0.01)))

    def odds(prompt: str) -> float:
        dying.dead = dying.readings > 12
        return 1.0

    dying._odds = odds
    settings = EvaluationSettings(urls=urls, out=tmp_path, retry=Retry(connect=0.2, busy=0.2))
    status = Evaluation(settings, datasets.load(EXAMPLE), Terminal()).run()
    assert status == ExitCode.OK
    assert answered(tmp_path) == 140


def test_failed_answers_are_listed(
    live_server_factory: Serve, live_server: str, tmp_path: Path, whole: Result
) -> None:
    """And tried again by --resume."""

    def odds(prompt: str) -> float:
        if "So the potato is drier and lighter after" in prompt:
            raise RuntimeError("no odds")
        return ScriptedEngine()._odds(prompt)

    out = tmp_path / "failing"
    failing = evaluate(out, "--url", live_server_factory(ScriptedEngine(odds=odds)))
    assert failing.code == ExitCode.PARTIAL
    assert "not graded: BIO001 BIO001-01: " in failing.stderr
    (failure,) = failing.metrics["failed"]
    assert (failure["id"], failure["status"]) == ("BIO001-01", 500)
    assert failing.metrics["graded"] == 139
    assert "1 of 140 answers were not graded" in " ".join(failing.stdout.split())
    again = evaluate(out, "--url", live_server, "--resume")
    assert again.code == ExitCode.OK
    assert again.metrics == whole.metrics


def test_what_fails_once_is_tried_again(live_server_factory: Serve, tmp_path: Path) -> None:
    """An engine that stumbles over an answer costs nothing but time."""
    stumbled: list[str] = []

    def odds(prompt: str) -> float:
        if "So the potato is drier and lighter after" in prompt and not stumbled:
            stumbled.append(prompt)
            raise RuntimeError("no odds")
        return 1.0

    done = evaluate(tmp_path, "--url", live_server_factory(ScriptedEngine(odds=odds)))
    assert done.code == ExitCode.OK, done.stderr
    assert len(stumbled) == 1
    assert (done.metrics["failed"], done.metrics["graded"]) == ([], 140)


OWN = """\
question_code,question,reference,full_mark,answer,mark
Q1,What is a hash table?,It stores pairs.,2,It stores keys and values,{}
Q1,,,,No idea,{}
Q2,Why?,Because.,2,Because of it,{}
"""


@pytest.mark.parametrize(
    ("marks", "levels", "said"),
    [
        (("1", "0.5", "1.5"), (False, True), "3 answers"),
        (("2", "0", "1"), (True, True), "2 points"),
        (("", "", ""), (False, False), "no mark of a teacher"),
    ],
)
def test_a_course_of_ones_own(
    live_server: str, tmp_path: Path, marks: tuple[str, ...], levels: tuple[bool, bool], said: str
) -> None:
    """A table with marks for whole answers, or none; every report is written."""
    (tmp_path / "own.csv").write_text(OWN.format(*marks), "utf-8")
    course = str(tmp_path / "own.csv")
    done = evaluate(tmp_path / "out", "--url", live_server, course=course, plots=True)
    assert done.code == ExitCode.OK, done.stderr
    model = done.metrics["model"]
    assert (model["points"] is not None, model["answers"] is not None) == levels
    for shown in (done.stdout, (done.folder / "report.html").read_text("utf-8")):
        assert said in shown


def test_only_the_same_run_is_resumed(live_server: str, tmp_path: Path) -> None:
    course = tmp_path / "course.json"
    shutil.copy(EXAMPLE, course)

    def run(*args: str) -> Result:
        given = ("--url", live_server, "--limit", "2", *args)
        return evaluate(tmp_path / "out", *given, course=str(course))

    first = run()
    assert (first.code, len(first.samples)) == (ExitCode.OK, 20)
    untold = run()
    assert (untold.code, "--resume goes on" in untold.stderr) == (ExitCode.BAD_INPUT, True)
    seed = run("--resume", "--seed", "1")
    assert (seed.code, "seed was 0 and is 1" in seed.stderr) == (ExitCode.BAD_INPUT, True)
    more = run("--resume", "--limit", "3")
    assert (more.code, len(more.samples)) == (ExitCode.OK, 30)
    less = run("--resume")
    assert (less.code, "larger --limit" in less.stderr) == (ExitCode.BAD_INPUT, True)
    course.write_text(course.read_text("utf-8") + "\n", "utf-8")
    data = run("--resume", "--limit", "3")
    assert (data.code, "data_sha256 was" in data.stderr) == (ExitCode.BAD_INPUT, True)
    assert len(data.samples) == 30


def test_an_adapter_is_known_by_its_weights(live_server_factory: Serve, tmp_path: Path) -> None:
    """A run goes on with the very adapter it began with, not with another of the same name."""

    def run(version: str, *args: str) -> Result:
        engine = ScriptedEngine(adapters=["mine"])
        adapter = replace(engine.info.adapters["mine"], version=version)
        object.__setattr__(engine.info, "adapters", {"mine": adapter})
        given = ("--url", live_server_factory(engine), "--adapter", "mine", *args)
        return evaluate(tmp_path, *given)

    first = run("1" * 12, "--limit", "1")
    assert first.code == ExitCode.OK, first.stderr
    assert first.folder.parent.name == "scripted+mine"
    what = first.run["configuration"]
    assert (what["adapter"], what["adapter_version"]) == ("mine", "1" * 12)
    other = run("2" * 12, "--limit", "2", "--resume")
    assert (other.code, "adapter_version was" in other.stderr) == (ExitCode.BAD_INPUT, True)
    assert run("1" * 12, "--limit", "2", "--resume").code == ExitCode.OK


def canaries(path: Path) -> Iterator[str]:
    """The shipped course with a word of its own in every answer."""
    course = json.loads(Path(EXAMPLE).read_text("utf-8"))
    for question in course["questions"]:
        for number, answer in enumerate(question["answers"]):
            canary = f"kanarienvogel{question['code']}x{number}"
            answer["answer"] += f" {canary}"
            yield canary
    path.write_text(json.dumps(course), "utf-8")


@pytest.mark.parametrize("args", [[], ["--method", "prose", "-n", "all"]])
def test_no_answer_is_in_the_result(
    live_server_factory: Serve, tmp_path: Path, args: list[str]
) -> None:
    """Nor is the API key; not even of an answer that failed."""

    def odds(prompt: str) -> float:
        if "kanarienvogelBIO001x1" in prompt:
            raise RuntimeError(prompt)
        return 1.0

    key = "a-key-of-a-server"
    url = live_server_factory(ScriptedEngine(odds=odds), api_keys=(key,))
    words = list(canaries(tmp_path / "course.json"))
    options = ("--url", url, "--api-key", key, "-p", "3", *args)
    done = evaluate(tmp_path / "out", *options, course=str(tmp_path / "course.json"))
    assert done.code in (ExitCode.OK, ExitCode.PARTIAL), done.stderr
    assert len(words) == 140
    for path in (tmp_path / "out").rglob("*.*"):
        text = path.read_text("utf-8")
        assert "kanarienvogel" not in text, path.name
        assert key not in text, path.name


def test_what_can_not_be_read_is_counted(live_server_factory: Serve, tmp_path: Path) -> None:
    """No answer gets a verdict, and none is guessed."""
    url = live_server_factory(ScriptedEngine(reply=lambda prompt: "Hard to say."))
    done = evaluate(tmp_path, "--url", url, "--method", "prose", "-n", "1", "--limit", "2")
    assert done.code == ExitCode.OK
    assert done.folder.name == "prose-1-v1"
    assert done.metrics["format_failures"] == 1.0
    assert done.metrics["model"]["answers"]["pooled"]["failures"]["estimate"] == 1.0
    assert {sample["mark"] for sample in done.samples} == {None}
    assert "100.0% of the answers came back without" in " ".join(done.stdout.split())


def test_json_is_one_line(live_server: str, tmp_path: Path) -> None:
    done = evaluate(tmp_path, "--url", live_server, "--limit", "1", "-n", "2", "--json")
    said = json.loads(done.stdout)
    assert said["metrics"] == done.metrics
    assert said["run"] == done.run
    assert Path(said["folder"]) == done.folder
    assert {sample["shots"] for sample in done.samples} == {3}


def test_courses_are_listed() -> None:
    listed = run_piped(SCRIPT, "--list", "--data", str(ROOT / "data")).stdout.decode()
    assert "EXAMPLE" in listed
    found = json.loads(run_piped(SCRIPT, "--list", "--json", "--data", str(ROOT / "data")).stdout)
    assert "EXAMPLE" in [course["name"] for course in found["courses"]]


def test_what_can_not_be_started(live_server: str, tmp_path: Path) -> None:
    assert run_piped(SCRIPT).returncode == ExitCode.USAGE
    assert evaluate(tmp_path, "-t", "0").code == ExitCode.USAGE
    unknown = evaluate(tmp_path, "--url", live_server, course="nowhere")
    assert (unknown.code, "there is no course" in unknown.stderr) == (ExitCode.BAD_INPUT, True)
    nobody = evaluate(tmp_path, "--url", "http://127.0.0.1:9")
    assert nobody.code == ExitCode.UNREACHABLE
    assert not any(os.scandir(tmp_path))


def test_unlike_servers_share_nothing(live_server_factory: Serve, tmp_path: Path) -> None:
    other = ScriptedEngine()
    object.__setattr__(other.info, "model", "another")
    urls = ["--url", live_server_factory(), "--url", live_server_factory(other)]
    done = evaluate(tmp_path, *urls)
    assert (done.code, "must be alike" in done.stderr) == (ExitCode.BAD_INPUT, True)
    assert not any(os.scandir(tmp_path))


@pytest.mark.slow
def test_ten_thousand_answers_fit_in_memory(live_server: str, tmp_path: Path) -> None:
    """Under 1 GB, metrics and plots included, by what each answer adds to a small run.

    `bench/evaluation_memory.py` grades all of them.
    """
    few, more = 140, 1400
    small, large = (peak(size, live_server, tmp_path / str(size)) for size in (few, more))
    assert answered(tmp_path / str(more)) == more
    each = max(0.0, large - small) / (more - few)
    assert large + each * (10_000 - more) < 1_000_000 / 1024
