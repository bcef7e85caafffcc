-- Claims the waiting events of some records of a collection, and returns them. The records that
-- have waited longest come first. Several processes that claim at once get different events: each
-- skips the rows that another process is claiming, and waits for none.
--
-- @record@ is the record that an event `e` is about, and @column@ the column that holds it for the
-- events of this collection. @waiting@, @due@, @unclaimed@ and
-- @time_has_come@ are conditions on an event (mirror/queue.py). @versions@ is the collection's
-- table of versions.
WITH held AS MATERIALIZED (
    -- Another process works on these, or one of their events was postponed. Later events wait with
    -- it.
    SELECT DISTINCT @record@ AS record FROM webhook_events e
    WHERE @waiting@ AND collection = %(collection)s
        AND (NOT @unclaimed@ OR (put_off AND NOT @time_has_come@))
), due AS MATERIALIZED (
    -- None here may be one that nobody may claim now: thousands of those would hide the others.
    SELECT id, @record@ AS record FROM webhook_events e
    WHERE @waiting@ AND @due@ AND collection = %(collection)s AND @record@ IS NOT NULL
        AND @record@ NOT IN (SELECT record FROM held)
        AND (%(strangers)s OR EXISTS (
            SELECT FROM @versions@ v WHERE v.id = @record@ AND NOT v.deleted
        ))
    ORDER BY next_attempt_at LIMIT 5000
), chosen AS (
    SELECT due.record, v.id IS NULL OR v.deleted AS is_stranger
    FROM due LEFT JOIN @versions@ v ON v.id = due.record
    GROUP BY 1, 2 ORDER BY min(due.id) LIMIT %(most)s
), free AS MATERIALIZED (
    -- All events of a record are claimed at once, because one refresh serves them all. This
    -- includes events whose time has not come.
    SELECT e.id, is_stranger FROM webhook_events e JOIN chosen ON chosen.record = e.@column@
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
