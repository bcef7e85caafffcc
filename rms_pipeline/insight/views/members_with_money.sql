-- version 4. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- All columns of members, for readers who can only read views. Add a new column at the end.

CREATE OR REPLACE VIEW members_with_money AS
SELECT
    m.id, m.name, m.membership_type, m.active, m.bookable, m.description, m.title, m.department,
    m.owner_id, m.street, m.postcode, m.city, m.county, m.country_name, m.emails, m.phones, m.tags,
    m.custom_fields, m.created_at_rms, m.updated_at_rms, m.data, m.synced_at, m.last_webhook_at
FROM members m;

COMMENT ON VIEW members_with_money IS 'The table members, for readers of views: all of it.';
COMMENT ON COLUMN members_with_money.id IS 'The member''s id in Current RMS.';
COMMENT ON COLUMN members_with_money.name IS 'Its name.';
COMMENT ON COLUMN members_with_money.membership_type IS 'Organisation, Contact, Venue, User or Vehicle.';
COMMENT ON COLUMN members_with_money.active IS 'Whether it is in use.';
COMMENT ON COLUMN members_with_money.bookable IS 'Whether it can be booked.';
COMMENT ON COLUMN members_with_money.description IS 'The description, as typed in Current RMS.';
COMMENT ON COLUMN members_with_money.title IS 'A contact''s title.';
COMMENT ON COLUMN members_with_money.department IS 'A contact''s department.';
COMMENT ON COLUMN members_with_money.owner_id IS 'The id of its owner, who is a member too.';
COMMENT ON COLUMN members_with_money.street IS 'Its primary address.';
COMMENT ON COLUMN members_with_money.postcode IS 'A part of the primary address.';
COMMENT ON COLUMN members_with_money.city IS 'A part of the primary address.';
COMMENT ON COLUMN members_with_money.county IS 'A part of the primary address.';
COMMENT ON COLUMN members_with_money.country_name IS 'A part of the primary address.';
COMMENT ON COLUMN members_with_money.emails IS 'Its e-mail addresses, each with its type.';
COMMENT ON COLUMN members_with_money.phones IS 'Its telephone numbers, each with its type.';
COMMENT ON COLUMN members_with_money.tags IS 'Its tags.';
COMMENT ON COLUMN members_with_money.custom_fields IS 'The custom fields.';
COMMENT ON COLUMN members_with_money.created_at_rms IS 'When it was entered in Current RMS.';
COMMENT ON COLUMN members_with_money.updated_at_rms IS 'When Current RMS last changed it.';
COMMENT ON COLUMN members_with_money.data IS 'The whole record from the API. An association that no longer comes stays as it last came.';
COMMENT ON COLUMN members_with_money.synced_at IS 'When the record was last requested from the API.';
COMMENT ON COLUMN members_with_money.last_webhook_at IS 'When a webhook last refreshed it.';
