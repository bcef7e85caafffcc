-- version 1. Raise it with every change: of two programs on one database the higher makes the view.
-- How many quotations became orders, by the month that decided it, in the company's time zone, and
-- by owner. A row for each month and owner. Won: it is an order or confirmed, and not lost; decided
-- when it became the one or the other, whichever was first. Lost: its phase is lost; decided when it
-- came to be, or, where that was before this mirror looked, when Current RMS last changed it. What
-- was never more than an enquiry or a draft when it was lost is no quotation, and not counted.
-- Where nobody knows when it was decided, the month is empty.

CREATE OR REPLACE VIEW conversions AS
SELECT
    date_trunc('month', decided_at AT TIME ZONE (SELECT rms_time_zone()))::date AS month,
    owner_id,
    max(owner_name) AS owner_name,
    count(*) AS decided,
    count(*) FILTER (WHERE is_won) AS won,
    count(*) FILTER (WHERE NOT is_won) AS lost,
    count(*) FILTER (WHERE NOT is_won AND was_order) AS lost_orders,
    round(100.0 * count(*) FILTER (WHERE is_won) / count(*), 1) AS percent_won,
    coalesce(sum(charge_total) FILTER (WHERE is_won), 0) AS won_charge_total,
    coalesce(sum(charge_total) FILTER (WHERE NOT is_won), 0) AS lost_charge_total,
    avg(decided_at - created_at) AS time_to_decision
FROM (
    SELECT
        o.owner_id, o.owner_name, o.charge_total, f.phase <> 'lost' AS is_won,
        o.state_name = 'Order' OR o.ordered_at IS NOT NULL AS was_order,
        o.created_at_rms AS created_at,
        CASE WHEN f.phase = 'lost' THEN coalesce(f.lost_at, o.updated_at_rms)
            ELSE least(f.order_at, f.confirmed_at) END AS decided_at
    FROM funnel f JOIN opportunities o ON o.id = f.opportunity_id
    WHERE f.stage IN ('order', 'confirmed', 'completed')
        OR f.stage = 'lost' AND coalesce(o.state_name, '') NOT IN ('Enquiry', 'Draft')
) d
GROUP BY 1, owner_id, CASE WHEN owner_id IS NULL THEN owner_name END;

COMMENT ON VIEW conversions IS 'How many quotations were won and lost: a row for each month of decision and owner. Money is in the account''s currency, before tax.';
COMMENT ON COLUMN conversions.month IS 'The first day of the month, in the company''s time zone, that decided it. Empty where nobody knows when that was.';
COMMENT ON COLUMN conversions.owner_id IS 'The id of the colleague they belong to.';
COMMENT ON COLUMN conversions.owner_name IS 'The colleague they belong to.';
COMMENT ON COLUMN conversions.decided IS 'How many were won or lost.';
COMMENT ON COLUMN conversions.won IS 'How many are orders or confirmed, and not lost.';
COMMENT ON COLUMN conversions.lost IS 'How many quotations and orders are lost, cancelled or dead: whatever the table statuses calls lost.';
COMMENT ON COLUMN conversions.lost_orders IS 'How many of the lost ones had been orders.';
COMMENT ON COLUMN conversions.percent_won IS 'won of decided, in percent.';
COMMENT ON COLUMN conversions.won_charge_total IS 'What the won ones charge before tax.';
COMMENT ON COLUMN conversions.lost_charge_total IS 'What the lost ones would have charged before tax.';
COMMENT ON COLUMN conversions.time_to_decision IS 'From their creation to the decision, on average.';
