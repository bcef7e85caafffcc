"""Makes the table of calls that Current RMS does not answer, with their attempts."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0026"
down_revision = "0025"
makes = ("api_troubles",)


def upgrade() -> None:
    set_aside(op.get_bind(), ("api_troubles",))
    op.execute("""
        CREATE TABLE api_troubles (
            account text NOT NULL,
            collection text NOT NULL,
            attempt integer NOT NULL,
            attempts integer,
            reason text NOT NULL,
            since timestamptz NOT NULL,
            noted_at timestamptz NOT NULL,
            next_at timestamptz NOT NULL,
            PRIMARY KEY (account, collection)
        )
    """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
