-- Counts webhooks of all collections by the day of their arrival in the time zone `zone`: all,
-- those that are settled, and those that are dead letters. Days without webhooks are included.
-- @record@ is the record that an event `e` is about.
SELECT day::date, count(e.id), count(e.processed_at), count(e.dead_at)
FROM generate_series(
    date_trunc('day', now() AT TIME ZONE %(zone)s) - make_interval(days => %(days)s - 1),
    now() AT TIME ZONE %(zone)s,
    '1 day'
) AS day
-- All webhooks of these days are later than that, and an index finds those.
LEFT JOIN webhook_events e ON @record@ IS NOT NULL
    AND date_trunc('day', e.received_at AT TIME ZONE %(zone)s) = day
    AND e.received_at > now() - make_interval(days => %(days)s + 1)
GROUP BY day ORDER BY day
