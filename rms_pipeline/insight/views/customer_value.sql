-- version 6. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- What each customer is worth, and how that changed: a row for each customer that an opportunity
-- names. The value is the charge before tax of confirmed opportunities that started in the last
-- twelve months. It is compared with the twelve months before those. Days are those of the
-- company's time zone. The last twelve months begin with the day after today's date a year ago, and
-- include today.

CREATE OR REPLACE VIEW customer_value AS
SELECT
    organisation_id, coalesce(n.organisation_name, c.organisation_name) AS organisation_name,
    opportunities, opportunities_before, value, value_before,
    value - value_before AS trend,
    round(100 * (value - value_before) / nullif(greatest(value_before, 0), 0), 1) AS trend_percent,
    coming_value, open_value, first_start, last_start
FROM (
    SELECT
        organisation_id,
        max(organisation_name) AS organisation_name,
        count(*) FILTER (WHERE phase = 'confirmed' AND day > a_year_ago AND day <= today)
            AS opportunities,
        count(*) FILTER (WHERE phase = 'confirmed' AND day > two_years_ago AND day <= a_year_ago)
            AS opportunities_before,
        coalesce(sum(charge_total)
            FILTER (WHERE phase = 'confirmed' AND day > a_year_ago AND day <= today), 0) AS value,
        coalesce(sum(charge_total)
            FILTER (WHERE phase = 'confirmed' AND day > two_years_ago AND day <= a_year_ago), 0)
            AS value_before,
        coalesce(sum(charge_total) FILTER (WHERE phase = 'confirmed' AND day > today), 0)
            AS coming_value,
        coalesce(sum(charge_total) FILTER (WHERE phase = 'open'), 0) AS open_value,
        min(starts_at) FILTER (WHERE phase = 'confirmed') AS first_start,
        max(starts_at) FILTER (WHERE phase = 'confirmed') AS last_start
    FROM (
        SELECT
            o.*, coalesce(s.phase, 'open') AS phase,
            (o.starts_at AT TIME ZONE (SELECT rms_time_zone()))::date AS day,
            (SELECT (now() AT TIME ZONE rms_time_zone())::date) AS today,
            (SELECT ((now() AT TIME ZONE rms_time_zone()) - interval '1 year')::date) AS a_year_ago,
            (SELECT ((now() AT TIME ZONE rms_time_zone()) - interval '2 years')::date)
                AS two_years_ago
        FROM (
            SELECT
                organisation_id, organisation_name, opportunity_status, charge_total,
                coalesce(deliver_starts_at, starts_at) AS starts_at
            FROM opportunities
            WHERE organisation_id IS NOT NULL OR organisation_name IS NOT NULL
        ) o
        LEFT JOIN statuses s ON s.name = o.opportunity_status
    ) o
    GROUP BY organisation_id, CASE WHEN organisation_id IS NULL THEN organisation_name END
) c
LEFT JOIN customer_names n USING (organisation_id);

COMMENT ON VIEW customer_value IS 'The value of each customer, and how it changed: confirmed charges before tax of the last twelve months, and of the twelve months before, in the account''s currency.';
COMMENT ON COLUMN customer_value.organisation_id IS 'The customer''s id in Current RMS.';
COMMENT ON COLUMN customer_value.organisation_name IS 'The customer''s newest name.';
COMMENT ON COLUMN customer_value.opportunities IS 'How many confirmed ones started in the last twelve months.';
COMMENT ON COLUMN customer_value.opportunities_before IS 'How many confirmed ones started in the twelve months before.';
COMMENT ON COLUMN customer_value.value IS 'What those of the last twelve months charge before tax.';
COMMENT ON COLUMN customer_value.value_before IS 'What those of the twelve months before charge.';
COMMENT ON COLUMN customer_value.trend IS 'value minus value_before: below 0 if the value fell.';
COMMENT ON COLUMN customer_value.trend_percent IS 'trend as a percentage of value_before. Empty if that is not above 0.';
COMMENT ON COLUMN customer_value.coming_value IS 'The sum of charges of confirmed ones that start after today.';
COMMENT ON COLUMN customer_value.open_value IS 'The sum of charges of open ones, with any start date.';
COMMENT ON COLUMN customer_value.first_start IS 'When the first confirmed one starts.';
COMMENT ON COLUMN customer_value.last_start IS 'When the last confirmed one starts.';
