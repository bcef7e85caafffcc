"""Makes the table of the request limit that all processes of an account share."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0003"
down_revision = "0002"
makes = ("api_budget",)


def upgrade() -> None:
    set_aside(op.get_bind(), ("api_budget",))
    # Room for many versions of the few rows in one page: each question is an update, and vacuums
    # itself as long as the page has room.
    op.execute("""
        CREATE TABLE api_budget (
            account text PRIMARY KEY,
            requests_per_minute integer NOT NULL,
            seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            sent integer[] NOT NULL,
            next_slots timestamptz[] NOT NULL,
            paused_until timestamptz NOT NULL DEFAULT 'epoch',
            throttled_at timestamptz NOT NULL DEFAULT 'epoch',
            allowance double precision NOT NULL DEFAULT 1
        ) WITH (fillfactor = 20)
    """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
