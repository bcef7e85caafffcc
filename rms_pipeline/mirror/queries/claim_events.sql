-- Claims the waiting events of some records of a collection, the longest waiting first, and returns
-- them. Several processes that claim at once get different events: rows that another process is
-- claiming are skipped, and nobody waits for them.
--
-- @record@ is the record that an event `e` is about. @waiting@, @due@, @unclaimed@ and @time_has_come@
-- are conditions on an event (mirror/queue.py). @versions@ is the collection's table of versions.
WITH due AS MATERIALIZED (
    SELECT id, @record@ AS record FROM webhook_events e
    WHERE @waiting@ AND @due@ AND collection = %(collection)s AND @record@ IS NOT NULL
    ORDER BY next_attempt_at LIMIT 5000
), held AS MATERIALIZED (
    -- Another process works on them, or one of their events was postponed: later ones wait with it.
    SELECT DISTINCT @record@ AS record FROM webhook_events e
    WHERE @waiting@ AND collection = %(collection)s
        AND (NOT @unclaimed@ OR (put_off AND NOT @time_has_come@))
), chosen AS (
    SELECT due.record, v.id IS NULL OR v.deleted AS is_stranger
    FROM due LEFT JOIN @versions@ v ON v.id = due.record
    WHERE (%(strangers)s OR NOT (v.id IS NULL OR v.deleted))
        AND due.record NOT IN (SELECT record FROM held)
    GROUP BY 1, 2 ORDER BY min(due.id) LIMIT %(most)s
), free AS MATERIALIZED (
    -- All events of a record at once, also those whose time has not come, because one refresh is enough.
    SELECT e.id, is_stranger FROM webhook_events e JOIN chosen ON chosen.record = @record@
    WHERE @waiting@ AND @unclaimed@ AND collection = %(collection)s
    FOR UPDATE OF e SKIP LOCKED
)
UPDATE webhook_events e SET
    claimed_by = %(claimant)s,
    claimed_until = clock_timestamp() + %(lease)s,
    attempts = attempts + 1,
    put_off = false
FROM free WHERE e.id = free.id
RETURNING e.id, @record@, e.action_type, e.happened_at, e.received_at, e.waits, is_stranger
