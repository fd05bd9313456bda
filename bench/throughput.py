#!/usr/bin/env python
"""Answers per second, the original's way and ours, on the same model, answers and machine.

    a  prose, 10 threads, each a request to our server's /generate (the original's way)
    b  prose, 1,000 requests at a time, to vLLM's own server (`vllm serve`)
    c  verdicts through /grade, 1,000 at a time;  j  the same as one class, POST /jobs
    d  verdicts' token ids on the bare engine: a request for each point, everything at once
    e  the least there is to compute: one prefill for each answer, nothing read

Each phase can be run by itself; the file given with --out collects them, and the table is printed
from it. Prose is written by the base model and verdicts are read from the model with its adapter.

    python bench/throughput.py --courses EXAMPLE --answers 40 --out results/throughput/cpu.json
    python bench/throughput.py --phases c j --out results/throughput/cpu.json
    python bench/throughput.py --shape 7b --dummy --courses data/training EXAMPLE --out …

Requests of b and c are sent alike: --at-once at a time, because a server can't accept thousands of
connections in one moment, from --senders processes, because one would be the limit before either
server is. How busy the busiest of them was is kept (senders_busy).

Prose is as long as the model writes it, up to 96 tokens a point and 64 more. How long it was, and
how many replies that cut off, is kept. On two cores take 40 answers or fewer: prose takes minutes.

With --dummy the weights are random and the shape is that of Qwen2.5-7B: nothing can be said about
agreement, and prose is cut at the length that the default model writes (--prose-tokens a point).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx

from bench.load import Senders
from bench.serving import machine, ours, stock
from bench.shapes import dummy_folder
from llmarking.calls.call import question_body
from llmarking.client import Client
from llmarking.console.demo_server import signals_end_the_block
from llmarking.datasets import finding as datasets
from llmarking.domain import Message, Question, StudentAnswer
from llmarking.grading import prose
from llmarking.grading.grader import PROSE_TOKENS_PER_POINT
from llmarking.grading.prompting import (
    PLAIN_VERDICT,
    Slots,
    Template,
    class_prompt,
    versions,
)
from llmarking.models import adapters, catalogue, hub
from llmarking.models.merging import merged_folder

PHASES = {
    "a": "prose, 10 threads, our /generate",
    "b": "prose, many at once, vllm serve",
    "c": "verdicts, /grade",
    "j": "verdicts, POST /jobs",
    "d": "verdicts, bare engine, a request a point",
    "e": "one prefill an answer, nothing read",
}


@dataclass(frozen=True, slots=True)
class Work:
    """What is graded: each answer with its question."""

    pairs: tuple[tuple[Question, StudentAnswer], ...]

    @property
    def points(self) -> int:
        """Verdicts to be had."""
        return sum(len(question.points) for question, _ in self.pairs)


@dataclass(slots=True)
class Tally:
    """What a phase did: its time, its tokens, and a verdict (or None) for every point in order.

    Attributes:
        cut: replies that ended at their most tokens.
        senders_busy: the share of the time that the busiest sender of requests worked; near 1 it,
            and not the server, is what was measured.
    """

    seconds: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    verdicts: list[bool | None] | None = None
    cut: int = 0
    senders_busy: float | None = None


@dataclass(frozen=True, slots=True)
class Setup:
    """Models and flags of a run.

    Attributes:
        model: what `vllm_server.py -m` takes; `base` and `graded` are the folders behind it.
        flags: for every engine alike.
        prompt: version of the verdict prompt.
        senders: processes that send the requests of b and c, `at_once` of them at a time.
    """

    model: str
    base: Path
    graded: Path
    flags: tuple[str, ...]
    gpu: bool
    prose_tokens: int | None
    threads: int
    prompt: str
    senders: int
    at_once: int


def main() -> int:
    """Run the phases and print the table."""
    args = _arguments()
    work = Work(tuple(pairs(args.courses, args.answers)))
    print(f"{len(work.pairs)} answers, {work.points} points", flush=True)
    with contextlib.ExitStack() as stack:
        # A server that outlives this script would keep the machine busy.
        stack.enter_context(signals_end_the_block())
        setup = stack.enter_context(_setup(args))
        found = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
        found |= {
            "machine": machine(),
            "model": Path(setup.model).name,  # a folder says nothing to others
            "answers": len(work.pairs),
            "points": work.points,
            "courses": args.courses,
        }
        found.setdefault("phases", {})
        for group in ("cj", "b", "a", "de"):
            phases = [phase for phase in group if phase in args.phases]
            for phase, tally in _run(phases, setup, work):
                found["phases"][phase] = _figures(tally, work, known=not args.dummy)
                print(f"{phase}: {found['phases'][phase]}", flush=True)
                if args.out:
                    args.out.parent.mkdir(parents=True, exist_ok=True)
                    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", default=catalogue.default_model().name)
    parser.add_argument(
        "--courses", nargs="+", default=["EXAMPLE"], help="names, files, or a folder of files"
    )
    parser.add_argument("--answers", type=int, help="no more than these, from every question alike")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--threads", type=int, default=10, help="of the original's way")
    parser.add_argument(
        "--at-once", type=int, default=1000, help="requests of b and c at a time (default: 1000)"
    )
    parser.add_argument(
        "--senders",
        type=int,
        default=max(1, min(8, len(os.sched_getaffinity(0)) // 2)),
        help="processes that send them (default: %(default)s, by the cores there are)",
    )
    parser.add_argument("--shape", choices=("7b",), help="with --dummy: the shape of the model")
    parser.add_argument("--dummy", action="store_true", help="random weights in the given shape")
    parser.add_argument("--gpu", action="store_true", help="a CUDA GPU runs the engines")
    parser.add_argument(
        "--prose-tokens", type=int, help="with --dummy: tokens of prose for each point"
    )
    parser.add_argument(
        "--prompt", help="version of the verdict prompt (default: that of the model's adapter)"
    )
    parser.add_argument("--out", type=Path, help="a JSON file that collects the phases")
    parser.add_argument("flags", nargs="*", help="after --: further flags for every engine")
    args = parser.parse_args()
    if args.dummy != bool(args.shape) or args.dummy != bool(args.prose_tokens):
        parser.error("--dummy, --shape and --prose-tokens go together")
    return args


@contextlib.contextmanager
def _setup(args: argparse.Namespace) -> Iterator[Setup]:
    flags = list(args.flags)
    if not args.gpu:
        # What our server sets on a CPU, so that the method is all that differs.
        flags += ["--enforce-eager", "--block-size", "32", "--max-model-len", "4096"]
        flags += ["--max-num-seqs", "128"]
    else:
        flags += ["--max-model-len", "4096"]
    spec = catalogue.resolve(args.model)
    fetched = hub.fetch(spec)
    base = graded = fetched.path
    model, prompt = args.model, args.prompt or PLAIN_VERDICT
    with tempfile.TemporaryDirectory() as scratch:
        if args.dummy:
            base = graded = dummy_folder(args.shape, fetched.path, Path(scratch))
            model = str(base)
            flags += ["--load-format", "dummy"]
        elif (adapter := adapters.shipped(spec)) and not args.gpu:
            graded = merged_folder(fetched.path, fetched.digest, adapter)
            prompt = args.prompt or adapter.prompt
        yield Setup(
            model,
            base,
            graded,
            tuple(flags),
            args.gpu,
            args.prose_tokens,
            args.threads,
            prompt,
            args.senders,
            args.at_once,
        )


def pairs(courses: Sequence[str], most: int | None) -> Iterator[tuple[Question, StudentAnswer]]:
    """Distinct answers, in turn from every question until there are enough."""
    by_question: list[list[tuple[Question, StudentAnswer]]] = []
    for name in courses:
        files = sorted(Path(name).glob("*.json")) if Path(name).is_dir() else [name]
        for file in files:
            course = datasets.load(file)
            for question in course.questions:
                texts = {
                    answer.text: (question, answer)
                    for answer in course.answers
                    if answer.question_code == question.code and answer.verdicts
                }
                by_question.append(list(texts.values()))
    total = sum(map(len, by_question))
    share = 1.0 if most is None else min(1.0, most / total)
    for rows in by_question:
        yield from rows[: max(1, round(len(rows) * share))]


def _run(phases: Sequence[str], setup: Setup, work: Work) -> Iterator[tuple[str, Tally]]:
    """Run phases that share an engine."""
    if not phases:
        return
    if phases == ["a"]:
        # The base model, as the original would; --no-adapter also keeps it off a GPU.
        with ours(setup.model, ["--no-adapter", *setup.flags]) as url:
            yield "a", _prose_threads(url, setup, work)
    elif phases == ["b"]:
        from llmarking.engines.vllm_arguments import prepare_environment

        # The threads and the cache that our own server takes.
        prepare_environment(gpu=setup.gpu)
        with stock(setup.base, "model", setup.flags) as url:
            yield "b", _prose_at_once(url, setup, work)
    elif "d" in phases or "e" in phases:
        yield from asyncio.run(_bare(phases, setup, work)).items()
    else:
        for phase in phases:
            # A server of its own for each: nothing is remembered of the phase before.
            with tempfile.TemporaryDirectory() as scratch:
                database = f"sqlite:///{scratch}/jobs.db"
                ways = ["--database-url", database, "--prompt", setup.prompt]
                with ours(setup.model, [*ways, *setup.flags]) as url:
                    if phase == "c":
                        yield phase, _grade_at_once(url, setup, work)
                    else:
                        yield phase, asyncio.run(_job(url, work))


# Prose: the original's way


def _messages(question: Question, answer: str) -> list[Message]:
    template = Template("prose", 0, versions("prose")[-1])
    slots = Slots()
    variables = {
        "question": slots.hold(question.text),
        "full_mark": f"{question.full_mark:g}",
        "points": [
            {"id": p.id, "mark": f"{p.mark:g}", "text": slots.hold(p.text)} for p in question.points
        ],
        "examples": [],
        "answer": slots.hold(answer),
    }
    return [
        {"role": "system", "content": slots.fill(template.block("system", variables))},
        {"role": "user", "content": slots.fill(template.block("user", variables))},
    ]


def _length(question: Question, setup: Setup) -> int:
    per_point = setup.prose_tokens or PROSE_TOKENS_PER_POINT
    return per_point * len(question.points) + (0 if setup.prose_tokens else 64)


def _read(question: Question, text: str) -> list[bool | None]:
    reading = prose.parse(text, [p.id for p in question.points])
    return [reading.verdicts[p.id].held for p in question.points]


def _prose_threads(url: str, setup: Setup, work: Work) -> Tally:
    """A thread sends one answer, waits for its whole text and parses it, as the original does."""
    tally = Tally(verdicts=[])
    with Client(url) as client, ThreadPoolExecutor(setup.threads) as pool:

        def one(pair: tuple[Question, StudentAnswer]) -> tuple[Any, list[bool | None], str]:
            question, answer = pair
            reply = client.generate(
                messages=_messages(question, answer.text),
                max_tokens=_length(question, setup),
                temperature=0.0,
            )
            return reply.usage, _read(question, reply.text[0]), reply.finish_reasons[0]

        client.generate("Hello", max_tokens=4)
        started = time.perf_counter()
        for usage, verdicts, reason in pool.map(one, work.pairs):
            tally.cut += reason == "length"
            tally.prompt_tokens += usage.prompt_tokens
            tally.cached_tokens += usage.cached_tokens
            tally.completion_tokens += usage.completion_tokens
            assert tally.verdicts is not None
            tally.verdicts += verdicts
        tally.seconds = time.perf_counter() - started
    return tally


def _prose_at_once(url: str, setup: Setup, work: Work) -> Tally:
    bodies = [
        _chat(_messages(question, answer.text), _length(question, setup), whole=setup.prose_tokens)
        for question, answer in work.pairs
    ]
    path = "/v1/chat/completions"
    warm = _chat([{"role": "user", "content": "Hello"}], 4, whole=None)
    replies, seconds, busy = _sent(url, path, bodies, warm, setup)
    choices = [reply["choices"][0] for reply in replies]
    usages = [reply["usage"] for reply in replies]
    verdicts = [
        verdict
        for (question, _), choice in zip(work.pairs, choices, strict=True)
        for verdict in _read(question, choice["message"]["content"] or "")
    ]
    return Tally(
        seconds,
        sum(usage["prompt_tokens"] for usage in usages),
        sum(
            (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for usage in usages
        ),
        sum(usage["completion_tokens"] for usage in usages),
        verdicts,
        cut=sum(choice["finish_reason"] == "length" for choice in choices),
        senders_busy=busy,
    )


def _chat(messages: list[Message], tokens: int, *, whole: int | None) -> bytes:
    """The body of a request to vLLM's own server; `whole` asks for all the tokens it may have."""
    body = {
        "model": "model",
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0.0,
        "ignore_eos": bool(whole),
    }
    return json.dumps(body).encode()


def _sent(
    url: str, path: str, bodies: Sequence[bytes], warm: bytes, setup: Setup
) -> tuple[list[dict[str, Any]], float, float]:
    """Replies to bodies sent at once, the seconds it took, and the busiest sender's share of them.

    Replies are taken apart after the clock has stopped.
    """
    json_body = {"content-type": "application/json"}
    httpx.post(url + path, content=warm, headers=json_body, timeout=None).raise_for_status()
    with Senders(url, path, bodies, processes=setup.senders, at_once=setup.at_once) as senders:
        seconds = senders.send()
        replies, busy = senders.replies()
    return [json.loads(reply) for reply in replies], seconds, busy / seconds


# Verdicts: ours


def _grade_at_once(url: str, setup: Setup, work: Work) -> Tally:
    bodies = [
        json.dumps({"question": question_body(question), "answer": answer.text}).encode()
        for question, answer in work.pairs
    ]
    # To a question of its own: nothing of the others is computed before the clock starts.
    reference = "<Point1:1>Hello<Point1:1>"
    warm = json.dumps({"question": {"text": "Hi", "reference": reference}, "answer": "Hello"})
    replies, seconds, busy = _sent(url, "/grade", bodies, warm.encode(), setup)
    usages = [reply["usage"] for reply in replies]
    return Tally(
        seconds,
        sum(usage["prompt_tokens"] for usage in usages),
        sum(usage["cached_tokens"] for usage in usages),
        sum(usage["completion_tokens"] for usage in usages),
        [point["held"] for reply in replies for point in reply["points"]],
        senders_busy=busy,
    )


async def _job(url: str, work: Work) -> Tally:
    """One class: sent, watched until it is finished, its results read back."""
    codes = {id(question): f"q{n}" for n, (question, _) in enumerate(work.pairs)}
    questions = {
        codes[id(question)]: {**question_body(question), "code": codes[id(question)]}
        for question, _ in work.pairs
    }
    body = {
        "course": {"name": "throughput"},
        "questions": list(questions.values()),
        "answers": [
            {"id": str(n), "student": str(n), "question": codes[id(question)], "text": answer.text}
            for n, (question, answer) in enumerate(work.pairs)
        ],
    }
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        await http.post("/generate", json={"prompt": "Hello", "max_tokens": 4})
        started = time.perf_counter()
        reply = await http.post("/jobs", json=body)
        reply.raise_for_status()
        job = reply.json()
        while job["state"] not in ("finished", "cancelled"):
            await asyncio.sleep(0.05)
            job = (await http.get(f"/jobs/{job['id']}")).json()
        results = (await http.get(f"/jobs/{job['id']}/results", params={"limit": 100_000})).json()
        seconds = time.perf_counter() - started
        tokens = _counted((await http.get("/metrics")).text)
    verdicts = [point["held"] for row in results["results"] for point in row["points"]]
    return Tally(seconds, tokens["no"] + tokens["yes"], tokens["yes"], 0, verdicts)


def _counted(metrics: str) -> dict[str, int]:
    """Our own count of prompt tokens, by whether they were cached."""
    return {
        cached: sum(
            int(float(line.split()[-1]))
            for line in metrics.splitlines()
            if line.startswith(f'llmarking_prompt_tokens_total{{cached="{cached}"}}')
        )
        for cached in ("yes", "no")
    }


async def _bare(phases: Sequence[str], setup: Setup, work: Work) -> dict[str, Tally]:
    """vLLM's AsyncLLM itself, on the very token ids of the verdict prompts."""
    from llmarking.engines.vllm_arguments import engine_arguments, prepare_environment

    prepare_environment(gpu=setup.gpu)
    from vllm import SamplingParams
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    from llmarking.engines.tokenizing import HubTokenizer
    from llmarking.engines.vllm_engine import shut_down

    tokenizer = HubTokenizer.from_folder(setup.graded)
    template = Template("verdict", 0, setup.prompt)
    arguments = engine_arguments(
        setup.graded, "model", setup.flags, gpu=setup.gpu, context=32_768, tensor_parallel=1
    )
    engine = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.OPENAI_API_SERVER)
    classes = {
        id(question): class_prompt(question, (), template, tokenizer) for question, _ in work.pairs
    }
    # Tokenized before the clock starts, as the shared parts are in the server.
    prompts = [classes[id(q)].with_answer(a.text, tokenizer) for q, a in work.pairs]
    tally: dict[str, Tally] = {}
    try:
        for phase in phases:
            await engine.reset_prefix_cache()
            params = SamplingParams(
                max_tokens=1,
                temperature=0.0,
                detokenize=False,
                logprob_token_ids=list(prompts[0].token_ids) if phase == "d" else None,
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_clone=True,
            )

            async def one(ids: list[int], name: str, params: Any = params) -> tuple[int, int]:
                last = None
                async for output in engine.generate(tokens_input(ids), params, name):
                    last = output
                assert last is not None
                return len(ids), last.num_cached_tokens or 0

            rows = []
            for number, prompt in enumerate(prompts):
                ids = prompt.ids
                for point, tail in enumerate(prompt.tails):
                    ids = [*ids, *tail]
                    if phase == "d" or point == len(prompt.tails) - 1:
                        rows.append((ids, f"{phase}-{number}-{point}"))
            started = time.perf_counter()
            done = await asyncio.gather(*(one(*row) for row in rows))
            seconds = time.perf_counter() - started
            tally[phase] = Tally(seconds, sum(n for n, _ in done), sum(c for _, c in done))
    finally:
        shut_down(engine)
    return tally


# Figures


def _figures(tally: Tally, work: Work, *, known: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "answers_per_second": round(len(work.pairs) / tally.seconds, 3),
        "points_per_second": round(work.points / tally.seconds, 3),
        "seconds": round(tally.seconds, 2),
        "prompt_tokens": tally.prompt_tokens,
        "cached_tokens": tally.cached_tokens,
        "cache_hit_rate": round(tally.cached_tokens / max(tally.prompt_tokens, 1), 3),
        "completion_tokens": tally.completion_tokens,
        "load": round(os.getloadavg()[0], 1),
    }
    if tally.completion_tokens:
        found["written_per_answer"] = round(tally.completion_tokens / len(work.pairs), 1)
        found["cut_off"] = tally.cut
    if tally.senders_busy is not None:
        found["senders_busy"] = round(tally.senders_busy, 2)
    if tally.verdicts is not None and known:
        found |= _agreement(tally.verdicts, work)
    return found


def _agreement(verdicts: Sequence[bool | None], work: Work) -> dict[str, Any]:
    """Kappa with the teacher; a point without a readable verdict counts as not held."""
    from sklearn.metrics import cohen_kappa_score

    truth = [
        bool((answer.verdicts or {})[point.id])
        for question, answer in work.pairs
        for point in question.points
    ]
    kappa = cohen_kappa_score(truth, [bool(verdict) for verdict in verdicts])
    return {"kappa": round(float(kappa), 3), "unreadable": sum(v is None for v in verdicts)}


def table(found: dict[str, Any]) -> str:
    """The phases as Markdown, with what they are of each other."""
    phases = found["phases"]

    def times(phase: str, of: str) -> str:
        if phase not in phases or of not in phases:
            return ""
        ratio = phases[phase]["answers_per_second"] / phases[of]["answers_per_second"]
        return f"{ratio:.2f}"

    head = (
        "answers/s", "points/s", "computed", "cached", "written", "hit rate", "kappa",
        "unreadable", "× a", "× b", "× d",
    )  # fmt: skip
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for phase in (phase for phase in PHASES if phase in phases):
        row = phases[phase]
        cells = [
            f"{phase}: {PHASES[phase]}",
            f"{row['answers_per_second']:.2f}",
            f"{row['points_per_second']:.2f}",
            str(row["prompt_tokens"] - row["cached_tokens"]),
            str(row["cached_tokens"]),
            str(row["completion_tokens"]),
            f"{row['cache_hit_rate']:.2f}",
            str(row.get("kappa", "")),
            str(row.get("unreadable", "")),
            *(times(phase, of) for of in "abd"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    about = found["machine"]
    where = ", ".join(about["gpus"]) or f"{about['cores']} cores of {about['processor']}"
    title = (
        f"{Path(found['model']).name}, {found['answers']} answers with {found['points']} points; "
        f"{where}; {about['versions']}"
    )
    return "\n".join([title, "", *lines])


if __name__ == "__main__":
    raise SystemExit(main())
