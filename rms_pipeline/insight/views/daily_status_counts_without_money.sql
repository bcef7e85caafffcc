-- version 2. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- The statuses at the end of each day, for readers who must not see money.

CREATE OR REPLACE VIEW daily_status_counts_without_money AS
SELECT d.day, d.opportunity_status, d.phase, d.opportunities FROM daily_status_counts d;

COMMENT ON VIEW daily_status_counts_without_money IS 'How many opportunities were in each status at the end of each day, for readers who are not to see money.';
COMMENT ON COLUMN daily_status_counts_without_money.day IS 'The day, in the company''s time zone.';
COMMENT ON COLUMN daily_status_counts_without_money.opportunity_status IS 'The status, or (none) if the opportunity has none.';
COMMENT ON COLUMN daily_status_counts_without_money.phase IS 'open, confirmed or lost, from the table statuses.';
COMMENT ON COLUMN daily_status_counts_without_money.opportunities IS 'How many opportunities had this status at the end of the day.';
