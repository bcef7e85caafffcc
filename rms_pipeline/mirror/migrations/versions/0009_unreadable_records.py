"""Makes the table of records that exist and cannot be read, and notes what readings found."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0009"
down_revision = "0008"
makes = ("unreadable_records",)
adds = {"walks": ("counts_believed", "listed_twice")}
touches = {"walks": ("altered",)}


def upgrade() -> None:
    set_aside(op.get_bind(), ("unreadable_records",))
    op.execute("""
        CREATE TABLE unreadable_records (
            collection text NOT NULL,
            id bigint NOT NULL,
            reason text NOT NULL,
            first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            run text NOT NULL,
            PRIMARY KEY (collection, id)
        )
    """)
    op.execute(
        "ALTER TABLE walks ADD COLUMN counts_believed boolean NOT NULL DEFAULT true,"
        " ADD COLUMN listed_twice bigint[] NOT NULL DEFAULT '{}'"
    )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
