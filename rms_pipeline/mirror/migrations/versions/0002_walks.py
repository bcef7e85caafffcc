"""Notes which stored pages belong together, and what each reading of the list showed."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0002"
down_revision = "0001"
makes = ("walks", "mirror_state")
adds = {"raw_rms_pages": ("walk",)}
touches = {"raw_rms_pages": ("altered", "updated", "indexed")}


def upgrade() -> None:
    set_aside(op.get_bind(), ("walks", "mirror_state"))
    op.execute("""
        CREATE TABLE walks (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            kind text NOT NULL,
            runs text[] NOT NULL,
            started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            window_start timestamptz,
            window_end timestamptz,
            since timestamptz,
            watermark timestamptz,
            completed_at timestamptz,
            settled_at timestamptz,
            read_by jsonb NOT NULL DEFAULT '{}',
            nameless jsonb NOT NULL DEFAULT '{}',
            notes text[] NOT NULL DEFAULT '{}',
            certificate jsonb,
            deletions jsonb
        )
    """)
    op.execute("ALTER TABLE raw_rms_pages ADD COLUMN walk bigint")
    # A walk over what changed has no window.
    op.execute(
        "ALTER TABLE raw_rms_pages ALTER COLUMN window_start DROP NOT NULL,"
        " ALTER COLUMN window_end DROP NOT NULL"
    )
    # What earlier versions landed: of which nobody noted whether it was whole.
    op.execute("""
        INSERT INTO walks (kind, runs, started_at, window_start, window_end, completed_at,
                           settled_at)
        SELECT 'full', ARRAY[run], min(asked_at), min(window_start), max(window_end),
               max(fetched_at), max(fetched_at)
        FROM raw_rms_pages GROUP BY run ORDER BY min(id)
    """)
    op.execute("UPDATE raw_rms_pages p SET walk = w.id FROM walks w WHERE w.runs[1] = p.run")
    op.execute(
        "ALTER TABLE raw_rms_pages ALTER COLUMN walk SET NOT NULL,"
        " ADD FOREIGN KEY (walk) REFERENCES walks ON DELETE CASCADE"
    )
    op.execute("CREATE INDEX ON raw_rms_pages (walk)")
    op.execute("CREATE TABLE mirror_state (name text PRIMARY KEY, value text NOT NULL)")
    op.execute("INSERT INTO mirror_state VALUES ('mapping_version', '1')")


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
