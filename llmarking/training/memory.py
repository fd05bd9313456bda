"""How much memory a training run will take, told before it starts.

An estimate from the model's shape, on the high side: it decides whether activations are kept or
computed again, and refuses a run that can't fit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmarking.errors import InputError, NotEnoughMemory
from llmarking.models.catalogue import GIB
from llmarking.training.settings import TrainingSettings

# CUDA's context and libraries, and what the allocator can't give back.
OVERHEAD_GIB = 1.5


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model's `config.json` says about its size, and its files about its weights."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value: int
    vocabulary: int
    weight_bytes: int

    def linear(self, name: str) -> tuple[int, int]:
        """Inputs and outputs of one of a layer's linear maps; zeros for a name not known here."""
        return {
            "q_proj": (self.hidden, self.hidden),
            "k_proj": (self.hidden, self.key_value),
            "v_proj": (self.hidden, self.key_value),
            "o_proj": (self.hidden, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }.get(name, (0, 0))


@dataclass(frozen=True, slots=True)
class Estimate:
    """GiB by what they are for."""

    weights: float
    adapter: float
    activations: float
    adapter_parameters: int
    checkpointing: bool

    @property
    def total(self) -> float:
        """Everything together."""
        return self.weights + self.adapter + self.activations + OVERHEAD_GIB

    def __str__(self) -> str:
        kept = "computed again" if self.checkpointing else "kept"
        return (
            f"{self.total:.1f} GiB: weights {self.weights:.1f}, adapter of "
            f"{self.adapter_parameters / 1e6:.1f} million numbers {self.adapter:.1f}, "
            f"activations ({kept}) {self.activations:.1f}, the rest {OVERHEAD_GIB}"
        )


def shape(folder: Path) -> Shape:
    """Read a model's shape from its folder.

    Raises:
        InputError: its `config.json` lacks a number.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return Shape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            heads=heads,
            key_value=int(config.get("num_key_value_heads", heads)) * (hidden // heads),
            vocabulary=int(config["vocab_size"]),
            weight_bytes=sum(f.stat().st_size for f in folder.glob("*.safetensors")),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: config.json does not tell the model's shape: {error}"
        ) from None


def estimate(
    of: Shape, settings: TrainingSettings, longest: int, *, checkpointing: bool
) -> Estimate:
    """GiB for a run whose longest row has `longest` tokens."""
    parameters = of.layers * settings.rank * sum(sum(of.linear(t)) for t in settings.targets)
    weights = of.weight_bytes * 1.0
    if settings.quantize:
        embedding = of.vocabulary * of.hidden * 2
        weights = embedding + max(0, of.weight_bytes - embedding) * 0.27
    tokens = max(settings.batch_tokens, longest)
    # Bytes per token and layer that the backward pass needs: inputs of the maps in 16 bits, those
    # of the LoRA layers in 32, and the squares of attention with their softmax in 32.
    wide = 12 * of.hidden + 4 * of.intermediate
    lora = sum(of.linear(t)[0] for t in settings.targets) * (4 + bool(settings.dropout))
    attention = of.heads * longest * 10
    layer = tokens * (2 * wide + lora + attention)
    if checkpointing:
        activations = of.layers * tokens * of.hidden * 2 + 2 * layer
    else:
        activations = of.layers * layer
    return Estimate(
        weights=weights / GIB,
        # The number itself, its gradient and Adam's two moments, each in 32 bits.
        adapter=parameters * 16 / GIB,
        activations=activations / GIB,
        adapter_parameters=parameters,
        checkpointing=checkpointing,
    )


def plan(
    of: Shape, settings: TrainingSettings, lengths: Sequence[int], available: float, where: str
) -> Estimate:
    """Keep activations if there is room for it, compute them again if not, refuse if even so.

    Args:
        lengths: tokens of every row.
        available: GiB that may be used of `where`.

    Raises:
        NotEnoughMemory: with the numbers, and which of them can be brought down.
    """
    longest = max(lengths)
    for checkpointing in (False, True):
        found = estimate(of, settings, longest, checkpointing=checkpointing)
        # An estimate is not exact: activations are kept only where there is ample room.
        if found.total <= available * (1.0 if checkpointing else 0.8):
            return found
    help_ = f"lower --batch-tokens ({settings.batch_tokens}) or --rank ({settings.rank})"
    if longest > settings.batch_tokens:
        help_ = f"lower --max-tokens ({settings.max_tokens})"
    if not settings.quantize and where == "GPU memory":
        help_ += ", or take --qlora"
    raise NotEnoughMemory(
        f"training would take about {found}; {available:.1f} GiB of {where} may be used. {help_}"
    )


def available_gib(device: str, limit: float | None) -> tuple[float, str]:
    """GiB that may be used, and what to call them; `limit` is the user's own."""
    if device.startswith("cuda"):
        import torch

        free, where = torch.cuda.mem_get_info()[0] / GIB, "GPU memory"
    else:
        from llmarking.models.memory import ram_gib

        free, where = ram_gib(), "memory"
    return (free if limit is None else min(free, limit)), where
