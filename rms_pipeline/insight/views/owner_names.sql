-- version 2. Raise it with every change: of two programs on one database the higher makes the view.
-- The newest name of each owner. An opportunity keeps the name that was right when it was fetched, so
-- an owner that was renamed has several names. The opportunity that was changed last in Current RMS
-- has the newest one. If the row in members was changed later still, its name is newer.

CREATE OR REPLACE VIEW owner_names AS
SELECT
    n.owner_id,
    CASE
        WHEN m.name IS NOT NULL
            AND coalesce(m.updated_at_rms > n.updated_at_rms, n.updated_at_rms IS NULL) THEN m.name
        ELSE n.owner_name
    END AS owner_name
FROM (
    -- One sort of all rows takes less time than a look at the rows of each owner.
    SELECT DISTINCT ON (owner_id) owner_id, owner_name, updated_at_rms
    FROM opportunities
    WHERE owner_id IS NOT NULL AND owner_name IS NOT NULL
    ORDER BY owner_id, updated_at_rms DESC NULLS LAST, id DESC
) n
LEFT JOIN members m ON m.id = n.owner_id AND m.name <> '';

COMMENT ON VIEW owner_names IS 'The newest name of each owner that an opportunity names with its id: one row for each.';
COMMENT ON COLUMN owner_names.owner_id IS 'The owner''s id in Current RMS.';
COMMENT ON COLUMN owner_names.owner_name IS 'The name that the owner has now, as far as the mirror knows.';
