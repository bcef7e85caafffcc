-- version 4. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- Members for readers who must not see money. The view has no amounts and no record as received. It
-- has no free text, because people may type amounts there: no title, department, description, tags,
-- e-mail addresses and telephone numbers, and no custom fields.

CREATE OR REPLACE VIEW members_without_money AS
SELECT
    m.id, m.name, m.membership_type, m.active, m.bookable, m.owner_id, m.street, m.postcode, m.city,
    m.county, m.country_name, m.created_at_rms, m.updated_at_rms, m.synced_at, m.last_webhook_at
FROM members m;

COMMENT ON VIEW members_without_money IS 'The table members, for readers who must not see money: without amounts, without data and without free text.';
COMMENT ON COLUMN members_without_money.id IS 'The member''s id in Current RMS.';
COMMENT ON COLUMN members_without_money.name IS 'Its name.';
COMMENT ON COLUMN members_without_money.membership_type IS 'Organisation, Contact, Venue, User or Vehicle.';
COMMENT ON COLUMN members_without_money.active IS 'Whether it is in use.';
COMMENT ON COLUMN members_without_money.bookable IS 'Whether it can be booked.';
COMMENT ON COLUMN members_without_money.owner_id IS 'The id of its owner, who is a member too.';
COMMENT ON COLUMN members_without_money.street IS 'Its primary address.';
COMMENT ON COLUMN members_without_money.postcode IS 'A part of the primary address.';
COMMENT ON COLUMN members_without_money.city IS 'A part of the primary address.';
COMMENT ON COLUMN members_without_money.county IS 'A part of the primary address.';
COMMENT ON COLUMN members_without_money.country_name IS 'A part of the primary address.';
COMMENT ON COLUMN members_without_money.created_at_rms IS 'When it was entered in Current RMS.';
COMMENT ON COLUMN members_without_money.updated_at_rms IS 'When Current RMS last changed it.';
COMMENT ON COLUMN members_without_money.synced_at IS 'When the record was last requested from the API.';
COMMENT ON COLUMN members_without_money.last_webhook_at IS 'When a webhook last refreshed it.';
