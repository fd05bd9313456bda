"""Adapters that come and go under load: `python -m bench.swap_adapters --minutes 5`.

Clients grade the answers of a course, each request with an adapter drawn at random or with none,
while another one goes round the adapters: removes each and loads it again, and in the next round
exchanges its files and loads it over itself. Requests of one batch so name several adapters, some
of which are just leaving or coming.

What a request may meet follows from when adapters were asked for and given: it may be refused only
if its adapter may have been away at some moment of it, and it must be read with a version that may
have been there. Anything else counts as a failure, and the exit code is 1.

Before, every answer is read with every adapter by itself, then in batches of one adapter, then in
batches of all, with nothing swapped. Later readings are compared with the first: the second pass
says how far batches move them, the third what adapters beside each other add to that. Points' marks
change from request to request: the model does not see them, and the server's memory takes no two
for the same, so that the model reads each.

In bfloat16 a batch moves a probability by what it rounds, which looks like a little of another
adapter; with `--dtype float32` nothing but another adapter's weights can move it visibly.

    python -m bench.swap_adapters --minutes 5 -- --device gpu
    python -m bench.swap_adapters -m SmolLM2-135M-Instruct -- --dtype float32
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

import httpx

from bench.serving import machine, ours
from llmarking.client import AsyncClient, Retry
from llmarking.datasets import finding as datasets
from llmarking.domain import Question
from llmarking.errors import ClientError, InputError, RequestRefused, ServerUnreachable
from llmarking.models import adapters, catalogue
from llmarking.models.adapters import CONFIG, HALVES, WEIGHTS
from llmarking.protocol.bodies import GradeResponse

# A failure is to be seen, so nothing is tried again.
ONCE = Retry(connect=0, busy=0)
# Marks of a request are those of the question and so many more; the server takes up to 10,000.
MOST_VISITS = 1000
PATIENCE = 120.0  # seconds until an adapter that leaves must have made room
Probabilities = tuple[float, ...]
Pair = tuple[int, str | None]  # the number of an answer, and an adapter or none


# When adapters were there


@dataclass(slots=True)
class Span:
    """From a moment to another, as the client knows them: never shorter than it was."""

    since: float = -inf
    until: float = inf

    def meets(self, other: Span) -> bool:
        """Whether the two have a moment in common."""
        return self.since <= other.until and other.since <= self.until


@dataclass(slots=True)
class History:
    """When an adapter may have been in the server, and when it may have been away.

    Attributes:
        stays: of each version, from when it was asked for to when it was surely gone.
        absences: from when it was to be removed to when it was surely loaded again.
    """

    stays: list[tuple[str | None, Span]] = field(default_factory=list)
    absences: list[Span] = field(default_factory=list)

    def may_refuse(self, request: Span) -> bool:
        """Whether a request of that time may have been told that there is no such adapter."""
        return any(absence.meets(request) for absence in self.absences)

    def may_read(self, request: Span, version: str | None) -> bool:
        """Whether it may have been read with that version."""
        return any(known == version and stay.meets(request) for known, stay in self.stays)


# Counting


@dataclass(slots=True)
class Agreement:
    """How readings agree with those of the same answers and adapters, read alone."""

    readings: int = 0
    verdicts: int = 0
    differing: int = 0
    largest: float = 0.0
    nearer_to_another: int = 0

    def add(
        self, found: Probabilities, own: Probabilities, others: Iterable[Probabilities]
    ) -> None:
        """Compare a reading with the one of its own adapter, and with those of the others."""
        self.readings += 1
        self.verdicts += len(own)
        self.differing += sum((a >= 0.5) != (b >= 0.5) for a, b in zip(found, own, strict=True))
        off = distance(found, own)
        self.largest = max(self.largest, off)
        self.nearer_to_another += any(distance(found, other) < off for other in others)

    def as_json(self) -> dict[str, Any]:
        """For the file of results."""
        return {
            "readings": self.readings,
            "verdicts": self.verdicts,
            "differing": self.differing,
            "largest": round(self.largest, 6),
            "nearer_to_another": self.nearer_to_another,
        }


def distance(one: Probabilities, other: Probabilities) -> float:
    """The largest difference of a point's probability."""
    return max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)


def between(alone: dict[Pair, Probabilities]) -> dict[str, Any]:
    """How far apart the adapters are: what a mix-up of two would look like."""
    by_answer: dict[int, list[Probabilities]] = {}
    for (answer, _), found in alone.items():
        by_answer.setdefault(answer, []).append(found)
    points = [point for found in by_answer.values() for point in zip(*found, strict=True)]
    return {
        "points": len(points),
        "not_unanimous": sum(len({p >= 0.5 for p in point}) > 1 for point in points),
        "median_spread": round(statistics.median(max(p) - min(p) for p in points), 6),
    }


@dataclass(slots=True)
class Tally:
    """What became of requests.

    Attributes:
        remembered: graded without the model, from the server's memory.
        failures: how many of each kind.
        told: the words of the first few of them.
        together: how many adapters were named by requests under way, whenever one began.
    """

    requests: int = 0
    graded: int = 0
    refused_by_name: int = 0
    remembered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)
    together: list[int] = field(default_factory=list)

    def fail(self, kind: str, words: str) -> None:
        """Count a failure."""
        self.failures[kind] += 1
        if len(self.told) < 10:
            self.told.append(f"{kind}: {words[:300]}")

    def count(
        self,
        name: str | None,
        request: Span,
        outcome: GradeResponse | ClientError,
        history: History,
    ) -> bool:
        """Count a request; whether it was graded as it should be."""
        self.requests += 1
        if isinstance(outcome, GradeResponse):
            if name is not None and outcome.adapter != name:
                self.fail("graded with another adapter", f"{name}: {outcome.adapter}")
            elif not history.may_read(request, outcome.adapter_version):
                self.fail(
                    "graded with a version that was gone", f"{name}: {outcome.adapter_version}"
                )
            else:
                self.graded += 1
                used = outcome.usage
                self.remembered += 0 < used.prompt_tokens == used.cached_tokens
                return True
        elif not _no_such_adapter(outcome):
            status = f" {outcome.status}" if isinstance(outcome, RequestRefused) else ""
            self.fail(f"{type(outcome).__name__}{status}", str(outcome))
        elif history.may_refuse(request):
            self.refused_by_name += 1
        else:
            self.fail("refused though it was loaded", str(outcome))
        return False


def _no_such_adapter(error: ClientError) -> bool:
    return (
        isinstance(error, RequestRefused)
        and error.status == 404
        and error.problem.get("field") == "adapter"
    )


# The two sides


class Shelf:
    """Loads and removes adapters over HTTP and keeps when it did.

    Args:
        folder: the server's adapter folder, in which the adapters lie.
    """

    def __init__(self, http: httpx.AsyncClient, folder: Path, names: Sequence[str]) -> None:
        self._http, self._folder = http, folder
        self.names = tuple(names)
        self.histories: dict[str | None, History] = {
            name: History(absences=[Span()]) for name in names
        }
        self.done: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    async def load(self, name: str) -> bool:
        """Load it, or load it over itself, once there is room; whether that went well."""
        history = self.histories[name]
        version = (await asyncio.to_thread(adapters.read, self._folder / name)).version
        patience = time.monotonic() + PATIENCE
        while True:
            stay = Span(since=time.monotonic())
            history.stays.append((version, stay))
            reply = await self._http.post("/adapters", json={"name": name})
            now = time.monotonic()
            if reply.is_success:
                break
            history.stays.pop()
            if reply.status_code != 409 or now > patience:
                self.failures[f"POST /adapters: {reply.status_code}"] += 1
                return False
            # What leaves keeps its place until its last request has ended.
            self.done["waited for room"] += 1
            await asyncio.sleep(0.1)
        if reply.json()["version"] != version:
            self.failures["POST /adapters: another version"] += 1
        for _, before in history.stays[:-1]:
            before.until = min(before.until, now)
        history.absences[-1].until = min(history.absences[-1].until, now)
        return True

    async def remove(self, name: str) -> None:
        """Take it away."""
        history = self.histories[name]
        absence = Span(since=time.monotonic())
        history.absences.append(absence)
        reply = await self._http.delete(f"/adapters/{name}")
        if reply.is_success:
            history.stays[-1][1].until = time.monotonic()
        else:
            history.absences.pop()
            self.failures[f"DELETE /adapters: {reply.status_code}"] += 1

    async def swap(self, pause: float, over: asyncio.Event) -> None:
        """Go round until it is over, at least once in either way; all are loaded at the end."""
        for turn in count():
            for name in self.names:
                if turn >= 2 and over.is_set():
                    return
                if turn % 2:
                    await asyncio.to_thread(stamp, self._folder / name, turn)
                    self.done["exchanged"] += await self.load(name)
                else:
                    await self.remove(name)
                    await asyncio.sleep(pause)
                    self.done["removed and loaded again"] += await self.load(name)
                await asyncio.sleep(pause)


class Class:
    """Answers that are graded again and again, by a client that counts what comes back."""

    def __init__(
        self,
        client: AsyncClient,
        answers: Sequence[tuple[Question, str]],
        histories: dict[str | None, History],
        default_version: str | None,
    ) -> None:
        self._client, self._answers = client, answers
        # Who names none gets the server's default, which stays.
        self._histories = {**histories, None: History(stays=[(default_version, Span())])}
        self._visits: Counter[Pair] = Counter()
        self._under_way: Counter[str | None] = Counter()

    @property
    def pairs(self) -> list[Pair]:
        """Every answer with every adapter and with none."""
        return [(number, name) for number in range(len(self._answers)) for name in self._histories]

    async def grade(self, pair: Pair, tally: Tally) -> Probabilities | None:
        """Grade an answer with an adapter; its points' probabilities if that went well."""
        number, name = pair
        question, text = self._answers[number]
        self._visits[pair] += 1
        question = with_other_marks(question, self._visits[pair] % MOST_VISITS)
        self._under_way[name] += 1
        tally.together.append(sum(map(bool, self._under_way.values())))
        request = Span(since=time.monotonic())
        outcome: GradeResponse | ClientError
        try:
            outcome = await self._client.grade(question, text, adapter=name)
        except ClientError as error:
            outcome = error
        finally:
            self._under_way[name] -= 1
        request.until = time.monotonic()
        good = tally.count(name, request, outcome, self._histories[name])
        if isinstance(outcome, GradeResponse):
            return tuple(p.probability or 0.0 for p in outcome.points) if good else None
        if isinstance(outcome, ServerUnreachable):
            await asyncio.sleep(1)  # a dead server would be asked without end
        return None


def with_other_marks(question: Question, more: int) -> Question:
    """The question with `more` marks for each point."""
    points = tuple(replace(point, mark=point.mark + more) for point in question.points)
    return replace(question, points=points, full_mark=sum(point.mark for point in points))


# The adapters' files


def prepare(given: Sequence[Path], number: int, folder: Path) -> list[str]:
    """Write so many adapters into a folder; returns their names.

    The given ones come first as they are, then with their change of the model halved, and so on.

    Raises:
        InputError: one of the given folders is no adapter.
    """
    names = []
    for index in range(number):
        source = adapters.read(given[index % len(given)]).path
        name = f"swap-{secrets.token_hex(3)}-{index + 1}"
        halved(source, folder / name, index // len(given))
        names.append(name)
    return names


def halved(source: Path, target: Path, times: int) -> None:
    """Copy an adapter, one matrix of each product halved so many times."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(source / WEIGHTS, framework="pt") as tensors:
        metadata = tensors.metadata()
    weights = {
        name: (weight * 0.5**times if name.endswith(HALVES[1]) else weight).contiguous()
        for name, weight in load_file(source / WEIGHTS).items()
    }
    target.mkdir()
    save_file(weights, target / WEIGHTS, metadata=metadata)
    shutil.copy(source / CONFIG, target / CONFIG)


def stamp(folder: Path, number: int) -> None:
    """Write a number into the header of an adapter's weights, which makes them another version."""
    content = (folder / WEIGHTS).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = (header.get("__metadata__") or {}) | {"stamp": str(number)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # At once: the server may be reading it.
    written = folder / f"{WEIGHTS}.new"
    written.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
    written.replace(folder / WEIGHTS)


# The run


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and how much at once."""

    requests: int | None = None
    minutes: float = 5.0
    at_once: int = 32
    pause: float = 0.5
    seed: int = 0


async def measure(
    url: str,
    key: str,
    folder: Path,
    names: Sequence[str],
    answers: Sequence[tuple[Question, str]],
    plan: Plan,
) -> dict[str, Any]:
    """Everything, on a server that is ready; its adapters are those of before in the end."""
    async with (
        AsyncClient(url, key, retry=ONCE) as client,
        _admin(url, key) as http,
    ):
        (model, *_) = await client.models()
        before = (await http.get("/adapters")).raise_for_status().json()["adapters"]
        default = next((card["version"] for card in before if card["default"]), None)
        shelf = Shelf(http, folder, names)
        graded = Class(client, answers, shelf.histories, default)
        for name in names:
            await shelf.load(name)
        calm = Tally()
        alone: dict[Pair, Probabilities] = {}
        for pair in graded.pairs:
            if (found := await graded.grade(pair, calm)) is not None:
                alone[pair] = found
        if calm.failures:
            raise SystemExit(f"a reading alone has failed: {calm.told}")
        steady, of_one, of_all = Tally(), Agreement(), Agreement()
        for each in (*names, None):
            of_name = [pair for pair in graded.pairs if pair[1] == each]
            await _all(graded, iter(of_name), plan.at_once, steady, alone, of_one)
        pairs = graded.pairs
        random.Random(plan.seed).shuffle(pairs)
        await _all(graded, iter(pairs), plan.at_once, steady, alone, of_all)
        swapping, while_swapping = Tally(), Agreement()
        began = time.monotonic()
        over = asyncio.Event()
        swapper = asyncio.create_task(shelf.swap(plan.pause, over))
        drawn = _drawn(graded.pairs, plan, swapping, swapper, over)
        await _all(graded, drawn, plan.at_once, swapping, alone, while_swapping)
        seconds = time.monotonic() - began
        failures = swapping.failures + steady.failures
        try:
            await swapper
            for name in names:
                await shelf.remove(name)
            after = (await http.get("/adapters")).raise_for_status().json()["adapters"]
            (await http.get("/health/ready")).raise_for_status()
        except httpx.HTTPError as error:
            failures[f"the server itself: {type(error).__name__}"] += 1
        else:
            if after != before:
                failures["adapters left behind"] += 1
    failures += shelf.failures
    return {
        "dtype": model.dtype,
        "answers": len(answers),
        "adapters": len(names),
        "at_once": plan.at_once,
        "seconds": round(seconds, 1),
        "requests": swapping.requests,
        "graded": swapping.graded,
        "refused_by_name": swapping.refused_by_name,
        "failures": dict(failures),
        "told": [*steady.told, *swapping.told],
        "remembered": swapping.remembered,
        "swaps": dict(shelf.done),
        "adapters_under_way": {
            "median": statistics.median(swapping.together),
            "most": max(swapping.together),
        },
        "between_adapters": between(alone),
        "compared_with_alone": {
            "in batches of one adapter": of_one.as_json(),
            "in batches of all": of_all.as_json(),
            "while adapters are swapped": while_swapping.as_json(),
        },
    }


@contextlib.asynccontextmanager
async def _admin(url: str, key: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120) as http:
        yield http


def _drawn(
    pairs: Sequence[Pair],
    plan: Plan,
    tally: Tally,
    swapper: asyncio.Task[None],
    over: asyncio.Event,
) -> Iterator[Pair]:
    """Pairs at random until time or requests are up; after that until the swapper has ended."""
    chance = random.Random(plan.seed)
    end = time.monotonic() + plan.minutes * 60
    while not swapper.done():
        if time.monotonic() >= end or (plan.requests and tally.requests >= plan.requests):
            over.set()
        yield chance.choice(pairs)


async def _all(
    graded: Class,
    pairs: Iterator[Pair],
    at_once: int,
    tally: Tally,
    alone: dict[Pair, Probabilities],
    agreement: Agreement,
) -> None:
    """Grade pairs, so many at once, and compare each with its reading alone."""

    async def client() -> None:
        for pair in pairs:
            if (found := await graded.grade(pair, tally)) is not None:
                others = (alone[other] for other in alone if other[0] == pair[0] and other != pair)
                agreement.add(found, alone[pair], others)

    await asyncio.gather(*(client() for _ in range(at_once)))


def answers_of(course: str, most: int) -> list[tuple[Question, str]]:
    """Answers of a course that a model has to read, no text twice, drawn at random."""
    read = datasets.load(course)
    by_code = {question.code: question for question in read.questions}
    distinct = {
        (answer.question_code, answer.text.casefold()): answer
        for answer in read.answers
        if any(c.isalnum() for c in answer.text)
    }
    drawn = random.Random(0).sample(list(distinct.values()), min(most, len(distinct)))
    return [(by_code[answer.question_code], answer.text) for answer in drawn]


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(
        prog="python -m bench.swap_adapters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("-m", "--model", default=catalogue.default_model().name)
    p.add_argument("--url", help="a server that runs, with --folder and LLMARKING_ADMIN_KEYS")
    p.add_argument("--folder", type=Path, help="the adapter folder of the server at --url")
    p.add_argument(
        "--adapters", type=Path, nargs="+", metavar="FOLDER",
        help="adapters to begin with (default: the one that ships for the model)",
    )  # fmt: skip
    p.add_argument("--number", type=int, default=4, help="adapters in all; more are derived")
    p.add_argument("--course", default="EXAMPLE")
    p.add_argument("--answers", type=int, default=40)
    p.add_argument("--minutes", type=float, default=5.0)
    p.add_argument("--requests", type=int, help="end after so many, where that is sooner")
    p.add_argument("--at-once", type=int, default=32, help="clients")
    p.add_argument("--pause", type=float, default=0.5, help="seconds between two changes")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("results/robustness/swap-adapters.json"))
    p.add_argument("flags", nargs="*", help="after --: further flags for the server")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run it once, print and keep what came out; 1 if anything failed."""
    p = parser()
    args = p.parse_args(argv)
    given = args.adapters
    if given is None:
        shipped = adapters.shipped(catalogue.resolve(args.model))
        if shipped is None:
            p.error(f"no adapter ships for {args.model}: name some with --adapters")
        given = [shipped.path]
    if args.url and not args.folder:
        p.error("--url needs --folder, the adapter folder of that server")
    answers = answers_of(args.course, args.answers)
    plan = Plan(args.requests, args.minutes, args.at_once, args.pause, args.seed)
    about = {"model": args.model, "course": args.course, **machine()}
    about["adapters_given"] = [path.resolve().name for path in given]
    about["server_flags"] = args.flags
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swap")))
        folder = args.folder if args.url else scratch / "adapters"
        folder.mkdir(exist_ok=True)
        try:
            names = prepare(given, args.number, folder)
        except InputError as error:
            p.error(str(error))
        if args.url:
            for name in names:
                stack.callback(shutil.rmtree, folder / name)
            url, key = args.url, os.environ.get("LLMARKING_ADMIN_KEYS", "").split(",")[0]
        else:
            key = secrets.token_hex(16)
            database = f"sqlite:///{scratch / 'llmarking.db'}"
            # Who names none is to get the bare model: the shipped adapter may be one of the others.
            flags = ["--no-adapter", "--enable-lora", "--adapter-folder", str(folder)]
            flags += ["--admin-key", key]
            flags += ["--database-url", database, *args.flags]
            url = stack.enter_context(ours(args.model, flags))
        found = about | asyncio.run(measure(url, key, folder, names, answers, plan))
    print(json.dumps(found, indent=1))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
