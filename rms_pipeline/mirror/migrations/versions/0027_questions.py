"""Makes the table of required fields, and a function for a day in the company's time zone.

The views that people ask are made of the files of `insight`, not here, for they change.
"""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import schema, set_aside

revision = "0027"
down_revision = "0026"
makes = ("required_fields",)


def upgrade() -> None:
    place = f'"{schema()}"'
    set_aside(op.get_bind(), ("required_fields",))
    op.execute("""
        CREATE TABLE required_fields (
            collection text NOT NULL DEFAULT 'opportunities',
            field text NOT NULL,
            phase text NOT NULL DEFAULT 'confirmed' CHECK (phase IN ('open', 'confirmed')),
            PRIMARY KEY (collection, field)
        )
    """)
    # Inlined where it is called, so that an index on ranges serves it.
    op.execute(f"""
        CREATE FUNCTION rms_local_day(day date) RETURNS tstzrange
        LANGUAGE sql STABLE PARALLEL SAFE AS $$
            SELECT tstzrange(
                $1::timestamp AT TIME ZONE {place}.rms_time_zone(),
                ($1 + 1)::timestamp AT TIME ZONE {place}.rms_time_zone(),
                '[)'
            )
        $$
    """)
    op.execute(
        "COMMENT ON FUNCTION rms_local_day(date)"
        " IS 'A day in the company''s time zone, from its midnight to the next.'"
    )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
