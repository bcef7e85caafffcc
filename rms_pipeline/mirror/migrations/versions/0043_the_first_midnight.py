"""Begins a day at the first of its midnights, where clocks that go back show two, as pages do."""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import schema

revision = "0043"
down_revision = "0042"


def upgrade() -> None:
    place = f'"{schema()}"'
    # Of two midnights PostgreSQL takes the second. The first one is midnight by the clock of the
    # day before. Where clocks skip midnight, PostgreSQL takes the moment of that change.
    op.execute("""
        CREATE FUNCTION rms_midnight(day date, zone text) RETURNS timestamptz
        LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
        DECLARE
            midnight timestamptz := day::timestamp AT TIME ZONE zone;
            before timestamptz;
            earlier timestamptz;
        BEGIN
            IF NOT isfinite(day) THEN
                RETURN midnight;
            END IF;
            before := midnight - interval '24 hours';
            earlier := midnight - (
                (before AT TIME ZONE zone) - (midnight AT TIME ZONE zone) + interval '24 hours'
            );
            RETURN CASE WHEN earlier < midnight AND earlier AT TIME ZONE zone = day::timestamp
                THEN earlier ELSE midnight END;
        END
        $$
    """)
    op.execute(
        "COMMENT ON FUNCTION rms_midnight(date, text) IS 'The first moment of a day in a time zone."
        " It is the first midnight if clocks that go back show two.'"
    )
    # Inlined where it is called, so that an index on ranges serves it.
    op.execute(f"""
        CREATE OR REPLACE FUNCTION rms_local_day(day date) RETURNS tstzrange
        LANGUAGE sql STABLE PARALLEL SAFE AS $$
            SELECT CASE WHEN $1 IS NOT NULL THEN tstzrange(
                {place}.rms_midnight($1, {place}.rms_time_zone()),
                {place}.rms_midnight($1 + 1, {place}.rms_time_zone()),
                '[)'
            ) END
        $$
    """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
