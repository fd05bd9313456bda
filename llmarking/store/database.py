"""The store: one database for courses, answers, jobs and marks, on SQLite or PostgreSQL.

`open_store()` connects, brings the tables up to date, and holds a lock on a SQLite file for as long
as it is open. Everything else goes through short transactions:

    with store.write() as tx:
        tx.execute(insert(courses).values(id=new_id(), name="Networks"))

All calls block; the server makes them in threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    SQLAlchemyError,
    TimeoutError as PoolTimeout,
)

from llmarking.errors import InputError, StoreError
from llmarking.sentences import sentence
from llmarking.store.schema import clock

log = logging.getLogger("llmarking.store")

# Longer than any transaction of ours; what still holds the database then is somebody else.
BUSY_SECONDS = 10.0
_CONNECTIONS = 16
# "LLMARKIN": servers that start at the same time migrate one after the other.
_MIGRATION_LOCK = 0x4C4C4D41524B494E

_HELD = sentence("database_held", "another program holds the database; close it or wait")
_SQLITE_TROUBLE = {
    sqlite3.SQLITE_BUSY: _HELD,
    sqlite3.SQLITE_LOCKED: _HELD,
    sqlite3.SQLITE_FULL: sentence(
        "disk_full", "the disk is full; make room, work goes on by itself"
    ),
    sqlite3.SQLITE_READONLY: sentence(
        "may_not_write", "it is not allowed to write there; check owner and permissions"
    ),
    sqlite3.SQLITE_CANTOPEN: sentence(
        "cannot_open", "the file can't be opened; check that its folder exists and is ours"
    ),
    sqlite3.SQLITE_IOERR: sentence("disk_error", "the disk reports an error"),
    sqlite3.SQLITE_CORRUPT: sentence("file_damaged", "the file is damaged; restore a backup"),
    sqlite3.SQLITE_NOTADB: sentence("no_database_file", "the file is not a database"),
}


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder for what must not get lost: `LLMARKING_HOME`, or one in the user's own."""
    if given := environ.get("LLMARKING_HOME"):
        return Path(given)
    data = environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "llmarking"


def database_url(given: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """The database's URL: as given, else `LLMARKING_DATABASE_URL`, else a file in `home()`."""
    url = given or environ.get("LLMARKING_DATABASE_URL")
    # An absolute path, or another working directory would be another database.
    return url or f"sqlite:///{(home(environ) / 'llmarking.db').absolute()}"


def open_store(url: str | None = None, *, busy_seconds: float = BUSY_SECONDS) -> Store:
    """Connect to the database and bring its tables up to date.

    Args:
        url: sqlite:///FILE or postgresql://…; else what the environment says.
        busy_seconds: how long a transaction waits for another program's.

    Raises:
        InputError: the URL names no database that is supported.
        StoreError: it can't be reached, written, or is in use by another server.
    """
    parsed = _parse(database_url(url))
    lock = _lock(parsed) if parsed.get_backend_name() == "sqlite" else None
    store = Store(_engine(parsed, busy_seconds), lock)
    try:
        store.migrate()
    except BaseException:
        store.close()
        raise
    return store


class Store:
    """An open database."""

    def __init__(self, engine: sa.Engine, lock: FileLock | None = None) -> None:
        self.engine = engine
        self._lock = lock
        self._writing = engine.execution_options(llmarking_write=True)
        # SQLite has one writer, and lets the others sleep and look again; so ours queue here.
        self._turn = threading.Lock() if engine.dialect.name == "sqlite" else None

    @property
    def shared(self) -> bool:
        """Whether other servers may work on the same database."""
        return self.engine.dialect.name != "sqlite"

    @property
    def name(self) -> str:
        """The database for people to read, without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database and changes nothing."""
        with self._translated(), self.engine.begin() as tx:
            yield tx

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that happens as a whole or not at all.

        Raises:
            StoreError: the database can't be written, and why.
        """
        turn = self._turn or contextlib.nullcontext()
        with self._translated(), turn, self._writing.begin() as tx:
            yield tx

    def now(self) -> float:
        """Seconds since 1970 by the database's clock."""
        with self.read() as tx:
            return float(tx.scalar(sa.select(clock())) or 0.0)

    def migrate(self) -> None:
        """Bring the tables up to date, in one transaction and one server at a time."""
        from llmarking.store import migrations

        with self.write() as tx:
            if self.engine.dialect.name == "postgresql":
                tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            migrations.upgrade(tx)

    def scrub(self, patience: float = BUSY_SECONDS) -> None:
        """Leave no trace in the file of what has been deleted; does nothing on PostgreSQL.

        Deleted rows are overwritten as they go (`secure_delete`). What may still hold them is the
        write-ahead log, and the slack of pages that were rearranged before.

        Args:
            patience: seconds to wait for readers that keep the write-ahead log in use.

        Raises:
            StoreError: the rows are gone, but their traces could not be removed yet.
        """
        if self._turn is None:
            return
        deadline = time.monotonic() + patience
        with self._translated(), self._turn, self.engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            assert isinstance(raw, sqlite3.Connection)
            for statement in ("wal_checkpoint(TRUNCATE)", "", "wal_checkpoint(TRUNCATE)"):
                while not _scrubbed(raw, statement):
                    if time.monotonic() > deadline:
                        raise StoreError(
                            sentence(
                                "traces_left",
                                "what was asked for is deleted, but traces of it may be left in "
                                "{name} until the next deletion: somebody kept reading",
                                name=self.name,
                            )
                        )
                    time.sleep(0.05)

    def close(self) -> None:
        """Close every connection and let go of the lock."""
        self.engine.dispose()
        if self._lock is not None:
            self._lock.release()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of the database in our words; theirs hold statements, and so what students wrote.

        `IntegrityError` passes: who expects it knows what it means.
        """
        try:
            yield
        except sa.exc.IntegrityError:
            raise
        except (DBAPIError, PoolTimeout) as error:
            fault = sentence(
                "database_trouble",
                "the database {name}: {why}",
                name=self.name,
                why=_trouble(error),
            )
            raise StoreError(fault) from None


def _scrubbed(connection: sqlite3.Connection, checkpoint: str) -> bool:
    """Rewrite the file, or with `checkpoint` empty the write-ahead log; false if it is in use."""
    try:
        if not checkpoint:
            connection.execute("VACUUM")
            return True
        busy, _, _ = connection.execute(f"PRAGMA {checkpoint}").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return False
        why = _SQLITE_TROUBLE.get(error.sqlite_errorcode & 0xFF, "it fails")
        raise StoreError(f"traces of what was deleted could not be removed: {why}") from None
    return not busy


def _trouble(error: SQLAlchemyError) -> str:
    if not isinstance(error, DBAPIError):
        return sentence("many_waiting", "too many transactions are waiting for it")
    original = error.orig
    code = getattr(original, "sqlite_errorcode", None)
    if code is not None:
        return _SQLITE_TROUBLE.get(code & 0xFF, f"it fails with SQLite's error {code}")
    state = getattr(original, "sqlstate", None)
    if state == "53100":
        return sentence("its_disk_full", "its disk is full; make room, work goes on by itself")
    if state is None or state.startswith(("08", "57P", "28", "3D")):
        # Of a connection, so no statement is in it. One line: psycopg lists every address it tried.
        said = str(original).strip().splitlines()
        why = said[0] if said else sentence("connection_lost", "the connection was lost")
        return sentence("database_away", "it can't be reached: {why}", why=why)
    return f"it fails with {type(original).__name__} ({state})"


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            return parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
            return parsed.set(drivername="sqlite+pysqlite")
    except (ArgumentError, NoSuchModuleError, ValueError):
        pass
    # Not repeated: it may hold a password.
    raise InputError(
        "--database-url: it must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME",
        field="database_url",
    )


def _lock(url: URL) -> FileLock:
    """The right to use a SQLite file; the system takes it back however the process ends."""
    file = Path(str(url.database))
    lock = FileLock(f"{file}.lock", mode=0o600)
    try:
        # What is in it is personal: nobody else on this machine gets to read it.
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise StoreError(
            f"{file} is in use by another server. Stop that one, name another folder in "
            "LLMARKING_HOME, or let both use PostgreSQL (--database-url)"
        ) from None
    except OSError as error:
        raise StoreError(
            f"can't write in {file.parent}: {error.strerror}. Name another folder in "
            "LLMARKING_HOME, or a database in --database-url"
        ) from None
    return lock


def _engine(url: URL, busy_seconds: float) -> sa.Engine:
    options: dict[str, Any] = {
        "hide_parameters": True,  # or errors would repeat what students wrote
        "pool_size": _CONNECTIONS,
        "max_overflow": 0,
        "pool_timeout": 30,
    }
    if url.get_backend_name() == "sqlite":
        connect = _sqlite_connect(str(url.database), busy_seconds)
        engine = sa.create_engine(url, creator=connect, **options)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    return sa.create_engine(
        url,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": max(2, round(busy_seconds)),
            # A lock held by somebody who is gone must not hold us for ever.
            "options": f"-c lock_timeout={round(busy_seconds * 1000)}"
            " -c idle_in_transaction_session_timeout=60000",
        },
        **options,
    )


def _sqlite_connect(file: str, busy_seconds: float) -> Callable[[], sqlite3.Connection]:
    def connect() -> sqlite3.Connection:
        # We say BEGIN ourselves: Python's module leaves it out before reads and DDL.
        connection = sqlite3.connect(
            file, timeout=busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            if Path(file).stat().st_mode & 0o077:
                Path(file).chmod(0o600)
            for setting in (
                "journal_mode = WAL",
                "synchronous = FULL",
                "foreign_keys = ON",
                "secure_delete = ON",
                f"journal_size_limit = {64 << 20}",
            ):
                connection.execute(f"PRAGMA {setting}").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    return connect


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer takes its place at once: one that began as a reader could not wait for its turn.
    write = connection.get_execution_options().get("llmarking_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
