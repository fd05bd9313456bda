#!/usr/bin/env python
"""The mean of several adapters of one model, cut to a rank by singular values.

Weights of runs that differ in their seed or data often average to a model that carries over to new
data better than each of them, at the cost of one (Wortsman et al. 2022, model soups). A LoRA
adapter is a low-rank change of each layer; so is the mean of some, of a rank that adds up, and what
is cut off by singular values is the least that can be.

    python bench/average_adapters.py out/seed1 out/seed2 --rank 16 --out out/mean
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from safetensors.torch import load_file, save_file

from llmarking.errors import InputError
from llmarking.models import adapters

A, B = ".lora_A.weight", ".lora_B.weight"
Tensors = dict[str, torch.Tensor]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapters", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--weights", nargs="+", type=float, help="of each (default: alike)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument(
        "--prompt",
        help="version of the verdict prompt that the mean is asked in, where they were trained in "
        "several: half-way between before and after often carries over better than the end "
        "(Wortsman et al. 2022, robust fine-tuning)",
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    weights = args.weights or [1 / len(args.adapters)] * len(args.adapters)
    if len(weights) != len(args.adapters):
        parser.error(f"{len(weights)} weights for {len(args.adapters)} adapters")
    changes, config = [], {}
    given = [adapters.read(folder) for folder in args.adapters]
    for what in ("base",) if args.prompt else ("base", "prompt"):
        if len(found := {getattr(adapter, what) for adapter in given}) > 1:
            parser.error(f"the adapters have different {what}s: {', '.join(sorted(found))}")
    for path in (adapter.path for adapter in given):
        config = json.loads((path / "adapter_config.json").read_text())
        tensors = load_file(path / "adapter_model.safetensors")
        changes.append((tensors, config["lora_alpha"] / config["r"]))
    mean, kept = averaged(changes, weights, args.rank)
    args.out.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "prompt": args.prompt or given[0].prompt}
    save_file(mean, args.out / "adapter_model.safetensors", metadata=metadata)
    config |= {"r": args.rank, "lora_alpha": args.rank}
    (args.out / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    print(f"{args.out}: rank {args.rank}, {kept:.1%} of the squared change of the weights kept")
    return 0


def averaged(
    changes: Sequence[tuple[Tensors, float]], weights: Sequence[float], rank: int
) -> tuple[Tensors, float]:
    """The weighted mean of changes of weights, as factors of a rank.

    Args:
        changes: for each adapter its factors A (rank x inputs) and B (outputs x rank) by layer, and
            the scale of their product.

    Returns:
        Factors in bfloat16, of scale 1, and the share of the squared change that the cut kept.

    Raises:
        InputError: the adapters are not for the same layers.
    """
    first = set(changes[0][0])
    if any(set(tensors) != first for tensors, _ in changes):
        raise InputError("the adapters change different layers; average those of one training")
    mean: Tensors = {}
    kept = everything = 0.0
    for layer in sorted(name.removesuffix(A) for name in first if name.endswith(A)):
        down = torch.cat([tensors[layer + A].float() for tensors, _ in changes])
        up = torch.cat(
            [
                tensors[layer + B].float() * scale * weight
                for (tensors, scale), weight in zip(changes, weights, strict=True)
            ],
            dim=1,
        )
        # The product's singular values are those of the small matrix between two orthogonal ones.
        left, small = torch.linalg.qr(up)
        right, other = torch.linalg.qr(down.T)
        u, values, vh = torch.linalg.svd(small @ other.T)
        kept += float(values[:rank].square().sum())
        everything += float(values.square().sum())
        root = values[:rank].sqrt()
        mean[layer + B] = (left @ u[:, :rank] * root).to(torch.bfloat16).contiguous()
        mean[layer + A] = (root[:, None] * (vh[:rank] @ right.T)).to(torch.bfloat16).contiguous()
    return mean, kept / everything


if __name__ == "__main__":
    raise SystemExit(main())
