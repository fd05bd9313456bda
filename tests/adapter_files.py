"""Adapter folders for tests: small, of any shape, right or wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

MODULE = "model.layers.0.mlp.up_proj"
OUT, IN, RANK = 12, 8, 4


def model_folder(path: Path, **weights: tuple[int, ...]) -> Path:
    """A model with one weight of shape [OUT, IN], or these."""
    path.mkdir(parents=True)
    shapes = weights or {f"{MODULE}.weight": (OUT, IN)}
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(zeros, path / "model.safetensors")
    return path


def adapter_folder(
    path: Path,
    *,
    base: str = "scripted",
    rank: int = RANK,
    seed: int = 0,
    weights: dict[str, tuple[int, ...]] | None = None,
    **config: Any,
) -> Path:
    """A LoRA adapter for MODULE, or with weights of these shapes."""
    path.mkdir(parents=True)
    told = {"peft_type": "LORA", "base_model_name_or_path": base, "r": rank, "lora_alpha": rank}
    (path / "adapter_config.json").write_text(json.dumps(told | config))
    prefix = f"base_model.model.{MODULE}"
    shapes = weights or {
        f"{prefix}.lora_A.weight": (rank, IN),
        f"{prefix}.lora_B.weight": (OUT, rank),
    }
    random = np.random.default_rng(seed)
    content = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(content, path / "adapter_model.safetensors")
    return path


def calibration_file(beside: Path, **values: Any) -> Path:
    """A calibration that lies beside an adapter's weights."""
    folder = beside / "calibrations"
    folder.mkdir(exist_ok=True)
    told = {
        "format": "llmarking-calibration/1", "model": "scripted",
        "prompt": "verdict/zeroshot.v1", "adapter": beside.name, "slope": 1.0, "offset": 0.0,
    }  # fmt: skip
    file = folder / "zeroshot.json"
    file.write_text(json.dumps(told | values))
    return file
