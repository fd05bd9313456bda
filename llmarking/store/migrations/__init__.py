"""The history of the store's tables, for Alembic.

A change of `store/schema.py` wants a new file in `versions/`; a test compares what they make with
what the schema says.
"""

from __future__ import annotations

import logging
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from llmarking.errors import StoreError


def config(tx: sa.Connection | None = None) -> Config:
    """Alembic's settings, for the transaction that `env.py` is to run in."""
    made = Config()
    # Alembic takes a percent sign in a path for the start of a variable.
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    made.attributes["connection"] = tx
    return made


def upgrade(tx: sa.Connection) -> None:
    """Run what is missing, in the transaction given: all of it or nothing.

    Raises:
        StoreError: a newer version has been at this database.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = config(tx)
    scripts = ScriptDirectory.from_config(settings)
    known = {script.revision for script in scripts.walk_revisions()}
    heads = MigrationContext.configure(tx).get_current_heads()
    for head in heads:
        if head not in known:
            raise StoreError(
                f"the database was written by a newer LLMarking (its tables are of version {head});"
                " install that one, or restore a backup from before it"
            )
    if set(heads) != set(scripts.get_heads()):
        command.upgrade(settings, "head")
