-- The opportunities that were edited last, the latest first. If the edit changed the status, the
-- row has the earlier status. The inner list chooses them by the index on updated_at_rms.
SELECT
    o.id, o.name, o.opportunity_status, o.organisation_name, o.updated_at_rms, c.old_value,
    c.changed_by
FROM (
    SELECT * FROM opportunities
    WHERE updated_at_rms IS NOT NULL ORDER BY updated_at_rms DESC LIMIT %(most)s
) o
LEFT JOIN LATERAL (
    SELECT old_value, changed_by FROM opportunity_changes
    WHERE opportunity_id = o.id AND field = %(status)s AND changed_at = o.updated_at_rms
    ORDER BY id DESC LIMIT 1
) c ON true
ORDER BY o.updated_at_rms DESC
