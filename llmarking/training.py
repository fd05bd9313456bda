"""LoRA on graded answers: the tokens that grading sends, the loss on the verdicts only.

A sample is a verdict prompt with all its tails; at the end of each tail the model's choice between
the two verdict tokens is compared with the teacher's. Nothing else of the text is learned, and
points without a verdict count for nothing. Imports torch, transformers and peft when it starts.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llmarking.domain import GradedExample, Point, Question, StudentAnswer
from llmarking.engine import Tokenizer
from llmarking.errors import InputError, LLMarkingError
from llmarking.prompting import Template, class_prompt


class TrainingDiverged(LLMarkingError):
    """The loss is no longer a number; the step and what to change are in the message."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt for training.

    Attributes:
        ids: the prompt and all its tails.
        rows: positions in `ids` after which a verdict is read.
        labels: 1.0 true, 0.0 false, one per row.
        group: the question, so that splits and curves can go by it.
    """

    ids: tuple[int, ...]
    rows: tuple[int, ...]
    labels: tuple[float, ...]
    group: str


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How to train. Rates and counts are the ones the shipped adapter was made with."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    learning_rate: float = 1e-4
    epochs: float = 2.0
    batch_tokens: int = 16_384
    warmup: float = 0.05
    weight_decay: float = 0.0
    seed: int = 1
    max_tokens: int = 2048
    shot_mix: dict[int, float] = field(default_factory=lambda: {0: 0.5, 1: 0.25, 3: 0.25})


def vary(
    question: Question, answer: StudentAnswer, rng: random.Random
) -> tuple[Question, StudentAnswer]:
    """The same question with its points in another order, and sometimes fewer of them.

    A model that always saw point 1 first learns positions; this one has to read.
    """
    points = list(question.points)
    rng.shuffle(points)
    if len(points) > 2 and rng.random() < 0.3:
        points = points[: rng.randint(2, len(points) - 1)]
    return _renumbered(question, answer, points)


def _renumbered(
    question: Question, answer: StudentAnswer, points: Sequence[Point]
) -> tuple[Question, StudentAnswer]:
    new_id = {point.id: number for number, point in enumerate(points, start=1)}
    renumbered = tuple(replace(point, id=new_id[point.id]) for point in points)
    examples = tuple(
        GradedExample(
            e.answer,
            {new_id[i]: v for i, v in e.verdicts.items() if i in new_id},
            {new_id[i]: r for i, r in e.reasons.items() if i in new_id},
        )
        for e in question.examples
    )
    verdicts = {new_id[i]: v for i, v in (answer.verdicts or {}).items() if i in new_id}
    return (
        replace(question, points=renumbered, examples=examples),
        replace(answer, verdicts=verdicts),
    )


def with_decoys(
    question: Question, answer: StudentAnswer, others: Sequence[Point], rng: random.Random
) -> tuple[Question, StudentAnswer]:
    """A question with points of other questions beside its own, which the answer can't state."""
    decoys = rng.sample(others, min(len(others), rng.randint(1, 3)))
    top = max(p.id for p in question.points)
    extra = [replace(p, id=top + 1 + i) for i, p in enumerate(decoys)]
    points = [*question.points, *extra]
    rng.shuffle(points)
    verdicts = {**(answer.verdicts or {}), **{p.id: False for p in extra}}
    wide = replace(
        question,
        points=tuple(points),
        examples=tuple(
            GradedExample(e.answer, {**e.verdicts, **{p.id: False for p in extra}})
            for e in question.examples
        ),
    )
    return _renumbered(wide, replace(answer, verdicts=verdicts), points)


def sample(
    question: Question, answer: StudentAnswer, shots: int, template: Template, tokenizer: Tokenizer
) -> Sample:
    """The prompt that grading would send for this answer, with the teacher's verdicts as labels."""
    shared = class_prompt(question, question.examples[:shots], template, tokenizer)
    prompt = shared.with_answer(answer.text, tokenizer)
    ids = prompt.ids
    rows, labels = [], []
    for point, tail in zip(question.points, prompt.tails, strict=True):
        ids += tail
        verdict = (answer.verdicts or {}).get(point.id)
        if verdict is not None:
            rows.append(len(ids) - 1)
            labels.append(float(verdict))
    return Sample(tuple(ids), tuple(rows), tuple(labels), question.code)


def batches(
    samples: Sequence[Sample], batch_tokens: int, rng: random.Random | None = None
) -> Iterator[list[Sample]]:
    """Samples of like length together, each batch at most `batch_tokens` with its padding.

    With `rng`, lengths are jittered and the batches come in random order.
    """
    order = sorted(samples, key=lambda s: len(s.ids) * (1 + (rng.random() * 0.1 if rng else 0.0)))
    out: list[list[Sample]] = []
    batch: list[Sample] = []
    longest = 0
    for item in order:
        longest = max(longest, len(item.ids))
        if batch and longest * (len(batch) + 1) > batch_tokens:
            out.append(batch)
            batch, longest = [], len(item.ids)
        batch.append(item)
    if batch:
        out.append(batch)
    if rng:
        rng.shuffle(out)
    yield from out


def train(
    model_folder: Path,
    epoch_samples: Callable[[int], Sequence[Sample]],
    token_ids: tuple[int, int],
    settings: TrainingSettings,
    out: Path,
    *,
    device: str = "cpu",
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    evaluate: Callable[[Any], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train an adapter and write it to `out` as safetensors.

    Args:
        epoch_samples: the samples of epoch 0, 1, …; drawn anew each time.
        token_ids: ids of the tokens for true and false.
        evaluate: called with the model at the end of every epoch; its result is reported.

    Returns:
        the last report.

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(settings.seed)
    base = AutoModelForCausalLM.from_pretrained(
        model_folder,
        dtype=torch.bfloat16,
        # Padding on the right with the fused kernels gave NaN gradients in bfloat16 on Qwen.
        attn_implementation="eager",
    ).to(device)
    model = get_peft_model(
        base,
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(settings.targets),
            task_type="CAUSAL_LM",
        ),
    )
    model.train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.99)
    )
    first = list(epoch_samples(0))
    if not first:
        raise InputError("there is nothing to train on: no answer has a teacher's verdict")
    per_epoch = len(list(batches(first, settings.batch_tokens)))
    total = max(1, math.ceil(per_epoch * settings.epochs))
    rng = random.Random(settings.seed)
    step, started, row = 0, time.monotonic(), {}
    for epoch in range(math.ceil(settings.epochs)):
        for batch in batches(
            first if epoch == 0 else epoch_samples(epoch), settings.batch_tokens, rng
        ):
            if step >= total:
                break
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, total, settings.warmup)
            odds, labels = read_odds(model, batch, token_ids, device)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, labels)
            if not torch.isfinite(loss):
                raise TrainingDiverged(
                    f"the loss is {loss.item()} at step {step}; nothing was saved. Try a lower "
                    f"--learning-rate than {settings.learning_rate:g}"
                )
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            row = {
                "step": step,
                "steps": total,
                "loss": round(loss.item(), 4),
                "accuracy": round(((odds > 0) == (labels > 0.5)).float().mean().item(), 4),
                "norm": round(float(norm), 3),
                "seconds": round(time.monotonic() - started, 1),
            }
            report(row)
        if evaluate is not None:
            model.eval()
            row = {**row, "epoch": epoch + 1, **evaluate(model)}
            model.train()
            report(row)
    model.eval()
    model.save_pretrained(out, safe_serialization=True)
    (out / "training.json").write_text(
        json.dumps({"settings": asdict(settings), "last": row}, indent=1) + "\n"
    )
    return row


def _schedule(step: int, total: int, warmup: float) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    warm = max(1, int(total * warmup))
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def read_odds(model: Any, batch: Sequence[Sample], token_ids: tuple[int, int], device: str) -> Any:
    """Log-odds of true against false, and labels, at every row of a batch; both of shape [rows]."""
    import torch

    longest = max(len(item.ids) for item in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros(len(batch), longest, dtype=torch.long)
    where: list[tuple[int, int]] = []
    labels: list[float] = []
    for index, item in enumerate(batch):
        ids[index, : len(item.ids)] = torch.tensor(item.ids)
        mask[index, : len(item.ids)] = 1
        where += [(index, row) for row in item.rows]
        labels += item.labels
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.model(
        input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
    ).last_hidden_state
    at = torch.tensor(where, device=device)
    read = hidden[at[:, 0], at[:, 1]]
    # Only two rows of the output matrix are needed, and none of the vocabulary's 150,000.
    head = inner.get_output_embeddings().weight[list(token_ids)]
    logits = read.float() @ head.float().T
    return logits[:, 0] - logits[:, 1], torch.tensor(labels, device=device)


def odds_of(
    model: Any,
    samples: Sequence[Sample],
    token_ids: tuple[int, int],
    device: str,
    batch_tokens: int = 32_768,
) -> list[list[float]]:
    """Log-odds for every sample, in the order given, without gradients."""
    import torch

    index = {id(item): number for number, item in enumerate(samples)}
    out: list[list[float]] = [[] for _ in samples]
    with torch.no_grad():
        for batch in batches(samples, batch_tokens):
            odds, _ = read_odds(model, batch, token_ids, device)
            values: Iterable[float] = odds.float().tolist()
            rest = iter(values)
            for item in batch:
                out[index[id(item)]] = [next(rest) for _ in item.rows]
    return out
