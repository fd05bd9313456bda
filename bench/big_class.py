"""A class of 10,000 answers on a server without a model: `python -m bench.big_class`.

Hands it in, lets 20 clients ask for the job while it is graded, and asks for the first page of
answers and for the results. What is measured is everything but the model. Prints one JSON object;
seconds are those of the clients, memory is that of the server's process.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.crash_jobs import Server, class_of, databases


class Memory(threading.Thread):
    """Watches the resident memory of a process, in MiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self.peak = self.now()

    def now(self) -> float:
        """MiB at this moment."""
        return float(self._process.memory_info().rss) / 2**20

    def run(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, self.now())

    def stop(self) -> float:
        """The highest it was."""
        self._over.set()
        self.join()
        return self.peak


def ready(server: Server) -> None:
    """Return when the server can work."""
    while True:
        server.check()
        try:
            if httpx.get(f"{server.url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)


def timed(http: httpx.Client, url: str) -> float:
    """Seconds that a GET takes, its body read to the end."""
    began = time.monotonic()
    http.get(url).raise_for_status()
    return time.monotonic() - began


def poll(url: str, job: str, course: str, over: threading.Event, took: list[float]) -> None:
    """Ask as a page does that watches a job: how far it is, and for its answers."""
    with httpx.Client(timeout=60) as http:
        while not over.is_set():
            took.append(timed(http, f"{url}/jobs/{job}"))
            took.append(timed(http, f"{url}/courses/{course}/answers?order=risk&limit=50"))
            over.wait(1.0)


def measure(server: Server, pid: int, size: int, watchers: int) -> dict[str, Any]:
    """Everything, with the server ready."""
    body = json.dumps(class_of(size, 0)).encode()
    memory = Memory(pid)
    memory.start()
    before = memory.now()
    with httpx.Client(base_url=server.url, timeout=120) as http:
        began = time.monotonic()
        job = http.post("/jobs", content=body, headers={"Content-Type": "application/json"}).json()
        accepted = time.monotonic() - began
        after_upload = memory.now()
        over, took = threading.Event(), [[] for _ in range(watchers)]  # type: ignore[var-annotated]
        threads = [
            threading.Thread(target=poll, args=(server.url, job["id"], job["course"], over, each))
            for each in took
        ]
        for thread in threads:
            thread.start()
        first = None
        while (found := http.get(f"/jobs/{job['id']}").json())["state"] != "finished":
            if first is None and found["counts"]["graded"]:
                first = time.monotonic() - began
            time.sleep(0.2)
        graded = time.monotonic() - began - accepted
        over.set()
        for thread in threads:
            thread.join()
        after_job = memory.now()
        pages = [
            timed(http, f"/courses/{job['course']}/answers?order={order}&limit=50")
            for order in ("risk", "upload")
            for _ in range(5)
        ]
        files = {
            kind: timed(http, f"/jobs/{job['id']}/results?format={kind}")
            for kind in ("json", "csv", "xlsx")
        }
    polls = sorted(second for each in took for second in each)
    return {
        "answers": size,
        "body_mib": round(len(body) / 2**20, 1),
        "accepted_s": round(accepted, 2),
        "first_mark_s": None if first is None else round(first, 2),
        "graded_s": round(graded, 1),
        "watchers": watchers,
        "polls": len(polls),
        "poll_median_s": round(statistics.median(polls), 3),
        "poll_p95_s": round(polls[int(0.95 * len(polls))], 3),
        "page_of_answers_worst_s": round(max(pages), 3),
        "results_s": {kind: round(seconds, 2) for kind, seconds in files.items()},
        "memory_mib": {
            "ready": round(before),
            "accepted": round(after_upload),
            "graded": round(after_job),
            "peak": round(memory.stop()),
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Start a server, measure, print."""
    p = argparse.ArgumentParser(
        prog="python -m bench.big_class",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--answers", type=int, default=10_000)
    p.add_argument("--watchers", type=int, default=20)
    p.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    flags = p.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="big") as name:
        folder = Path(name)
        with databases(flags.database, folder) as make:
            server = Server(make(), "scripted", folder)
            try:
                server.start()
                ready(server)
                found = measure(server, server.pid, flags.answers, flags.watchers)
            finally:
                server.kill()
    about = {"database": flags.database, "cores": psutil.cpu_count(), "machine": platform.machine()}
    print(json.dumps({**found, **about, "python": platform.python_version()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
