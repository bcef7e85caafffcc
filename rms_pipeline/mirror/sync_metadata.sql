-- version 9. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- The syncs that people query: rows of sync_runs. Status and times are those of Dagster's own
-- history if that is in this database. The view reads plain columns of Dagster's table runs, and no
-- other table of Dagster. rms_pipeline_tests/mirror/test_sync_metadata.py fails when an upgrade
-- changes those. sync_metadata_view.py replaces each name between @: schemas, Dagster's runs (or
-- none), conditions and sentences of sync_runs.py.

-- Locks are read as they are now, but rows as they were when the query began. A process that ended
-- in between would seem to have died. So its row is read once more, after the locks: only a volatile
-- function sees what was committed meanwhile.
CREATE OR REPLACE FUNCTION @mirror@.rms_worker_ended(key bigint) RETURNS timestamptz
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS
$$ SELECT w.ended_at FROM @mirror@.run_workers w WHERE w.lock_key = key $$;
GRANT EXECUTE ON FUNCTION @mirror@.rms_worker_ended(bigint) TO PUBLIC;

CREATE OR REPLACE VIEW @mirror@.sync_metadata AS
SELECT
    s.id,
    s.run_id,
    s.sync_type,
    stands.status,
    coalesce(
        -- It is in seconds since 1970. Another number would make the whole query fail.
        CASE WHEN d.start_time BETWEEN 0 AND 1e11 THEN to_timestamp(d.start_time) END,
        s.started_at,
        s.launched_at
    ) AS started_at,
    CASE WHEN stands.status <> 'running' THEN coalesce(
        CASE WHEN d.status IN ('SUCCESS', 'FAILURE', 'CANCELED') AND d.end_time BETWEEN 0 AND 1e11
            THEN to_timestamp(d.end_time) END,
        s.ended_at,
        w.ended_at,
        w.lost_at,
        s.started_at,
        s.launched_at
    ) END AS completed_at,
    s.records_synced,
    s.records_failed,
    CASE WHEN stands.status = 'failed' THEN coalesce(
        s.error,
        CASE
            WHEN d.status = 'CANCELED' THEN @terminated@
            WHEN w.lost THEN @died@
            WHEN coalesce(d.start_time IS NULL, true) AND s.started_at IS NULL THEN @never_began@
            ELSE @no_reason@
        END
    ) END AS error,
    s.metadata
FROM sync_runs s
LEFT JOIN @runs@ AS d ON d.run_id = s.run_id
-- This finds the few runs that are open, or that lost a process. It is a join, because the planner
-- expects a subquery for each row to be expensive, and then compiles it.
LEFT JOIN (
    SELECT w.run,
        bool_or(w.ended_at IS NULL AND w.holds) AS lives,
        bool_or(w.ended_at IS NULL AND NOT w.holds) AS lost,
        max(w.ended_at) AS ended_at,
        max(w.lost_at) AS lost_at
    FROM (
        SELECT w.run, w.lost_at, held.key IS NOT NULL AS holds,
            CASE WHEN w.ended_at IS NULL AND w.lost_at IS NULL AND held.key IS NULL
                THEN @mirror@.rms_worker_ended(w.lock_key)
                ELSE w.ended_at
            END AS ended_at
        FROM run_workers w
        LEFT JOIN (@held_keys@) AS held (key) ON held.key = w.lock_key
        WHERE w.ended_at IS NULL OR w.run IN (SELECT run_id FROM sync_runs WHERE ended_at IS NULL)
    ) w
    GROUP BY w.run
) w ON w.run = s.run_id
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN d.status = 'SUCCESS' THEN 'completed'
        WHEN d.status IN ('FAILURE', 'CANCELED') OR s.status = 'failed' THEN 'failed'
        -- Where Dagster knows nothing of the run, our own status counts.
        WHEN d.status IS NULL AND s.status = 'completed' THEN 'completed'
        -- A process that dies releases its lock. Dagster may not have noticed that yet.
        WHEN w.lost THEN 'failed'
        WHEN d.status IS NOT NULL OR w.lives THEN 'running'
        -- It may wait in a queue that cannot be seen from here, or be between two of its steps.
        -- What a clock wrote that was ahead is far from now as well.
        WHEN s.started_at IS NULL AND s.launched_at BETWEEN
                clock_timestamp() - interval '1 hour' AND clock_timestamp() + interval '1 hour'
            OR greatest(s.started_at, w.ended_at) BETWEEN
                clock_timestamp() - interval '@between_steps@' AND clock_timestamp() + interval '@between_steps@'
            THEN 'running'
        ELSE 'failed'
    END AS status
) stands;

COMMENT ON VIEW @mirror@.sync_metadata IS 'Every sync: what it brought, and how its run in Dagster ended.';
COMMENT ON COLUMN @mirror@.sync_metadata.id IS 'Its number here.';
COMMENT ON COLUMN @mirror@.sync_metadata.run_id IS 'The id of its run in Dagster.';
COMMENT ON COLUMN @mirror@.sync_metadata.sync_type IS 'initial_sync, incremental_sync, reconciliation (the nightly full sync) or webhook_refresh.';
COMMENT ON COLUMN @mirror@.sync_metadata.status IS 'running (also while it waits), completed or failed.';
COMMENT ON COLUMN @mirror@.sync_metadata.started_at IS 'When it began; while it waits, when it was asked for.';
COMMENT ON COLUMN @mirror@.sync_metadata.completed_at IS 'When it ended, well or not.';
COMMENT ON COLUMN @mirror@.sync_metadata.records_synced IS 'How many of the records it read stand in the tables.';
COMMENT ON COLUMN @mirror@.sync_metadata.records_failed IS 'How many records it could not store; see sync_faults.';
COMMENT ON COLUMN @mirror@.sync_metadata.error IS 'Why it failed, and what to do.';
COMMENT ON COLUMN @mirror@.sync_metadata.metadata IS 'Its figures, as in Dagster: calls, pages, rows created, the certificate, ...';
