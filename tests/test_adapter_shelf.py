"""Adapters that come and go while the server runs: from one folder, by name, and nothing else."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
from adapter_files import adapter_folder, calibration_file

from llmarking.engines.scripted import ScriptedEngine
from llmarking.errors import CalibrationError, Conflict, InputError, UnknownModelError
from llmarking.marks.calibration import Calibrations
from llmarking.models.adapters import Adapter, read
from llmarking.server import adapter_shelf
from llmarking.server.adapter_shelf import AdapterShelf, calibrations_of

PROMPT = "verdict/zeroshot.v1"


class Engine(ScriptedEngine):
    """Remembers which adapters it was given, and keeps those that leave until it is told."""

    def __init__(self) -> None:
        super().__init__(adapters=["started"])
        self.added: list[Adapter] = []
        self.left: list[Adapter] = []
        self.free = asyncio.Event()
        self.failure: Exception | None = None

    async def add_adapter(self, adapter: Adapter) -> None:
        if self.failure is not None:
            raise self.failure
        assert (adapter.path / "adapter_model.safetensors").is_file()
        await super().add_adapter(adapter)
        self.added.append(adapter)

    def remove_adapter(self, adapter: Adapter) -> Awaitable[None]:
        super().remove_adapter(adapter).close()  # type: ignore[attr-defined]

        async def leave() -> None:
            await self.free.wait()
            self.left.append(adapter)

        return leave()


@pytest.fixture(autouse=True)
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies go; what is left there at the end was forgotten."""
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "adapters"
    path.mkdir()
    return path


class Shelf(AdapterShelf):
    engine: Engine
    known: Calibrations


@pytest.fixture
async def shelf(folder: Path, copies: Path) -> AsyncIterator[Shelf]:
    engine, known = Engine(), Calibrations(folder)
    made = Shelf(engine, known, folder, 100_000)
    made.engine, made.known = engine, known
    yield made
    await made.close()
    assert os.listdir(copies) == []  # noqa: PTH208


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_adapter_comes_with_its_calibration_and_goes_with_it(
    shelf: Shelf, folder: Path, copies: Path
) -> None:
    calibration_file(adapter_folder(folder / "mine"), adapter="as it was trained", slope=0.5)
    adapter, new = await shelf.load("mine")
    assert new
    assert adapter.version == read(folder / "mine").version
    assert shelf.engine.info.adapter("mine") == adapter
    found = shelf.known.find("scripted", "mine", PROMPT)
    assert found is not None
    assert (found.adapter, found.slope) == ("mine", 0.5)
    assert adapter.path.parent == copies
    assert adapter.path.stat().st_mode & 0o077 == 0

    await shelf.unload("mine")
    assert "mine" not in shelf.engine.info.adapters
    assert shelf.known.find("scripted", "mine", PROMPT) is None
    # Who began with it may still read its files.
    await settle()
    assert adapter.path.is_dir()
    shelf.engine.free.set()
    await settle()
    assert shelf.engine.left == [adapter]
    assert not adapter.path.exists()


async def test_new_weights_of_a_name_take_the_place_of_the_old_ones(
    shelf: Shelf, folder: Path
) -> None:
    adapter_folder(folder / "mine")
    first, _ = await shelf.load("mine")
    assert await shelf.load("mine") == (first, False)
    assert shelf.engine.added == [first]

    for file in (folder / "mine").iterdir():
        file.unlink()
    (folder / "mine").rmdir()
    calibration_file(adapter_folder(folder / "mine", seed=1), slope=0.25)
    second, new = await shelf.load("mine")
    assert not new
    assert second.version != first.version
    assert shelf.engine.info.adapter("mine") == second
    found = shelf.known.find("scripted", "mine", PROMPT)
    assert found is not None
    assert found.slope == 0.25
    assert first.path.is_dir()
    shelf.engine.free.set()
    await settle()
    assert not first.path.exists()
    assert second.path.is_dir()


async def test_what_happens_to_the_folder_afterwards_does_no_harm(
    shelf: Shelf, folder: Path
) -> None:
    adapter_folder(folder / "mine")
    adapter, _ = await shelf.load("mine")
    weights = (folder / "mine" / "adapter_model.safetensors").read_bytes()
    for file in (folder / "mine").iterdir():
        file.write_bytes(b"")
    assert (adapter.path / "adapter_model.safetensors").read_bytes() == weights


NAMES = [
    "", ".", "..", "../secret", "/etc", "a/b", "a\\b", "a\0", "-rf", ".hidden", "a b", "é",
    "x" * 101, "%2e%2e", "adapters/../../secret",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_is_no_path(name: str, shelf: Shelf, folder: Path) -> None:
    adapter_folder(folder.parent / "secret")
    with pytest.raises(InputError, match="and no path"):
        await shelf.load(name)
    assert shelf.engine.added == []


async def test_a_name_that_is_not_there_is_not_found(shelf: Shelf, folder: Path) -> None:
    for call in (shelf.load("mine"), shelf.unload("mine")):
        with pytest.raises(UnknownModelError):
            await call
    (folder / "loop").symlink_to("loop")
    with pytest.raises(UnknownModelError, match="no adapter 'loop'"):
        await shelf.load("loop")


async def test_no_link_leads_out(shelf: Shelf, folder: Path) -> None:
    outside = adapter_folder(folder.parent / "secret")
    (folder / "away").symlink_to(outside)
    with pytest.raises(InputError, match="leads out of the adapter folder"):
        await shelf.load("away")
    (folder / "self").symlink_to(folder)
    with pytest.raises(InputError, match="leads out of the adapter folder"):
        await shelf.load("self")
    adapter_folder(folder / "v3")
    (folder / "current").symlink_to("v3")
    assert (await shelf.load("current"))[0].name == "current"


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
async def test_no_file_may_be_a_link_or_stranger(name: str, shelf: Shelf, folder: Path) -> None:
    for kind in ("link", "pipe", "folder", "nothing"):
        mine = adapter_folder(folder / kind)
        moved = (mine / name).rename(folder.parent / f"{kind}-{name}")
        if kind == "link":
            (mine / name).symlink_to(moved)
        elif kind == "pipe":
            os.mkfifo(mine / name)
        elif kind == "folder":
            (mine / name).mkdir()
        with pytest.raises(InputError, match=f"{name} is"):
            await asyncio.wait_for(shelf.load(kind), 20)
    (folder / "file").write_text("not a folder")
    with pytest.raises(InputError, match="file is no folder"):
        await shelf.load("file")
    assert shelf.engine.added == []


async def test_calibrations_may_be_no_link_either(shelf: Shelf, folder: Path) -> None:
    mine = adapter_folder(folder / "mine")
    file = calibration_file(mine)
    moved = file.rename(folder.parent / "moved.json")
    file.symlink_to(moved)
    with pytest.raises(InputError, match=r"zeroshot.json is a link"):
        await shelf.load("mine")
    file.unlink()
    (mine / "calibrations").rmdir()
    (mine / "calibrations").symlink_to(folder.parent)
    with pytest.raises(InputError, match="calibrations is a link"):
        await shelf.load("mine")


async def test_what_is_too_large_is_refused(
    shelf: Shelf, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = adapter_folder(folder / "mine")
    with (mine / "adapter_model.safetensors").open("ab") as file:
        file.truncate(100_001)
    with pytest.raises(InputError, match=r"adapter_model.safetensors is larger than 100000 bytes"):
        await shelf.load("mine")
    monkeypatch.setattr(adapter_shelf, "MOST_CALIBRATIONS", 0)
    calibration_file(adapter_folder(folder / "many"))
    with pytest.raises(InputError, match="more than 0 calibrations"):
        await shelf.load("many")


async def test_what_is_damaged_or_anothers_changes_nothing(shelf: Shelf, folder: Path) -> None:
    adapter_folder(folder / "other", base="lab/Other")
    broken = calibration_file(adapter_folder(folder / "broken"))
    broken.write_text("{")
    for name, error in (("other", InputError), ("broken", CalibrationError)):
        with pytest.raises(error):
            await shelf.load(name)
    adapter_folder(folder / "mine")
    shelf.engine.failure = InputError("vLLM can't load it")
    with pytest.raises(InputError, match="vLLM can't load it"):
        await shelf.load("mine")
    assert list(shelf.engine.info.adapters) == ["started"]


async def test_a_swap_that_fails_leaves_the_old_one(shelf: Shelf, folder: Path) -> None:
    calibration_file(adapter_folder(folder / "mine"), slope=0.5)
    adapter, _ = await shelf.load("mine")
    (folder / "mine" / "adapter_model.safetensors").write_bytes(b"new, and broken")
    shelf.engine.failure = InputError("it is damaged")
    with pytest.raises(InputError, match="it is damaged"):
        await shelf.load("mine")
    assert shelf.engine.info.adapter("mine") == adapter
    assert adapter.path.is_dir()
    found = shelf.known.find("scripted", "mine", PROMPT)
    assert found is not None
    assert found.slope == 0.5


async def test_those_the_server_started_with_stay(shelf: Shelf, folder: Path) -> None:
    adapter_folder(folder / "started")
    for call in (shelf.load("started"), shelf.unload("started")):
        with pytest.raises(Conflict, match="the server was started with started"):
            await call


async def test_there_is_an_end_to_how_many(
    shelf: Shelf, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_shelf, "MOST_ADAPTERS", 1)
    for name in ("one", "two"):
        adapter_folder(folder / name)
    await shelf.load("one")
    with pytest.raises(Conflict, match="1 adapters are loaded"):
        await shelf.load("two")
    await shelf.unload("one")
    await shelf.load("two")


async def test_without_a_folder_nothing_is_found(copies: Path) -> None:
    shelf = AdapterShelf(Engine(), Calibrations(copies), None, 1)
    with pytest.raises(UnknownModelError, match="without --adapter-folder"):
        await shelf.load("mine")


async def test_calibrations_of_another_model_are_left_alone(folder: Path) -> None:
    mine = adapter_folder(folder / "mine")
    calibration_file(mine, model="another")
    assert calibrations_of(read(mine), "scripted") == ()
    (found,) = calibrations_of(read(mine), "another")
    assert found.prompt == PROMPT
