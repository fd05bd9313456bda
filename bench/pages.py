#!/usr/bin/env python3
"""How long the teacher's pages take to answer while many of them watch a class being graded.

Starts a server on the engine without a model and the pages in front of it, hands in a class, and
lets visits look at it as an open page does: once every 1.5 seconds, the table fetched when
something has changed. What is timed is the reply to each look, at the address of the pages.

    python bench/pages.py                        1 and then 20 pages, 20 seconds each
    python bench/pages.py --pages 50 --answers 20000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx

from llmarking.client import Client
from llmarking.datasets import courses

ROOT = Path(__file__).resolve().parents[1]
EVERY = 1.5
LIMIT = 0.5  # seconds: what the slowest twentieth may take


@contextmanager
def program(*command: str, **environment: str) -> Iterator[str]:
    """One of our scripts on a free port; yields its address once it listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, *command, "--port", str(port)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    yield f"http://127.0.0.1:{port}"
                    return
            time.sleep(0.1)
        raise TimeoutError(f"{command[0]} did not start")
    finally:
        process.terminate()
        process.wait(timeout=30)


def hand_in(client: Client, answers: int) -> str:
    """A class of different answers to the questions of the example course; its id."""
    course = courses.example_course()
    given = [course.answers[n % len(course.answers)] for n in range(answers)]
    job = client.create_job(
        {
            "course": {"name": "bench"},
            "questions": [
                {"code": q.code, "text": q.text, "reference": courses_markup(q)}
                for q in course.questions
            ],
            "answers": [
                {"student": f"{n:06}", "question": a.question_code, "text": f"{a.text} ({n})"}
                for n, a in enumerate(given)
            ],
        }
    )
    return job.course


def courses_markup(question: Any) -> str:
    """The points of a question as markup."""
    return " ".join(
        f"<Point{p.id}:{p.mark:g}>{p.cases[0]}<Point{p.id}:{p.mark:g}>" for p in question.points
    )


async def looks(pages: str, course: str, count: int, seconds: float) -> list[float]:
    """Seconds that each look took, of `count` visits that look for so long."""
    async with httpx.AsyncClient(base_url=pages, follow_redirects=True, timeout=60) as http:
        await http.get("/login")
        config = (await http.get("/config")).json()
        tick = next(
            number
            for number, dependency in enumerate(config["dependencies"])
            if any(event == "tick" for _, event in dependency["targets"])
        )
        taken: list[float] = []
        end = time.monotonic() + seconds

        async def visit(number: int) -> None:
            await asyncio.sleep(EVERY * number / count)
            while time.monotonic() < end:
                began = time.monotonic()
                reply = await http.post(
                    "/gradio_api/run/predict",
                    json={
                        "data": [course, None, None],
                        "fn_index": tick,
                        "session_hash": f"bench{number}",
                    },
                )
                reply.raise_for_status()
                taken.append(time.monotonic() - began)
                await asyncio.sleep(max(0.0, EVERY - taken[-1]))

        await asyncio.gather(*map(visit, range(count)))
    return taken


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args(arguments)
    rows = {}
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        store = f"sqlite:///{home}/llmarking.db"
        server = stack.enter_context(
            program("vllm_server.py", "-m", "scripted", "--database-url", store)
        )
        pages = stack.enter_context(program("teacher_entry.py", "--url", server))
        client = stack.enter_context(Client(server))
        client.wait_ready()
        course = hand_in(client, options.answers)
        for count in (1, options.pages):
            taken = asyncio.run(looks(pages, course, count, options.seconds))
            job = client.jobs(course)[0]
            rows[count] = {
                "looks": len(taken),
                "median_s": round(statistics.median(taken), 4),
                "p95_s": round(sorted(taken)[int(0.95 * (len(taken) - 1))], 4),
                "longest_s": round(max(taken), 4),
                "graded": job.counts.graded,
                "state": job.state,
            }
            print(count, "pages:", rows[count], flush=True)
    many = rows[options.pages]["p95_s"]
    assert isinstance(many, float)
    result = {
        "pages": rows,
        "p95_of_limit": round(many / LIMIT, 3),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "python": platform.python_version(),
    }
    print(json.dumps(result))
    return 0 if many <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
