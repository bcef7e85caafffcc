-- version 2. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- The custom fields that have a typed column, for readers who can only read views. `fields promote`
-- and `fields demote` make this view again, with the columns that exist then.

CREATE OR REPLACE VIEW opportunity_fields_with_money AS
SELECT f.* FROM opportunity_fields f;

COMMENT ON VIEW opportunity_fields_with_money IS 'The table opportunity_fields, for readers of views: all of it.';
COMMENT ON COLUMN opportunity_fields_with_money.opportunity_id IS 'The opportunity''s id in Current RMS.';
