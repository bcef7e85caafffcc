"""Replaces a function, so that newer links in a record do not make a proof begin again."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    # Whoever takes over newer links, and nothing else, says so for the time of his statement.
    op.execute("""
        CREATE OR REPLACE FUNCTION rms_note_content() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
        BEGIN
            IF TG_OP = 'UPDATE' AND current_setting('rms_pipeline.only_links', true) = 'on' THEN
                RETURN NEW;
            END IF;
            PERFORM pg_advisory_xact_lock_shared(
                hashtextextended(
                    'rms_pipeline content of ' || TG_TABLE_SCHEMA || '.' || TG_ARGV[0], 0
                )
            );
            PERFORM nextval(format('%I.content_of_%s', TG_TABLE_SCHEMA, TG_ARGV[0])::regclass);
            IF TG_OP = 'DELETE' THEN
                RETURN OLD;
            END IF;
            RETURN NEW;
        END
        $$
    """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
