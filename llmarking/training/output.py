"""What a training run leaves: the adapter, its calibrations, figures, curves and a model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from llmarking.training.settings import TrainingSettings

WEIGHTS = "adapter_model.safetensors"
CARD = """# {name}

A LoRA adapter that makes {base} decide whether a student's answer states a point of the reference
answer. Serve it with `python vllm_server.py -m {model} --adapter {name}=FOLDER`.

| | |
|---|---|
| form | rank {rank}, alpha {alpha}, {targets}; {numbers:.1f} million numbers in bfloat16, {size:.1f} MB |
| prompt | `prompts/{prompt}.jinja` and its versions with graded examples; loss on the verdict tokens only |
| start | {start} |
| method | {method}, seed {seed}, learning rate {rate:g}, {steps} steps of {tokens} tokens; the weights of the step that was best on held-out questions |
| base model | {base}, files {digest} |
| adapter | SHA-256 {sha256} |
| versions | {versions} |

## Data

| course | licence | questions and answers trained on | held out | SHA-256 |
|---|---|---|---|---|
{data}

The adapter may be passed on only where every one of these licences allows it.

## On the held-out questions

Verdicts of questions that were not trained on, with the calibration that belongs to the adapter. The calibration was
fitted on these same questions, so its threshold flatters a little; the intervals (95 %, drawn over questions) don't
know that. Left out: every question with a threshold from the others.

| graded examples | verdicts | kappa | interval | kappa, left out | macro-F1 | AUC | ECE |
|---|---|---|---|---|---|---|---|
{results}

## The command

```sh
{command}
```
"""  # noqa: E501  # a table's row is one line


def shrink(folder: Path, prompt: str) -> str:
    """Keep the adapter's weights in 16 bits; returns their SHA-256.

    Args:
        prompt: the version of the verdict prompt that was trained, noted in the file.
    """
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / WEIGHTS
    weights = {name: w.to(torch.bfloat16).contiguous() for name, w in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt", "prompt": prompt})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def installed() -> dict[str, str]:
    """Versions of what the result depends on."""
    found = {}
    for name in ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def card(
    name: str,
    *,
    model: str,
    base: str,
    digest: str,
    settings: TrainingSettings,
    prompt: str,
    start: str | None,
    steps: int,
    numbers: int,
    folder: Path,
    data: Sequence[Mapping[str, Any]],
    results: Mapping[str, Mapping[str, Any]],
    command: str,
) -> str:
    """The model card as Markdown."""
    weights = folder / WEIGHTS
    return CARD.format(
        name=name,
        model=model,
        base=base,
        digest=digest[:12],
        rank=settings.rank,
        alpha=settings.lora_alpha,
        targets=", ".join(settings.targets),
        numbers=numbers / 1e6,
        size=weights.stat().st_size / 1e6,
        prompt=prompt,
        start=start or "fresh weights",
        method="QLoRA (nf4)" if settings.quantize else "LoRA",
        seed=settings.seed,
        rate=settings.learning_rate,
        steps=steps,
        tokens=f"{settings.batch_tokens:,}",
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        versions=", ".join(f"{k} {v}" for k, v in installed().items()),
        data="\n".join(_data_row(row) for row in data),
        results="\n".join(_result_row(shots, row) for shots, row in results.items())
        or "| none were held out | | | | | | | |",
        command=command,
    )


def _data_row(row: Mapping[str, Any]) -> str:
    train, held = row["train"], row["held_out"]
    return (
        f"| {row['course']} | {row['licence']} | {train['questions']}, {train['answers']:,} | "
        f"{held['questions']}, {held['answers']:,} | {str(row['sha256'])[:12]} |"
    )


def _result_row(shots: str, row: Mapping[str, Any]) -> str:
    def show(value: Any) -> str:
        number = value["estimate"] if isinstance(value, Mapping) else value
        return "–" if number is None else f"{number:.2f}"

    numbers = row["calibrated"]
    kappa = numbers["kappa"]
    bounds = "–" if kappa["low"] is None else f"{kappa['low']:.2f} to {kappa['high']:.2f}"
    return (
        f"| {shots} | {numbers['points']} | {show(kappa)} | {bounds} | "
        f"{show(row['left_out']['kappa'])} | {show(numbers['macro_f1'])} | "
        f"{show(numbers['auc'])} | {show(numbers['ece'])} |"
    )


def as_json(content: Mapping[str, Any]) -> str:
    """JSON as it is written here, ending with a line feed."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write as JSON, ending with a line feed."""
    path.write_text(as_json(content), encoding="utf-8")
