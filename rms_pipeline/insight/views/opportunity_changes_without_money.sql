-- version 2. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- Changes of opportunities, for readers who must not see money: only changes of columns that the
-- view opportunities_without_money has. The view is a barrier. Otherwise a reader who can call a
-- function of their own in a condition would be shown the rows that are left out.

CREATE OR REPLACE VIEW opportunity_changes_without_money WITH (security_barrier) AS
SELECT
    c.id, c.opportunity_id, c.field, c.old_value, c.new_value, c.changed_at, c.changed_by, c.seen_at
FROM opportunity_changes c
WHERE c.field IN (
    'starts_at', 'ends_at', 'opportunity_status', 'created_at_rms', 'venue_name', 'organisation_id',
    'organisation_name', 'owner_id', 'owner_name', 'number', 'state_name', 'store_id', 'project_id',
    'venue_id', 'ordered_at', 'quote_invalid_at', 'weight_total', 'rating', 'open_ended_rental',
    'prep_starts_at', 'prep_ends_at', 'load_starts_at', 'load_ends_at', 'deliver_starts_at',
    'deliver_ends_at', 'setup_starts_at', 'setup_ends_at', 'show_starts_at', 'show_ends_at',
    'takedown_starts_at', 'takedown_ends_at', 'collect_starts_at', 'collect_ends_at',
    'unload_starts_at', 'unload_ends_at', 'deprep_starts_at', 'deprep_ends_at'
);

COMMENT ON VIEW opportunity_changes_without_money IS 'A row for each change of a field of an opportunity, for readers who are not to see money: no amounts, and no free text.';
COMMENT ON COLUMN opportunity_changes_without_money.id IS 'The number of the change: a later one has a higher number.';
COMMENT ON COLUMN opportunity_changes_without_money.opportunity_id IS 'The opportunity''s id in Current RMS.';
COMMENT ON COLUMN opportunity_changes_without_money.field IS 'The column that changed, or custom_fields. and the key of a custom field.';
COMMENT ON COLUMN opportunity_changes_without_money.old_value IS 'What it was.';
COMMENT ON COLUMN opportunity_changes_without_money.new_value IS 'What it is since.';
COMMENT ON COLUMN opportunity_changes_without_money.changed_at IS 'When it was changed, by the clock of Current RMS. Empty if Current RMS gave the record no newer time.';
COMMENT ON COLUMN opportunity_changes_without_money.changed_by IS 'Who changed it, if the webhooks since the last fetch name exactly one person who can have done it. Otherwise empty.';
COMMENT ON COLUMN opportunity_changes_without_money.seen_at IS 'When the mirror noticed the change.';
