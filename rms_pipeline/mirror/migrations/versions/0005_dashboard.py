"""Adds what the dashboard reads: totals for each week, a search by number, the pace of a sync."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0005"
down_revision = "0004"
makes = ("week_counts",)
adds = {"sync_progress": ("stage_started_at", "stage_began_at")}
touches = {
    "opportunities": ("indexed",),
    "webhook_events": ("indexed",),
    "sync_progress": ("altered",),
}


def upgrade() -> None:
    set_aside(op.get_bind(), ("week_counts",))
    op.execute("""
        CREATE TABLE week_counts (
            week date,
            opportunity_status text,
            opportunities bigint NOT NULL,
            charge_total numeric NOT NULL,
            total_value numeric NOT NULL,
            PRIMARY KEY (week, opportunity_status)
        )
    """)
    # People search by the number they see in Current RMS. Shortened: a B-tree entry has a limit,
    # and no value of a field may cost its row.
    op.execute(
        "CREATE INDEX opportunities_number ON opportunities"
        " ((left(data ->> 'number', 100)) text_pattern_ops)"
    )
    # How the queue stands is asked every few seconds, and nearly every event is settled.
    op.execute(
        "CREATE INDEX webhook_events_unsettled ON webhook_events (id) WHERE processed_at IS NULL"
    )
    op.execute(
        "ALTER TABLE sync_progress"
        " ADD COLUMN stage_started_at timestamptz NOT NULL DEFAULT now(),"
        " ADD COLUMN stage_began_at integer NOT NULL DEFAULT 0"
    )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
