"""Adapters that come and go while the server runs, from one folder that the operator has named.

A request brings a name and never a path. What it names is copied to a private place first, and the
copy is what is checked and loaded: nobody can exchange the files in between, and what happens to
the folder afterwards harms no request.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmarking.engines.engine import Engine
from llmarking.errors import Conflict, EngineError, InputError, UnknownModelError
from llmarking.marks import calibration
from llmarking.marks.calibration import Calibration, Calibrations
from llmarking.models import adapters
from llmarking.models.adapters import Adapter

log = logging.getLogger("llmarking.server")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SMALL = 1 << 20  # bytes of a configuration or a calibration
MOST_CALIBRATIONS = 64
MOST_ADAPTERS = 64


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter that was loaded while the server ran, from its copy."""

    adapter: Adapter
    calibrations: tuple[Calibration, ...]


class AdapterShelf:
    """Loads adapters of one folder into an engine, and takes them out again.

    Args:
        folder: where adapters lie, one folder each; None if none may be loaded.
        limit: how many bytes the weights of one may have.
    """

    def __init__(
        self, engine: Engine, calibrations: Calibrations, folder: Path | None, limit: int
    ) -> None:
        self._engine = engine
        self._calibrations = calibrations
        self._folder = folder
        self._limit = limit
        self._loaded: dict[str, Loaded] = {}
        self._lock = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    async def load(self, name: str) -> tuple[Adapter, bool]:
        """Make an adapter of the folder available; one of the same name makes room for it.

        Requests that have begun with the former one end with it.

        Returns:
            the adapter, and whether it was not there before.

        Raises:
            UnknownModelError: the folder has none of that name.
            Conflict: the server was started with one of that name, or has too many.
            InputError: it is no adapter, or not for this model.
        """
        async with self._lock:
            before = self._loaded.get(name)
            if before is None and name in self._engine.info.adapters:
                raise Conflict(f"the server was started with {name}; choose another name")
            if before is None and len(self._loaded) >= MOST_ADAPTERS:
                raise Conflict(f"{MOST_ADAPTERS} adapters are loaded; remove one first")
            copy = await asyncio.to_thread(self._copy, name)
            try:
                adapter = await asyncio.to_thread(adapters.read, copy, name)
                if before is not None and before.adapter.version == adapter.version:
                    await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)
                    adapter = before.adapter
                else:
                    found = await asyncio.to_thread(
                        calibrations_of, adapter, self._engine.info.model
                    )
                    await self._engine.add_adapter(adapter)
            except BaseException:
                await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)
                raise
            # From here on nothing waits: weights and calibration change at once.
            if before is None or adapter is not before.adapter:
                self._loaded[name] = Loaded(adapter, found)
                self._calibrations.put(name, found)
                if before is not None:
                    self._leave(before, self._engine.remove_adapter(before.adapter))
                log.info("adapter %s, version %s, is loaded", name, adapter.version)
            return adapter, before is None

    async def unload(self, name: str) -> None:
        """Take an adapter away; requests that have begun with it end with it.

        Raises:
            UnknownModelError: none of that name is loaded.
            Conflict: the server was started with it.
        """
        async with self._lock:
            loaded = self._loaded.pop(name, None)
            if loaded is None:
                if name in self._engine.info.adapters:
                    raise Conflict(f"the server was started with {name}; restart it without")
                raise UnknownModelError(f"no adapter {name!r} is loaded", field="name")
            self._calibrations.forget(name)
            self._leave(loaded, self._engine.remove_adapter(loaded.adapter))
            log.info("adapter %s is removed", name)

    def available(self) -> list[str]:
        """Names in the folder that can be asked for, whether or not they are whole."""
        if self._folder is None or not self._folder.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self._folder.iterdir()
            if NAME.fullmatch(entry.name) and (entry / adapters.CONFIG).is_file()
        )

    async def close(self) -> None:
        """Forget the copies; the engine has stopped."""
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        for loaded in self._loaded.values():
            shutil.rmtree(loaded.adapter.path, ignore_errors=True)
        self._loaded.clear()

    def _leave(self, loaded: Loaded, gone: Awaitable[None]) -> None:
        async def leave() -> None:
            try:
                await gone
            except EngineError as error:
                log.warning("adapter %s could not be unloaded: %s", loaded.adapter.name, error)
            finally:
                shutil.rmtree(loaded.adapter.path, ignore_errors=True)

        task = asyncio.create_task(leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _copy(self, name: str) -> Path:
        """A private copy of the adapter's files: configuration, weights, calibrations."""
        if self._folder is None:
            raise UnknownModelError("the server was started without --adapter-folder")
        if not NAME.fullmatch(name):
            raise InputError(
                "a name has letters, digits, dots, dashes and underscores, and no path",
                field="name",
            )
        target = Path(tempfile.mkdtemp(prefix="llmarking-adapter-"))
        try:
            with _opened(self._folder, name) as source:
                _copy_file(source, adapters.CONFIG, target, SMALL)
                _copy_file(source, adapters.WEIGHTS, target, self._limit)
                _copy_calibrations(source, target)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        return target


@contextlib.contextmanager
def _opened(folder: Path, name: str) -> Iterator[int]:
    """A descriptor of the adapter's real folder, which must lie in the operator's."""
    root = folder.resolve()
    try:
        real = (root / name).resolve(strict=True)
    except (OSError, RuntimeError):
        raise UnknownModelError(
            f"the adapter folder has no adapter {name!r}", field="name"
        ) from None
    if root not in real.parents:
        raise InputError(f"{name} leads out of the adapter folder", field="name")
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        raise InputError(f"{name} is no folder that can be read", field="name") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _copy_file(source: int, name: str, target: Path, limit: int) -> None:
    """Copy one regular file of a folder given by descriptor; no link is followed.

    Raises:
        InputError: it is missing, a link or something stranger, or larger than `limit` bytes.
    """
    try:
        # Without waiting: a pipe of that name would never come to an end.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=source)
    except OSError as error:
        why = "is a link" if error.errno == errno.ELOOP else "is missing or can't be read"
        raise InputError(f"{name} {why}", field="name") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{name} is no file", field="name")
    with os.fdopen(descriptor, "rb") as file, (target / name).open("wb") as copy:
        left = limit
        while piece := file.read(min(1 << 20, left + 1)):
            left -= len(piece)
            if left < 0:
                raise InputError(f"{name} is larger than {limit} bytes", field="name")
            copy.write(piece)


def _copy_calibrations(source: int, target: Path) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        folder = os.open("calibrations", flags, dir_fd=source)
    except FileNotFoundError:
        return
    except OSError:
        raise InputError("calibrations is a link or no folder", field="name") from None
    try:
        # A descriptor, which pathlib does not know.
        names = [n for n in os.listdir(folder) if n.endswith(".json")]  # noqa: PTH208
        if len(names) > MOST_CALIBRATIONS:
            raise InputError(f"it has more than {MOST_CALIBRATIONS} calibrations", field="name")
        (target / "calibrations").mkdir()
        for name in names:
            _copy_file(folder, name, target / "calibrations", SMALL)
    finally:
        os.close(folder)


def calibrations_of(adapter: Adapter, model: str) -> tuple[Calibration, ...]:
    """The calibrations that lie beside an adapter's weights, for the model that is served.

    They belong to these weights whatever the folder has been renamed to since.

    Raises:
        CalibrationError: one of them is malformed.
    """
    files = sorted((adapter.path / "calibrations").glob("*.json"))
    found = [calibration.load(file) for file in files]
    return tuple(replace(each, adapter=adapter.name) for each in found if each.model == model)
