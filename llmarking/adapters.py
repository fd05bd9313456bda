"""LoRA adapters on disk: the ones that ship with the package, and those an operator names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmarking.catalogue import ModelSpec
from llmarking.errors import InputError

SHIPPED = Path(__file__).parent / "shipped_adapters"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A folder with `adapter_config.json` and safetensors weights."""

    name: str
    path: Path
    base: str
    rank: int


def read(path: Path, name: str | None = None) -> Adapter:
    """Look at an adapter folder; weights other than safetensors are not accepted.

    Raises:
        InputError: the folder is not an adapter; the message says what is missing.
    """
    config = path / "adapter_config.json"
    try:
        data: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
        base, rank = str(data["base_model_name_or_path"]), int(data["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no adapter: adapter_config.json is missing or lacks its base model and rank"
        ) from error
    if not (path / "adapter_model.safetensors").is_file():
        raise InputError(f"{path} is no adapter: adapter_model.safetensors is missing")
    return Adapter(name or path.name, path, base, rank)


def shipped(spec: ModelSpec) -> Adapter | None:
    """The adapter that comes with a model of the catalogue, if there is one."""
    if not SHIPPED.is_dir() or not spec.hub_id:
        return None
    for folder in sorted(SHIPPED.iterdir()):
        if (folder / "adapter_config.json").is_file():
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
        adapters.append(read(Path(folder).expanduser(), name))
    return adapters
