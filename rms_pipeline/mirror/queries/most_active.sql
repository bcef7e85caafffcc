-- The opportunities with the most webhooks in the last `days`. A deleted opportunity has its last
-- name. An opportunity that was never in the mirror has no name.
SELECT
    e.opportunity_id,
    coalesce(o.name, d.name),
    coalesce(o.opportunity_status, d.opportunity_status),
    e.webhooks,
    e.last_at,
    d.id IS NOT NULL
FROM (
    SELECT opportunity_id, count(*) AS webhooks, max(received_at) AS last_at
    FROM webhook_events
    WHERE opportunity_id IS NOT NULL
        AND received_at >= now() - make_interval(days => %(days)s)
    GROUP BY 1 ORDER BY 2 DESC, 3 DESC LIMIT %(most)s
) e
LEFT JOIN opportunities o ON o.id = e.opportunity_id
LEFT JOIN deleted_opportunities d ON d.id = e.opportunity_id AND o.id IS NULL
ORDER BY e.webhooks DESC, e.last_at DESC
