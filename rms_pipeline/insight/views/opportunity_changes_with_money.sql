-- version 2. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- All changes of opportunities, for readers who can only read views.

CREATE OR REPLACE VIEW opportunity_changes_with_money AS
SELECT
    c.id, c.opportunity_id, c.field, c.old_value, c.new_value, c.changed_at, c.changed_by, c.seen_at
FROM opportunity_changes c;

COMMENT ON VIEW opportunity_changes_with_money IS 'A row for each change of a field of an opportunity, for readers of views: all of them.';
COMMENT ON COLUMN opportunity_changes_with_money.id IS 'The number of the change: a later one has a higher number.';
COMMENT ON COLUMN opportunity_changes_with_money.opportunity_id IS 'The opportunity''s id in Current RMS.';
COMMENT ON COLUMN opportunity_changes_with_money.field IS 'The column that changed, or custom_fields. and the key of a custom field.';
COMMENT ON COLUMN opportunity_changes_with_money.old_value IS 'What it was.';
COMMENT ON COLUMN opportunity_changes_with_money.new_value IS 'What it is since.';
COMMENT ON COLUMN opportunity_changes_with_money.changed_at IS 'When it was changed, by the clock of Current RMS. Empty if Current RMS gave the record no newer time.';
COMMENT ON COLUMN opportunity_changes_with_money.changed_by IS 'Who changed it, if the webhooks since the last fetch name exactly one person who can have done it. Otherwise empty.';
COMMENT ON COLUMN opportunity_changes_with_money.seen_at IS 'When the mirror noticed the change.';
