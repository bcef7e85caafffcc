"""Makes webhook_events a queue with attempts and dead letters."""

from alembic import op

revision = "0004"
down_revision = "0003"
adds = {
    "webhook_events": ("next_attempt_at", "claimed_by", "claimed_until", "dead_at"),
    "walks": ("audit",),
}
touches = {
    "webhook_events": ("altered", "indexed"),
    "opportunity_changes": ("indexed",),
    "walks": ("altered",),
}


def upgrade() -> None:
    op.execute("""
        ALTER TABLE webhook_events
            ADD COLUMN next_attempt_at timestamptz NOT NULL DEFAULT now(),
            ADD COLUMN claimed_by text,
            ADD COLUMN claimed_until timestamptz,
            ADD COLUMN dead_at timestamptz
    """)
    op.execute(
        "CREATE INDEX webhook_events_pending ON webhook_events (next_attempt_at)"
        " WHERE processed_at IS NULL AND dead_at IS NULL"
    )
    op.execute("CREATE INDEX ON webhook_events (opportunity_id)")
    op.execute("CREATE INDEX ON webhook_events (received_at)")
    op.execute("CREATE INDEX ON opportunity_changes (opportunity_id)")
    op.execute("CREATE INDEX ON opportunity_changes (seen_at)")
    op.execute("ALTER TABLE walks ADD COLUMN audit jsonb")
    # A trigger, so that a row written by anyone wakes the fast lane.
    op.execute("""
        CREATE FUNCTION rms_notify_webhook_events() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NOTIFY rms_webhook_events;
            RETURN NULL;
        END
        $$
    """)
    op.execute(
        "CREATE TRIGGER rms_notify_webhook_events AFTER INSERT OR UPDATE OF dead_at"
        " ON webhook_events FOR EACH STATEMENT EXECUTE FUNCTION rms_notify_webhook_events()"
    )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
