"""Where fetched models are kept, and how a folder becomes finished.

    CACHE/<source>/<org>--<name>/<revision>/     a finished folder: the files and `llmarking.json`
    CACHE/<source>/<org>--<name>/.<revision>/    one being filled; the next process goes on with it
    CACHE/<source>/<org>--<name>/.lock           held while one is filled

A folder gets its visible name by one rename, after every file in it was hashed. So what has that
name is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmarking.errors import ChecksumMismatch
from llmarking.models.catalogue import ModelSpec
from llmarking.models.progress import Progress

MANIFEST = "llmarking.json"
PIECE = 1 << 20


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk: the publisher's `revision`, and a `digest` (SHA-256, hex) of its content."""

    path: Path
    source: str
    revision: str
    digest: str


@dataclass(frozen=True)
class RemoteFile:
    """A file as a hub describes it: bytes, and the hash it publishes (Git's for small files)."""

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True)
class Listing:
    """What one source would deliver; `files` is empty where they are known only once they are made.

    `size` is what is downloaded, `need` the disk space it takes while it comes in, both in bytes.
    """

    revision: str
    files: tuple[RemoteFile, ...]
    size: int
    need: int


def cache_root() -> Path:
    """Return `LLMARKING_CACHE`, or `~/.cache/llmarking`."""
    chosen = os.environ.get("LLMARKING_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "llmarking"


def model_directory(root: Path, source: str, spec: ModelSpec) -> Path:
    """Return the folder that holds all revisions of the model from that source."""
    return root / source / spec.hub_id.replace("/", "--")


def find(root: Path, sources: Iterable[str], spec: ModelSpec) -> ModelFolder | None:
    """Return the newest finished folder of the first source that has one, without the network."""
    for source in sources:
        directory = model_directory(root, source, spec)
        manifests = sorted(
            directory.glob(f"[!.]*/{MANIFEST}"), key=lambda path: path.stat().st_mtime, reverse=True
        )
        for manifest in manifests:
            content = _read_manifest(manifest)
            if content is None or (spec.revision and content["revision"] != spec.revision):
                continue
            return ModelFolder(manifest.parent, source, content["revision"], content["digest"])
    return None


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest, or None where somebody has damaged it or its folder since."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        sizes = {name: entry["size"] for name, entry in content["files"].items()}
        whole = all((path.parent / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return None
    return content if whole else None


@contextmanager
def locked(directory: Path, progress: Progress) -> Iterator[None]:
    """Hold the model's lock against a second process; the kernel frees that of a dead one."""
    from filelock import FileLock, Timeout

    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say(f"another process is fetching {directory.name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def finish(
    folder: Path, final: Path, source: str, spec: ModelSpec, listing: Listing
) -> ModelFolder:
    """Hash every file of `folder`, write the manifest and rename the folder to `final`.

    Raises ChecksumMismatch, and removes the file at fault, when one is not what the listing says.
    """
    expected = {file.name: file for file in listing.files}
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name == MANIFEST or (expected and path.name not in expected):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            continue
        remote = expected.pop(path.name, None)
        files[path.name] = {"size": path.stat().st_size, "sha256": _check(path, remote, source)}
    if expected:
        raise ChecksumMismatch(
            f"{source} did not deliver {', '.join(sorted(expected))} of {spec.hub_id}"
        )
    digest = hashlib.sha256(
        "".join(f"{entry['sha256']}  {name}\n" for name, entry in files.items()).encode()
    ).hexdigest()
    manifest = {
        "model": spec.hub_id,
        "source": source,
        "revision": listing.revision,
        "digest": digest,
        "files": files,
    }
    _write_durably(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    if final.exists():  # damaged, or `find` would have returned it
        shutil.rmtree(final)
    folder.rename(final)
    return ModelFolder(final, source, listing.revision, digest)


def _check(path: Path, remote: RemoteFile | None, source: str) -> str:
    size = path.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            sha256.update(piece)
            if remote is not None and remote.git_sha1:
                git.update(piece)
    if remote is None:
        return sha256.hexdigest()
    for what, told, found in (
        ("size", str(remote.size), str(size)),
        ("SHA-256", remote.sha256, sha256.hexdigest()),
        ("Git hash", remote.git_sha1, git.hexdigest()),
    ):
        if told and told != found:
            path.unlink()
            raise ChecksumMismatch(
                f"{path.name} from {source} has {what} {found} where {told} was published; it was "
                "removed, start again to fetch it anew"
            )
    return sha256.hexdigest()


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def describe_folder(path: Path) -> ModelFolder:
    """Describe a user's folder; the digest covers names, sizes, first and last MiB of its files."""
    digest = hashlib.sha256()
    for file in sorted(entry for entry in path.iterdir() if entry.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as content:
            digest.update(content.read(PIECE))
            if size > PIECE:
                content.seek(max(PIECE, size - PIECE))
                digest.update(content.read())
    return ModelFolder(path, "folder", "", digest.hexdigest())
