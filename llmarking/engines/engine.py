"""What grading and the server need of an engine.

An engine knows token ids and sampling; it knows neither HTTP nor rubrics. `vllm_engine.py` has the
real one, `scripted.py` one without a model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmarking.domain import Generation, Message, Reading, Sampling
from llmarking.errors import EngineError, UnknownModelError
from llmarking.models.adapters import Adapter

# Whether nobody waits for what this task asks of an engine: one with a queue may let others pass.
in_background: ContextVar[bool] = ContextVar("in_background", default=False)


class Tokenizer(Protocol):
    """What prompts are made with; `tokenizing.py` has the real one."""

    def encode(self, text: str) -> list[int]:
        """Ids of text that we wrote: control tokens in it are control tokens."""
        ...

    def encode_plain(self, text: str) -> list[int]:
        """Ids of text that somebody else wrote: no control token, whatever it says."""
        ...

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a whole prompt that the caller wrote, begun as the model expects one to begin."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids of every token that is not made of ordinary text."""
        ...

    def render_chat(self, messages: Sequence[Message]) -> str:
        """The model's own chat template, ready for the assistant to speak."""
        ...


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine serves.

    Attributes:
        context: how many tokens a prompt and what follows it may have.
        adapters: by the name that requests use.
        max_lora_rank: the highest rank of an adapter it can take; 0 if it takes none.
    """

    model: str
    context: int
    revision: str = ""
    dtype: str = ""
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    max_lora_rank: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    def adapter(self, name: str | None) -> Adapter | None:
        """The adapter of a name; None for the bare model.

        Raises:
            UnknownModelError: there is none.
        """
        if name is None:
            return None
        try:
            return self.adapters[name]
        except KeyError:
            known = ", ".join(self.adapters) or "none is loaded"
            raise UnknownModelError(
                f"there is no adapter {name!r}; known: {known}", field="adapter"
            ) from None


class Engine(Protocol):
    """One model that generates and reads probabilities, many requests at a time."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    async def start(self) -> None:
        """Load the model; returns when it can answer."""
        ...

    async def stop(self) -> None: ...

    async def check_health(self) -> None:
        """Return if the engine can answer.

        Raises:
            EngineDead: it cannot, and will not.
        """
        ...

    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        request_id: str,
        adapter: str | None = None,
        schema: dict[str, Any] | None = None,
        choices: Sequence[str] | None = None,
    ) -> AsyncIterator[Generation]:
        """Yield what has been generated so far, until every sample is finished.

        Closing the iterator, or cancelling the task that waits on it, stops the request in the
        engine. With a JSON `schema`, only text that satisfies it can come out; with `choices`, only
        one of them.
        """
        ...

    async def read(
        self,
        prompt: Sequence[int],
        tails: Sequence[Sequence[int]],
        token_ids: Sequence[int],
        *,
        request_id: str,
        adapter: str | None = None,
    ) -> Reading:
        """Read the log-probability of each of `token_ids` at the end of every tail.

        The model sees prompt + tails[0] + tails[1] + …; row i of the result is what it expects
        right after tails[i]. Nothing is sampled: what follows a tail is the next tail, whatever it
        expected.

        Returns:
            log-probabilities of shape [len(tails)][len(token_ids)].
        """
        ...

    async def add_adapter(self, adapter: Adapter) -> None:
        """Make an adapter available; requests that have begun keep the one they began with.

        Raises:
            InputError: it does not fit the model, or can't be loaded.
        """
        ...

    def remove_adapter(self, adapter: Adapter) -> Awaitable[None]:
        """Take an adapter off the list at once, if it is the one of its name.

        Returns:
            what ends when the last request that began with it has ended, and it is out of memory.
        """
        ...

    def metrics(self) -> bytes:
        """The engine's own metrics in Prometheus' text format."""
        ...

    def running(self) -> int:
        """How many requests are being worked on."""
        ...

    def silent_seconds(self) -> float:
        """How long nothing has come of the work in progress; 0 if there is none."""
        ...


async def last(generations: AsyncIterator[Generation]) -> Generation:
    """What an engine says last about a request, which is the whole of it.

    Raises:
        EngineError: it has said nothing.
    """
    found = None
    async for generation in generations:
        found = generation
    if found is None:
        raise EngineError("the engine ended without an answer")
    return found
