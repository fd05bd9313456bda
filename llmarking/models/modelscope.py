"""Fetch a model from ModelScope, or a mirror named by `MODELSCOPE_ENDPOINT`, through the modelscope
hub library.

`modelscope_hub` is the download half of the `modelscope` package; the other half would import
torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmarking.errors import ChecksumMismatch, GatedModel, ModelUnavailable
from llmarking.models.cache import Listing, RemoteFile
from llmarking.models.catalogue import ModelSpec
from llmarking.models.files import select
from llmarking.models.progress import Progress

NAME = "modelscope"
BRANCH = "master"


def endpoint() -> str:
    """Return the address of the hub."""
    chosen = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN")
    address = (chosen or "https://modelscope.cn").rstrip("/")
    return address if "://" in address else f"https://{address}"


def listing(spec: ModelSpec) -> Listing:
    """Ask the hub for the files of the model; the revision is made from their hashes."""
    if spec.modelscope_id is None or spec.trust_remote_code:
        why = "its code is pinned by a commit of Hugging Face" if spec.trust_remote_code else ""
        raise ModelUnavailable(
            f"the catalogue names no copy of {spec.hub_id} there{why and '; ' + why}"
        )
    from modelscope_hub import HubApi

    with _translated(spec):
        entries = HubApi(endpoint=endpoint()).list_repo_files(spec.modelscope_id, "model")
    found = [
        RemoteFile(entry.path, int(entry.size or 0), sha256=entry.sha256)
        for entry in entries
        if entry.type != "tree"
    ]
    files = select(found, spec)
    content = "".join(f"{file.name} {file.size} {file.sha256}\n" for file in files)
    revision = f"{BRANCH}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    size = sum(file.size for file in files)
    return Listing(revision, files, size, need=size)


def transfer(spec: ModelSpec, listing: Listing, folder: Path, progress: Progress) -> None:
    """Bring the listed files into `folder`; the library resumes and checks each."""
    from modelscope_hub import HubApi

    assert spec.modelscope_id is not None
    entries = [
        {"Path": file.name, "Size": file.size, "Sha256": file.sha256} for file in listing.files
    ]
    present = [file for file in listing.files if (folder / file.name).exists()]
    progress.add(sum(file.size for file in present))
    # The library draws its bars whatever it is told; ours shows every source alike.
    with _translated(spec), contextlib.redirect_stderr(io.StringIO()):
        HubApi(endpoint=endpoint()).download_repo(
            spec.modelscope_id,
            "model",
            revision=BRANCH,
            local_dir=folder,
            cache_dir=folder / ".modelscope",
            file_list=entries,
            progress_callbacks=[_counter(progress)],
        )


def _counter(progress: Progress) -> Any:
    """Return a class of the library's callback interface that counts into `progress`."""
    from modelscope_hub._download import ProgressCallback

    class Counter(ProgressCallback):
        def update(self, size: int) -> None:
            progress.add(size)

    return Counter


@contextlib.contextmanager
def _translated(spec: ModelSpec) -> Iterator[None]:
    """Turn what the library raises into our errors."""
    from modelscope_hub.errors import (
        AuthenticationError,
        FileDownloadError,
        FileIntegrityError,
        HubError,
        NotExistError,
        PermissionDeniedError,
    )

    try:
        yield
    except FileDownloadError as error:
        name, first = next(iter(error.failed_files.items()))
        if isinstance(first, FileIntegrityError):
            raise ChecksumMismatch(
                f"{name} from {NAME} is not what was published: {first}"
            ) from error
        if isinstance(first, AuthenticationError | PermissionDeniedError):
            raise _gated(spec) from error
        raise ModelUnavailable(f"the transfer from {endpoint()} broke off: {first}") from error
    except (AuthenticationError, PermissionDeniedError) as error:
        raise _gated(spec) from error
    except NotExistError as error:
        raise ModelUnavailable(f"{endpoint()} has no public model {spec.modelscope_id}") from error
    except (HubError, OSError) as error:
        raise ModelUnavailable(f"{endpoint()}: {error}") from error


def _gated(spec: ModelSpec) -> GatedModel:
    licence = f" ({spec.licence}, {spec.licence_url})" if spec.licence_url else ""
    return GatedModel(
        f"{spec.modelscope_id} is given only to those who accepted its licence{licence}. Accept "
        f"it at {endpoint()}/models/{spec.modelscope_id} with an account, and set "
        "MODELSCOPE_API_TOKEN to its token"
    )
