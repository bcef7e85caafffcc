-- version 4. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- A row for each opportunity and each day on which its equipment is out. A day lasts from midnight
-- to midnight in the company's time zone. It counts if any instant of the hire falls into it. Lost
-- opportunities are left out. Open ones are included, with their phase.
-- An open-ended hire has days until a year from today. A mistyped date can make a hire that lasts
-- for thousands of years, so each hire has at most 3,660 days.
-- For a single day, ask opportunities WHERE hire && rms_local_day(day): an index serves that.

CREATE OR REPLACE VIEW hire_days AS
SELECT
    d.day::date AS day, o.id AS opportunity_id, o.number, o.opportunity_status, o.phase,
    o.organisation_id, o.organisation_name, o.owner_id, o.owner_name, o.venue_id, o.venue_name,
    o.store_id, o.hire,
    d.day = o.first AS goes_out,
    coalesce(d.day = o.until, false) AS comes_back
FROM (
    SELECT
        o.*, coalesce(s.phase, 'open') AS phase,
        date_trunc('day', lower(o.hire) AT TIME ZONE (SELECT rms_time_zone())) AS first,
        date_trunc('day', upper(o.hire) AT TIME ZONE (SELECT rms_time_zone())) AS until,
        least(
            coalesce(
                date_trunc('day', upper(o.hire) AT TIME ZONE (SELECT rms_time_zone())),
                greatest(
                    date_trunc('day', now() AT TIME ZONE (SELECT rms_time_zone()))
                        + interval '1 year',
                    date_trunc('day', lower(o.hire) AT TIME ZONE (SELECT rms_time_zone()))
                )
            ),
            date_trunc('day', lower(o.hire) AT TIME ZONE (SELECT rms_time_zone()))
                + interval '3659 days'
        ) AS last
    FROM (
        SELECT
            id, number, opportunity_status, organisation_id, organisation_name, owner_id, owner_name,
            venue_id, venue_name, store_id, hire
        FROM opportunities
    ) o
    LEFT JOIN statuses s ON s.name = o.opportunity_status
    WHERE o.hire IS NOT NULL
) o
CROSS JOIN LATERAL generate_series(o.first, o.last, interval '1 day') AS d (day)
WHERE o.phase <> 'lost';

COMMENT ON VIEW hire_days IS 'A row for each opportunity and day, in the company''s time zone, on which its equipment is or will be out. Lost ones are left out. An open-ended hire ends a year from today.';
COMMENT ON COLUMN hire_days.day IS 'The day, in the company''s time zone.';
COMMENT ON COLUMN hire_days.opportunity_id IS 'The opportunity''s id in Current RMS.';
COMMENT ON COLUMN hire_days.number IS 'Its number.';
COMMENT ON COLUMN hire_days.opportunity_status IS 'Open, Provisional, Reserved, ...';
COMMENT ON COLUMN hire_days.phase IS 'open or confirmed, as the table statuses says.';
COMMENT ON COLUMN hire_days.organisation_id IS 'The customer''s id in Current RMS.';
COMMENT ON COLUMN hire_days.organisation_name IS 'The customer''s name.';
COMMENT ON COLUMN hire_days.owner_id IS 'The id of its owner, a colleague.';
COMMENT ON COLUMN hire_days.owner_name IS 'The name of its owner.';
COMMENT ON COLUMN hire_days.venue_id IS 'The venue''s id in Current RMS.';
COMMENT ON COLUMN hire_days.venue_name IS 'The name of its venue.';
COMMENT ON COLUMN hire_days.store_id IS 'The id of the store from which the equipment leaves.';
COMMENT ON COLUMN hire_days.hire IS 'The whole hire, as in opportunities.';
COMMENT ON COLUMN hire_days.goes_out IS 'Whether it is the first day of the hire.';
COMMENT ON COLUMN hire_days.comes_back IS 'Whether it is the last day of the hire.';
