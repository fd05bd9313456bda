"""LoRA adapters inside vLLM: which there are, and which are still in use.

vLLM loads what a request names in the middle of its work, and a file that can't be read then takes
the whole engine down. So an adapter is loaded before any request may name it, and leaves when the
last one that began with it has ended.

On a CPU, vLLM 0.32 reads "no adapter" as the last of its places for adapters: in a batch with
others, a request without one would be answered by whatever lies there. So that place stays empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llmarking.errors import Conflict, EngineDead, EngineError, InputError
from llmarking.models.adapters import Adapter, check_fit

# vLLM wraps what went wrong in two sentences of its own.
_WORKERS_WORDS = re.compile(r"Worker failed with error '(.*)', please check", re.DOTALL)


@dataclass(eq=False, slots=True)
class Slot:
    """An adapter in vLLM. `request` is what vLLM wants beside a prompt; None if it is merged."""

    adapter: Adapter
    request: Any
    uses: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)


class VLLMAdapters:
    """The adapters of one engine.

    Args:
        bases: what the model is called.
        folder: its weights.
        merged: an adapter that is in the weights already.
    """

    def __init__(self, bases: Sequence[str], folder: Path, merged: Adapter | None) -> None:
        self._bases = tuple(bases)
        self._folder = folder
        self._slots: dict[str, Slot] = {}
        self._former: list[Slot] = []
        self._numbers = count(1)
        self._engine: Any = None
        self._max_rank = 0
        # How many vLLM may hold and holds.
        self._room = 0
        self._held = 0
        if merged is not None:
            self._slots[merged.name] = Slot(merged, None)

    @property
    def known(self) -> MappingProxyType[str, Adapter]:
        """Adapters by name, for requests that begin now."""
        return MappingProxyType({name: slot.adapter for name, slot in self._slots.items()})

    @contextlib.contextmanager
    def using(self, adapter: Adapter | None) -> Iterator[Any]:
        """What vLLM wants beside a prompt; the adapter stays until the block ends."""
        slot = self._slots[adapter.name] if adapter is not None else None
        if slot is None or slot.request is None:
            yield None
            return
        slot.uses += 1
        try:
            yield slot.request
        finally:
            slot.uses -= 1
            if not slot.uses:
                slot.unused.set()

    def attach(self, engine: Any, *, gpu: bool) -> int:
        """Use this engine of vLLM's; returns the highest rank it takes, 0 if it takes none."""
        self._engine = engine
        config = engine.vllm_config.lora_config
        if config is not None:
            self._max_rank = int(config.max_lora_rank)
            self._room = int(config.max_cpu_loras if gpu else config.max_loras - 1)
        return self._max_rank

    async def add(self, adapter: Adapter) -> None:
        """Load an adapter into vLLM, then let requests name it.

        Raises:
            InputError: it does not fit the model, or vLLM refuses it.
            Conflict: there is no room for one more.
            EngineDead: vLLM has died.
        """
        if not self._max_rank:
            raise InputError("the server was started without --enable-lora")
        if self._held >= self._room:
            raise Conflict(
                f"there is room for {self._room} adapters at once, with those that leave; remove "
                "one, or start the server with a larger --max-loras"
            )
        await asyncio.to_thread(
            check_fit, adapter, bases=self._bases, model=self._folder, max_rank=self._max_rank
        )
        request = self._request(adapter)
        try:
            await self._engine.add_lora(request)
        except Exception as error:
            from vllm.v1.engine.exceptions import EngineDeadError

            if isinstance(error, EngineDeadError):
                raise EngineDead("vLLM's engine process has died; restart the server") from error
            said = str(error).replace(str(adapter.path), adapter.name)
            inner = _WORKERS_WORDS.search(said)
            raise InputError(
                f"vLLM can't load {adapter.name}: {inner[1] if inner else said[:300]}"
            ) from error
        self._held += 1
        if before := self._slots.get(adapter.name):
            self._former.append(before)
        self._slots[adapter.name] = Slot(adapter, request)

    def remove(self, adapter: Adapter) -> Awaitable[None]:
        """Forget an adapter at once; what is returned ends when nobody uses it any more."""
        if adapter == self.known.get(adapter.name):
            self._former.append(self._slots.pop(adapter.name))
        return self._empty(adapter)

    async def _empty(self, adapter: Adapter) -> None:
        for slot in [slot for slot in self._former if slot.adapter == adapter]:
            self._former.remove(slot)
            while slot.uses:
                slot.unused.clear()
                await slot.unused.wait()
            if slot.request is None:
                continue
            # The end of those requests lies before this in vLLM's queue.
            try:
                await self._engine.remove_lora(slot.request.lora_int_id)
            except Exception as error:
                raise EngineError(f"vLLM can't unload {adapter.name}") from error
            self._held -= 1

    def _request(self, adapter: Adapter) -> Any:
        from vllm.lora.request import LoRARequest

        number = next(self._numbers)
        # vLLM's prefix cache tells adapters apart by name and path: never the same two twice.
        name = f"{adapter.name}.{adapter.version}.{number}"
        return LoRARequest(lora_name=name, lora_int_id=number, lora_path=str(adapter.path))
