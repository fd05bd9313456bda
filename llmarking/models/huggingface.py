"""Fetch a model from the Hugging Face Hub, or a mirror named by `HF_ENDPOINT`, through
`huggingface_hub`.

Its `snapshot_download` starts a file anew after a kill, up to fifty gigabytes of it. The library's
own listing and transfer are used one level lower, where a file goes on from the byte it had
reached.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from llmarking.errors import GatedModel, ModelUnavailable
from llmarking.models.cache import Listing, RemoteFile
from llmarking.models.catalogue import ModelSpec
from llmarking.models.files import select
from llmarking.models.progress import Progress

NAME = "huggingface"
WORKERS = 4


def endpoint() -> str:
    """Return the address of the hub."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def listing(spec: ModelSpec) -> Listing:
    """Ask the hub for the files of the model at its pinned commit, or at the newest one."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=endpoint(), library_name="llmarking")
    with _translated(spec):
        commit = api.model_info(spec.hub_id, revision=spec.revision, timeout=20).sha
        if commit is None:
            raise ModelUnavailable(f"{endpoint()} names no commit for {spec.hub_id}")
        tree = api.list_repo_tree(spec.hub_id, revision=commit)
        found = [
            RemoteFile(
                entry.path,
                entry.size,
                sha256=entry.lfs.sha256 if entry.lfs else None,
                git_sha1=None if entry.lfs else entry.blob_id,
            )
            for entry in tree
            if isinstance(entry, RepoFile)
        ]
    files = select(found, spec)
    size = sum(file.size for file in files)
    return Listing(commit, files, size, need=size)


def transfer(spec: ModelSpec, listing: Listing, folder: Path, progress: Progress) -> None:
    """Bring the listed files into `folder`, each under its name only when it is complete."""
    with _translated(spec), ThreadPoolExecutor(WORKERS) as pool:
        futures = [
            pool.submit(_transfer, spec, listing.revision, file, folder, progress)
            for file in listing.files
        ]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            progress.cancel()
            pool.shutdown(cancel_futures=True)
            raise


def _transfer(
    spec: ModelSpec, commit: str, file: RemoteFile, folder: Path, progress: Progress
) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    target, part = folder / file.name, folder / f"{file.name}.part"
    if target.exists():
        progress.add(file.size)
        return
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    url = hf_hub_url(spec.hub_id, file.name, revision=commit, endpoint=endpoint())
    with part.open("ab") as content:
        http_get(
            url,
            content,
            resume_size=content.tell(),
            headers=build_hf_headers(library_name="llmarking"),
            expected_size=file.size,
            tqdm_class=_counter(progress),
        )
    part.rename(target)


def _counter(progress: Progress) -> Any:
    """Return a class that stands in for tqdm and counts into `progress`."""

    class Counter:
        def __init__(self, *, initial: int = 0, **_: Any) -> None:
            progress.add(initial)

        def update(self, count: int) -> None:
            progress.add(int(count))

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    return Counter


@contextmanager
def _translated(spec: ModelSpec) -> Iterator[None]:
    """Turn what the library and its HTTP client raise into our errors."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise gated(spec) from error
    except RepositoryNotFoundError as error:
        if spec.gated:
            raise gated(spec) from error
        raise ModelUnavailable(f"{endpoint()} has no public model {spec.hub_id}") from error
    except RevisionNotFoundError as error:
        raise ModelUnavailable(
            f"{endpoint()} has no commit {spec.revision} of {spec.hub_id}"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise gated(spec) from error
        raise ModelUnavailable(f"{endpoint()} answered with status {status}") from error
    except OfflineModeIsEnabled as error:
        raise ModelUnavailable("HF_HUB_OFFLINE forbids the network") from error
    except (HTTPError, OSError) as error:
        raise ModelUnavailable(f"the transfer from {endpoint()} broke off: {error}") from error


def gated(spec: ModelSpec) -> GatedModel:
    """Say which licence to accept, where, and how to show that it was."""
    licence = f" ({spec.licence}, {spec.licence_url})" if spec.licence_url else ""
    return GatedModel(
        f"{spec.hub_id} is given only to those who accepted its licence{licence}. Accept it at "
        f"{endpoint()}/{spec.hub_id} with an account, make a read token there, and set HF_TOKEN "
        "to it"
    )
