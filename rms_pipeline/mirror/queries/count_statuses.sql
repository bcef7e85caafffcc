-- Counts opportunities by status, and by the week in which they start. It reads them once, so both
-- tables show the same moment. It returns the counts by status. status_counts must be empty before.
WITH grouped AS MATERIALIZED (
    SELECT
        coalesce(opportunity_status, %(none)s) AS status,
        date_trunc('week', starts_at AT TIME ZONE %(zone)s)::date AS week,
        count(*) AS n,
        coalesce(sum(charge_total), 0) AS charge,
        coalesce(sum(total_value), 0) AS value
    FROM opportunities GROUP BY 1, 2
), gone AS (
    -- It writes only what differs, because it runs after every webhook.
    DELETE FROM week_counts w WHERE NOT EXISTS (
        SELECT FROM grouped g WHERE g.week = w.week AND g.status = w.opportunity_status
    )
), weeks AS (
    INSERT INTO week_counts AS w
    SELECT week, status, n, charge, value FROM grouped WHERE week IS NOT NULL
    ON CONFLICT (week, opportunity_status) DO UPDATE SET
        opportunities = excluded.opportunities,
        charge_total = excluded.charge_total,
        total_value = excluded.total_value
    WHERE (w.opportunities, w.charge_total, w.total_value)
        IS DISTINCT FROM (excluded.opportunities, excluded.charge_total, excluded.total_value)
)
INSERT INTO status_counts
SELECT status, sum(n)::bigint, sum(charge), sum(value), now() FROM grouped GROUP BY 1
RETURNING opportunity_status, opportunities, charge_total, total_value
