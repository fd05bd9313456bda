#!/usr/bin/env python
"""Make the runs of docs/results.md, publish their figures in results/published, and write the page.

Each model gets a server of its own, started and stopped here, or the one at --url. What is done is
never done again, so the command can be stopped and repeated, also with another part of the runs:

    python bench/publish.py --plan                          what is done and what is not
    python bench/publish.py                                 everything
    python bench/publish.py --models SmolLM2-135M-Instruct --methods verdict --minutes 9
    python bench/publish.py --methods prose -t 200 -- --gpu-memory-utilization 0.8
    python bench/publish.py --page                          measure and write the page again

The prose method is run on the bare model, without the adapter that ships for verdicts. Answers stay
in --work; metrics, what was run and plots are published, after a check that no text of a course is
in them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llmarking.client import Client
from llmarking.console.demo_server import signals_end_the_block, started
from llmarking.datasets import finding as datasets
from llmarking.errors import InputError
from llmarking.evaluation import leaderboard, report_files
from llmarking.evaluation.folder import Key, folder_name, read_run, read_samples
from llmarking.evaluation.plan import key_of, plan
from llmarking.evaluation.run_metrics import measure
from llmarking.models import adapters, catalogue
from llmarking.terminal import ExitCode, Terminal, run

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "results" / "published"
PAGE = ROOT / "docs" / "results.md"
MODELS = ("Qwen2.5-Coder-1.5B-Instruct", "SmolLM2-135M-Instruct")
METHODS = ("verdict", "prose")
# Only the original's courses come with graded examples to show.
SHOTS = {
    "INT": ("0", "1", "2"),
    "CPT": ("0", "1", "2"),
    "sciEntsBank-2way-test-unseen-answers": ("0",),
    "beetle-2way-test-unseen-answers": ("0",),
    "saf-english-training": ("0",),
}
EXAMPLES = {"0": 0, "1": 1, "2": 3}  # what -n of eval_short_batched.py means
# Answers to each question, drawn by the run's seed, where prose over a whole set takes hours.
DRAWN = {"saf-english-training": 20}
LEAST = 20  # letters of a text that are looked for in what is published
HEAD = """\
# Results

<!-- Written by `python bench/publish.py --page` from results/published and results/others.json. -->

How the default model and the small test model agree with teachers, beside simple baselines and the
published figures of others. Every figure of ours is in `results/published/`, with what was run,
down to the hashes of data and prompt; `python bench/publish.py` makes all of it again, but for the
verdicts of the bare small model, which were read before an adapter shipped for it. Verdicts with an
adapter were read once and taken over to the calibration that ships now by `bench/recalibrate.py`;
`recalibrated_from` in their `run.json` says so. How to read the
numbers is in [evaluation.md](evaluation.md). INT and CPT are courses of the original LLMarking;
they, SciEntsBank's and Beetle's unseen answers are in nothing that was trained or fitted here. Of
SAF, whose English part has a training split only, 20 answers to each question are drawn; its fully
right and fully wrong answers are among what the shipped adapters were trained on, which flatters
them there.
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One run that is published."""

    model: str
    method: str
    course: str
    shots: str

    @property
    def flags(self) -> tuple[str, ...]:
        """What its server is started with."""
        ships = adapters.shipped(catalogue.resolve(self.model))
        return ("--no-adapter",) if ships and self.method == "prose" else ()

    @property
    def adapter(self) -> str | None:
        """What grades beside the model."""
        ships = adapters.shipped(catalogue.resolve(self.model))
        return ships.name if ships and self.method == "verdict" else None

    def folder(self, work: Path) -> Path | None:
        """Where its answers are, if there are any; runs with another adapter are other runs."""
        for path in sorted((work / folder_name(self.course)).glob("*/*/run.json")):
            what = read_run(path.parent)["configuration"]
            mine = (self.model, self.adapter, self.method, EXAMPLES[self.shots])
            if tuple(what[name] for name in ("model", "adapter", "method", "shots")) == mine:
                return path.parent
        return None

    def done(self, work: Path) -> int:
        """Answers that are graded."""
        folder = self.folder(work)
        return len(read_samples(folder)) if folder else 0

    def __str__(self) -> str:
        return f"{self.model}  {self.method}  {self.course}  -n {self.shots}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="publish.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--plan", action="store_true", help="list the runs and what is done")
    parser.add_argument("--page", action="store_true", help="measure, publish and write, no more")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--courses", nargs="+", default=tuple(SHOTS), choices=tuple(SHOTS))
    parser.add_argument("--shots", nargs="+", default=("0", "1", "2"), choices=("0", "1", "2"))
    parser.add_argument("--limit", type=int, help="answers to each question: to try it out")
    parser.add_argument("--minutes", type=float, help="stop after so long, keeping what is done")
    parser.add_argument("-t", "--threads", default="10", help="answers asked for at once: 10")
    parser.add_argument("--source", default="auto", help="where weights come from: auto")
    parser.add_argument("--url", help="a server that runs the one model that is asked for")
    parser.add_argument("--work", type=Path, default=ROOT / "results", help="where answers stay")
    parser.add_argument("server", nargs="*", help="after --: flags for vllm_server.py")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run with these arguments, or the command line's; return the exit status."""
    args = _parser().parse_args(argv)
    terminal = Terminal()
    jobs = [
        Job(model, method, course, shots)
        for model in args.models
        for method in args.methods
        for course in args.courses
        for shots in SHOTS[course]
        if shots in args.shots
    ]

    def body() -> int:
        if args.plan:
            for job in jobs:
                terminal.write(f"{_state(job, args)}  {job}\n")
            return ExitCode.OK
        status = ExitCode.OK if args.page else _grade(jobs, args, terminal)
        if args.limit is None:  # else it was tried out
            published = [job for job in jobs if _publish(job, args.work, terminal)]
            terminal.note(f"{len(published)} of {len(jobs)} runs are published")
            if published:
                write_page()
        return status

    with signals_end_the_block():
        return run("publish.py", body)


def _limit(job: Job, tried: int | None) -> int | None:
    """Answers to each question, or None for all."""
    return tried or DRAWN.get(job.course)


def _keys(course: datasets.Course, limit: int | None) -> list[Key]:
    """The answers that the run is over."""
    return [key_of(answer) for _, answer in plan(course, shots=0, limit=limit, seed=0)]


def _state(job: Job, args: argparse.Namespace) -> str:
    wanted = len(_keys(datasets.load(job.course), _limit(job, args.limit)))
    return f"{job.done(args.work):>5} of {wanted:>5}"


def _grade(jobs: Sequence[Job], args: argparse.Namespace, terminal: Terminal) -> ExitCode:
    """Grade what is not graded, server by server, until the time is over."""
    end = time.monotonic() + 60 * args.minutes if args.minutes else None
    for model, flags in dict.fromkeys((job.model, job.flags) for job in jobs):
        open_jobs = [
            job
            for job in jobs
            if (job.model, job.flags) == (model, flags) and _open(job, args.work, args.limit)
        ]
        if not open_jobs:
            continue
        with ExitStack() as stack:
            url, api_key = args.url, os.environ.get("LLMARKING_API_KEY", "")
            if url is None:
                server = stack.enter_context(
                    started(model, args.source, flags=[*flags, *args.server])
                )
                terminal.note(f"{model} {' '.join(flags)}")
                server.wait_ready(terminal)
                url, api_key = server.url, server.key
            with Client(url, api_key or None) as client:
                if (served := client.models()[0].model) != model:
                    raise InputError(f"{url} runs {served}, not {model}")
            for job in open_jobs:
                terminal.note(f"{_state(job, args)}  {job}")
                status = _evaluate(job, args, url, api_key, end)
                if status == ExitCode.INTERRUPTED:
                    terminal.note("stopped; the same command goes on")
                    return ExitCode.PARTIAL
                if status not in (ExitCode.OK, ExitCode.PARTIAL):
                    return ExitCode(status)
    return ExitCode.OK


def _open(job: Job, work: Path, limit: int | None) -> bool:
    """Whether answers are missing."""
    return job.done(work) < len(_keys(datasets.load(job.course), _limit(job, limit)))


def _evaluate(job: Job, args: argparse.Namespace, url: str, api_key: str, end: float | None) -> int:
    """Run the script as anybody would; at the end of the time, press Ctrl-C."""
    command = [sys.executable, str(ROOT / "eval_short_batched.py"), "-c", job.course]
    command += ["-n", job.shots, "--method", job.method, "-t", args.threads, "--resume"]
    command += ["--out", str(args.work), "--url", url]
    limit = _limit(job, args.limit)
    command += ["--limit", str(limit)] if limit else []
    env = {**os.environ, "LLMARKING_API_KEY": api_key}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)
    try:
        return process.wait(None if end is None else max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
        return ExitCode.INTERRUPTED
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()


def _publish(job: Job, work: Path, terminal: Terminal) -> bool:
    """Measure a run that is whole and put its figures where they are kept; whether it is there."""
    source = job.folder(work)
    course = datasets.load(job.course)
    order = _keys(course, _limit(job, None))
    samples = read_samples(source) if source else {}
    if source is None or len(samples) < len(order):
        return job.folder(PUBLISHED) is not None  # made elsewhere, or before
    what = read_run(source)
    if what["configuration"]["data_sha256"] != course.sha256:
        raise InputError(f"{source} was made with other data than {job.course} holds now")
    numbers = measure(course, order, samples, seed=what["configuration"]["seed"])
    numbers["failed"] = []
    target = Target(PUBLISHED / source.relative_to(work), course)
    target.write("run.json", json.dumps(what, indent=1) + "\n")
    target.write("metrics.json", json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    report_files.write(target, what, numbers, plots=True)
    terminal.note(f"published {os.path.relpath(target.path)}")
    return True


@dataclass(frozen=True, slots=True)
class Target:
    """A folder of published figures, which takes no text of the course."""

    path: Path
    course: datasets.Course

    def write(self, name: str, content: str) -> None:
        """Write a file; reports are left out, they can be made from the figures.

        Raises:
            InputError: it holds something that a student wrote, a question or a reference.
        """
        if name.startswith("report."):
            return
        for text in _texts(self.course):
            if text in content or json.dumps(text)[1:-1] in content:
                raise InputError(f"{name} holds text of {self.course.name} and is not published")
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


def _texts(course: datasets.Course) -> Iterator[str]:
    """The start of everything in a course that its authors wrote."""
    for question in course.questions:
        texts = [question.text, question.reference, *(e.answer for e in question.examples)]
        texts += [case for point in question.points for case in point.cases]
        yield from (text.strip()[:60] for text in texts if len(text.strip()) >= LEAST)
    for answer in course.answers:
        if len(text := answer.text.strip()) >= LEAST:
            yield text[:60]


def write_page() -> None:
    """Write docs/results.md from what is published."""
    runs = leaderboard.entries(PUBLISHED)
    others = leaderboard.read_others(ROOT / "results" / leaderboard.OTHERS)
    PAGE.write_text(HEAD + "\n" + leaderboard.page(runs, others, PAGE.parent), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
