"""LoRA adapters on disk: the ones that ship with the package, and those an operator names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmarking.errors import InputError
from llmarking.models.catalogue import ModelSpec

SHIPPED = Path(__file__).parent / "shipped_adapters"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# peft's own prefix, then the path of a weight in the model, then which half of the product it is.
PREFIX = "base_model.model."
# What an adapter whose file does not tell was trained in: there was no other then.
FIRST_PROMPT = "v1"
HALVES = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A folder with `adapter_config.json` and safetensors weights.

    Attributes:
        base: the model it was trained for, as its configuration calls it.
        version: the first 12 digits of the SHA-256 of its weights.
        prompt: the version of the verdict prompt that it was trained in.
    """

    name: str
    path: Path
    base: str
    rank: int
    version: str
    prompt: str = FIRST_PROMPT


def read(path: Path, name: str | None = None) -> Adapter:
    """Look at an adapter folder; weights other than safetensors are not accepted.

    Raises:
        InputError: the folder is not an adapter that can be served; the message says why.
    """
    name = name or path.name
    try:
        data: Any = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        base, rank = str(data["base_model_name_or_path"]), int(data["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{name} is no adapter: {CONFIG} is missing or lacks its base model and rank"
        ) from error
    _check_kind(name, data)
    try:
        with (path / WEIGHTS).open("rb") as weights:
            digest = hashlib.file_digest(weights, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{name} is no adapter: {WEIGHTS} is missing") from error
    return Adapter(name, path, base, rank, digest[:12], _prompt(path / WEIGHTS))


def _prompt(weights: Path) -> str:
    """What the weights' own header says of the prompt."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as tensors:
            return str((tensors.metadata() or {}).get("prompt", FIRST_PROMPT))
    except (SafetensorError, OSError):
        # `check_fit` says what is wrong with a damaged file, before anything is served from it.
        return FIRST_PROMPT


def _check_kind(name: str, config: Mapping[str, Any]) -> None:
    """Refuse what a plain product of two matrices beside a weight can't express."""
    if str(config.get("peft_type")).upper() != "LORA":
        raise InputError(f"{name} is no LoRA adapter: its peft_type is {config.get('peft_type')!r}")
    odd = [
        option
        for option in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern")
        if config.get(option)
    ]
    if config.get("bias", "none") != "none":
        odd.append("bias")
    if odd:
        raise InputError(f"{name} can't be served: it uses {', '.join(odd)}; train plain LoRA")


def check_fit(adapter: Adapter, *, bases: Sequence[str], model: Path, max_rank: int) -> None:
    """Whether an adapter belongs beside the weights in the folder `model`.

    Args:
        bases: what the model is called; an adapter of another one is refused.
        max_rank: the highest rank the engine was started for.

    Raises:
        InputError: another model's, too large, damaged, or a weight of it has no counterpart.
    """
    if adapter.base.casefold() not in {base.casefold() for base in bases}:
        raise InputError(f"{adapter.name} was trained for {adapter.base}, not for {bases[0]}")
    if not 1 <= adapter.rank <= max_rank:
        raise InputError(
            f"{adapter.name} has rank {adapter.rank} and the server takes up to {max_rank}; "
            "start it with a larger --max-lora-rank"
        )
    ours = shapes([adapter.path / WEIGHTS], adapter.name)
    theirs = shapes(sorted(model.glob("*.safetensors")), bases[0])
    for module in sorted({_module(adapter.name, weight) for weight in ours}):
        a, b = (ours.get(f"{PREFIX}{module}{half}") for half in HALVES)
        if a is None or b is None:
            raise InputError(f"{adapter.name}: {module} has only one of its two matrices")
        weight = theirs.get(f"{module}.weight")
        if weight is None and f"{module}.qweight" not in theirs:
            raise InputError(f"{adapter.name} changes {module}, which {bases[0]} does not have")
        # Quantized weights are packed: their shapes say nothing.
        wanted = (b[0], a[1]) if weight is None else weight
        if a != (adapter.rank, wanted[1]) or b != (wanted[0], adapter.rank):
            raise InputError(
                f"{adapter.name}: the matrices of {module} have shapes {a} and {b}, which don't "
                f"fit rank {adapter.rank} and a weight of {wanted}"
            )


def _module(name: str, weight: str) -> str:
    for half in HALVES:
        if weight.startswith(PREFIX) and weight.endswith(half):
            return weight[len(PREFIX) : -len(half)]
    raise InputError(f"{name} holds {weight[:100]!r}, which is no LoRA weight")


def shapes(files: Sequence[Path], whose: str) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors in safetensors files, from their headers.

    Raises:
        InputError: a file is damaged: cut off, or with a header that does not fit its content.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                found |= {
                    key: tuple(tensors.get_slice(key).get_shape())
                    for key in tensors.keys()  # noqa: SIM118 - it is no mapping
                }
        except (SafetensorError, OSError) as error:
            raise InputError(f"{whose}: {file.name} is damaged: {error}") from error
    return found


def shipped(spec: ModelSpec) -> Adapter | None:
    """The adapter that comes with a model of the catalogue, if there is one."""
    if not SHIPPED.is_dir() or not spec.hub_id:
        return None
    for folder in sorted(SHIPPED.iterdir()):
        if (folder / CONFIG).is_file():
            adapter = read(folder)
            if adapter.base.lower() == spec.hub_id.lower():
                return adapter
    return None


def named(given: Sequence[str]) -> list[Adapter]:
    """Adapters from texts like NAME=FOLDER.

    Raises:
        InputError: a text is not of that form, or its folder is no adapter.
    """
    adapters = []
    for text in given:
        name, found, folder = text.partition("=")
        if not found or not name or not folder:
            raise InputError(f"--adapter {text}: write NAME=FOLDER")
        path = Path(folder).expanduser()
        try:
            adapters.append(read(path, name))
        except InputError as error:
            raise InputError(f"--adapter {text}: {error}") from error
    return adapters
