"""What the API was found to grant: page sizes, and what an account refuses or ignores."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0007"
down_revision = "0006"


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
