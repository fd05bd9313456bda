#!/usr/bin/env python
"""What marking costs us besides the model: the real server on an engine that answers at once.

The real app with the real tokenizer runs under uvicorn in this process, the clients in another, so
that processor time counted here is the server's alone. Printed are answers per second, milliseconds
of processor time an answer, and what each stage takes of them when it is run by itself.

    python bench/overhead.py --out results/overhead/NAME.json
    python bench/overhead.py --ways grade --screeners 0 2 4
    python bench/overhead.py --ways grade --profile

Answers per second hold for a machine with two free cores: one for the server, one for the clients.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import uvicorn

from bench.load import Senders
from bench.serving import machine
from bench.throughput import Work, pairs
from llmarking.calls.call import question_body
from llmarking.domain import Reading
from llmarking.engines.engine import EngineInfo
from llmarking.engines.scripted import ScriptedEngine
from llmarking.engines.tokenizing import HubTokenizer
from llmarking.grading.grader import GradeOptions, Grader
from llmarking.grading.prompting import Template, class_prompt, versions
from llmarking.models import catalogue, hub
from llmarking.protocol.bodies import GradeRequest
from llmarking.screening.screen import screen
from llmarking.server.app import create_app
from llmarking.server.routes.grading import grade_response
from llmarking.server.service import Service
from llmarking.settings import ServerSettings
from llmarking.store.database import open_store

AT_ONCE = 256


class InstantEngine(ScriptedEngine):
    """Reads nothing: every point of every answer gets the same two log-probabilities at once."""

    def __init__(self, tokenizer: HubTokenizer, name: str) -> None:
        super().__init__()
        self._hub_tokenizer = tokenizer
        self._instant = EngineInfo(model=name, context=32_768, dtype="none")

    @property
    def info(self) -> EngineInfo:
        return self._instant

    @property
    def tokenizer(self) -> Any:
        return self._hub_tokenizer

    async def read(
        self,
        prompt: Sequence[int],
        tails: Sequence[Sequence[int]],
        token_ids: Sequence[int],
        *,
        request_id: str,
        adapter: str | None = None,
    ) -> Reading:
        await asyncio.sleep(0)
        return Reading([[-0.5, -1.0] for _ in tails], len(prompt), 0)


def main() -> int:
    """Run the ways asked for and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", default=catalogue.default_model().name)
    parser.add_argument("--courses", nargs="+", default=["data/training", "EXAMPLE"])
    parser.add_argument("--answers", type=int, help="no more than these")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument(
        "--screeners", nargs="+", type=int, default=[0], help="a run for each number of processes"
    )
    parser.add_argument("--profile", action="store_true", help="also print where the time goes")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    work = Work(tuple(pairs(args.courses, args.answers)))
    spec = catalogue.resolve(args.model)
    engine = InstantEngine(HubTokenizer.from_folder(hub.fetch(spec).path), spec.name)
    found: dict[str, Any] = {
        "machine": machine(),
        "model": f"none; tokenizer of {spec.name}",
        "answers": len(work.pairs),
        "points": work.points,
        "ways": {
            f"{way}, {screeners} screeners" if screeners else way: _measured(
                way, engine, work, screeners=screeners, profile=args.profile
            )
            for way in args.ways
            for screeners in args.screeners
        },
        "stages": asyncio.run(_stages(engine, work)),
    }
    print(table(found))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _measured(
    way: str, engine: InstantEngine, work: Work, *, screeners: int, profile: bool
) -> dict[str, float]:
    """Serve, let clients in another process send everything, and look at the clocks."""
    with _serving(engine, screeners, profile=profile) as url:
        seconds, cpu = WAYS[way](url, work)
    count = len(work.pairs)
    return {
        "answers_per_second": round(count / seconds, 1),
        "cpu_ms_per_answer": round(1000 * cpu / count, 3),
        "wall_ms_per_answer": round(1000 * seconds / count, 3),
    }


@contextmanager
def _serving(engine: InstantEngine, screeners: int, *, profile: bool) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as scratch, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        store = open_store(f"sqlite:///{scratch}/jobs.db")
        settings = ServerSettings(max_queue=100_000, screeners=screeners)
        app = create_app(engine, settings, store)
        config = uvicorn.Config(app, log_level="error", access_log=False, timeout_keep_alive=75)
        server = uvicorn.Server(config)
        profiler = cProfile.Profile(time.thread_time)

        def run() -> None:
            if profile:
                profiler.enable()
            server.run(sockets=[listener])
            profiler.disable()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            service: Service = app.state.service
            while not (
                server.started and service.ready.is_set() and service.screeners.working == screeners
            ):
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            store.close()
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(60)


def _grade_bodies(work: Work) -> list[bytes]:
    return [
        json.dumps({"question": question_body(question), "answer": answer.text}).encode()
        for question, answer in work.pairs
    ]


def _grade(url: str, work: Work) -> tuple[float, float]:
    """Seconds that all answers took through /grade, and processor seconds of this process."""
    with Senders(url, "/grade", _grade_bodies(work), processes=1, at_once=AT_ONCE) as senders:
        cpu = time.process_time()
        seconds = senders.send()
        cpu = time.process_time() - cpu
        senders.replies()  # read after the clocks, that the sender can end
    return seconds, cpu


def _job(url: str, work: Work) -> tuple[float, float]:
    """The same as one class. The client is in this process: it asks ten times a second."""
    codes = {id(q): f"q{n}" for n, q in enumerate({id(q): q for q, _ in work.pairs}.values())}
    questions = {codes[id(q)]: {**question_body(q), "code": codes[id(q)]} for q, _ in work.pairs}
    answers = [
        {"id": str(n), "student": str(n), "question": codes[id(q)], "text": answer.text}
        for n, (q, answer) in enumerate(work.pairs)
    ]
    body = {"course": {"name": "bench"}, "questions": [*questions.values()], "answers": answers}
    with httpx.Client(base_url=url, timeout=None, trust_env=False) as http:
        content = json.dumps(body).encode()
        started, cpu = time.perf_counter(), time.process_time()
        json_body = {"content-type": "application/json"}
        job = http.post("/jobs", content=content, headers=json_body).raise_for_status().json()
        while job["state"] not in ("finished", "cancelled"):
            time.sleep(0.1)
            job = http.get(f"/jobs/{job['id']}").json()
        http.get(f"/jobs/{job['id']}/results", params={"limit": 100_000}).raise_for_status()
        return time.perf_counter() - started, time.process_time() - cpu


WAYS: dict[str, Callable[[str, Work], tuple[float, float]]] = {"grade": _grade, "job": _job}


async def _stages(engine: InstantEngine, work: Work) -> dict[str, float]:
    """Milliseconds of processor time an answer, of each stage run by itself over all answers."""
    bodies = _grade_bodies(work)
    template = Template("verdict", 0, versions("verdict")[-1])
    shared = {
        id(question): class_prompt(question, (), template, engine.tokenizer)
        for question, _ in work.pairs
    }
    requests = [GradeRequest.model_validate_json(body) for body in bodies]
    service = Service(engine, ServerSettings(), lambda reason: None)
    grader = Grader(engine)
    found = {
        "check the body, parse the rubric": _spent(
            bodies, lambda body: GradeRequest.model_validate_json(body).question.question()
        ),
        "screen": _spent(work.pairs, lambda pair: screen(pair[1].text, pair[0])),
        "tokenize the answer": _spent(
            work.pairs,
            lambda pair: shared[id(pair[0])].with_answer(pair[1].text, engine.tokenizer).ids,
        ),
    }
    start = time.process_time()
    graded = [await grader.grade(q, a.text, GradeOptions()) for q, a in work.pairs]
    whole = 1000 * (time.process_time() - start) / len(work.pairs)
    found["grade, all of it"] = round(whole, 3)
    found["answer"] = _spent(
        list(zip(graded, requests, strict=True)),
        lambda pair: grade_response(service, pair[0], pair[1]).model_dump(mode="json"),
    )
    return found


def _spent(rows: Sequence[Any], work: Callable[[Any], object]) -> float:
    start = time.process_time()
    for row in rows:
        work(row)
    return round(1000 * (time.process_time() - start) / len(rows), 3)


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [f"{found['answers']} answers, {found['points']} points; {found['machine']}", ""]
    lines += ["| | answers/s | ms of processor an answer |", "|---|---|---|"]
    lines += [
        f"| {way} | {row['answers_per_second']:.0f} | {row['cpu_ms_per_answer']:.2f} |"
        for way, row in found["ways"].items()
    ]
    lines += ["", "| stage by itself | ms of processor an answer |", "|---|---|"]
    lines += [f"| {stage} | {ms:.3f} |" for stage, ms in found["stages"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
