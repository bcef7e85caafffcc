-- version 1. Raise it with every change: of two programs on one database the higher makes the view.
-- The newest name of each venue. An opportunity keeps the name that was right when it was fetched, so
-- a venue that was renamed has several. The opportunity that was changed last in Current RMS has the
-- newest, or the row in members, if that was changed later still.

CREATE OR REPLACE VIEW venue_names AS
SELECT
    n.venue_id,
    CASE
        WHEN m.name IS NOT NULL
            AND coalesce(m.updated_at_rms > n.updated_at_rms, n.updated_at_rms IS NULL) THEN m.name
        -- Most were never renamed: only for the others are their rows sorted.
        WHEN n.first_name = n.last_name THEN n.last_name
        ELSE (
            SELECT o.venue_name FROM opportunities o
            WHERE o.venue_id = n.venue_id AND o.venue_name IS NOT NULL
            ORDER BY o.updated_at_rms DESC NULLS LAST, o.id DESC LIMIT 1
        )
    END AS venue_name
FROM (
    SELECT
        venue_id, min(venue_name) AS first_name, max(venue_name) AS last_name,
        max(updated_at_rms) AS updated_at_rms
    FROM opportunities
    WHERE venue_id IS NOT NULL AND venue_name IS NOT NULL
    GROUP BY venue_id
) n
LEFT JOIN members m ON m.id = n.venue_id AND m.name <> '';

COMMENT ON VIEW venue_names IS 'The newest name of each venue that an opportunity names with its id: one row for each.';
COMMENT ON COLUMN venue_names.venue_id IS 'The venue''s id in Current RMS.';
COMMENT ON COLUMN venue_names.venue_name IS 'The name that the venue has now, as far as the mirror knows.';
