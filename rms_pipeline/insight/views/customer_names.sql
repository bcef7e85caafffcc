-- version 1. Raise it with every change: of two programs on one database the higher makes the view.
-- The newest name of each customer. An opportunity keeps the name that was right when it was fetched, so
-- a customer that was renamed has several. The opportunity that was changed last in Current RMS has the
-- newest, or the row in members, if that was changed later still.

CREATE OR REPLACE VIEW customer_names AS
SELECT
    n.organisation_id,
    CASE
        WHEN m.name IS NOT NULL
            AND coalesce(m.updated_at_rms > n.updated_at_rms, n.updated_at_rms IS NULL) THEN m.name
        -- Most were never renamed: only for the others are their rows sorted.
        WHEN n.first_name = n.last_name THEN n.last_name
        ELSE (
            SELECT o.organisation_name FROM opportunities o
            WHERE o.organisation_id = n.organisation_id AND o.organisation_name IS NOT NULL
            ORDER BY o.updated_at_rms DESC NULLS LAST, o.id DESC LIMIT 1
        )
    END AS organisation_name
FROM (
    SELECT
        organisation_id, min(organisation_name) AS first_name, max(organisation_name) AS last_name,
        max(updated_at_rms) AS updated_at_rms
    FROM opportunities
    WHERE organisation_id IS NOT NULL AND organisation_name IS NOT NULL
    GROUP BY organisation_id
) n
LEFT JOIN members m ON m.id = n.organisation_id AND m.name <> '';

COMMENT ON VIEW customer_names IS 'The newest name of each customer that an opportunity names with its id: one row for each.';
COMMENT ON COLUMN customer_names.organisation_id IS 'The customer''s id in Current RMS.';
COMMENT ON COLUMN customer_names.organisation_name IS 'The name that the customer has now, as far as the mirror knows.';
