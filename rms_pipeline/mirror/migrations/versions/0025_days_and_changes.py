"""Adds indexes for what a day asks: what leaves and returns, what changed and by whom."""

from alembic import op

revision = "0025"
down_revision = "0024"
touches = {"opportunities": ("indexed",), "opportunity_changes": ("indexed",)}


def upgrade() -> None:
    op.execute("CREATE INDEX ON opportunities ((coalesce(deliver_starts_at, starts_at)))")
    op.execute(
        "CREATE INDEX ON opportunities (opportunity_status, (coalesce(collect_ends_at, ends_at)))"
    )
    op.execute("CREATE INDEX ON opportunities (confirmed_at)")
    # In the order in which changes are listed, newest first: all, of a person, of a field.
    for of in ("", "changed_by, ", "field, "):
        op.execute(f"CREATE INDEX ON opportunity_changes ({of}(coalesce(changed_at, seen_at)), id)")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
