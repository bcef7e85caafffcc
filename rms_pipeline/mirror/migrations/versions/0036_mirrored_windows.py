"""Makes the table of how far back each collection is mirrored."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0036"
down_revision = "0035"
makes = ("mirrored_windows",)


def upgrade() -> None:
    set_aside(op.get_bind(), ("mirrored_windows",))
    op.execute("""
        CREATE TABLE mirrored_windows (
            collection text PRIMARY KEY,
            days_back integer CHECK (days_back BETWEEN 0 AND 36500),
            asked_at timestamptz,
            asked_by text,
            reaches_back_to timestamptz
        )
    """)
    # Rows stay when they leave the window, and changes of them are fetched: the mirror reaches as
    # far back as any full sync did.
    op.execute("""
        INSERT INTO mirrored_windows (collection, reaches_back_to)
        SELECT collection, min(window_start) FROM walks
        WHERE kind = 'full' AND settled_at IS NOT NULL AND window_start IS NOT NULL
        GROUP BY collection
    """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
