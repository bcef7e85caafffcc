-- version 3. Raise it with every change: of two programs on one database the higher makes the view.
-- Dagster's run history as the table of syncs that people query. Reads runs, run_tags and event_logs
-- of Dagster's schema; rms_pipeline_tests/mirror/test_history.py fails when an upgrade changes those.
-- @mirror@ and @dagster@ stand for the schemas, which history_view.py puts in.

-- Event texts are JSON that may hold what jsonb cannot (NUL, half a surrogate pair): no such text
-- may ever break a SELECT, so every cast is in here, and catches.
CREATE OR REPLACE FUNCTION @mirror@.rms_event_json(event text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN replace(event, '\u0000', '\ufffd')::jsonb -> 'dagster_event';
EXCEPTION WHEN OTHERS THEN
    BEGIN
        RETURN regexp_replace(event, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '\\ufffd', 'g')::jsonb
            -> 'dagster_event';
    EXCEPTION WHEN OTHERS THEN
        RETURN jsonb_build_object('message', 'The text of this event cannot be read as JSON.');
    END;
END
$$;

-- As their owner: whoever may read the view needs no right to Dagster's tables.
CREATE OR REPLACE FUNCTION @mirror@.rms_run_error(run text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT CASE
        -- Dagster's own word for it, which tells a person nothing.
        WHEN e -> 'event_specific_data' -> 'error' ->> 'cls_name' = 'DagsterExecutionInterruptedError'
        THEN 'Somebody terminated this run in Dagster''s UI, or ended its process. What it had stored '
            'is whole; run the sync again to complete it.'
        ELSE coalesce(
            e -> 'event_specific_data' -> 'user_failure_data' ->> 'description',
            e -> 'event_specific_data' -> 'error' -> 'cause' ->> 'message',
            e -> 'event_specific_data' -> 'error' ->> 'message',
            e ->> 'message'
        )
    END
    FROM (
        SELECT @mirror@.rms_event_json(event) AS e, dagster_event_type, id
        FROM @dagster@.event_logs
        WHERE run_id = run
          AND dagster_event_type IN ('STEP_FAILURE', 'PIPELINE_FAILURE', 'PIPELINE_CANCELED')
    ) failures
    ORDER BY dagster_event_type <> 'STEP_FAILURE', id
    LIMIT 1
$$;

CREATE OR REPLACE FUNCTION @mirror@.rms_run_metadata(run text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT coalesce(jsonb_object_agg(entry ->> 'label', coalesce(
        entry -> 'entry_data' -> 'value', entry -> 'entry_data' -> 'text'
    )), '{}')
    FROM (
        SELECT @mirror@.rms_event_json(event) -> 'event_specific_data' -> 'materialization' AS m
        FROM @dagster@.event_logs
        WHERE run_id = run AND dagster_event_type = 'ASSET_MATERIALIZATION'
    ) materializations,
    jsonb_array_elements(m -> 'metadata_entries') AS entry
    WHERE m -> 'asset_key' -> 'path' ->> 0 IN ('raw_rms_pages', 'opportunities')
      AND entry -> 'entry_data' ?| ARRAY['value', 'text']
$$;

CREATE OR REPLACE VIEW @mirror@.sync_metadata AS
SELECT
    r.run_id AS id,
    coalesce(
        (SELECT t.value FROM @dagster@.run_tags t
         WHERE t.run_id = r.run_id AND t.key = 'rms/sync_type' LIMIT 1),
        CASE WHEN r.pipeline_name LIKE '\_\_ASSET\_JOB%' THEN 'initial_sync' ELSE r.pipeline_name END
    ) AS sync_type,
    CASE r.status
        WHEN 'SUCCESS' THEN 'completed'
        WHEN 'FAILURE' THEN 'failed'
        WHEN 'CANCELED' THEN 'failed'
        ELSE 'running'
    END AS status,
    coalesce(to_timestamp(r.start_time), r.create_timestamp AT TIME ZONE 'UTC') AS started_at,
    CASE WHEN r.status IN ('SUCCESS', 'FAILURE', 'CANCELED')
        THEN coalesce(to_timestamp(r.end_time), r.update_timestamp AT TIME ZONE 'UTC')
    END AS completed_at,
    coalesce((SELECT t.value::integer FROM @dagster@.run_tags t
              WHERE t.run_id = r.run_id AND t.key = 'rms/records_synced'
                AND t.value ~ '^\d{1,9}$' LIMIT 1), 0) AS records_synced,
    coalesce((SELECT t.value::integer FROM @dagster@.run_tags t
              WHERE t.run_id = r.run_id AND t.key = 'rms/records_failed'
                AND t.value ~ '^\d{1,9}$' LIMIT 1), 0) AS records_failed,
    CASE WHEN r.status IN ('FAILURE', 'CANCELED') THEN @mirror@.rms_run_error(r.run_id) END AS error,
    @mirror@.rms_run_metadata(r.run_id) AS metadata
FROM @dagster@.runs r
WHERE r.pipeline_name IN
        ('initial_sync', 'incremental_sync', 'reconciliation', 'webhook_refresh')
   OR (r.pipeline_name LIKE '\_\_ASSET\_JOB%'
       AND (r.run_body LIKE '%"raw_rms_pages"%' OR r.run_body LIKE '%"asset_selection": null%'));

COMMENT ON VIEW @mirror@.sync_metadata IS 'Every sync, out of Dagster''s own run history.';
COMMENT ON COLUMN @mirror@.sync_metadata.id IS 'The id of its run in Dagster.';
COMMENT ON COLUMN @mirror@.sync_metadata.sync_type IS 'initial_sync, incremental_sync, reconciliation (the nightly full sync) or webhook_refresh.';
COMMENT ON COLUMN @mirror@.sync_metadata.status IS 'running (also while it waits), completed or failed.';
COMMENT ON COLUMN @mirror@.sync_metadata.started_at IS 'When it began; while it waits, when it was asked for.';
COMMENT ON COLUMN @mirror@.sync_metadata.completed_at IS 'When it ended, well or not.';
COMMENT ON COLUMN @mirror@.sync_metadata.records_synced IS 'How many of the opportunities it read stand in the table.';
COMMENT ON COLUMN @mirror@.sync_metadata.records_failed IS 'How many records it could not store; see sync_faults.';
COMMENT ON COLUMN @mirror@.sync_metadata.error IS 'Why it failed, and what to do.';
COMMENT ON COLUMN @mirror@.sync_metadata.metadata IS 'Its figures, as in Dagster: calls, pages, rows created, the certificate of a full sync, ...';
