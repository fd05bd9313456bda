"""An adapter added into its model's weights, once, on disk.

On a CPU vLLM grades many times slower with a LoRA adapter than without; with the weights merged the
adapter costs nothing. The merged folder lies in the cache beside the model.

    python -m llmarking.models.merging MODEL_FOLDER ADAPTER_FOLDER DESTINATION
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

from llmarking.errors import HubError
from llmarking.models.adapters import CONFIG, WEIGHTS, Adapter
from llmarking.models.cache import cache_root


def merged_folder(model: Path, digest: str, adapter: Adapter, cache: Path | None = None) -> Path:
    """The folder with the adapter's weights merged in, made if it is not there yet.

    Args:
        digest: identifies the model's files.

    Raises:
        HubError: merging failed; the model itself is untouched.
    """
    root = (cache_root() if cache is None else cache) / "merged"
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"{adapter.name}-{digest[:12]}-{adapter.version}"
    with FileLock(root / f"{final.name}.lock"):
        if final.is_dir():
            return final
        print(f"merging {adapter.name} into its model, once ...", file=sys.stderr, flush=True)
        work = Path(tempfile.mkdtemp(prefix="unfinished-", dir=root))
        try:
            # In a process of its own: the server imports no torch for this and keeps no memory.
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "llmarking.models.merging",
                    str(model),
                    str(adapter.path),
                    str(work),
                ],
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise HubError(f"merging {adapter.name} into its model failed: {last}")
            work.rename(final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return final


def merge(model: Path, adapter: Path, destination: Path) -> int:
    """Write the model with W + scale * B A for every adapted W; returns how many there are.

    Raises:
        HubError: the adapter names a weight that the model does not have.
    """
    import json

    from safetensors.torch import load_file, save_file

    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    rank: float = config["r"]
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    parts = load_file(adapter / WEIGHTS)
    wanted = {
        name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight"): (
            parts[name],
            parts[name.replace(".lora_A.", ".lora_B.")],
        )
        for name in parts
        if name.endswith(".lora_A.weight")
    }
    merged = 0
    for source in sorted(model.iterdir()):
        if source.suffix != ".safetensors":
            shutil.copy2(source, destination / source.name)
            continue
        weights = load_file(source)
        for name in sorted(set(weights) & set(wanted)):
            a, b = wanted[name]
            weight = weights[name]
            weights[name] = (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)
            merged += 1
        save_file(weights, destination / source.name, metadata={"format": "pt"})
        del weights
    if merged != len(wanted):
        raise HubError(
            f"the adapter changes {len(wanted)} weights, of which the model has {merged}"
        )
    return merged


if __name__ == "__main__":
    print(merge(*map(Path, sys.argv[1:4])))
