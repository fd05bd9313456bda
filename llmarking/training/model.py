"""The model side of training: loading, LoRA layers, and log-odds read at the verdicts.

Imports torch, transformers and peft with the module: load it only to train or to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from llmarking.errors import InputError
from llmarking.training.rows import Row, batches
from llmarking.training.settings import TrainingSettings

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Readout:
    """One verdict of the model beside the teacher's.

    Attributes:
        odds: ln P(True) - ln P(False).
        share: how many of the point's words the answer has, None where that is not known.
        group: course and code of the question; `kind` is `points` or `whole`.
    """

    group: str
    kind: str
    answer: str
    point: int
    odds: float
    label: bool
    share: float | None = None


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_base(folder: Path, device: str, *, quantize: bool = False) -> Any:
    """The base model in bfloat16, or in 4 bits for QLoRA.

    Raises:
        InputError: 4 bits are asked for without a CUDA GPU or without bitsandbytes.
    """
    options: dict[str, Any] = {
        "dtype": torch.bfloat16,
        # Padding on the right with the fused kernels gave NaN gradients in bfloat16 on Qwen.
        "attn_implementation": "eager",
        "local_files_only": True,
    }
    if quantize:
        check_quantize(device)
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        options["device_map"] = {"": device}
        return AutoModelForCausalLM.from_pretrained(folder, **options)
    return AutoModelForCausalLM.from_pretrained(folder, **options).to(device)


def check_quantize(device: str) -> None:
    """See whether QLoRA can run here.

    Raises:
        InputError: it can't; the message says what to do.
    """
    if device == "cpu":
        raise InputError("--qlora needs a CUDA GPU, and there is none here; --lora runs on a CPU")
    if find_spec("bitsandbytes") is None:
        raise InputError(
            "--qlora needs bitsandbytes, which is not installed; pip install 'llmarking[qlora]', "
            "or take --lora"
        )


def add_lora(base: Any, settings: TrainingSettings, *, checkpointing: bool) -> Any:
    """The base model with fresh LoRA layers in 32 bits.

    Args:
        checkpointing: compute activations again in the backward pass instead of keeping them.

    Raises:
        InputError: the model has no layers of the wanted names.
    """
    if checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        raise InputError(f"--targets {' '.join(settings.targets)}: {error}") from error


def go_on(base: Any, folder: Path, *, checkpointing: bool) -> Any:
    """The base model with the LoRA layers of an adapter, in 32 bits, to train them further."""
    if checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    model = PeftModel.from_pretrained(base, str(folder), is_trainable=True)
    # A folder, as for a fresh adapter: peft would look a hub's name up with every checkpoint.
    model.peft_config["default"].base_model_name_or_path = base.config.name_or_path
    return model


def save(model: Any, folder: Path, hub_id: str) -> None:
    """Write the adapter; `hub_id` stands in it, so that it is served with the right model only."""
    # Only now: while this names a folder, peft looks nothing up on a hub.
    model.peft_config["default"].base_model_name_or_path = hub_id
    model.save_pretrained(str(folder), save_embedding_layers=False)


def with_adapter(base: Any, folder: Path) -> Any:
    """The base model with an adapter from disk, for reading only."""
    return PeftModel.from_pretrained(base, str(folder), is_trainable=False).eval()


def collate(rows: Sequence[Row]) -> Batch:
    """A batch of rows as tensors, padded on the right.

    Returns:
        `input_ids`, `position_ids` and `segment` (0 head, 1… answers, -1 padding), shape
        [rows, longest]; `where` (row and position of each verdict), shape [verdicts, 2]; `truth`
        and `weight`, shape [verdicts].
    """
    longest = max(row.length for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    positions = torch.zeros(len(rows), longest, dtype=torch.long)
    segment = torch.full((len(rows), longest), -1, dtype=torch.long)
    where: list[tuple[int, int]] = []
    truth: list[float] = []
    weight: list[float] = []
    for index, row in enumerate(rows):
        end = len(row.head)
        ids[index, :end] = torch.tensor(row.head)
        positions[index, :end] = torch.arange(end)
        segment[index, :end] = 0
        for number, part in enumerate(row.segments, start=1):
            start, end = end, end + len(part.ids)
            ids[index, start:end] = torch.tensor(part.ids)
            # Every answer stands where it would stand alone: right behind the head.
            positions[index, start:end] = torch.arange(len(part.ids)) + len(row.head)
            segment[index, start:end] = number
            where += [(index, start + at) for at in part.rows]
            truth += [float(label) for label in part.labels]
            weight += part.weights
    return {
        "input_ids": ids,
        "position_ids": positions,
        "segment": segment,
        "where": torch.tensor(where).reshape(-1, 2),
        "truth": torch.tensor(truth),
        "weight": torch.tensor(weight),
    }


def attention_mask(segment: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What may see what: a token the head and its own answer, never what comes after it.

    Padding sees itself, so that no line of the softmax is empty.

    Args:
        segment: as `collate` makes it, shape [rows, longest].

    Returns:
        0 or the lowest number of `dtype`, shape [rows, 1, longest, longest].
    """
    places = torch.arange(segment.shape[1], device=segment.device)
    causal = places[:, None] >= places[None, :]
    same = segment[:, :, None] == segment[:, None, :]
    head = (segment == 0)[:, None, :]
    allowed = causal & (same | head)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segment.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def read_odds(model: Any, batch: Batch, token_ids: tuple[int, int]) -> torch.Tensor:
    """Log-odds of true against false at every verdict of a batch, shape [verdicts]."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.base_model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=attention_mask(batch["segment"], torch.bfloat16),
        use_cache=False,
    ).last_hidden_state
    read = hidden[batch["where"][:, 0], batch["where"][:, 1]]
    # Only two lines of the output matrix are needed, and none of the vocabulary's 150,000 others.
    head = inner.get_output_embeddings().weight[list(token_ids)]
    logits = read.float() @ head.float().T
    return logits[:, 0] - logits[:, 1]


def readouts(
    model: Any, rows: Sequence[Row], token_ids: tuple[int, int], device: str, batch_tokens: int
) -> list[Readout]:
    """Every verdict of some rows, without gradients."""
    return list(_readouts(model, rows, token_ids, device, batch_tokens))


def _readouts(
    model: Any, rows: Sequence[Row], token_ids: tuple[int, int], device: str, batch_tokens: int
) -> Iterator[Readout]:
    was_training = model.training
    model.eval()
    try:
        for batch in batches(rows, batch_tokens):
            with torch.no_grad():
                tensors = {name: t.to(device) for name, t in collate(batch).items()}
                odds = iter(read_odds(model, tensors, token_ids).tolist())
            for row in batch:
                for part in row.segments:
                    verdicts = zip(part.points, part.labels, part.shares, strict=True)
                    for point, label, share in verdicts:
                        read = float(next(odds))
                        yield Readout(row.group, row.kind, part.answer, point, read, label, share)
    finally:
        model.train(was_training)
