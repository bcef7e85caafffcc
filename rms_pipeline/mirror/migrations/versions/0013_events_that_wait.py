"""Lets webhook events tell repeats apart, and wait until Current RMS has the change."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0013"
down_revision = "0012"
makes = ("webhook_absences",)
adds = {
    "webhook_events": ("content_digest", "happened_at", "size_bytes", "put_off", "waits"),
}
# Only events of the last three days are updated.
touches = {"webhook_events": ("altered", "indexed")}


def upgrade() -> None:
    set_aside(op.get_bind(), ("webhook_absences",))
    op.execute("""
        ALTER TABLE webhook_events
            ADD COLUMN content_digest bytea,
            ADD COLUMN happened_at timestamptz,
            ADD COLUMN size_bytes integer,
            ADD COLUMN put_off boolean NOT NULL DEFAULT false,
            ADD COLUMN waits integer NOT NULL DEFAULT 0
    """)
    # Current RMS repeats a delivery over some 13 hours; whatever is older is repeated no more.
    op.execute("""
        UPDATE webhook_events SET content_digest = sha256(convert_to(raw_payload::text, 'UTF8'))
        WHERE raw_payload IS NOT NULL AND received_at > now() - interval '3 days'
    """)
    # By what it is about: where another program's table had to make room, its name is another.
    op.execute("""
        DO $$
        DECLARE
            found name;
        BEGIN
            FOR found IN SELECT c.conname FROM pg_constraint c JOIN pg_attribute a
                ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
                WHERE c.conrelid = to_regclass('webhook_events') AND c.contype = 'u'
                AND a.attname = 'action_id'
            LOOP
                EXECUTE format('ALTER TABLE webhook_events DROP CONSTRAINT %I', found);
            END LOOP;
        END
        $$
    """)
    op.execute(
        "CREATE UNIQUE INDEX webhook_events_repeats ON webhook_events (action_id, content_digest)"
    )
    op.execute("""
        CREATE TABLE webhook_absences (
            collection text NOT NULL,
            id bigint NOT NULL,
            asked_at timestamptz NOT NULL,
            settled boolean NOT NULL,
            PRIMARY KEY (collection, id)
        )
    """)
    op.execute("CREATE INDEX ON webhook_absences (asked_at)")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
