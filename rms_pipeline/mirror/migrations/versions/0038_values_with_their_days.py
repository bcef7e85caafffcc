"""Adds when it was edited to the index on values, so that lists of great value read it alone."""

from alembic import op

revision = "0038"
down_revision = "0037"
touches = {"opportunities": ("altered", "indexed")}


def upgrade() -> None:
    op.execute("CREATE INDEX ON opportunities (total_value, id) INCLUDE (updated_at_rms)")
    op.execute("DROP INDEX IF EXISTS opportunities_total_value_id_idx")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
