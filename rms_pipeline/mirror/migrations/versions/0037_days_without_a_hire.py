"""Adds an index on what the calendar shows without a hire, and drops one that others contain."""

from alembic import op

revision = "0037"
down_revision = "0036"
touches = {"opportunities": ("altered", "indexed")}


def upgrade() -> None:
    # To find absent values, PostgreSQL reads all of the index on hires.
    op.execute(
        "CREATE INDEX ON opportunities"
        " ((coalesce(deliver_starts_at, starts_at, collect_ends_at, ends_at))) WHERE hire IS NULL"
    )
    # Those on the status and the id, and on the status and the day of return, find the same.
    op.execute("DROP INDEX IF EXISTS opportunities_opportunity_status_idx")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
