-- version 2. Raise it with every change: of two programs on one database the higher makes the view.
-- Two opportunities that are at one venue at the same time. A row for each pair of which neither is
-- lost, and whose hires have more than a moment in common: the one that ends as the next begins is
-- out of its way. What is over is left out. A venue is known by its id; without one, by its name.
-- A blank name is that of no venue.

CREATE OR REPLACE VIEW venue_overlaps AS
WITH o AS (
    SELECT
        o.id, o.number, o.opportunity_status, coalesce(s.phase, 'open') AS phase, o.venue_id,
        o.venue_name, o.organisation_name, o.hire,
        coalesce(o.venue_id::text, 'named ' || nullif(lower(btrim(o.venue_name)), '')) AS venue
    FROM opportunities o LEFT JOIN statuses s ON s.name = o.opportunity_status
    WHERE o.hire && tstzrange(now(), NULL) AND coalesce(s.phase, 'open') <> 'lost'
)
SELECT
    a.venue_id, a.venue_name, a.hire * b.hire AS overlap,
    a.phase = 'confirmed' AND b.phase = 'confirmed' AS both_confirmed,
    a.id AS opportunity_id, a.number, a.opportunity_status, a.organisation_name, a.hire,
    b.id AS other_id, b.number AS other_number, b.opportunity_status AS other_status,
    b.organisation_name AS other_organisation_name, b.hire AS other_hire
FROM o a
JOIN o b ON a.venue = b.venue AND a.id < b.id AND a.hire && b.hire
    AND (upper_inf(b.hire) OR lower(a.hire) < upper(b.hire))
    AND (upper_inf(a.hire) OR lower(b.hire) < upper(a.hire));

COMMENT ON VIEW venue_overlaps IS 'Pairs of opportunities at one venue at the same time, from now on. Lost ones are left out.';
COMMENT ON COLUMN venue_overlaps.venue_id IS 'The venue''s id in Current RMS.';
COMMENT ON COLUMN venue_overlaps.venue_name IS 'Its name.';
COMMENT ON COLUMN venue_overlaps.overlap IS 'When both are there.';
COMMENT ON COLUMN venue_overlaps.both_confirmed IS 'Whether it is booked twice: the other rows may still be decided otherwise.';
COMMENT ON COLUMN venue_overlaps.opportunity_id IS 'The opportunity''s id in Current RMS; the lower of the two.';
COMMENT ON COLUMN venue_overlaps.number IS 'Its number.';
COMMENT ON COLUMN venue_overlaps.opportunity_status IS 'Its status.';
COMMENT ON COLUMN venue_overlaps.organisation_name IS 'Its customer.';
COMMENT ON COLUMN venue_overlaps.hire IS 'Its hire, as in opportunities.';
COMMENT ON COLUMN venue_overlaps.other_id IS 'The other''s id in Current RMS.';
COMMENT ON COLUMN venue_overlaps.other_number IS 'The other''s number.';
COMMENT ON COLUMN venue_overlaps.other_status IS 'The other''s status.';
COMMENT ON COLUMN venue_overlaps.other_organisation_name IS 'The other''s customer.';
COMMENT ON COLUMN venue_overlaps.other_hire IS 'The other''s hire.';
