-- Counts opportunities by status at the end of each day, from `first` to the day before `today`,
-- from the history. A version counts from the day on which it began to the day before it ended. So
-- the history is read once for any number of days: each day adds what came and subtracts what went.
INSERT INTO daily_status_counts
WITH versions AS (
    SELECT
        coalesce(opportunity_status, %(none)s) AS status,
        coalesce(charge_total, 0) AS charge,
        coalesce(total_value, 0) AS value,
        (valid_from AT TIME ZONE %(zone)s)::date AS since,
        coalesce((valid_to AT TIME ZONE %(zone)s)::date, 'infinity') AS until
    FROM opportunity_history WHERE NOT deleted
), moves AS (
    SELECT greatest(since, %(first)s) AS day, status, 1 AS n, charge, value FROM versions
    WHERE since < %(today)s AND until > %(first)s AND until > since
    UNION ALL
    SELECT until, status, -1, -charge, -value FROM versions
    WHERE until < %(today)s AND until > %(first)s AND until > since
), moved AS (
    SELECT day, status, sum(n) AS n, sum(charge) AS charge, sum(value) AS value
    FROM moves GROUP BY 1, 2
), days AS (
    SELECT day::date, status
    FROM generate_series(
            %(first)s::timestamp, %(today)s::timestamp - interval '1 day', interval '1 day'
        ) AS day,
        (SELECT DISTINCT status FROM moved) known
), counted AS (
    SELECT
        day, status,
        sum(n) OVER so_far AS n,
        sum(charge) OVER so_far AS charge,
        sum(value) OVER so_far AS value
    FROM days LEFT JOIN moved USING (day, status)
    WINDOW so_far AS (PARTITION BY status ORDER BY day)
)
SELECT day, status, coalesce(s.phase, 'open'), n, charge, value
FROM counted LEFT JOIN statuses s ON s.name = status WHERE n > 0
