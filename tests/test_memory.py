"""Free memory is read from the machine; a model that can't fit is refused with both numbers."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import pytest

from llmarking.errors import InputError, NotEnoughMemory
from llmarking.models.catalogue import GIB, ModelSpec, models, resolve
from llmarking.models.memory import check_memory, gpu_gib, ram_gib, usable_gib

SMI = """#!/bin/sh
case "$*" in *memory.free*) ;; *) exit 3;; esac
echo "0, GPU-aaa, 40960"
echo "1, GPU-bbb, 81920"
"""


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(available=64 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({}, 64),
        ({"memory.max": "max\n", "memory.current": "5\n"}, 64),
        ({"memory.max": f"{8 * GIB}\n", "memory.current": f"{3 * GIB}\n"}, 5),
        ({"memory.max": f"{999 * GIB}\n", "memory.current": "0\n"}, 64),
        ({"memory.max": f"{GIB}\n", "memory.current": f"{2 * GIB}\n"}, 0),
        (
            {
                "memory/memory.limit_in_bytes": f"{6 * GIB}\n",
                "memory/memory.usage_in_bytes": f"{2 * GIB}\n",
            },
            4,
        ),
    ],
)
def test_the_limit_of_a_container_counts(tmp_path: Path, files: dict[str, str], gib: float) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert ram_gib(tmp_path) == gib


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


@pytest.mark.parametrize(
    ("visible", "gib"),
    [
        (None, (40, 80)),
        ("1", (80,)),
        ("1,0", (80, 40)),
        ("GPU-aaa", (40,)),
        ("", ()),
        ("7", ()),
        ("MIG-ccc", (math.inf,)),
    ],
)
def test_the_gpus_that_are_visible_count(
    smi: Path, visible: str | None, gib: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_gib() == gib


def test_a_gpu_that_hides_its_memory_is_still_a_gpu(smi: Path) -> None:
    smi.write_text("#!/bin/sh\necho '0, GPU-aaa, [N/A]'\n")
    assert gpu_gib() == (math.inf,)


def test_a_machine_without_a_driver_or_with_a_broken_one_has_no_gpu(
    smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert gpu_gib() == ()
    monkeypatch.setenv("PATH", str(smi.parent / "empty"))
    assert gpu_gib() == ()


@pytest.mark.parametrize(
    ("gpus", "flags", "default", "expected"),
    [
        ((20.0, 10.0), [], 1, (20.0, 1)),
        ((20.0, 10.0), [], 2, (20.0, 2)),  # each gets as much as the fullest can take
        ((8.0, 8.0, 80.0), ["--tensor-parallel-size", "2"], 1, (16.0, 2)),
        ((8.0, 8.0, 80.0), ["-tp=2"], 1, (16.0, 2)),
        ((8.0,) * 4, ["--tensor-parallel-size=2", "-pp", "2", "--dtype", "half"], 1, (32.0, 4)),
        ((8.0, 9.0), ["--data-parallel-size", "2"], 1, (8.0, 1)),
        ((8.0, 9.0), ["--tensor-parallel-size", "many"], 1, (8.0, 1)),
    ],
)
def test_only_the_gpus_that_one_copy_is_spread_on_count(
    gpus: tuple[float, ...], flags: list[str], default: int, expected: tuple[float, int]
) -> None:
    assert usable_gib(gpus, flags, default) == expected


def test_more_gpus_than_there_are_is_said_before_the_download() -> None:
    with pytest.raises(InputError, match="told to use 4 GPUs, and 2 are there"):
        usable_gib((8.0, 8.0), ["--tensor-parallel-size", "4"], 1)


def test_a_model_that_cannot_fit_is_refused_with_the_numbers_and_what_fits() -> None:
    with pytest.raises(NotEnoughMemory) as refusal:
        check_memory(resolve("Qwen2.5-32B-Instruct"), 15.04, "GPU")
    text = str(refusal.value)
    assert "needs about 71.3 GiB of GPU memory and 15.0 GiB is free" in text
    suggested = [spec for spec in models() if spec.name in text and spec.name in text.split(":")[1]]
    assert suggested
    assert all((spec.memory_gib or 99) <= 15.04 and not spec.gated for spec in suggested)


def test_where_nothing_fits_that_is_said() -> None:
    with pytest.raises(NotEnoughMemory, match="No model of the catalogue fits"):
        check_memory(resolve("Qwen3-8B"), 1.5, "RAM")


def test_what_fits_and_what_nobody_knows_passes() -> None:
    check_memory(resolve("Qwen3-8B"), 18.5, "RAM")
    check_memory(ModelSpec("unknown"), 0.1, "RAM")
