"""An engine without a model, that follows a script: what most tests run on, and
`vllm_server.py -m scripted`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from math import exp, log1p
from pathlib import Path
from typing import Any

from llmarking.domain import Completion, Generation, Message, Reading, Sampling
from llmarking.engines.engine import EngineInfo
from llmarking.engines.pulse import Pulse
from llmarking.errors import EngineDead, InputError
from llmarking.models.adapters import Adapter


class PlainTokenizer:
    """One id per UTF-8 byte, plus a few control tokens, for engines without a model."""

    CONTROL = ("<|start|>", "<|end|>")

    def encode(self, text: str) -> list[int]:
        """Bytes as ids 0…255; a control token becomes a single id above them."""
        ids: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, self.CONTROL)) + ")", text):
            if part in self.CONTROL:
                ids.append(256 + self.CONTROL.index(part))
            else:
                ids += self.encode_plain(part)
        return ids

    def encode_plain(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def encode_prompt(self, text: str) -> list[int]:
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        out: list[str] = []
        run = bytearray()
        for i in ids:
            if i < 256:
                run.append(i)
            else:
                out += [run.decode("utf-8", "replace"), self.CONTROL[i - 256]]
                run.clear()
        out.append(run.decode("utf-8", "replace"))
        return "".join(out)

    @property
    def control_ids(self) -> frozenset[int]:
        return frozenset(range(256, 256 + len(self.CONTROL)))

    def render_chat(self, messages: Sequence[Message]) -> str:
        turns = "".join(f"<|start|>{m['role']}\n{m['content']}<|end|>\n" for m in messages)
        return turns + "<|start|>assistant\n"


Reply = Callable[[str], str]
Odds = Callable[[str], float]


def _echo(prompt: str) -> str:
    """The last thing said, without the chat template around it."""
    last = prompt.rsplit("<|start|>", 2)
    body = last[-2] if len(last) > 2 else prompt
    return body.removeprefix("user\n").split("<|end|>")[0]


def _coin(prompt: str) -> float:
    """Log-odds in [-4, 4] that depend on the prompt alone: the same prompt, the same verdict."""
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:4], "big") / 2**32 - 0.5) * 8


class ScriptedEngine:
    """An engine without a model: `reply` makes its texts and `odds` its verdicts from the prompt.

    It ships with the package (`vllm_server.py -m scripted`), so that everything above the model can
    be tried and tested without one. By default it echoes, and its verdicts are coin flips that
    depend on nothing but the prompt.

    Args:
        delay: seconds between words and before a reading, through `sleep`.
        adapters: names that requests may give; they change nothing.
    """

    def __init__(
        self,
        reply: Reply = _echo,
        odds: Odds = _coin,
        *,
        delay: float = 0.0,
        context: int = 32768,
        adapters: Sequence[str] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._reply = reply
        self._odds = odds
        self._delay = delay
        self._sleep = sleep
        self._pulse = Pulse()
        self._info = EngineInfo(
            model="scripted",
            context=context,
            dtype="none",
            adapters={
                name: Adapter(name, Path(name), "scripted", 8, "0" * 12) for name in adapters
            },
            max_lora_rank=16,
        )
        self._tokenizer = PlainTokenizer()
        self.dead = False
        self.aborted: list[str] = []

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def tokenizer(self) -> PlainTokenizer:
        return self._tokenizer

    async def start(self) -> None:
        self.dead = False

    async def stop(self) -> None:
        self._pulse.clear()

    async def check_health(self) -> None:
        if self.dead:
            raise EngineDead("the scripted engine was told to be dead")

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        request_id: str,
        adapter: str | None = None,
        schema: dict[str, Any] | None = None,
        choices: Sequence[str] | None = None,
    ) -> AsyncIterator[Generation]:
        await self.check_health()
        self._info.adapter(adapter)
        text = choices[0] if choices else self._reply(self._tokenizer.decode(prompt))
        words = re.findall(r"\S+\s*|\s+", text) or [""]
        whole = len(words) <= sampling.max_tokens
        words = words[: sampling.max_tokens]
        self._pulse.begin(request_id)
        done = False
        try:
            so_far = ""
            for index, word in enumerate(words):
                await self._sleep(self._delay)
                await self.check_health()
                self._pulse.beat()
                so_far += word
                cut = _first_stop(so_far, sampling.stop)
                last = cut is not None or index == len(words) - 1
                shown = so_far if cut is None else so_far[:cut]
                reason = "stop" if whole or cut is not None else "length"
                completion = Completion(shown, reason if last else None)
                # Before the last word is handed out: the caller may never come back for more.
                done = last
                yield Generation((completion,) * sampling.n, len(prompt), 0, index + 1)
                if last:
                    break
        finally:
            self._pulse.end(request_id)
            if not done:
                self.aborted.append(request_id)

    async def read(
        self,
        prompt: Sequence[int],
        tails: Sequence[Sequence[int]],
        token_ids: Sequence[int],
        *,
        request_id: str,
        adapter: str | None = None,
    ) -> Reading:
        await self.check_health()
        used = self._info.adapter(adapter)
        self._pulse.begin(request_id)
        try:
            await self._sleep(self._delay)
            await self.check_health()
            self._pulse.beat()
            ids = list(prompt)
            rows = []
            for tail in tails:
                ids += tail
                odds = self._odds(self._tokenizer.decode(ids))
                # Two choices as probabilities that add up to one; any further one is impossible.
                true = -_softplus(-odds)
                false = -_softplus(odds)
                rows.append([true, false][: len(token_ids)] + [-100.0] * (len(token_ids) - 2))
            return Reading(rows, len(ids), 0, used.version if used else None)
        finally:
            self._pulse.end(request_id)

    async def add_adapter(self, adapter: Adapter) -> None:
        if adapter.base != "scripted":
            raise InputError(f"{adapter.name} was trained for {adapter.base}, not for scripted")
        self._info = replace(self._info, adapters={**self._info.adapters, adapter.name: adapter})

    def remove_adapter(self, adapter: Adapter) -> Awaitable[None]:
        left = {n: known for n, known in self._info.adapters.items() if known != adapter}
        self._info = replace(self._info, adapters=left)
        return asyncio.sleep(0)

    def metrics(self) -> bytes:
        return b""

    def running(self) -> int:
        return self._pulse.running

    def silent_seconds(self) -> float:
        return self._pulse.silent_seconds


def _softplus(x: float) -> float:
    """ln(1 + e^x) without overflow."""
    return max(x, 0.0) + log1p(exp(-abs(x)))


def _first_stop(text: str, stops: Sequence[str]) -> int | None:
    found = [position for stop in stops if (position := text.find(stop)) >= 0]
    return min(found) if found else None
