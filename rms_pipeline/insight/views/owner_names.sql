-- version 2. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- The newest name of each owner. An opportunity keeps the name that was right when it was fetched,
-- so an owner who was renamed has several names. The opportunity that was changed last in Current
-- RMS has the newest one. The name of the row in members is newer if that row was changed later
-- still.

CREATE OR REPLACE VIEW owner_names AS
SELECT
    n.owner_id,
    CASE
        WHEN m.name IS NOT NULL
            AND coalesce(m.updated_at_rms > n.updated_at_rms, n.updated_at_rms IS NULL) THEN m.name
        ELSE n.owner_name
    END AS owner_name
FROM (
    -- Sorting all rows once takes less time than reading the rows of each owner apart.
    SELECT DISTINCT ON (owner_id) owner_id, owner_name, updated_at_rms
    FROM opportunities
    WHERE owner_id IS NOT NULL AND owner_name IS NOT NULL
    ORDER BY owner_id, updated_at_rms DESC NULLS LAST, id DESC
) n
LEFT JOIN members m ON m.id = n.owner_id AND m.name <> '';

COMMENT ON VIEW owner_names IS 'The newest name of each owner that an opportunity names with its id: one row for each.';
COMMENT ON COLUMN owner_names.owner_id IS 'The owner''s id in Current RMS.';
COMMENT ON COLUMN owner_names.owner_name IS 'The name that the owner has now, as far as the mirror knows.';
