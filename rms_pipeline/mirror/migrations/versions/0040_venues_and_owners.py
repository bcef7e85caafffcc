"""Adds indexes on venues, owners and the time of an order, so that their pages read few rows."""

from alembic import op

revision = "0040"
down_revision = "0039"
touches = {"opportunities": ("indexed",)}


def upgrade() -> None:
    op.execute("CREATE INDEX ON opportunities (venue_id) WHERE venue_id IS NOT NULL")
    op.execute("CREATE INDEX ON opportunities (owner_id) WHERE owner_id IS NOT NULL")
    op.execute("CREATE INDEX ON opportunities (ordered_at) WHERE ordered_at IS NOT NULL")
    op.execute(
        "CREATE INDEX ON opportunities (opportunity_status, state_name)"
        " INCLUDE (id, owner_id, charge_total)"
        " WHERE ordered_at IS NULL AND confirmed_at IS NULL"
    )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
