-- version 4. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- How many quotations became orders: a row for each month of decision and each owner. Months are
-- those of the company's time zone. The view decisions has each opportunity. It says when an
-- opportunity is won or lost, and when that was decided. The month is empty if the time of the
-- decision is unknown.

CREATE OR REPLACE VIEW conversions AS
SELECT
    month, owner_id, coalesce(n.owner_name, c.owner_name) AS owner_name, decided, won, lost, lost_orders,
    percent_won, won_charge_total, lost_charge_total, time_to_decision
FROM (
    SELECT
        month,
        owner_id,
        max(owner_name) AS owner_name,
        count(*) AS decided,
        count(*) FILTER (WHERE outcome = 'won') AS won,
        count(*) FILTER (WHERE outcome = 'lost') AS lost,
        count(*) FILTER (WHERE outcome = 'lost' AND was_order) AS lost_orders,
        round(100.0 * count(*) FILTER (WHERE outcome = 'won') / count(*), 1) AS percent_won,
        coalesce(sum(charge_total) FILTER (WHERE outcome = 'won'), 0) AS won_charge_total,
        coalesce(sum(charge_total) FILTER (WHERE outcome = 'lost'), 0) AS lost_charge_total,
        avg(decided_at - created_at) AS time_to_decision
    FROM decisions
    GROUP BY month, owner_id, CASE WHEN owner_id IS NULL THEN owner_name END
) c
LEFT JOIN owner_names n USING (owner_id);

COMMENT ON VIEW conversions IS 'How many quotations were won and lost: a row for each month of decision and owner. Money is in the account''s currency, before tax.';
COMMENT ON COLUMN conversions.month IS 'The first day of the month of the decision, in the company''s time zone. Empty if the time is unknown.';
COMMENT ON COLUMN conversions.owner_id IS 'The id of their owner, a colleague.';
COMMENT ON COLUMN conversions.owner_name IS 'The newest name of their owner.';
COMMENT ON COLUMN conversions.decided IS 'How many were won or lost.';
COMMENT ON COLUMN conversions.won IS 'How many are orders or confirmed, and not lost.';
COMMENT ON COLUMN conversions.lost IS 'How many quotations and orders are lost, cancelled or dead: the phase lost of the table statuses.';
COMMENT ON COLUMN conversions.lost_orders IS 'How many of the lost ones had been orders.';
COMMENT ON COLUMN conversions.percent_won IS 'won as a percentage of decided.';
COMMENT ON COLUMN conversions.won_charge_total IS 'What the won ones charge before tax.';
COMMENT ON COLUMN conversions.lost_charge_total IS 'What the lost ones would have charged before tax.';
COMMENT ON COLUMN conversions.time_to_decision IS 'The average time from their creation to the decision.';
