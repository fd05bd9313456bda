"""What Alembic runs to migrate, in a transaction that is begun and ended by who asked for it."""

from __future__ import annotations

from alembic import context

from llmarking.store.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
