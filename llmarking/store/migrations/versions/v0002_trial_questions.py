"""Versions of questions that are only tried out; objections to a whole answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "questions", sa.Column("active", sa.Boolean(), server_default=sa.true(), nullable=False)
    )
    # SQLite can't change a column: the table is made anew.
    with op.batch_alter_table("contests") as table:
        table.alter_column("point_id", existing_type=sa.Integer(), nullable=True)
