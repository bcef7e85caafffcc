-- version 4. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- Won and lost opportunities, and when each was decided: a row for each decided opportunity. An
-- opportunity is won if it is an order or confirmed, and not lost. It was decided when it became an
-- order or was confirmed, whichever came first.
-- It is lost if the phase of its status is lost. It was decided when it was lost. If the mirror did
-- not see that, the time of the last change in Current RMS stands for it. An opportunity that was
-- only an enquiry or a draft when it was lost is not in this view.
-- decided_at and month are empty if the time of the decision is unknown. The view conversions has
-- the figures of each month.

CREATE OR REPLACE VIEW decisions AS
SELECT
    d.*,
    date_trunc('month', decided_at AT TIME ZONE (SELECT rms_time_zone()))::date AS month
FROM (
    SELECT
        o.id AS opportunity_id, o.number, o.name, o.opportunity_status,
        CASE WHEN s.phase = 'lost' THEN 'lost' ELSE 'won' END AS outcome,
        CASE WHEN s.phase = 'lost' THEN coalesce(l.lost_at, o.updated_at_rms)
            ELSE least(o.ordered_at, o.confirmed_at) END AS decided_at,
        coalesce(o.state_name = 'Order' OR o.ordered_at IS NOT NULL, false) AS was_order,
        o.organisation_id, o.organisation_name, o.owner_id, o.owner_name, o.charge_total,
        o.created_at_rms AS created_at
    FROM opportunities o
    LEFT JOIN statuses s ON s.name = o.opportunity_status
    -- LATERAL, so that a question about few opportunities reads the changes of those few only.
    -- The view funnel finds lost_at in the same way.
    LEFT JOIN LATERAL (
        SELECT max(coalesce(c.changed_at, c.seen_at)) AS lost_at
        FROM opportunity_changes c
        JOIN statuses n ON n.name = c.new_value AND n.phase = 'lost'
        LEFT JOIN statuses w ON w.name = c.old_value
        WHERE s.phase = 'lost' AND c.opportunity_id = o.id
            AND c.field = 'opportunity_status' AND w.phase IS DISTINCT FROM 'lost'
    ) l ON true
    WHERE CASE WHEN s.phase = 'lost' THEN coalesce(o.state_name, '') NOT IN ('Enquiry', 'Draft')
        ELSE s.phase = 'confirmed' OR o.opportunity_status = 'Completed'
            OR o.state_name = 'Order' END
) d;

COMMENT ON VIEW decisions IS 'Won and lost opportunities, and when each was decided: one row for each. Money is in the account''s currency, before tax.';
COMMENT ON COLUMN decisions.opportunity_id IS 'The opportunity''s id in Current RMS.';
COMMENT ON COLUMN decisions.number IS 'Its number, as people write it.';
COMMENT ON COLUMN decisions.name IS 'Its name.';
COMMENT ON COLUMN decisions.opportunity_status IS 'Its status now.';
COMMENT ON COLUMN decisions.outcome IS 'won or lost.';
COMMENT ON COLUMN decisions.decided_at IS 'When it was decided. Empty if that is unknown.';
COMMENT ON COLUMN decisions.was_order IS 'Whether it is, or has been, an order.';
COMMENT ON COLUMN decisions.organisation_id IS 'The customer''s id in Current RMS.';
COMMENT ON COLUMN decisions.organisation_name IS 'The customer''s name.';
COMMENT ON COLUMN decisions.owner_id IS 'The id of its owner, a colleague.';
COMMENT ON COLUMN decisions.owner_name IS 'The name of its owner.';
COMMENT ON COLUMN decisions.charge_total IS 'What it charges, or would have charged, before tax.';
COMMENT ON COLUMN decisions.created_at IS 'When it was entered in Current RMS.';
COMMENT ON COLUMN decisions.month IS 'The first day of the month of the decision, in the company''s time zone. Empty if the time is unknown.';
