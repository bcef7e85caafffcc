"""Makes room for answers that several pages share, each stored once.

Pages that are there keep their bodies and go with their walks, within three full syncs: nothing is
rewritten, so that no table is locked for longer than its columns take.
"""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0035"
down_revision = "0034"
makes = ("raw_page_bodies",)
adds = {"raw_rms_pages": ("digest",)}
touches = {"raw_rms_pages": ("altered", "indexed")}


def upgrade() -> None:
    set_aside(op.get_bind(), ("raw_page_bodies",))
    op.execute("""
        CREATE TABLE raw_page_bodies (
            collection text NOT NULL,
            digest bytea NOT NULL,
            body bytea NOT NULL,
            PRIMARY KEY (collection, digest)
        )
    """)
    # Compressed before it is sent; a second compression would only cost time.
    op.execute("ALTER TABLE raw_page_bodies ALTER COLUMN body SET STORAGE EXTERNAL")
    # The reference is what keeps a body, and two processes that forget and reuse it, apart.
    op.execute("""
        ALTER TABLE raw_rms_pages ADD COLUMN digest bytea, ALTER COLUMN body DROP NOT NULL,
            ADD CONSTRAINT raw_rms_pages_body FOREIGN KEY (collection, digest)
                REFERENCES raw_page_bodies (collection, digest)
    """)
    op.execute(
        "CREATE INDEX raw_rms_pages_digest ON raw_rms_pages (collection, digest)"
        " WHERE digest IS NOT NULL"
    )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
