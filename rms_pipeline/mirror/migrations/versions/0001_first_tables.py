"""Makes the first tables, and renames tables of another program that have one of their names."""

import sqlalchemy as sa
from alembic import op

from rms_pipeline.mirror.migrations.frozen import set_aside

revision = "0001"
down_revision = None

_TABLES = (
    "opportunities",
    "deleted_opportunities",
    "opportunity_versions",
    "sync_metadata",
    "webhook_events",
    "raw_rms_pages",
    "status_counts",
    "sync_faults",
    "opportunity_changes",
    "sync_progress",
)

_COLUMNS = """
    id bigint PRIMARY KEY,
    name text NOT NULL,
    subject text,
    description text,
    starts_at timestamptz,
    ends_at timestamptz,
    opportunity_status text,
    created_at_rms timestamptz,
    updated_at_rms timestamptz,
    venue_name text,
    organisation_id bigint,
    organisation_name text,
    owner_id bigint,
    owner_name text,
    charge_total numeric,
    total_value numeric,
    data jsonb {compression},
    synced_at timestamptz,
    last_webhook_at timestamptz
"""
makes = _TABLES


def upgrade() -> None:
    connection = op.get_bind()
    set_aside(connection, _TABLES)
    lz4 = connection.execute(
        sa.text(
            "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
        )
    ).scalar()
    columns = _COLUMNS.format(compression="COMPRESSION lz4" if lz4 else "")
    # A narrow heap: the record itself lives out of line, so counting, and moving synced_at of every
    # row at each walk, does not touch it.
    op.execute(f"CREATE TABLE opportunities ({columns}) WITH (fillfactor = 80)")
    op.execute("ALTER TABLE opportunities SET (toast_tuple_target = 512)")
    op.execute("CREATE INDEX ON opportunities (opportunity_status)")
    op.execute("CREATE INDEX ON opportunities (starts_at, ends_at)")
    op.execute("CREATE INDEX ON opportunities (organisation_id)")
    op.execute("CREATE INDEX ON opportunities (updated_at_rms DESC)")
    op.execute(
        f"CREATE TABLE deleted_opportunities ({columns},"
        " deleted_at timestamptz NOT NULL, deleted_because text NOT NULL)"
    )
    op.execute("""
        CREATE TABLE opportunity_versions (
            id bigint PRIMARY KEY,
            asked_at timestamptz,
            answered_at timestamptz,
            updated_at_rms timestamptz,
            fingerprint bytea,
            deleted boolean NOT NULL DEFAULT false
        ) WITH (fillfactor = 80)
    """)
    op.execute("""
        CREATE TABLE raw_rms_pages (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            run text NOT NULL,
            page integer NOT NULL,
            segment text NOT NULL,
            request text NOT NULL,
            asked_at timestamptz NOT NULL,
            fetched_at timestamptz NOT NULL,
            api_date timestamptz,
            record_count integer NOT NULL,
            record_ids bigint[] NOT NULL,
            covers int8range,
            window_start timestamptz NOT NULL,
            window_end timestamptz NOT NULL,
            size_bytes bigint NOT NULL,
            body bytea NOT NULL,
            UNIQUE (run, page)
        )
    """)
    # Compressed before it is sent; a second compression would only cost time.
    op.execute("ALTER TABLE raw_rms_pages ALTER COLUMN body SET STORAGE EXTERNAL")
    op.execute("""
        CREATE TABLE status_counts (
            opportunity_status text PRIMARY KEY,
            opportunities bigint NOT NULL,
            charge_total numeric NOT NULL,
            total_value numeric NOT NULL,
            as_of timestamptz NOT NULL
        )
    """)
    op.execute("""
        CREATE TABLE sync_faults (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            opportunity_id bigint,
            field text NOT NULL,
            problem text NOT NULL,
            raw_value text,
            run text NOT NULL,
            seen_at timestamptz NOT NULL DEFAULT now()
        )
    """)
    op.execute("CREATE INDEX ON sync_faults (run)")
    op.execute("""
        CREATE TABLE webhook_events (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            received_at timestamptz NOT NULL DEFAULT now(),
            action_id bigint UNIQUE,
            action_type text,
            subject_type text,
            opportunity_id bigint,
            member_id bigint,
            member_name text,
            raw_payload jsonb,
            attempts integer NOT NULL DEFAULT 0,
            processed_at timestamptz,
            error text
        )
    """)
    op.execute("""
        CREATE TABLE opportunity_changes (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            opportunity_id bigint NOT NULL,
            field text NOT NULL,
            old_value text,
            new_value text,
            changed_at timestamptz,
            changed_by text,
            seen_at timestamptz NOT NULL DEFAULT now(),
            seen_by text
        )
    """)
    op.execute("""
        CREATE TABLE sync_progress (
            run text PRIMARY KEY,
            stage text NOT NULL,
            pages integer NOT NULL,
            pages_expected integer NOT NULL,
            records integer NOT NULL,
            records_expected integer NOT NULL,
            started_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now()
        )
    """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
