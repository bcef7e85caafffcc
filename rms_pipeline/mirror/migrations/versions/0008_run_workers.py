"""Makes the table in which processes that execute runs announce themselves."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0008"
down_revision = "0007"
makes = ("run_workers",)


def upgrade() -> None:
    set_aside(op.get_bind(), ("run_workers",))
    op.execute("""
        CREATE TABLE run_workers (
            lock_key bigint PRIMARY KEY,
            run text NOT NULL,
            announced_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            ended_at timestamptz,
            lost_at timestamptz
        )
    """)
    op.execute("CREATE INDEX ON run_workers (run)")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
