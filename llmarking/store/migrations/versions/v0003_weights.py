"""The weights that read an answer, and those that a course's calibration was fitted on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("marks", sa.Column("adapter_version", sa.Text(), nullable=True))
    op.add_column("course_calibrations", sa.Column("revision", sa.Text(), nullable=True))
    op.add_column("course_calibrations", sa.Column("adapter_version", sa.Text(), nullable=True))
