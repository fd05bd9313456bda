"""The engine without a model keeps the promises that the real one makes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, strategies as st

from llmarking.domain import Generation, Sampling
from llmarking.engines.scripted import PlainTokenizer, ScriptedEngine
from llmarking.errors import EngineDead

PLAIN = PlainTokenizer()
PROMPT = PLAIN.encode("<|start|>user\nSay it.<|end|>\n<|start|>assistant\n")


async def texts(stream: AsyncIterator[Generation]) -> list[tuple[str, str | None]]:
    return [(g.completions[0].text, g.completions[0].finish_reason) async for g in stream]


def scripted(reply: str) -> ScriptedEngine:
    return ScriptedEngine(reply=lambda prompt: reply)


# The tokenizer


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_give_a_text_back(text: str) -> None:
    assert PLAIN.decode(PLAIN.encode_plain(text)) == text
    assert PLAIN.decode(PLAIN.encode(text)) == text


@given(st.text() | st.sampled_from(PLAIN.CONTROL))
def test_no_text_yields_a_control_token(text: str) -> None:
    assert PLAIN.control_ids.isdisjoint(PLAIN.encode_plain(text))


def test_control_tokens_in_our_own_text_are_single_ids() -> None:
    ids = PLAIN.encode("<|start|>user<|end|>")
    assert [i for i in ids if i in PLAIN.control_ids] == [256, 257]
    assert len(ids) == 6
    assert PLAIN.encode_prompt("<|end|>") == [257]


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert PLAIN.decode(PLAIN.encode_plain("a\ud800b")) == "a?b"


# Generating


async def test_a_reply_comes_word_by_word_with_the_text_so_far() -> None:
    found = await texts(scripted("one two  three").generate(PROMPT, Sampling(), request_id="r"))
    assert found == [("one ", None), ("one two  ", None), ("one two  three", "stop")]


async def test_by_default_it_says_the_last_turn_again() -> None:
    found = await texts(ScriptedEngine().generate(PROMPT, Sampling(), request_id="r"))
    assert found[-1] == ("Say it.", "stop")
    plain = PLAIN.encode("just a prompt")
    found = await texts(ScriptedEngine().generate(plain, Sampling(), request_id="r"))
    assert found[-1] == ("just a prompt", "stop")


@pytest.mark.parametrize(
    ("sampling", "last"),
    [
        (Sampling(max_tokens=2), ("a b ", "length")),
        (Sampling(max_tokens=4), ("a b c d", "stop")),
        (Sampling(stop=("c",)), ("a b ", "stop")),
        (Sampling(stop=("d", "b")), ("a ", "stop")),
        (Sampling(stop=("x",)), ("a b c d", "stop")),
        (Sampling(max_tokens=1, stop=("a",)), ("", "stop")),
    ],
)
async def test_it_stops_where_it_is_told_and_says_why(
    sampling: Sampling, last: tuple[str, str]
) -> None:
    found = await texts(scripted("a b c d").generate(PROMPT, sampling, request_id="r"))
    assert found[-1] == last


async def test_an_empty_reply_is_one_empty_text() -> None:
    assert await texts(scripted("").generate(PROMPT, Sampling(), request_id="r")) == [("", "stop")]


async def test_samples_tokens_and_choices_are_reported() -> None:
    engine = scripted("a b")
    generations = [g async for g in engine.generate(PROMPT, Sampling(n=3), request_id="r")]
    assert [len(g.completions) for g in generations] == [3, 3]
    assert (generations[-1].prompt_tokens, generations[-1].completion_tokens) == (len(PROMPT), 2)
    chosen = engine.generate(PROMPT, Sampling(), request_id="r", choices=["Yes", "No"])
    assert (await texts(chosen))[-1] == ("Yes", "stop")


async def test_closing_the_iterator_stops_the_request() -> None:
    engine = scripted("a b c")
    stream = engine.generate(PROMPT, Sampling(), request_id="r7")
    assert (await anext(stream)).completions[0].text == "a "
    assert engine.running() == 1
    await stream.aclose()
    assert (engine.running(), engine.aborted) == (0, ["r7"])


async def test_cancelling_the_task_stops_the_request() -> None:
    waiting = asyncio.Event()

    async def for_ever(delay: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    engine = ScriptedEngine(sleep=for_ever)
    generating = asyncio.create_task(texts(engine.generate(PROMPT, Sampling(), request_id="g")))
    await waiting.wait()
    waiting.clear()
    reading = asyncio.create_task(engine.read(PROMPT, [[]], [1, 2], request_id="r"))
    await waiting.wait()
    assert engine.running() == 2
    for task in (generating, reading):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (engine.running(), engine.aborted) == (0, ["g"])


async def test_a_finished_request_is_not_an_aborted_one() -> None:
    engine = scripted("a b")
    async for generation in engine.generate(PROMPT, Sampling(), request_id="r"):
        if generation.completions[0].finish_reason:
            break
    assert engine.aborted == []


# Reading


async def test_a_reading_sees_the_prompt_and_all_tails_up_to_its_own() -> None:
    seen: list[str] = []

    def odds(prompt: str) -> float:
        seen.append(prompt)
        return len(seen)

    prompt = PLAIN.encode("P")
    tails = [PLAIN.encode(tail) for tail in ("1", "", "23")]
    reading = await ScriptedEngine(odds=odds).read(prompt, tails, [84, 70], request_id="r")
    assert seen == ["P1", "P1", "P123"]
    assert [row[0] - row[1] for row in reading.logprobs] == pytest.approx([1, 2, 3])
    assert reading.prompt_tokens == 4


@pytest.mark.parametrize("odds", [-1e6, -700, -3, 0, 3, 700, 1e6])
async def test_two_choices_share_all_probability_at_any_odds(odds: float) -> None:
    engine = ScriptedEngine(odds=lambda prompt: odds)
    (row,) = (await engine.read(PROMPT, [[]], [84, 70], request_id="r")).logprobs
    assert sum(math.exp(x) for x in row) == pytest.approx(1)
    assert row[0] - row[1] == pytest.approx(odds)


async def test_the_same_prompt_gets_the_same_odds_and_another_one_others() -> None:
    engine = ScriptedEngine()
    a, b, c = [
        (await engine.read(PLAIN.encode(text), [[]], [84, 70], request_id="r")).logprobs
        for text in ("one", "one", "two")
    ]
    assert a == b != c


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_a_row_has_a_number_for_every_token_asked_for(count: int) -> None:
    ids = list(range(count))
    reading = await ScriptedEngine().read(PROMPT, [[], [1]], ids, request_id="r")
    assert [len(row) for row in reading.logprobs] == [count, count]


# Death


async def test_a_dead_engine_says_so_everywhere_until_it_is_started_again() -> None:
    engine = ScriptedEngine()
    engine.dead = True
    with pytest.raises(EngineDead):
        await engine.check_health()
    with pytest.raises(EngineDead):
        await engine.read(PROMPT, [[]], [1, 2], request_id="r")
    with pytest.raises(EngineDead):
        await texts(engine.generate(PROMPT, Sampling(), request_id="r"))
    await engine.start()
    await engine.check_health()


async def test_an_engine_that_dies_in_the_middle_ends_its_streams() -> None:
    engine = scripted("a b c")
    stream = engine.generate(PROMPT, Sampling(), request_id="r")
    await anext(stream)
    engine.dead = True
    with pytest.raises(EngineDead):
        await anext(stream)
    assert engine.running() == 0
