"""The store: opening, migrating, locking, and what is said when it can't be used."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from class_in_store import ClassInStore
from hypothesis import given, strategies as st

from llmarking.errors import InputError, StoreError
from llmarking.store import migrations
from llmarking.store.database import Store, database_url, open_store
from llmarking.store.schema import (
    METADATA,
    course_calibrations,
    courses,
    events,
    storable,
    text_key,
)

# Dies without a word, as if the power had gone, when the table of answers is about to be made.
KILLED_HALFWAY = """
import os, sys
import sqlalchemy as sa
from llmarking.store.database import open_store

@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def stop(connection, cursor, statement, *rest):
    if statement.strip().startswith("CREATE TABLE answers"):
        os._exit(9)

open_store(sys.argv[1])
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "llmarking.db"


def differences(opened: Store) -> list[object]:
    with opened.read() as tx:
        context = MigrationContext.configure(tx, opts={"compare_type": True})
        return list(compare_metadata(context, METADATA))


def test_the_migrations_make_what_the_schema_says(any_store: Store) -> None:
    assert differences(any_store) == []


def test_opening_again_changes_nothing(any_url: str) -> None:
    first = open_store(any_url)
    with first.write() as tx:
        tx.execute(sa.insert(courses).values(id="c", name="Networks"))
    first.close()
    again = open_store(any_url)
    with again.read() as tx:
        assert tx.scalar(sa.select(courses.c.name)) == "Networks"
    again.close()


def test_a_migration_that_is_killed_halfway_leaves_nothing_behind(any_url: str) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_HALFWAY, any_url], check=False)
    assert killed.returncode == 9
    again = open_store(any_url)
    assert differences(again) == []
    again.close()


def test_what_an_older_version_wrote_is_kept(any_url: str, store: Store) -> None:
    made = ClassInStore(store)
    for number in range(3):
        made.answer(f"It keeps values under {number} keys.", student=f"s{number}")
    with store.write() as tx:
        tx.execute(
            sa.insert(course_calibrations).values(
                id="k", course_id="c", model="m", prompt="p", slope=1.0, offset=0.5,
                spread=[0, 0, 0], verdicts=80, identity="i", state="applied",
            )
        )  # fmt: skip
    today = rows_of(store.engine)
    # The tables as an older version left them, with the same rows in what it had of columns.
    engine = sa.create_engine(any_url)
    with engine.begin() as tx:
        command.upgrade(migrations.config(tx), "0002")
        older = sa.MetaData()
        older.reflect(tx)
        for name, rows in today.items():
            has = older.tables[name].columns.keys() if name in older.tables else []
            if kept := [{k: v for k, v in row.items() if k in has} for row in rows]:
                # As the schema has the types that a reflected table has lost.
                table = METADATA.tables[name]
                if name == "course_calibrations":
                    table = older.tables[name]
                    kept = [row | {"risk_table": "[[0.5, 0.1]]"} for row in kept]
                tx.execute(sa.insert(table), kept)
    engine.dispose()
    opened = open_store(any_url)
    assert differences(opened) == []
    assert rows_of(opened.engine) == today
    opened.close()


def rows_of(engine: sa.Engine) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, those without keys to others first."""
    with engine.connect() as connection:
        return {
            table.name: [
                dict(row)
                for row in connection.execute(
                    sa.select(table).order_by(*table.primary_key.columns)
                ).mappings()
            ]
            for table in METADATA.sorted_tables
        }


def test_servers_that_start_together_migrate_once(new_database: Callable[[], str]) -> None:
    url = new_database()
    opened: list[Store] = []
    threads = [threading.Thread(target=lambda: opened.append(open_store(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    assert differences(opened[0]) == []
    for store in opened:
        store.close()


def test_a_database_of_a_newer_version_is_left_alone(any_url: str) -> None:
    first = open_store(any_url)
    with first.write() as tx:
        tx.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    first.close()
    with pytest.raises(StoreError, match=r"newer LLMarking .*9999"):
        open_store(any_url)


def test_the_files_are_for_their_owner_only(file: Path) -> None:
    opened = open_store(f"sqlite:///{file}")
    opened.now()
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    for path in file.parent.iterdir():
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path.name
    opened.close()


def test_sqlite_is_set_up_to_lose_nothing_and_leave_nothing(file: Path) -> None:
    opened = open_store(f"sqlite:///{file}")
    with opened.read() as tx:
        settings = {
            name: tx.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
    assert list(settings.values()) == ["wal", 2, 1, 1]
    opened.close()


def test_scrubbing_leaves_no_trace_of_what_was_deleted(file: Path) -> None:
    opened = open_store(f"sqlite:///{file}")
    with opened.write() as tx:
        tx.execute(sa.insert(courses).values(id="c", name="CANARY" * 500))
    with opened.write() as tx:
        tx.execute(sa.delete(courses))
    opened.scrub()
    for path in file.parent.iterdir():
        assert b"CANARY" not in path.read_bytes(), path.name
    opened.close()


def test_a_data_folder_has_one_server(file: Path) -> None:
    first = open_store(f"sqlite:///{file}")
    with pytest.raises(StoreError, match=r"in use by another server.*LLMARKING_HOME"):
        open_store(f"sqlite:///{file}")
    first.close()
    open_store(f"sqlite:///{file}").close()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match=r"can't write in .*Permission denied"):
        open_store(f"sqlite:///{tmp_path / 'llmarking.db'}")


def test_a_folder_that_can_not_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"can't write in .*file"):
        open_store(f"sqlite:///{tmp_path / 'file' / 'llmarking.db'}")


def test_a_file_that_is_no_database_is_refused(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="the file is not a database"):
        open_store(f"sqlite:///{file}")


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(StoreError, match="can't be reached") as caught:
        open_store("postgresql://me:secret@127.0.0.1:9/db", busy_seconds=1)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["mysql://a@b/c", "sqlite://", "nonsense", "sqlite:///:memory:"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="--database-url"):
        open_store(url)


def test_where_the_database_is_by_default() -> None:
    url = "postgresql://a/b"
    assert database_url(url, {"LLMARKING_DATABASE_URL": "sqlite:///x"}) == url
    assert database_url(None, {"LLMARKING_DATABASE_URL": url}) == url
    assert database_url(None, {"LLMARKING_HOME": "/data"}) == "sqlite:////data/llmarking.db"
    in_xdg = database_url(None, {"XDG_DATA_HOME": "/xdg"})
    assert in_xdg == "sqlite:////xdg/llmarking/llmarking.db"
    assert database_url(None, {}).endswith("/.local/share/llmarking/llmarking.db")


def test_a_writer_waits_for_another_and_then_says_so(file: Path) -> None:
    opened = open_store(f"sqlite:///{file}", busy_seconds=0.1)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another program holds the database"), opened.write():
        pass
    # Readers are not held up.
    assert opened.now() > 0
    other.execute("COMMIT")
    with opened.write() as tx:
        tx.execute(sa.insert(courses).values(id="c", name="Networks"))
    other.close()
    opened.close()


def test_a_full_disk_is_named_and_nothing_is_half_written(file: Path) -> None:
    opened = open_store(f"sqlite:///{file}")
    with opened.read() as tx:
        pages = tx.exec_driver_sql("PRAGMA page_count").scalar()
    rows = [{"id": f"c{number}", "name": "CANARY" * 500} for number in range(100)]

    def fill() -> None:
        with opened.write() as tx:
            # To SQLite this is the same limit.
            tx.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            tx.execute(sa.insert(courses), rows)

    with pytest.raises(StoreError, match="the disk is full") as caught:
        fill()
    assert "CANARY" not in str(caught.value)
    assert caught.value.__suppress_context__
    with opened.read() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(courses)) == 0
    opened.close()


def test_ids_of_events_rise_and_are_never_given_out_twice(any_store: Store) -> None:
    seen = []
    for _ in range(3):
        with any_store.write() as tx:
            row = tx.execute(sa.insert(events).values(actor="t", action="a"))
            seen.append(row.inserted_primary_key[0])  # type: ignore[index]
            tx.execute(sa.delete(events))
    assert seen == sorted(set(seen))


@given(st.text(st.characters(codec=None), max_size=20))
def test_any_text_can_be_stored_and_only_what_can_not_be_is_changed(text: str) -> None:
    kept = storable(text)
    kept.encode()
    assert len(kept) == len(text)
    assert all(a == b or b == "\ufffd" for a, b in zip(text, kept, strict=True))
    assert storable(kept) == kept
    assert "\0" not in kept


def test_answers_that_read_the_same_have_the_same_key() -> None:
    assert text_key("un  caf\u00e9\n") == text_key(" un cafe\u0301")
    assert text_key("CO") != text_key("Co")
