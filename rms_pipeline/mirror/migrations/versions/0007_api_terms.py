"""Makes the tables of what the API grants: page sizes, and parameters that it refuses."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0007"
down_revision = "0006"
makes = ("api_page_sizes", "api_refusals")


def upgrade() -> None:
    set_aside(op.get_bind(), ("api_page_sizes", "api_refusals"))
    op.execute("""
        CREATE TABLE api_page_sizes (
            account text,
            collection text,
            page_size integer NOT NULL CHECK (page_size > 0),
            learned_at timestamptz NOT NULL,
            PRIMARY KEY (account, collection)
        )
    """)
    op.execute("""
        CREATE TABLE api_refusals (
            account text,
            collection text,
            kind text,
            name text,
            status integer,
            noted_at timestamptz NOT NULL,
            PRIMARY KEY (account, collection, kind, name)
        )
    """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
