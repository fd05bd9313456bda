#!/usr/bin/env python
"""An adapter with a higher rank that does the same, to go on training from.

`finetune.py --start` keeps the rank of what it goes on from. Here directions are added: fresh rows
of A, as large as those there are, and zero columns of B, which training moves at its first step.
The mean of one adapter (`average_adapters.py`) would fill both up with zeros, which never move.

    python bench/widen_adapter.py out/small-rank --rank 16 --out out/start
    python finetune.py --start out/start --data … --out out/marker
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from safetensors.torch import load_file, save_file

from llmarking.errors import InputError
from llmarking.models import adapters

Tensors = dict[str, torch.Tensor]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapter", type=Path, metavar="FOLDER")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    given = adapters.read(args.adapter)
    config = json.loads((given.path / adapters.CONFIG).read_text(encoding="utf-8"))
    torch.manual_seed(args.seed)
    try:
        wide = widened(load_file(given.path / adapters.WEIGHTS), args.rank)
    except InputError as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "prompt": given.prompt}
    save_file(wide, args.out / adapters.WEIGHTS, metadata=metadata)
    # The product is scaled by alpha over rank, which has to stay.
    config |= {"lora_alpha": config["lora_alpha"] * args.rank // config["r"], "r": args.rank}
    (args.out / adapters.CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    print(f"{args.out}: rank {args.rank} in place of {given.rank}")
    return 0


def widened(tensors: Tensors, rank: int) -> Tensors:
    """Factors A (rank x inputs) and B (outputs x rank) of the same products at a higher rank.

    Raises:
        InputError: the rank is no multiple of the one there is, or not above it.
    """
    wide = {}
    for name, tensor in tensors.items():
        inner = 0 if name.endswith(adapters.HALVES[0]) else 1
        there = tensor.shape[inner]
        if rank <= there or rank % there:
            raise InputError(f"--rank {rank}: take a multiple of {there}, which the adapter has")
        if inner:
            more = torch.zeros(tensor.shape[0], rank - there, dtype=tensor.dtype)
        else:
            fresh = torch.empty(rank - there, tensor.shape[1])
            torch.nn.init.kaiming_uniform_(fresh, a=math.sqrt(5))  # as peft begins
            size = tensor.float().norm(dim=1).mean() / fresh.norm(dim=1).mean()
            more = (fresh * min(1.0, float(size))).to(tensor.dtype)
        wide[name] = torch.cat([tensor, more], dim=inner).contiguous()
    return wide


if __name__ == "__main__":
    raise SystemExit(main())
