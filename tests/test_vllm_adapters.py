"""Adapters beside the weights: how vLLM is told of them (the real engine: `test_vllm_engine`)."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from adapter_files import MODULE, adapter_folder, model_folder

from llmarking.engines.vllm_adapters import VLLMAdapters
from llmarking.engines.vllm_arguments import lora_arguments
from llmarking.errors import Conflict, EngineDead, EngineError, InputError
from llmarking.models import adapters
from llmarking.models.adapters import Adapter


def flags(*ranks: int, **options: bool) -> dict[str, int]:
    told = lora_arguments(ranks, **({"more": False, "gpu": True} | options))
    assert told[0] == "--enable-lora"
    return {name: int(value) for name, value in zip(told[1::2], told[2::2], strict=True)}


def test_vllm_makes_room_for_the_adapters_there_are() -> None:
    assert flags(8) == {"--max-lora-rank": 8, "--max-loras": 1, "--max-cpu-loras": 1}
    assert flags(8, 24) == {"--max-lora-rank": 32, "--max-loras": 2, "--max-cpu-loras": 2}
    # On a CPU one place stays empty.
    assert flags(8, gpu=False) == {"--max-lora-rank": 8, "--max-loras": 2, "--max-cpu-loras": 2}


def test_vllm_makes_room_for_those_to_come() -> None:
    assert flags(more=True) == {"--max-lora-rank": 16, "--max-loras": 4, "--max-cpu-loras": 32}
    assert flags(64, more=True)["--max-lora-rank"] == 64
    assert flags(more=True, gpu=False)["--max-loras"] == 9
    assert flags(8, 8, 8, more=True, gpu=False)["--max-loras"] == 12


# What is done around vLLM, without it


# vLLM's own imports warn of what will be taken from Python and torch one day.
imports_vllm = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class FakeVLLM:
    """An engine that notes what it is told."""

    def __init__(self, *, loras: int = 3, rank: int = 8) -> None:
        config = SimpleNamespace(max_lora_rank=rank, max_loras=loras, max_cpu_loras=9)
        self.vllm_config = SimpleNamespace(lora_config=config if rank else None)
        self.told: list[tuple[str, Any]] = []
        self.failure: Exception | None = None

    async def add_lora(self, request: Any) -> bool:
        if self.failure is not None:
            raise self.failure
        self.told.append(("add", request.lora_int_id))
        return True

    async def remove_lora(self, number: int) -> bool:
        if self.failure is not None:
            raise self.failure
        self.told.append(("remove", number))
        return True


@pytest.fixture
def made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[VLLMAdapters, FakeVLLM, list[Adapter]]:
    model = model_folder(tmp_path / "model")
    found = [
        adapters.read(adapter_folder(tmp_path / str(seed), base="lab/Model", seed=seed), "mine")
        for seed in range(3)
    ]
    engine = FakeVLLM()
    table = VLLMAdapters(["lab/Model"], model, None)
    numbers = count(1)
    monkeypatch.setattr(
        table,
        "_request",
        lambda adapter: SimpleNamespace(lora_int_id=next(numbers), lora_path=str(adapter.path)),
    )
    assert table.attach(engine, gpu=False) == 8
    return table, engine, found


async def test_an_adapter_leaves_when_the_last_that_uses_it_has_ended(
    made: tuple[VLLMAdapters, FakeVLLM, list[Adapter]],
) -> None:
    table, engine, (first, second, _) = made
    await table.add(first)
    with table.using(first) as one, table.using(first) as two:
        assert one is two
        assert one.lora_path == str(first.path)
        await table.add(second)
        assert table.known == {"mine": second}
        with table.using(second) as other:
            assert other.lora_int_id != one.lora_int_id
        leaving = asyncio.ensure_future(table.remove(first))
        await asyncio.sleep(0)
        assert not leaving.done()
    await leaving
    assert engine.told == [("add", 1), ("add", 2), ("remove", 1)]
    await table.remove(second)
    assert dict(table.known) == {}
    assert engine.told[-1] == ("remove", 2)


async def test_one_place_stays_empty_on_a_cpu(
    made: tuple[VLLMAdapters, FakeVLLM, list[Adapter]],
) -> None:
    table, _, (first, second, third) = made
    await table.add(first)
    await table.add(second)
    with pytest.raises(Conflict, match=r"room for 2 adapters at once.*--max-loras"):
        await table.add(third)
    await table.remove(first)
    await table.add(third)


@imports_vllm
async def test_what_vllm_refuses_is_said_in_its_words_without_the_path(
    made: tuple[VLLMAdapters, FakeVLLM, list[Adapter]],
) -> None:
    table, engine, (first, second, _) = made
    await table.add(first)
    engine.failure = Exception(
        f"Call to add_lora method failed: Worker failed with error 'no head in {second.path}', "
        "please check the stack trace above for the root cause"
    )
    with pytest.raises(InputError, match=r"^vLLM can't load mine: no head in mine$"):
        await table.add(second)
    assert table.known == {"mine": first}
    with pytest.raises(EngineError, match="can't unload mine"):
        await table.remove(first)


@imports_vllm
async def test_a_dead_engine_is_told_from_a_bad_adapter(
    made: tuple[VLLMAdapters, FakeVLLM, list[Adapter]],
) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    table, engine, (first, *_) = made
    engine.failure = EngineDeadError()
    with pytest.raises(EngineDead):
        await table.add(first)


@imports_vllm
def test_vllms_cache_never_takes_two_adapters_for_one(tmp_path: Path) -> None:
    """It tells them apart by name and path."""
    table = VLLMAdapters(["lab/Model"], tmp_path, None)
    same = adapters.read(adapter_folder(tmp_path / "a", base="lab/Model"))
    one, two = table._request(same), table._request(same)
    assert one.lora_name != two.lora_name
    assert one.lora_int_id != two.lora_int_id
    assert one.lora_path == str(same.path)


async def test_an_engine_without_lora_takes_none(tmp_path: Path) -> None:
    table = VLLMAdapters(["lab/Model"], tmp_path, None)
    assert table.attach(FakeVLLM(rank=0), gpu=True) == 0
    with pytest.raises(InputError, match="without --enable-lora"):
        await table.add(adapters.read(adapter_folder(tmp_path / "a", base="lab/Model")))


async def test_a_merged_adapter_is_known_and_needs_nothing(tmp_path: Path) -> None:
    merged = adapters.read(adapter_folder(tmp_path / "a", base="lab/Model"))
    table = VLLMAdapters(["lab/Model"], tmp_path, merged)
    assert table.known == {"a": merged}
    with table.using(merged) as request:
        assert request is None
    with table.using(None) as request:
        assert request is None


def test_the_module_of_the_made_up_adapters_is_one_of_real_models(test_model: Path) -> None:
    assert f"{MODULE}.weight" in adapters.shapes([test_model / "model.safetensors"], "it")
