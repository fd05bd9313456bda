"""Which files of a repository are fetched: safetensors, configuration, tokenizer; no pickle."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch

from llmarking.errors import ModelUnavailable
from llmarking.models.cache import RemoteFile
from llmarking.models.catalogue import ModelSpec

WANTED = (
    "*.safetensors",
    "*.json",
    "*.model",
    "*.tiktoken",
    "*.txt",
    "*.jinja",
    "LICENSE*",
    "NOTICE*",
)


def select(files: Iterable[RemoteFile], spec: ModelSpec) -> tuple[RemoteFile, ...]:
    """Return the files to fetch, sorted by name. Code is among them only where the spec trusts it.

    Raises ModelUnavailable where there are no safetensors weights.
    """
    patterns = (*WANTED, "*.py") if spec.trust_remote_code else WANTED
    # Folders hold other formats of the same weights, as Mistral's consolidated.safetensors does.
    chosen = [f for f in files if "/" not in f.name and any(fnmatch(f.name, p) for p in patterns)]
    weights = {f.name for f in chosen if f.name.endswith(".safetensors")}
    copies = {name for name in weights if name.startswith("consolidated")}
    if weights - copies:
        chosen = [f for f in chosen if f.name not in copies]
    names = {f.name for f in chosen}
    if not weights or "config.json" not in names:
        lacks = "config.json" if weights else "safetensors weights, and pickles are never loaded"
        raise ModelUnavailable(f"the repository of {spec.hub_id} has no {lacks}")
    return tuple(sorted(chosen, key=lambda f: f.name))
