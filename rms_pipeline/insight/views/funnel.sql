-- version 4. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- How far each opportunity came, and how long that took: created, quotation, order, confirmed, and
-- completed or lost. A row for each opportunity. A time is empty if the stage was not reached, or
-- was reached before this mirror looked. The time in a stage ends when the next stage that was
-- reached begins. The time in the present stage still goes on. A stage that comes before another
-- one by the stored times is not its next stage, so no time is negative.
-- An opportunity may have come back to an earlier stage. Then quotation and confirmed are the first
-- time that it was there, completed and lost the last time. Order is what Current RMS says of it.

CREATE OR REPLACE VIEW funnel AS
SELECT
    f.opportunity_id, f.number, f.opportunity_status, f.phase, f.stage,
    f.organisation_id, f.organisation_name, f.owner_id, f.owner_name, f.venue_id, f.venue_name,
    f.created_at, f.quotation_at, f.order_at, f.confirmed_at, f.completed_at, f.lost_at,
    CASE WHEN f.stage = 'created' THEN greatest(now(), f.created_at) ELSE least(
        CASE WHEN f.quotation_at >= f.created_at THEN f.quotation_at END,
        CASE WHEN f.order_at >= f.created_at THEN f.order_at END,
        CASE WHEN f.confirmed_at >= f.created_at THEN f.confirmed_at END,
        CASE WHEN f.ended_at >= f.created_at THEN f.ended_at END
    ) END - f.created_at AS time_as_enquiry,
    CASE WHEN f.stage = 'quotation' THEN greatest(now(), f.quotation_at) ELSE least(
        CASE WHEN f.order_at >= f.quotation_at THEN f.order_at END,
        CASE WHEN f.confirmed_at >= f.quotation_at THEN f.confirmed_at END,
        CASE WHEN f.ended_at >= f.quotation_at THEN f.ended_at END
    ) END - f.quotation_at AS time_as_quotation,
    CASE WHEN f.stage = 'order' THEN greatest(now(), f.order_at) ELSE least(
        CASE WHEN f.confirmed_at >= f.order_at THEN f.confirmed_at END,
        CASE WHEN f.ended_at >= f.order_at THEN f.ended_at END
    ) END - f.order_at AS time_as_order,
    CASE
        WHEN f.stage = 'confirmed' THEN greatest(now(), f.confirmed_at)
        WHEN f.ended_at >= f.confirmed_at THEN f.ended_at
    END - f.confirmed_at AS time_confirmed
FROM (
    SELECT
        o.id AS opportunity_id, o.number, o.opportunity_status, coalesce(s.phase, 'open') AS phase,
        CASE
            WHEN s.phase = 'lost' THEN 'lost'
            WHEN o.opportunity_status = 'Completed' THEN 'completed'
            WHEN s.phase = 'confirmed' THEN 'confirmed'
            WHEN o.state_name = 'Order' THEN 'order'
            WHEN o.state_name = 'Quotation' THEN 'quotation'
            ELSE 'created'
        END AS stage,
        o.organisation_id, o.organisation_name, o.owner_id, o.owner_name, o.venue_id, o.venue_name,
        o.created_at_rms AS created_at,
        CASE
            -- It was one when the mirror first saw it. If it was created since the history began, it
            -- was created as one.
            WHEN CASE WHEN c.states > 0 THEN c.first_state ELSE o.state_name END = 'Quotation' THEN
                CASE WHEN o.created_at_rms
                    >= (SELECT value::timestamptz FROM mirror_state WHERE name = 'history_began')
                    THEN o.created_at_rms END
            ELSE c.quotation_at
        END AS quotation_at,
        o.ordered_at AS order_at,
        o.confirmed_at,
        CASE WHEN o.opportunity_status = 'Completed' THEN c.status_at END AS completed_at,
        CASE WHEN s.phase = 'lost' THEN c.lost_at END AS lost_at,
        CASE WHEN s.phase = 'lost' THEN c.lost_at
            WHEN o.opportunity_status = 'Completed' THEN c.status_at END AS ended_at
    FROM opportunities o
    LEFT JOIN statuses s ON s.name = o.opportunity_status
    LEFT JOIN (
        -- The time of a change is that of Current RMS. Without one, it is when the mirror noticed
        -- it.
        SELECT
            c.opportunity_id,
            min(coalesce(c.changed_at, c.seen_at))
                FILTER (WHERE c.field = 'state_name' AND c.new_value = 'Quotation') AS quotation_at,
            (array_agg(c.old_value ORDER BY c.id) FILTER (WHERE c.field = 'state_name'))[1]
                AS first_state,
            count(*) FILTER (WHERE c.field = 'state_name') AS states,
            max(coalesce(c.changed_at, c.seen_at))
                FILTER (WHERE c.field = 'opportunity_status') AS status_at,
            -- A change from one lost status to another does not count: it was lost already.
            max(coalesce(c.changed_at, c.seen_at)) FILTER (
                WHERE c.field = 'opportunity_status' AND n.phase = 'lost'
                AND w.phase IS DISTINCT FROM 'lost'
            ) AS lost_at
        FROM opportunity_changes c
        LEFT JOIN statuses n ON n.name = c.new_value
        LEFT JOIN statuses w ON w.name = c.old_value
        WHERE c.field IN ('state_name', 'opportunity_status')
        GROUP BY 1
    ) c ON c.opportunity_id = o.id
) f;

COMMENT ON VIEW funnel IS 'How far each opportunity came, when, and how long it was in each stage: created, quotation, order, confirmed, and completed or lost. A time is empty where a stage was not reached, or before this mirror looked.';
COMMENT ON COLUMN funnel.opportunity_id IS 'The opportunity''s id in Current RMS.';
COMMENT ON COLUMN funnel.number IS 'Its number.';
COMMENT ON COLUMN funnel.opportunity_status IS 'Open, Provisional, Reserved, Lost, ...';
COMMENT ON COLUMN funnel.phase IS 'open, confirmed or lost, from the table statuses.';
COMMENT ON COLUMN funnel.stage IS 'Its stage: created, quotation, order, confirmed, completed or lost.';
COMMENT ON COLUMN funnel.organisation_id IS 'The customer''s id in Current RMS.';
COMMENT ON COLUMN funnel.organisation_name IS 'The customer''s name.';
COMMENT ON COLUMN funnel.owner_id IS 'The id of its owner, a colleague.';
COMMENT ON COLUMN funnel.owner_name IS 'The name of its owner.';
COMMENT ON COLUMN funnel.venue_id IS 'The venue''s id in Current RMS.';
COMMENT ON COLUMN funnel.venue_name IS 'The name of its venue.';
COMMENT ON COLUMN funnel.created_at IS 'When it was entered in Current RMS.';
COMMENT ON COLUMN funnel.quotation_at IS 'When it first became a quotation.';
COMMENT ON COLUMN funnel.order_at IS 'When it became an order, as Current RMS says.';
COMMENT ON COLUMN funnel.confirmed_at IS 'When it was first confirmed, as in opportunities.';
COMMENT ON COLUMN funnel.completed_at IS 'When it was completed, if it still is.';
COMMENT ON COLUMN funnel.lost_at IS 'When it was lost, if it still is.';
COMMENT ON COLUMN funnel.time_as_enquiry IS 'How long it took from its creation to another stage.';
COMMENT ON COLUMN funnel.time_as_quotation IS 'How long it was a quotation.';
COMMENT ON COLUMN funnel.time_as_order IS 'How long it was an order that was not confirmed.';
COMMENT ON COLUMN funnel.time_confirmed IS 'How long it was confirmed, until it was completed or lost.';
