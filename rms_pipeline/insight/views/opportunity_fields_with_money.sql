-- version 1. Raise it with every change: of two programs on one database the higher makes the view.
-- The account's own fields that have a typed column, for those who may read views alone. `fields
-- promote` and `fields demote` make it again, with the columns that there are then.

CREATE OR REPLACE VIEW opportunity_fields_with_money AS
SELECT f.* FROM opportunity_fields f;

COMMENT ON VIEW opportunity_fields_with_money IS 'The table opportunity_fields, for readers of views: all of it.';
COMMENT ON COLUMN opportunity_fields_with_money.opportunity_id IS 'The opportunity''s id in Current RMS.';
