-- version 8. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- Opportunities that make no sense as they are, or need somebody's attention now: a row for each
-- opportunity and check. So one opportunity may have several rows. Days and weeks are those of the
-- company's time zone. Each check is a part of its own, so a question about one check costs only
-- that.

CREATE OR REPLACE VIEW sense_checks AS
WITH o AS NOT MATERIALIZED (
    SELECT
        o.id, o.number, o.opportunity_status, coalesce(s.phase, 'open') AS phase,
        o.organisation_id, o.organisation_name, o.owner_id, o.owner_name,
        o.starts_at, o.ends_at,
        coalesce(o.deliver_starts_at, o.starts_at) AS goes_out_at,
        coalesce(o.collect_ends_at, o.ends_at) AS comes_back_at,
        o.open_ended_rental, o.invoiced, o.charge_total, o.confirmed_at, o.updated_at_rms,
        o.provisional_cost_total, o.predicted_cost_total, o.actual_cost_total
    FROM opportunities o LEFT JOIN statuses s ON s.name = o.opportunity_status
)
-- The equipment should be back, but Current RMS does not say that it is.
SELECT
    'late_back'::text AS sense_check, o.id AS opportunity_id, o.number, o.opportunity_status,
    o.organisation_id, o.organisation_name, o.owner_id, o.owner_name,
    o.comes_back_at AS moment, false AS about_money,
    'It is Active, and its hire has ended.' AS says
FROM o
WHERE o.opportunity_status = 'Active' AND o.comes_back_at < now()
    AND o.open_ended_rental IS NOT TRUE

UNION ALL
-- Seven whole days, of which today is the first. The page Today counts in the same way.
SELECT
    'starts_soon_and_open', o.id, o.number, o.opportunity_status, o.organisation_id,
    o.organisation_name, o.owner_id, o.owner_name, o.goes_out_at, false,
    'It starts within seven days, and is not decided.'
FROM o
WHERE o.phase = 'open'
    AND o.goes_out_at
        >= (SELECT lower(rms_local_day((now() AT TIME ZONE rms_time_zone())::date)))
    AND o.goes_out_at
        < (SELECT lower(rms_local_day((now() AT TIME ZONE rms_time_zone())::date + 7)))

UNION ALL
-- No list of a day shows it. An end says nothing of an open-ended hire. What is completed needs no
-- day any more.
SELECT
    'confirmed_without_dates', o.id, o.number, o.opportunity_status, o.organisation_id,
    o.organisation_name, o.owner_id, o.owner_name, coalesce(o.confirmed_at, o.updated_at_rms),
    false, 'It is confirmed, and has neither a start nor an end.'
FROM o
WHERE o.phase = 'confirmed' AND o.opportunity_status <> 'Completed' AND o.goes_out_at IS NULL
    AND (o.comes_back_at IS NULL OR o.open_ended_rental)

UNION ALL
SELECT
    'confirmed_at_zero', o.id, o.number, o.opportunity_status, o.organisation_id,
    o.organisation_name, o.owner_id, o.owner_name, coalesce(o.confirmed_at, o.updated_at_rms), true,
    'It is confirmed, and charges nothing.'
FROM o WHERE o.phase = 'confirmed' AND coalesce(o.charge_total, 0) = 0

UNION ALL
-- Two pairs of dates are checked: start and end, and the pair that the hire is made of.
SELECT
    'ends_before_it_starts', o.id, o.number, o.opportunity_status, o.organisation_id,
    o.organisation_name, o.owner_id, o.owner_name, coalesce(o.starts_at, o.goes_out_at), false,
    CASE WHEN o.ends_at < o.starts_at THEN 'It ends before it starts.'
        ELSE 'It is collected before it is delivered.' END
FROM o
WHERE o.open_ended_rental IS NOT TRUE
    AND (
        o.ends_at < o.starts_at
        OR o.comes_back_at < o.goes_out_at
    )

UNION ALL
SELECT
    'completed_and_not_invoiced', o.id, o.number, o.opportunity_status, o.organisation_id,
    o.organisation_name, o.owner_id, o.owner_name, o.comes_back_at, true,
    'It is Completed, and not invoiced.'
FROM o WHERE o.opportunity_status = 'Completed' AND o.invoiced IS FALSE

UNION ALL
-- The cost is the highest of the planned, the predicted and the actual cost.
SELECT
    'costs_above_charge', o.id, o.number, o.opportunity_status, o.organisation_id,
    o.organisation_name, o.owner_id, o.owner_name, o.updated_at_rms, true,
    'It costs more than it charges.'
FROM o
WHERE o.phase <> 'lost' AND o.charge_total
    < greatest(o.provisional_cost_total, o.predicted_cost_total, o.actual_cost_total)

UNION ALL
-- confirmed_at is empty if it was confirmed before the history began. Then each noted change came
-- later. A change that the mirror saw together with the confirmation came before it, or with it.
SELECT
    'dates_changed_after_confirmation', o.id, o.number, o.opportunity_status, o.organisation_id,
    o.organisation_name, o.owner_id, o.owner_name, c.moment, false,
    'After the confirmation ' || coalesce(c.who, 'somebody') || ' changed ' || c.fields || '.'
FROM o
JOIN (
    SELECT
        c.opportunity_id, max(coalesce(c.changed_at, c.seen_at)) AS moment,
        string_agg(DISTINCT c.field, ', ') AS fields,
        -- Some of it may be the work of others than those who are known.
        string_agg(DISTINCT c.changed_by, ', ')
            || CASE WHEN bool_and(c.changed_by IS NOT NULL) THEN '' ELSE ' and somebody' END AS who
    FROM opportunity_changes c JOIN opportunities p ON p.id = c.opportunity_id
    WHERE c.field IN (
        'starts_at', 'ends_at', 'prep_starts_at', 'prep_ends_at', 'load_starts_at', 'load_ends_at',
        'deliver_starts_at', 'deliver_ends_at', 'setup_starts_at', 'setup_ends_at',
        'show_starts_at', 'show_ends_at', 'takedown_starts_at', 'takedown_ends_at',
        'collect_starts_at', 'collect_ends_at', 'unload_starts_at', 'unload_ends_at',
        'deprep_starts_at', 'deprep_ends_at'
    )
        AND c.seen_at > coalesce(p.confirmed_at, '-infinity')
    GROUP BY 1
) c ON c.opportunity_id = o.id
WHERE o.phase = 'confirmed'

UNION ALL
-- The table required_fields names the fields. Lost opportunities need none.
SELECT
    'required_field_empty', o.id, o.number, o.opportunity_status, o.organisation_id,
    o.organisation_name, o.owner_id, o.owner_name, coalesce(o.goes_out_at, o.updated_at_rms), false,
    'It lacks ' || e.fields || '.'
FROM (
    SELECT o.*, coalesce(s.phase, 'open') AS phase,
        coalesce(o.deliver_starts_at, o.starts_at) AS goes_out_at
    FROM opportunities o LEFT JOIN statuses s ON s.name = o.opportunity_status
) o
CROSS JOIN LATERAL (
    SELECT string_agg(r.field, ', ' ORDER BY r.field) AS fields
    FROM unnest(
        CASE o.phase
            WHEN 'open' THEN ARRAY(
                SELECT field FROM required_fields
                WHERE collection = 'opportunities' AND phase = 'open'
            )
            WHEN 'confirmed' THEN ARRAY(
                SELECT field FROM required_fields WHERE collection = 'opportunities'
            )
        END
    ) AS r (field)
    -- A value of spaces and line breaks is empty.
    WHERE btrim(coalesce(
        CASE WHEN r.field LIKE 'custom\_fields.%' THEN o.custom_fields ->> substr(r.field, 15)
        ELSE CASE r.field
            WHEN 'name' THEN o.name
            WHEN 'subject' THEN o.subject
            WHEN 'description' THEN o.description
            WHEN 'starts_at' THEN o.starts_at::text
            WHEN 'ends_at' THEN o.ends_at::text
            WHEN 'opportunity_status' THEN o.opportunity_status
            WHEN 'created_at_rms' THEN o.created_at_rms::text
            WHEN 'updated_at_rms' THEN o.updated_at_rms::text
            WHEN 'venue_name' THEN o.venue_name
            WHEN 'organisation_id' THEN o.organisation_id::text
            WHEN 'organisation_name' THEN o.organisation_name
            WHEN 'owner_id' THEN o.owner_id::text
            WHEN 'owner_name' THEN o.owner_name
            WHEN 'charge_total' THEN o.charge_total::text
            WHEN 'total_value' THEN o.total_value::text
            WHEN 'number' THEN o.number
            WHEN 'reference' THEN o.reference
            WHEN 'state_name' THEN o.state_name
            WHEN 'store_id' THEN o.store_id::text
            WHEN 'project_id' THEN o.project_id::text
            WHEN 'venue_id' THEN o.venue_id::text
            WHEN 'ordered_at' THEN o.ordered_at::text
            WHEN 'quote_invalid_at' THEN o.quote_invalid_at::text
            WHEN 'invoiced' THEN o.invoiced::text
            WHEN 'tags' THEN o.tags::text
            WHEN 'charge_excluding_tax_total' THEN o.charge_excluding_tax_total::text
            WHEN 'charge_including_tax_total' THEN o.charge_including_tax_total::text
            WHEN 'tax_total' THEN o.tax_total::text
            WHEN 'provisional_cost_total' THEN o.provisional_cost_total::text
            WHEN 'predicted_cost_total' THEN o.predicted_cost_total::text
            WHEN 'actual_cost_total' THEN o.actual_cost_total::text
            WHEN 'weight_total' THEN o.weight_total::text
            WHEN 'revenue' THEN o.revenue::text
            WHEN 'rating' THEN o.rating::text
            WHEN 'open_ended_rental' THEN o.open_ended_rental::text
            WHEN 'prep_starts_at' THEN o.prep_starts_at::text
            WHEN 'prep_ends_at' THEN o.prep_ends_at::text
            WHEN 'load_starts_at' THEN o.load_starts_at::text
            WHEN 'load_ends_at' THEN o.load_ends_at::text
            WHEN 'deliver_starts_at' THEN o.deliver_starts_at::text
            WHEN 'deliver_ends_at' THEN o.deliver_ends_at::text
            WHEN 'setup_starts_at' THEN o.setup_starts_at::text
            WHEN 'setup_ends_at' THEN o.setup_ends_at::text
            WHEN 'show_starts_at' THEN o.show_starts_at::text
            WHEN 'show_ends_at' THEN o.show_ends_at::text
            WHEN 'takedown_starts_at' THEN o.takedown_starts_at::text
            WHEN 'takedown_ends_at' THEN o.takedown_ends_at::text
            WHEN 'collect_starts_at' THEN o.collect_starts_at::text
            WHEN 'collect_ends_at' THEN o.collect_ends_at::text
            WHEN 'unload_starts_at' THEN o.unload_starts_at::text
            WHEN 'unload_ends_at' THEN o.unload_ends_at::text
            WHEN 'deprep_starts_at' THEN o.deprep_starts_at::text
            WHEN 'deprep_ends_at' THEN o.deprep_ends_at::text
            ELSE 'no such column'
        END END, ''
    ), E' \t\r\n') IN ('', '[]', '{}')
) e
WHERE EXISTS (SELECT FROM required_fields) AND e.fields IS NOT NULL;

COMMENT ON VIEW sense_checks IS 'Opportunities whose data need attention: one row for each opportunity and check. Late back; starts within seven days and open; confirmed without dates; confirmed at zero; ends before it starts; completed and not invoiced; costs above charge; dates changed after confirmation; a field empty that the table required_fields names.';
COMMENT ON COLUMN sense_checks.sense_check IS 'late_back, starts_soon_and_open, confirmed_without_dates, confirmed_at_zero, ends_before_it_starts, completed_and_not_invoiced, costs_above_charge, dates_changed_after_confirmation or required_field_empty.';
COMMENT ON COLUMN sense_checks.opportunity_id IS 'The opportunity''s id in Current RMS.';
COMMENT ON COLUMN sense_checks.number IS 'Its number.';
COMMENT ON COLUMN sense_checks.opportunity_status IS 'Open, Provisional, Reserved, Lost, ...';
COMMENT ON COLUMN sense_checks.organisation_id IS 'The customer''s id in Current RMS.';
COMMENT ON COLUMN sense_checks.organisation_name IS 'The customer''s name.';
COMMENT ON COLUMN sense_checks.owner_id IS 'The id of its owner, a colleague.';
COMMENT ON COLUMN sense_checks.owner_name IS 'The name of its owner.';
COMMENT ON COLUMN sense_checks.moment IS 'What the check is about: when the hire ended, when it starts, when the dates were changed, ...';
COMMENT ON COLUMN sense_checks.about_money IS 'Whether the check tells something of what is charged or paid.';
COMMENT ON COLUMN sense_checks.says IS 'What is wrong, in a sentence without an amount.';
