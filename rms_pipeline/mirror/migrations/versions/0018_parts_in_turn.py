"""Adds a column for the time at which a part of the window was counted."""

from alembic import op

revision = "0018"
down_revision = "0017"
adds = {"proof_counts": ("as_of",)}
touches = {"proof_counts": ("altered",)}


def upgrade() -> None:
    op.execute("ALTER TABLE proof_counts ADD COLUMN as_of timestamptz")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
