"""Notes the collection of stored pages, readings, faults and webhook events."""

from alembic import op

revision = "0021"
down_revision = "0020"
adds = {
    "walks": ("collection",),
    "raw_rms_pages": ("collection",),
    "sync_faults": ("collection",),
    "webhook_events": ("collection", "record_id"),
}
touches = {
    "walks": ("altered", "indexed"),
    "raw_rms_pages": ("altered",),
    "sync_faults": ("altered",),
    "webhook_events": ("altered",),
    "proofs": ("altered",),
}


def upgrade() -> None:
    # With a constant default no row is rewritten, and an older version beside this one need not
    # know the column.
    for table in ("walks", "raw_rms_pages", "sync_faults", "webhook_events"):
        op.execute(
            f"ALTER TABLE {table} ADD COLUMN collection text NOT NULL DEFAULT 'opportunities'"
        )
    # Beside opportunity_id, so that an older version refreshes no opportunity for a member's event.
    op.execute("ALTER TABLE webhook_events ADD COLUMN record_id bigint")
    op.execute("CREATE INDEX ON walks (collection, id)")
    # Of a collection without a window.
    op.execute(
        "ALTER TABLE proofs ALTER COLUMN window_start DROP NOT NULL,"
        " ALTER COLUMN window_end DROP NOT NULL"
    )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
