-- version 2. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- The newest name of each venue. An opportunity keeps the name that was right when it was fetched,
-- so a venue that was renamed has several names. The opportunity that was changed last in Current
-- RMS has the newest one. The name of the row in members is newer if that row was changed later
-- still.

CREATE OR REPLACE VIEW venue_names AS
SELECT
    n.venue_id,
    CASE
        WHEN m.name IS NOT NULL
            AND coalesce(m.updated_at_rms > n.updated_at_rms, n.updated_at_rms IS NULL) THEN m.name
        ELSE n.venue_name
    END AS venue_name
FROM (
    -- Sorting all rows once takes less time than reading the rows of each venue apart.
    SELECT DISTINCT ON (venue_id) venue_id, venue_name, updated_at_rms
    FROM opportunities
    WHERE venue_id IS NOT NULL AND venue_name IS NOT NULL
    ORDER BY venue_id, updated_at_rms DESC NULLS LAST, id DESC
) n
LEFT JOIN members m ON m.id = n.venue_id AND m.name <> '';

COMMENT ON VIEW venue_names IS 'The newest name of each venue that an opportunity names with its id: one row for each.';
COMMENT ON COLUMN venue_names.venue_id IS 'The venue''s id in Current RMS.';
COMMENT ON COLUMN venue_names.venue_name IS 'The name that the venue has now, as far as the mirror knows.';
