"""Keeps syncs as rows of the mirror, and copies those that Dagster's history still has.

Nothing about Dagster's tables is certain: they may be absent, belong to somebody else, or hold
texts that are no JSON. What cannot be copied is left out.
"""

import logging

import sqlalchemy as sa
from alembic import op

from rms_pipeline.mirror.migrations.frozen import schema, set_aside

revision = "0020"
down_revision = "0019"
makes = ("sync_runs", "sync_figures")

logger = logging.getLogger(__name__)

# Classes of errors that are about the server, not about what is copied.
_OF_THE_SERVER = ("08", "53", "57", "58", "XX")

_TABLES = """
    CREATE TABLE sync_runs (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        run_id text NOT NULL UNIQUE,
        sync_type text NOT NULL,
        status text NOT NULL CHECK (status IN ('launched', 'running', 'completed', 'failed')),
        launched_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        started_at timestamptz,
        ended_at timestamptz,
        records_synced integer NOT NULL DEFAULT 0,
        records_failed integer NOT NULL DEFAULT 0,
        error text,
        metadata jsonb NOT NULL DEFAULT '{}'
    );
    CREATE INDEX sync_runs_launched_at ON sync_runs (launched_at);
    CREATE INDEX sync_runs_open ON sync_runs (id) WHERE ended_at IS NULL;
    CREATE TABLE sync_figures (
        sync bigint NOT NULL REFERENCES sync_runs ON DELETE CASCADE,
        collection text NOT NULL,
        records_synced integer NOT NULL,
        records_failed integer NOT NULL,
        PRIMARY KEY (sync, collection)
    )
"""

# A text may hold what jsonb cannot: NUL, half a surrogate pair.
_FUNCTIONS = r"""
CREATE FUNCTION rms_0020_event(event text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN replace(event, '\u0000', '\ufffd')::jsonb -> 'dagster_event';
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    BEGIN
        RETURN regexp_replace(
            event, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '\\ufffd', 'g'
        )::jsonb -> 'dagster_event';
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        RETURN jsonb_build_object('message', 'The text of this event cannot be read as JSON.');
    END;
END
$$;

CREATE FUNCTION rms_0020_error(run text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN e -> 'event_specific_data' -> 'error' ->> 'cls_name'
            = 'DagsterExecutionInterruptedError'
        THEN 'Somebody terminated this run in Dagster''s UI, or ended its process. What it had '
            'stored is whole; run the sync again to complete it.'
        ELSE coalesce(
            e -> 'event_specific_data' -> 'user_failure_data' ->> 'description',
            e -> 'event_specific_data' -> 'error' -> 'cause' ->> 'message',
            e -> 'event_specific_data' -> 'error' ->> 'message',
            e ->> 'message'
        )
    END
    FROM (
        SELECT rms_0020_event(event) AS e, dagster_event_type, id
        FROM dagster.event_logs
        WHERE run_id = run
          AND dagster_event_type IN ('STEP_FAILURE', 'PIPELINE_FAILURE', 'PIPELINE_CANCELED')
    ) failures
    ORDER BY dagster_event_type <> 'STEP_FAILURE', id
    LIMIT 1
$$;

CREATE FUNCTION rms_0020_metadata(run text) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_object_agg(entry ->> 'label', coalesce(
        entry -> 'entry_data' -> 'value', entry -> 'entry_data' -> 'text'
    )) FILTER (WHERE entry ->> 'label' IS NOT NULL), '{}')
    FROM (
        SELECT rms_0020_event(event) -> 'event_specific_data' -> 'materialization' AS m
        FROM dagster.event_logs
        WHERE run_id = run AND dagster_event_type = 'ASSET_MATERIALIZATION'
    ) materializations,
    jsonb_array_elements(CASE jsonb_typeof(m -> 'metadata_entries')
        WHEN 'array' THEN m -> 'metadata_entries' ELSE '[]' END) AS entry
    WHERE m -> 'asset_key' -> 'path' ->> 0 IN ('raw_rms_pages', 'opportunities')
      AND entry -> 'entry_data' ?| ARRAY['value', 'text']
$$;

CREATE FUNCTION rms_0020_number(run text, tag text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT value::bigint FROM dagster.run_tags
        WHERE run_id = run AND key = tag AND value ~ '^\d{1,9}$' LIMIT 1), 0)
$$;

CREATE FUNCTION rms_0020_copy() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    r record;
    sync bigint;
BEGIN
    FOR r IN
        SELECT run_id::text AS run_id,
            coalesce(
                (SELECT t.value FROM dagster.run_tags t
                 WHERE t.run_id = d.run_id AND t.key = 'rms/sync_type' LIMIT 1),
                CASE WHEN pipeline_name LIKE '\_\_ASSET\_JOB%' THEN 'initial_sync'
                    ELSE pipeline_name END
            ) AS sync_type,
            CASE WHEN d.status = 'SUCCESS' THEN 'completed'
                WHEN d.status IN ('FAILURE', 'CANCELED') THEN 'failed'
                WHEN began IS NULL THEN 'launched' ELSE 'running' END AS status,
            create_timestamp AT TIME ZONE 'UTC' AS launched_at,
            began AS started_at,
            CASE WHEN d.status IN ('SUCCESS', 'FAILURE', 'CANCELED')
                THEN coalesce(ended, update_timestamp AT TIME ZONE 'UTC', began,
                    create_timestamp AT TIME ZONE 'UTC', now())
            END AS ended_at
        FROM (
            -- Seconds since 1970, or no time at all.
            SELECT *, CASE WHEN start_time BETWEEN 0 AND 1e11 THEN to_timestamp(start_time) END
                    AS began,
                CASE WHEN end_time BETWEEN 0 AND 1e11 THEN to_timestamp(end_time) END AS ended
            FROM dagster.runs
        ) d
        WHERE pipeline_name IN
                ('initial_sync', 'incremental_sync', 'reconciliation', 'webhook_refresh')
           OR (pipeline_name LIKE '\_\_ASSET\_JOB%'
               AND (run_body LIKE '%"raw_rms_pages"%' OR run_body LIKE '%"asset_selection": null%'))
        ORDER BY id
    LOOP
        INSERT INTO sync_runs (run_id, sync_type, status, launched_at, started_at, ended_at)
        VALUES (r.run_id, r.sync_type, r.status,
            coalesce(r.launched_at, r.started_at, now()), r.started_at, r.ended_at)
        ON CONFLICT (run_id) DO NOTHING RETURNING id INTO sync;
        CONTINUE WHEN sync IS NULL;
        BEGIN
            UPDATE sync_runs SET
                records_synced = rms_0020_number(r.run_id, 'rms/records_synced'),
                records_failed = rms_0020_number(r.run_id, 'rms/records_failed'),
                error = CASE r.status WHEN 'failed' THEN rms_0020_error(r.run_id) END,
                metadata = rms_0020_metadata(r.run_id)
            WHERE id = sync;
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
            -- The row stands; of this run nothing more can be said.
            NULL;
        END;
        INSERT INTO sync_figures (sync, collection, records_synced, records_failed)
        SELECT id, 'opportunities', records_synced, records_failed FROM sync_runs
        WHERE id = sync AND status = 'completed';
    END LOOP;
END
$$
"""


def upgrade() -> None:
    connection = op.get_bind()
    set_aside(connection, ("sync_runs", "sync_figures"))
    op.execute(_TABLES)
    # Each mirror has the Dagster beside it in a schema of its own.
    dagster = "dagster" if schema() == "public" else f"dagster_{schema()}"
    readable = connection.execute(
        sa.text(
            "SELECT bool_and(CASE WHEN to_regnamespace(:dagster) IS NULL THEN false"
            " WHEN NOT has_schema_privilege(:dagster, 'USAGE') THEN false"
            " WHEN to_regclass(:dagster || '.' || t) IS NULL THEN false"
            " ELSE has_table_privilege(to_regclass(:dagster || '.' || t), 'SELECT') END)"
            " FROM unnest(ARRAY['runs', 'run_tags', 'event_logs']) AS t"
        ),
        {"dagster": dagster},
    ).scalar()
    if not readable:
        return
    try:
        with connection.begin_nested():
            functions = _FUNCTIONS.replace("FROM dagster.", f"FROM {dagster}.")
            # Nothing in it is a parameter.
            connection.exec_driver_sql(functions.replace("%", "%%"), ())
            connection.exec_driver_sql("SELECT rms_0020_copy()")
            for function in ("copy()", "number(text, text)", "metadata(text)", "error(text)",
                             "event(text)"):  # fmt: skip
                connection.exec_driver_sql(f"DROP FUNCTION rms_0020_{function}")
    except sa.exc.DBAPIError as error:
        code = str(getattr(error.orig, "pgcode", None) or "08")
        if code[:2] in _OF_THE_SERVER:
            raise
        logger.warning(
            "The syncs of before are not copied out of Dagster's tables, so sync_metadata begins "
            "now: %s",
            " ".join(str(error.orig).split()),
        )


def downgrade() -> None:
    raise NotImplementedError("The mirror can be fetched again; restore a backup to go back.")
