-- version 2. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- The statuses at the end of each day, for readers who can only read views.

CREATE OR REPLACE VIEW daily_status_counts_with_money AS
SELECT d.day, d.opportunity_status, d.phase, d.opportunities, d.charge_total, d.total_value
FROM daily_status_counts d;

COMMENT ON VIEW daily_status_counts_with_money IS 'How many opportunities were in each status at the end of each day, and what they charge, for readers of views.';
COMMENT ON COLUMN daily_status_counts_with_money.day IS 'The day, in the company''s time zone.';
COMMENT ON COLUMN daily_status_counts_with_money.opportunity_status IS 'The status, or (none) if the opportunity has none.';
COMMENT ON COLUMN daily_status_counts_with_money.phase IS 'open, confirmed or lost, from the table statuses.';
COMMENT ON COLUMN daily_status_counts_with_money.opportunities IS 'How many opportunities had this status at the end of the day.';
COMMENT ON COLUMN daily_status_counts_with_money.charge_total IS 'The sum of their charges before tax.';
COMMENT ON COLUMN daily_status_counts_with_money.total_value IS 'The sum of their charges with tax.';
