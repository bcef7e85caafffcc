-- version 5. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- What opportunities are worth, by the month in which they start: a row for each month, phase,
-- customer, owner and venue that occur together. Add up the rows over the columns that you do not
-- group by. Months are those of the company's time zone. The month is empty if an opportunity has
-- no start. Money is in the account's currency and before tax, except for total_value. An
-- opportunity without a charge adds nothing. A customer, owner or venue with an id is identified by
-- it, so another spelling of the name makes no second one.

CREATE OR REPLACE VIEW month_value AS
SELECT
    month, phase,
    organisation_id, coalesce(customers.organisation_name, m.organisation_name) AS organisation_name,
    owner_id, coalesce(owners.owner_name, m.owner_name) AS owner_name,
    venue_id, coalesce(venues.venue_name, m.venue_name) AS venue_name,
    opportunities, charge_total, total_value, provisional_cost_total, profit
FROM (
    SELECT
        date_trunc('month', starts_at AT TIME ZONE (SELECT rms_time_zone()))::date AS month,
        phase,
        organisation_id, max(organisation_name) AS organisation_name,
        owner_id, max(owner_name) AS owner_name,
        venue_id, max(venue_name) AS venue_name,
        count(*) AS opportunities,
        coalesce(sum(charge_total), 0) AS charge_total,
        coalesce(sum(total_value), 0) AS total_value,
        coalesce(sum(provisional_cost_total), 0) AS provisional_cost_total,
        coalesce(sum(profit), 0) AS profit
    FROM (
        SELECT
            coalesce(o.deliver_starts_at, o.starts_at) AS starts_at, coalesce(s.phase, 'open') AS phase,
            o.organisation_id, o.organisation_name, o.owner_id, o.owner_name, o.venue_id, o.venue_name,
            o.charge_total, o.total_value, o.provisional_cost_total, o.profit
        FROM opportunities o LEFT JOIN statuses s ON s.name = o.opportunity_status
    ) o
    GROUP BY
        1, phase,
        organisation_id, CASE WHEN organisation_id IS NULL THEN organisation_name END,
        owner_id, CASE WHEN owner_id IS NULL THEN owner_name END,
        venue_id, CASE WHEN venue_id IS NULL THEN venue_name END
) m
LEFT JOIN customer_names customers USING (organisation_id)
LEFT JOIN owner_names owners USING (owner_id)
LEFT JOIN venue_names venues USING (venue_id);

COMMENT ON VIEW month_value IS 'What opportunities are worth: a row for each month they start in, phase, customer, owner and venue. Sum the rows over the columns that you do not group by. Money is in the account''s currency.';
COMMENT ON COLUMN month_value.month IS 'The first day of the month, in the company''s time zone, that they start in: by deliver_starts_at, else starts_at. Empty where there is no start.';
COMMENT ON COLUMN month_value.phase IS 'open, confirmed or lost, from the table statuses.';
COMMENT ON COLUMN month_value.organisation_id IS 'The customer''s id in Current RMS.';
COMMENT ON COLUMN month_value.organisation_name IS 'The customer''s newest name.';
COMMENT ON COLUMN month_value.owner_id IS 'The id of their owner, a colleague.';
COMMENT ON COLUMN month_value.owner_name IS 'The newest name of their owner.';
COMMENT ON COLUMN month_value.venue_id IS 'The venue''s id in Current RMS.';
COMMENT ON COLUMN month_value.venue_name IS 'The newest name of their venue.';
COMMENT ON COLUMN month_value.opportunities IS 'How many.';
COMMENT ON COLUMN month_value.charge_total IS 'The sum of their charges before tax.';
COMMENT ON COLUMN month_value.total_value IS 'The sum of their charges with tax.';
COMMENT ON COLUMN month_value.provisional_cost_total IS 'The sum of their planned costs.';
COMMENT ON COLUMN month_value.profit IS 'The sum of charge_total minus provisional_cost_total, for those that have both.';
