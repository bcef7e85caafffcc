"""Replaces a function, so that each mirror of a database wakes its own fast lane."""

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.execute("""
        CREATE OR REPLACE FUNCTION rms_notify_webhook_events() RETURNS trigger
        LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_notify('rms_webhook_events' || CASE TG_TABLE_SCHEMA
                WHEN 'public' THEN '' ELSE '_' || TG_TABLE_SCHEMA END, '');
            RETURN NULL;
        END
        $$
    """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
