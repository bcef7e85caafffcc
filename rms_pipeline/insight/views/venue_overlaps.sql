-- version 3. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- Two opportunities at one venue at the same time: a row for each pair. Neither is lost, and their
-- hires have more than a moment in common. A hire that ends as the next one begins does not overlap
-- with it. Hires that are over are left out. A venue is known by its id. Without an id, it is known
-- by its name. A blank name is no venue.

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
COMMENT ON COLUMN venue_overlaps.venue_name IS 'The venue''s name.';
COMMENT ON COLUMN venue_overlaps.overlap IS 'When both are there.';
COMMENT ON COLUMN venue_overlaps.both_confirmed IS 'Whether both are confirmed, so that the venue is booked twice.';
COMMENT ON COLUMN venue_overlaps.opportunity_id IS 'The id of the first opportunity in Current RMS, the lower of the two.';
COMMENT ON COLUMN venue_overlaps.number IS 'The number of the first one.';
COMMENT ON COLUMN venue_overlaps.opportunity_status IS 'The status of the first one.';
COMMENT ON COLUMN venue_overlaps.organisation_name IS 'The customer of the first one.';
COMMENT ON COLUMN venue_overlaps.hire IS 'The hire of the first one, as in opportunities.';
COMMENT ON COLUMN venue_overlaps.other_id IS 'The id of the second opportunity in Current RMS.';
COMMENT ON COLUMN venue_overlaps.other_number IS 'The number of the second one.';
COMMENT ON COLUMN venue_overlaps.other_status IS 'The status of the second one.';
COMMENT ON COLUMN venue_overlaps.other_organisation_name IS 'The customer of the second one.';
COMMENT ON COLUMN venue_overlaps.other_hire IS 'The hire of the second one.';
