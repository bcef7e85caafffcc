"""Keeps earlier versions of opportunities from now on, and how each day ended.

The view of all versions, and the functions that ask as of a moment, are made of the declaration,
not here, for they follow its columns.
"""

from alembic import op

from rms_pipeline.mirror.migrations.frozen import schema, set_aside

revision = "0023"
down_revision = "0022"
makes = ("opportunity_past", "opportunity_history", "daily_status_counts")
adds = {
    "opportunities": ("confirmed_at",),
    "deleted_opportunities": ("confirmed_at",),
    "opportunity_versions": ("valid_from",),
}
touches = {
    "opportunities": ("altered",),
    "deleted_opportunities": ("altered",),
    "opportunity_versions": ("altered", "updated"),
}

_SCHEDULE = (
    *("prep", "load", "deliver", "setup", "show"),
    *("takedown", "collect", "unload", "deprep"),
)
_COLUMNS = {
    "name": "text",
    "subject": "text",
    "description": "text",
    "starts_at": "timestamptz",
    "ends_at": "timestamptz",
    "opportunity_status": "text",
    "created_at_rms": "timestamptz",
    "updated_at_rms": "timestamptz",
    "venue_name": "text",
    "organisation_id": "bigint",
    "organisation_name": "text",
    "owner_id": "bigint",
    "owner_name": "text",
    "charge_total": "numeric",
    "total_value": "numeric",
    "number": "text",
    "reference": "text",
    "state_name": "text",
    "store_id": "bigint",
    "project_id": "bigint",
    "venue_id": "bigint",
    "ordered_at": "timestamptz",
    "quote_invalid_at": "timestamptz",
    "invoiced": "boolean",
    "tags": "text[]",
    "charge_excluding_tax_total": "numeric",
    "charge_including_tax_total": "numeric",
    "tax_total": "numeric",
    "provisional_cost_total": "numeric",
    "predicted_cost_total": "numeric",
    "actual_cost_total": "numeric",
    "weight_total": "numeric",
    "revenue": "numeric",
    "rating": "bigint",
    "open_ended_rental": "boolean",
    **{f"{s}_{e}_at": "timestamptz" for s in _SCHEDULE for e in ("starts", "ends")},
    "custom_fields": "jsonb",
    "confirmed_at": "timestamptz",
}
_STARTS, _ENDS = "coalesce(deliver_starts_at, starts_at)", "coalesce(collect_ends_at, ends_at)"
_MADE = {
    "profit": "numeric GENERATED ALWAYS AS (charge_total - provisional_cost_total) STORED",
    "hire": (
        f"tstzrange GENERATED ALWAYS AS (CASE WHEN open_ended_rental AND {_STARTS} IS NOT NULL"
        f" THEN tstzrange({_STARTS}, NULL, '[)')"
        f" WHEN {_STARTS} <= {_ENDS} THEN tstzrange({_STARTS}, {_ENDS}, '[]') END) STORED"
    ),
}


def upgrade() -> None:
    set_aside(op.get_bind(), ("opportunity_past", "opportunity_history", "daily_status_counts"))
    for table in ("opportunities", "deleted_opportunities"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN confirmed_at timestamptz")
    # Whoever has no version yet would begin his history whenever he is locked first.
    for table in ("opportunities", "deleted_opportunities"):
        op.execute(
            f"INSERT INTO opportunity_versions (id, deleted) SELECT id, {table != 'opportunities'}"
            f" FROM {table} ON CONFLICT DO NOTHING"
        )
    op.execute(
        "INSERT INTO mirror_state (name, value) VALUES ('history_began',"
        " to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00'))"
    )
    op.execute("ALTER TABLE opportunity_versions ADD COLUMN valid_from timestamptz")
    op.execute(
        "UPDATE opportunity_versions SET valid_from ="
        " (SELECT value::timestamptz FROM mirror_state WHERE name = 'history_began')"
    )
    op.execute(
        "ALTER TABLE opportunity_versions ALTER COLUMN valid_from SET DEFAULT clock_timestamp(),"
        " ALTER COLUMN valid_from SET NOT NULL"
    )
    columns = ", ".join(f"{name} {kind}" for name, kind in {**_COLUMNS, **_MADE}.items())
    op.execute(f"""
        CREATE TABLE opportunity_past (
            opportunity_id bigint NOT NULL,
            valid_from timestamptz NOT NULL,
            valid_to timestamptz NOT NULL CHECK (valid_from < valid_to),
            deleted boolean NOT NULL,
            {columns},
            difference jsonb,
            PRIMARY KEY (opportunity_id, valid_from)
        )
    """)
    op.execute("CREATE INDEX ON opportunity_past (valid_to)")
    op.execute("""
        CREATE TABLE daily_status_counts (
            day date NOT NULL,
            opportunity_status text NOT NULL,
            phase text NOT NULL,
            opportunities bigint NOT NULL,
            charge_total numeric NOT NULL,
            total_value numeric NOT NULL,
            PRIMARY KEY (day, opportunity_status)
        )
    """)
    # The statuses by which it is known when each opportunity was first confirmed.
    op.execute("""
        INSERT INTO mirror_state (name, value) SELECT 'confirmed_by', md5(coalesce(
            string_agg(name || ' ' || phase, chr(10) ORDER BY name COLLATE "C"), ''
        )) FROM statuses
    """)
    _make_functions()


def _make_functions() -> None:
    place = f'"{schema()}"'
    # A list of steps from a newer record to the one before it: a path and the value that stood
    # there, or a path alone where nothing did. NULL where there was no record.
    op.execute("""
        CREATE FUNCTION rms_stepped_back(newer jsonb, difference jsonb) RETURNS jsonb
        LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
        DECLARE
            step jsonb;
            path text[];
        BEGIN
            IF difference IS NULL THEN
                RETURN NULL;
            END IF;
            FOR step IN SELECT value FROM jsonb_array_elements(difference) LOOP
                path := ARRAY(SELECT jsonb_array_elements_text(step -> 0));
                IF jsonb_array_length(step) = 1 THEN
                    newer := newer #- path;
                ELSIF cardinality(path) = 0 THEN
                    newer := step -> 1;
                ELSE
                    newer := jsonb_set(newer, path, step -> 1);
                END IF;
            END LOOP;
            RETURN newer;
        END
        $$
    """)
    op.execute(f"""
        CREATE FUNCTION rms_step_back(reached jsonb, newest jsonb, difference jsonb) RETURNS jsonb
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        AS $$ SELECT {place}.rms_stepped_back(coalesce($1, $2), $3) $$
    """)
    op.execute(
        "CREATE AGGREGATE rms_older(newest jsonb, difference jsonb)"
        f" (SFUNC = {place}.rms_step_back, STYPE = jsonb)"
    )
    op.execute(f"""
        CREATE FUNCTION rms_demand_history(marked text, at timestamptz) RETURNS boolean
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
        DECLARE
            began timestamptz;
        BEGIN
            SELECT value::timestamptz INTO began FROM {place}.mirror_state
            WHERE name = 'history_began' || marked;
            IF at < began THEN
                RAISE EXCEPTION
                    'The history of this mirror begins on %, so what was before is unknown.', began
                     USING ERRCODE = 'invalid_parameter_value';
            END IF;
            RETURN at IS NOT NULL;
        END
        $$
    """)
    op.execute(f"""
        CREATE FUNCTION rms_time_zone() RETURNS text
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
            SELECT coalesce(
                (SELECT value FROM {place}.mirror_state WHERE name = 'time_zone'), 'UTC'
            )
        $$
    """)


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
