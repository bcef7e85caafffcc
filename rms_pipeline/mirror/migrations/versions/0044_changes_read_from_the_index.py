"""Puts ids and customers into the index on the last change, so that lists read that alone."""

from alembic import op

revision = "0044"
down_revision = "0043"
touches = {"opportunities": ("altered", "indexed")}


def upgrade() -> None:
    op.execute(
        "CREATE INDEX ON opportunities (updated_at_rms DESC, id DESC) INCLUDE (organisation_id)"
    )
    op.execute("DROP INDEX IF EXISTS opportunities_updated_at_rms_idx")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
