"""Adds a column for the greatest number that the API was seen to count."""

from alembic import op

revision = "0014"
down_revision = "0013"
adds = {"proofs": ("greatest_count",)}
touches = {"proofs": ("altered",)}


def upgrade() -> None:
    op.execute("ALTER TABLE proofs ADD COLUMN greatest_count bigint NOT NULL DEFAULT 0")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
