"""The benchmark that swaps adapters under load: what it counts as a failure, and a whole run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from adapter_files import MODULE, adapter_folder
from conftest import Address, ServerFactory
from safetensors import safe_open
from safetensors.numpy import load_file

from bench.swap_adapters import (
    Agreement,
    History,
    Plan,
    Span,
    Tally,
    answers_of,
    between,
    halved,
    measure,
    prepare,
    stamp,
    with_other_marks,
)
from llmarking.datasets import courses
from llmarking.domain import Reading
from llmarking.engines.scripted import PlainTokenizer, ScriptedEngine
from llmarking.errors import EngineError, RequestRefused, ServerUnreachable
from llmarking.grading.prompting import Template, class_prompt
from llmarking.models import adapters
from llmarking.protocol.bodies import GradeResponse

ADMIN = "the-key-of-the-admin"
USED = ("prompt_tokens", "cached_tokens")

# An adapter that was loaded until 10, away until 20, and exchanged between 30 and 31.
COMES_AND_GOES = History(
    stays=[("a", Span(0, 11)), ("a", Span(19, 31)), ("b", Span(30))],
    absences=[Span(until=1), Span(10, 20)],
)


def grade(version: str | None = "a", adapter: str | None = "mine", **usage: int) -> GradeResponse:
    told: dict[str, Any] = {
        "mark": 0, "full_mark": 1, "points": [], "flags": [], "needs_review": False, "shots": 0,
        "model": "scripted", "adapter": adapter, "adapter_version": version, "method": "verdict",
        "prompt_version": "verdict/zeroshot.v1", "usage": usage,
    }  # fmt: skip
    return GradeResponse.model_validate(told)


def refused(status: int, field: str = "adapter") -> RequestRefused:
    return RequestRefused("no", status=status, problem={"status": status, "field": field})


@pytest.mark.parametrize(
    ("since", "until", "outcome", "kind"),
    [
        (2, 3, grade("a"), "graded"),
        (9, 12, grade("a"), "graded"),
        (9, 12, refused(404), "refused"),
        (12, 13, refused(404), "refused"),
        (0, 2, refused(404), "refused"),
        (19.5, 25, refused(404), "refused"),
        (29, 32, grade("a"), "graded"),
        (29, 32, grade("b"), "graded"),
        (2, 3, refused(404), "refused though it was loaded"),
        (29, 32, refused(404), "refused though it was loaded"),
        (12, 13, grade("a"), "graded with a version that was gone"),
        (32, 33, grade("a"), "graded with a version that was gone"),
        (21, 22, grade("b"), "graded with a version that was gone"),
        (2, 3, grade("a", adapter="other"), "graded with another adapter"),
        (2, 3, grade("a", adapter=None), "graded with another adapter"),
        (12, 13, refused(404, field="answer"), "RequestRefused 404"),
        (12, 13, refused(500), "RequestRefused 500"),
        (12, 13, ServerUnreachable("gone"), "ServerUnreachable"),
    ],
)
def test_what_a_request_may_meet_follows_from_when_its_adapter_was_there(
    since: float, until: float, outcome: Any, kind: str
) -> None:
    tally = Tally()
    good = tally.count("mine", Span(since, until), outcome, COMES_AND_GOES)
    assert (tally.requests, good) == (1, kind == "graded")
    assert (tally.graded, tally.refused_by_name) == (kind == "graded", kind == "refused")
    assert dict(tally.failures) == ({} if kind in ("graded", "refused") else {kind: 1})


def test_who_names_no_adapter_is_never_refused_one() -> None:
    always = History(stays=[(None, Span())])
    tally = Tally()
    assert tally.count(None, Span(1, 2), grade(None, None), always)
    assert not tally.count(None, Span(1, 2), refused(404), always)
    assert dict(tally.failures) == {"refused though it was loaded": 1}


def test_what_came_from_memory_is_counted() -> None:
    tally, always = Tally(), History(stays=[("a", Span())])
    for usage in ({"prompt_tokens": 9, "cached_tokens": 8}, {}, dict.fromkeys(USED, 9)):
        tally.count("mine", Span(1, 2), grade(**usage), always)
    assert (tally.graded, tally.remembered) == (3, 1)


def test_readings_are_compared_with_their_own_adapter_and_the_others() -> None:
    agreement = Agreement()
    agreement.add((0.6, 0.2), (0.6, 0.2), [(0.1, 0.2)])
    agreement.add((0.45, 0.2), (0.55, 0.2), [(0.3, 0.2)])
    agreement.add((0.9, 0.2), (0.6, 0.2), [(0.1, 0.1), (0.9, 0.3)])
    assert agreement.as_json() == {
        "readings": 3, "verdicts": 6, "differing": 1, "largest": 0.3, "nearer_to_another": 1,
    }  # fmt: skip


def test_how_far_adapters_are_apart() -> None:
    alone = {(0, "one"): (0.9, 0.2), (0, None): (0.4, 0.1), (1, "one"): (0.5,), (1, None): (0.7,)}
    assert between(alone) == {"points": 3, "not_unanimous": 1, "median_spread": 0.2}


def test_derived_adapters_change_the_model_half_as_much(tmp_path: Path) -> None:
    given = [adapter_folder(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    names = prepare(given, 3, shelf)
    read = [load_file(shelf / name / adapters.WEIGHTS) for name in names]
    first = load_file(given[0] / adapters.WEIGHTS)
    up, down = (f"{adapters.PREFIX}{MODULE}{half}" for half in reversed(adapters.HALVES))
    assert (read[0][up] == first[up]).all()
    assert (read[2][up] == first[up] / 2).all()
    assert (read[2][down] == first[down]).all()
    assert len({adapters.read(shelf / name).version for name in names}) == 3


def test_a_stamp_makes_another_version_of_the_same_weights(tmp_path: Path) -> None:
    halved(adapter_folder(tmp_path / "given"), tmp_path / "mine", 0)
    before = adapters.read(tmp_path / "mine")
    weights = load_file(tmp_path / "mine" / adapters.WEIGHTS)
    versions = {before.version}
    for number in (1, 2):
        stamp(tmp_path / "mine", number)
        versions.add(adapters.read(tmp_path / "mine").version)
    assert len(versions) == 3
    after = load_file(tmp_path / "mine" / adapters.WEIGHTS)
    assert after.keys() == weights.keys()
    assert all((after[name] == weights[name]).all() for name in weights)
    with safe_open(tmp_path / "mine" / adapters.WEIGHTS, framework="numpy") as tensors:
        assert tensors.metadata()["stamp"] == "2"
    assert not list(tmp_path.glob("mine/*.new"))


def test_marks_change_and_nothing_that_the_model_sees() -> None:
    question = courses.example_course().questions[0]
    other = with_other_marks(question, 7)
    assert other.full_mark == question.full_mark + 7 * len(question.points)
    template = Template("verdict", 0, "v1")
    seen = [class_prompt(each, (), template, PlainTokenizer()) for each in (question, other)]
    assert seen[0] == seen[1]


# The whole of it, on the engine without a model


class Faulty(ScriptedEngine):
    """Fails, once the adapters have been exchanged, at every tenth reading."""

    def __init__(self) -> None:
        super().__init__()
        self.read_so_far = 0

    async def read(
        self, prompt: Sequence[int], tails: Sequence[Sequence[int]], token_ids: Sequence[int],
        *, request_id: str, adapter: str | None = None,
    ) -> Reading:  # fmt: skip
        self.read_so_far += 1
        if self.read_so_far > 100 and self.read_so_far % 10 == 0:
            raise EngineError("it could not be read")
        return await super().read(prompt, tails, token_ids, request_id=request_id, adapter=adapter)


async def run(factory: ServerFactory, folder: Path, engine: ScriptedEngine) -> dict[str, Any]:
    given = [adapter_folder(folder / name, seed=seed) for seed, name in enumerate("ab")]
    address: Address = factory(engine, admin_keys=(ADMIN,), adapter_folder=folder)
    names = prepare(given, 3, folder)
    plan = Plan(requests=200, at_once=8, pause=0.01)
    return await measure(str(address), ADMIN, folder, names, answers_of("EXAMPLE", 5), plan)


async def test_no_request_fails_while_adapters_are_swapped(
    live_server_factory: ServerFactory, tmp_path: Path
) -> None:
    engine = ScriptedEngine()
    async with asyncio.timeout(100):
        found = await run(live_server_factory, tmp_path, engine)
    assert (found["failures"], found["told"]) == ({}, [])
    assert found["requests"] == found["graded"] + found["refused_by_name"]
    assert found["requests"] >= 200
    assert min(found["swaps"].values()) >= 3
    assert found["remembered"] == 0
    swapped = found["compared_with_alone"]["while adapters are swapped"]
    assert (swapped["readings"], swapped["differing"]) == (found["graded"], 0)
    for pass_without_swaps in ("in batches of one adapter", "in batches of all"):
        compared = found["compared_with_alone"][pass_without_swaps]
        assert (compared["readings"], compared["largest"]) == (5 * 4, 0.0)
    assert dict(engine.info.adapters) == {}


async def test_requests_that_fail_are_counted_by_kind(
    live_server_factory: ServerFactory, tmp_path: Path
) -> None:
    async with asyncio.timeout(100):
        found = await run(live_server_factory, tmp_path, Faulty())
    [(kind, number)] = found["failures"].items()
    assert kind == "RequestRefused 500"
    assert found["told"][0].startswith(kind)
    assert number >= 10
