"""Keeps a program of an earlier release from claiming webhook events that it may not apply."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import schema

revision = "0034"
down_revision = "0033"
touches = {"webhook_events": ("watched",)}


def upgrade() -> None:
    place = f'"{schema()}"'
    # A program that claims says by which mapping it writes rows. Releases before this one do not
    # say it. They claimed events, were refused when they wrote the rows, gave the events back, and
    # were the first to claim them again.
    op.execute(f"""
        CREATE FUNCTION rms_refuse_outdated_claim() RETURNS trigger
        LANGUAGE plpgsql AS $$
        BEGIN
            IF coalesce(nullif(current_setting('rms_pipeline.mapping', true), ''), '0')::integer < (
                SELECT max(value::integer) FROM {place}.mirror_state
                WHERE name IN (
                    'mapping_version' || CASE NEW.collection
                        WHEN 'opportunities' THEN '' ELSE '_of_' || NEW.collection END,
                    'mapping_writers' || CASE NEW.collection
                        WHEN 'opportunities' THEN '' ELSE '_of_' || NEW.collection END
                )
            ) THEN
                RETURN NULL;
            END IF;
            RETURN NEW;
        END
        $$
    """)
    op.execute(
        "COMMENT ON FUNCTION rms_refuse_outdated_claim() IS"
        " 'Leaves webhook events to the programs of the release that keeps the mirror.'"
    )
    op.execute(
        "CREATE TRIGGER rms_refuse_outdated_claim BEFORE UPDATE OF claimed_by ON webhook_events"
        " FOR EACH ROW WHEN (NEW.claimed_by IS DISTINCT FROM OLD.claimed_by)"
        " EXECUTE FUNCTION rms_refuse_outdated_claim()"
    )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
