"""How an adapter is trained: every number, with defaults that suit a model of 1 to 3 billion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHOT_MIX: Mapping[int, float] = MappingProxyType({0: 0.6, 1: 0.2, 3: 0.2})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """One training run, apart from its data.

    Attributes:
        quantize: QLoRA: the base model in 4 bits (nf4) while the adapter is trained.
        targets: names of the layers that get an adapter.
        batch_tokens: tokens of one step, padding included.
        answers_per_row: answers to one question that share its prompt in one row of tokens.
        max_tokens: rows longer than this are cut to fewer answers, single answers left out.
        repeat_points: how often an epoch shows answers that are marked point by point.
        shot_mix: shares of prompts with so many graded examples.
        decoys: share of rows with points of other questions beside their own.
        manipulated: share of answers that get a sentence addressed to the grader.
        prompt: version of the verdict prompt that is trained; None for the newest.
        held_out: share of every course's questions that is never trained on, `most_held` at most.
        evaluations: how often in an epoch the held-out questions are looked at.
        patience: evaluations without a lower loss after which training ends.
        minutes: end within this time, the learning rate brought down in it; None for no limit.
        memory_gib: most memory to use; None for what is free.
    """

    quantize: bool = False
    rank: int = 16
    alpha: int | None = None
    dropout: float = 0.05
    targets: tuple[str, ...] = LINEAR
    learning_rate: float = 2e-4
    epochs: float = 4.0
    batch_tokens: int = 6144
    answers_per_row: int = 6
    max_tokens: int = 3072
    warmup: float = 0.05
    weight_decay: float = 0.01
    seed: int = 1
    prompt: str | None = None
    shot_mix: Mapping[int, float] = field(default_factory=lambda: dict(SHOT_MIX))
    repeat_points: int = 2
    decoys: float = 0.15
    manipulated: float = 0.06
    held_out: float = 0.12
    most_held: int = 8
    evaluations: int = 2
    patience: int = 5
    minutes: float | None = None
    memory_gib: float | None = None

    @property
    def lora_alpha(self) -> int:
        """Twice the rank unless it was said."""
        return 2 * self.rank if self.alpha is None else self.alpha
