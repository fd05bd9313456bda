"""Readings from vLLM: who is let in when, and what is made of the outputs of a session."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from llmarking.engines.engine import in_background
from llmarking.engines.vllm_arguments import WORKER_EXTENSION
from llmarking.engines.vllm_reading import (
    Room,
    Way,
    choose_way,
    read_chain,
    read_prompt,
    read_rows,
    read_session,
)
from llmarking.errors import EngineError, InputError


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Guest:
    """Holds room until told to leave."""

    def __init__(self, room: Room, tokens: int, *, background: bool = False) -> None:
        self.inside = False
        self._leave = asyncio.Event()
        token = in_background.set(background)
        self.task = asyncio.create_task(self._stay(room, tokens))
        in_background.reset(token)

    async def _stay(self, room: Room, tokens: int) -> None:
        async with room.take(tokens):
            self.inside = True
            await self._leave.wait()
        self.inside = False

    async def leave(self) -> None:
        self._leave.set()
        await self.task
        await settle()


async def test_no_more_tokens_are_let_in_than_fit_and_nobody_overtakes() -> None:
    room = Room(tokens=100, sessions=9)
    first, large, small = Guest(room, 60), Guest(room, 50), Guest(room, 10)
    await settle()
    # The small one would fit, but then a large one might wait for ever.
    assert (first.inside, large.inside, small.inside) == (True, False, False)
    await first.leave()
    assert (large.inside, small.inside) == (True, True)
    await large.leave()
    await small.leave()


async def test_no_more_sessions_are_let_in_than_there_are_places() -> None:
    room = Room(tokens=100, sessions=2)
    guests = [Guest(room, 1) for _ in range(3)]
    await settle()
    assert [guest.inside for guest in guests] == [True, True, False]
    for guest in guests:
        await guest.leave()


async def test_a_live_request_goes_before_a_class_that_waits() -> None:
    room = Room(tokens=10, sessions=1)
    inside = Guest(room, 1, background=True)
    waiting, live = Guest(room, 1, background=True), Guest(room, 1)
    await settle()
    await inside.leave()
    assert (live.inside, waiting.inside) == (True, False)
    await live.leave()
    assert waiting.inside
    await waiting.leave()


async def test_what_is_larger_than_all_room_goes_in_alone() -> None:
    room = Room(tokens=10, sessions=9)
    small, huge = Guest(room, 1), Guest(room, 1000)
    await settle()
    assert not huge.inside
    await small.leave()
    assert huge.inside
    await huge.leave()


@pytest.mark.parametrize("inside", [True, False])
async def test_the_room_of_a_cancelled_guest_is_free_again(inside: bool) -> None:
    room = Room(tokens=10, sessions=9)
    holder = Guest(room, 10)
    leaver = holder if inside else Guest(room, 5)
    next_one = Guest(room, 10)
    await settle()
    leaver.task.cancel()
    await asyncio.gather(leaver.task, return_exceptions=True)
    if not inside:
        await holder.leave()
    await settle()
    assert next_one.inside
    await next_one.leave()
    after = Guest(room, 10)
    await settle()
    assert after.inside
    await after.leave()


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands in for vLLM, whose import takes many seconds; `test_vllm_engine` has the real one."""
    modules = {
        name: ModuleType(name)
        for name in ("vllm", "vllm.engine", "vllm.engine.protocol", "vllm.sampling_params")
    }
    top = modules["vllm"]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    vars(top).update(
        SamplingParams=lambda **given: SimpleNamespace(prompt_logprob_token_ids=None, **given),
        TokensPrompt=lambda **given: given,
    )
    vars(modules["vllm.engine.protocol"])["StreamingInput"] = SimpleNamespace
    vars(modules["vllm.sampling_params"])["RequestOutputKind"] = SimpleNamespace(
        DELTA="delta", FINAL_ONLY="final"
    )
    return top


def output(*rows: tuple[float, float], cached: int | None = None) -> Any:
    logprobs = [
        {7: SimpleNamespace(logprob=true), 8: SimpleNamespace(logprob=false)}
        for true, false in rows
    ]
    return SimpleNamespace(outputs=[SimpleNamespace(logprobs=logprobs)], num_cached_tokens=cached)


@pytest.mark.usefixtures("vllm")
async def test_a_session_gets_head_and_tails_in_turn_and_keeps_rows_that_arrive_together() -> None:
    sent: list[list[int]] = []

    async def run(inputs: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        assert (params.max_tokens, params.logprob_token_ids) == (1, [7, 8])
        sent.extend([each.prompt["prompt_token_ids"] async for each in inputs])
        yield output((-0.1, -2.0), cached=2)
        yield output((-0.2, -3.0), (-0.3, -4.0), cached=9)
        yield SimpleNamespace(outputs=[], num_cached_tokens=9)

    reading = await read_session(run, [1, 2, 3], [[4], [5, 6]], [7, 8], "r", Room(99, 9))
    assert sent == [[1, 2, 3], [4], [5, 6]]
    assert reading.logprobs == [[-0.1, -2.0], [-0.2, -3.0], [-0.3, -4.0]]
    assert (reading.prompt_tokens, reading.cached_tokens) == (6, 2)


@pytest.mark.usefixtures("vllm")
async def test_a_session_that_ends_early_is_a_failure_and_no_verdict() -> None:
    async def run(inputs: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        yield output((-0.1, -2.0))

    with pytest.raises(EngineError, match="1 scores for 2 points"):
        await read_session(run, [1], [[2]], [7, 8], "r", Room(99, 9))


@pytest.mark.usefixtures("vllm")
async def test_one_point_needs_no_session() -> None:
    async def run(prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        assert prompt == [1, 2]
        yield output((-0.5, -1.0), cached=1)

    reading = await read_session(run, [1, 2], [], [7, 8], "r", Room(99, 9))
    assert (reading.logprobs, reading.prompt_tokens, reading.cached_tokens) == (
        [[-0.5, -1.0]],
        2,
        1,
    )


def scored(*numbers: float, cached: int = 0) -> Any:
    places = [None, *({7: SimpleNamespace(logprob=number)} for number in numbers)]
    return SimpleNamespace(prompt_logprobs=places, num_cached_tokens=cached)


@pytest.mark.usefixtures("vllm")
async def test_rows_are_the_ends_of_head_and_tails_in_one_prompt() -> None:
    async def run(prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        assert prompt == [1, 2, 3, 4, 5, 6]
        assert list(params.extra_args.values()) == [{"rows": [2, 3, 5], "token_ids": [7, 8]}]
        assert params.skip_reading_prefix_cache is False
        yield scored(-0.1, -2.0, -0.2, -3.0, -0.3, -4.0, cached=2)

    reading = await read_rows(run, [1, 2, 3], [[4], [5, 6]], [7, 8], "r")
    assert reading.logprobs == [[-0.1, -2.0], [-0.2, -3.0], [-0.3, -4.0]]
    assert (reading.prompt_tokens, reading.cached_tokens) == (6, 2)


@pytest.mark.usefixtures("vllm")
async def test_rows_that_the_cache_held_are_asked_for_once_more_without_it() -> None:
    fresh = []

    async def run(prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        fresh.append((params.skip_reading_prefix_cache, request_id))
        first = float("nan") if len(fresh) == 1 else -0.1
        yield scored(first, -2.0, -0.2, -3.0)

    reading = await read_rows(run, [1, 2], [[4]], [7, 8], "r")
    assert reading.logprobs == [[-0.1, -2.0], [-0.2, -3.0]]
    assert fresh == [(False, "r.0"), (True, "r.1")]


@pytest.mark.usefixtures("vllm")
async def test_rows_that_never_come_are_a_failure_and_no_verdict() -> None:
    async def run(prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        yield scored(-0.1, -2.0)

    with pytest.raises(EngineError, match="no scores"):
        await read_rows(run, [1, 2], [[4]], [7, 8], "r")


@pytest.mark.usefixtures("vllm")
async def test_one_point_needs_no_rows_of_the_prompt() -> None:
    async def run(prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        assert not hasattr(params, "prompt_logprobs")
        yield output((-0.5, -1.0), cached=1)

    assert (await read_rows(run, [1, 2], [], [7, 8], "r")).logprobs == [[-0.5, -1.0]]


def engine(*answers: str, second_runner: bool, extension: str = WORKER_EXTENSION) -> Any:
    """An engine of vLLM's whose workers say this when they shall score wanted rows only."""

    async def collective_rpc(method: str) -> list[str]:
        assert method == "score_wanted_rows"
        return list(answers)

    config = SimpleNamespace(
        use_v2_model_runner=second_runner,
        parallel_config=SimpleNamespace(worker_extension_cls=extension),
        cache_config=SimpleNamespace(num_gpu_blocks=10, block_size=16),
        model_config=SimpleNamespace(max_model_len=64),
        scheduler_config=SimpleNamespace(max_num_seqs=4),
    )
    return SimpleNamespace(vllm_config=config, collective_rpc=collective_rpc)


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("answers", "second_runner", "best"),
    [
        ([""], True, read_prompt),
        (["unknown"], True, read_prompt),
        ([""], False, read_rows),
        (["", "unknown"], False, read_chain),
    ],
)
async def test_the_best_way_follows_from_what_runner_and_workers_can_do(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answers: list[str],
    second_runner: bool,
    best: Way,
) -> None:
    monkeypatch.delenv("LLMARKING_READING", raising=False)
    assert await choose_way(engine(*answers, second_runner=second_runner)) is best
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (best is read_chain)
    assert all("alone: unknown" in line for line in lines)


@pytest.mark.usefixtures("vllm")
async def test_workers_with_an_extension_of_the_operators_are_not_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LLMARKING_READING", raising=False)
    other = engine("", second_runner=False, extension="their.Extension")
    other.collective_rpc = None
    assert await choose_way(other) is read_chain


@pytest.mark.usefixtures("vllm")
async def test_a_way_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, ways in (
        ("rows", (read_rows, read_prompt)),
        ("prompt", (None, read_prompt)),
        ("session", (read_session, read_session)),
        ("chain", (read_chain, read_chain)),
    ):
        monkeypatch.setenv("LLMARKING_READING", name)
        for second_runner, expected in zip((False, True), ways, strict=True):
            if expected is not None:
                chosen: Any = await choose_way(engine("", second_runner=second_runner))
                assert getattr(chosen, "func", chosen) is expected


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rows", "rows can't be had: unknown"),
        ("prompt", "takes vLLM's second model runner"),
        ("row", "'row' and must be one of rows, prompt, session, chain"),
    ],
)
async def test_a_way_that_is_asked_for_and_cant_be_had_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.setenv("LLMARKING_READING", name)
    with pytest.raises(InputError, match=says):
        await choose_way(engine("unknown", second_runner=False))


async def test_a_release_without_scores_for_the_prompt_gets_a_request_a_point(
    vllm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMARKING_READING", raising=False)
    vars(vllm)["SamplingParams"] = lambda: SimpleNamespace(logprob_token_ids=None)
    assert await choose_way(engine("its runner can't", second_runner=True)) is read_chain
