"""Replaces the function for a day, so that no day gives no range instead of all of time."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import schema

revision = "0039"
down_revision = "0038"


def upgrade() -> None:
    place = f'"{schema()}"'
    # STRICT would say the same, but such a function is not inlined.
    op.execute(f"""
        CREATE OR REPLACE FUNCTION rms_local_day(day date) RETURNS tstzrange
        LANGUAGE sql STABLE PARALLEL SAFE AS $$
            SELECT CASE WHEN $1 IS NOT NULL THEN tstzrange(
                $1::timestamp AT TIME ZONE {place}.rms_time_zone(),
                ($1 + 1)::timestamp AT TIME ZONE {place}.rms_time_zone(),
                '[)'
            ) END
        $$
    """)
    op.execute(
        "COMMENT ON FUNCTION rms_local_day(date) IS 'A day in the company''s time zone, from its"
        " midnight to the next. No day (NULL) gives no range (NULL).'"
    )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
