-- version 4. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- sense_checks for readers who must not see money. The view is a barrier. Otherwise a reader who
-- can call a function of their own in a condition would be shown the rows that are left out.

CREATE OR REPLACE VIEW sense_checks_without_money WITH (security_barrier) AS
SELECT
    sense_check, opportunity_id, number, opportunity_status, organisation_id, organisation_name,
    owner_id, owner_name, moment, says
FROM sense_checks WHERE NOT about_money;

COMMENT ON VIEW sense_checks_without_money IS 'The view sense_checks without the checks that tell something of what is charged or paid.';
COMMENT ON COLUMN sense_checks_without_money.sense_check IS 'late_back, starts_soon_and_open, confirmed_without_dates, ends_before_it_starts, dates_changed_after_confirmation or required_field_empty.';
COMMENT ON COLUMN sense_checks_without_money.opportunity_id IS 'The opportunity''s id in Current RMS.';
COMMENT ON COLUMN sense_checks_without_money.number IS 'Its number.';
COMMENT ON COLUMN sense_checks_without_money.opportunity_status IS 'Open, Provisional, Reserved, Lost, ...';
COMMENT ON COLUMN sense_checks_without_money.organisation_id IS 'The customer''s id in Current RMS.';
COMMENT ON COLUMN sense_checks_without_money.organisation_name IS 'The customer''s name.';
COMMENT ON COLUMN sense_checks_without_money.owner_id IS 'The id of its owner, a colleague.';
COMMENT ON COLUMN sense_checks_without_money.owner_name IS 'The name of its owner.';
COMMENT ON COLUMN sense_checks_without_money.moment IS 'What the check is about: when the hire ended, when it starts, when the dates were changed, ...';
COMMENT ON COLUMN sense_checks_without_money.says IS 'What is wrong, in a sentence.';
