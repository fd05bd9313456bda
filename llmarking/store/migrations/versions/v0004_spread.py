"""What is not known of a course's calibration, in place of errors that others had measured."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "course_calibrations",
        sa.Column("spread", sa.JSON(), nullable=False, server_default="[0, 0, 0]"),
    )
    with op.batch_alter_table("course_calibrations") as table:
        table.drop_column("risk_table")
