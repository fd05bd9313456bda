"""A vLLM logits processor that makes a request emit given tokens, so that its logits can be read on the way.

It is loaded by name in vLLM's worker processes, where nothing else of LLMarking runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.sample.logits_processor import LogitsProcessor

if TYPE_CHECKING:
    import torch

FORCED = "llmarking_forced"


class ForcedTokens(LogitsProcessor):  # type: ignore[misc]
    """Request i emits `extra_args["llmarking_forced"][k]` as its k-th token; other requests are untouched."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        # Batch slot → (tokens to force, the request's output so far, which vLLM appends to).
        self._slots: dict[int, tuple[list[int], list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._slots.pop(index, None)
        for index, params, _, output in batch_update.added:
            forced = (params.extra_args or {}).get(FORCED)
            if forced:
                self._slots[index] = (forced, output)
            else:
                self._slots.pop(index, None)
        for source, target, direction in batch_update.moved:
            moving, other = self._slots.pop(source, None), self._slots.pop(target, None)
            if moving is not None:
                self._slots[target] = moving
            if other is not None and direction.name == "SWAP":
                self._slots[source] = other

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        rows, tokens = [], []
        for index, (forced, output) in self._slots.items():
            step = len(output)
            if step < len(forced):
                rows.append(index)
                tokens.append(forced[step])
        if rows:
            logits[rows] = float("-inf")
            logits[rows, tokens] = 0.0
        return logits
