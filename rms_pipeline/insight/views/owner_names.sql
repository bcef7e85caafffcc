-- version 1. Raise it with every change: of two programs on one database the higher makes the view.
-- The newest name of each owner. An opportunity keeps the name that was right when it was fetched, so
-- an owner who was renamed has several. The opportunity that was changed last in Current RMS has the
-- newest, or the row in members, if that was changed later still.

CREATE OR REPLACE VIEW owner_names AS
SELECT
    n.owner_id,
    CASE
        WHEN m.name IS NOT NULL
            AND coalesce(m.updated_at_rms > n.updated_at_rms, n.updated_at_rms IS NULL) THEN m.name
        -- Most were never renamed: only for the others are their rows sorted.
        WHEN n.first_name = n.last_name THEN n.last_name
        ELSE (
            SELECT o.owner_name FROM opportunities o
            WHERE o.owner_id = n.owner_id AND o.owner_name IS NOT NULL
            ORDER BY o.updated_at_rms DESC NULLS LAST, o.id DESC LIMIT 1
        )
    END AS owner_name
FROM (
    SELECT
        owner_id, min(owner_name) AS first_name, max(owner_name) AS last_name,
        max(updated_at_rms) AS updated_at_rms
    FROM opportunities
    WHERE owner_id IS NOT NULL AND owner_name IS NOT NULL
    GROUP BY owner_id
) n
LEFT JOIN members m ON m.id = n.owner_id AND m.name <> '';

COMMENT ON VIEW owner_names IS 'The newest name of each owner that an opportunity names with its id: one row for each.';
COMMENT ON COLUMN owner_names.owner_id IS 'The owner''s id in Current RMS.';
COMMENT ON COLUMN owner_names.owner_name IS 'The name that the owner has now, as far as the mirror knows.';
