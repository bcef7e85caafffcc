-- version 2. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- The newest name of each customer. An opportunity keeps the name that was right when it was
-- fetched, so a customer that was renamed has several names. The opportunity that was changed last
-- in Current RMS has the newest one. The name of the row in members is newer if that row was
-- changed later still.

CREATE OR REPLACE VIEW customer_names AS
SELECT
    n.organisation_id,
    CASE
        WHEN m.name IS NOT NULL
            AND coalesce(m.updated_at_rms > n.updated_at_rms, n.updated_at_rms IS NULL) THEN m.name
        ELSE n.organisation_name
    END AS organisation_name
FROM (
    -- Sorting all rows once takes less time than reading the rows of each customer apart.
    SELECT DISTINCT ON (organisation_id) organisation_id, organisation_name, updated_at_rms
    FROM opportunities
    WHERE organisation_id IS NOT NULL AND organisation_name IS NOT NULL
    ORDER BY organisation_id, updated_at_rms DESC NULLS LAST, id DESC
) n
LEFT JOIN members m ON m.id = n.organisation_id AND m.name <> '';

COMMENT ON VIEW customer_names IS 'The newest name of each customer that an opportunity names with its id: one row for each.';
COMMENT ON COLUMN customer_names.organisation_id IS 'The customer''s id in Current RMS.';
COMMENT ON COLUMN customer_names.organisation_name IS 'The name that the customer has now, as far as the mirror knows.';
