-- version 4. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- Opportunities for readers who must not see money. The view has no amounts and no record as
-- received. It has no free text, because people may type amounts there: no name, subject,
-- description, reference and tags, and no custom fields. The number identifies each opportunity.

CREATE OR REPLACE VIEW opportunities_without_money AS
SELECT
    o.id, o.starts_at, o.ends_at, o.opportunity_status, o.created_at_rms, o.updated_at_rms,
    o.venue_name, o.organisation_id, o.organisation_name, o.owner_id, o.owner_name, o.number,
    o.state_name, o.store_id, o.project_id, o.venue_id, o.ordered_at, o.quote_invalid_at,
    o.weight_total, o.rating, o.open_ended_rental, o.prep_starts_at, o.prep_ends_at,
    o.load_starts_at, o.load_ends_at, o.deliver_starts_at, o.deliver_ends_at, o.setup_starts_at,
    o.setup_ends_at, o.show_starts_at, o.show_ends_at, o.takedown_starts_at, o.takedown_ends_at,
    o.collect_starts_at, o.collect_ends_at, o.unload_starts_at, o.unload_ends_at,
    o.deprep_starts_at, o.deprep_ends_at, o.hire, o.confirmed_at, o.synced_at, o.last_webhook_at,
    coalesce(s.phase, 'open') AS phase
FROM opportunities o LEFT JOIN statuses s ON s.name = o.opportunity_status;

COMMENT ON VIEW opportunities_without_money IS 'The table opportunities, for readers who must not see money: without amounts, without data and without free text.';
COMMENT ON COLUMN opportunities_without_money.id IS 'The opportunity''s id in Current RMS.';
COMMENT ON COLUMN opportunities_without_money.starts_at IS 'When the hire starts.';
COMMENT ON COLUMN opportunities_without_money.ends_at IS 'When the hire ends.';
COMMENT ON COLUMN opportunities_without_money.opportunity_status IS 'Open, Provisional, Reserved, Lost, ...';
COMMENT ON COLUMN opportunities_without_money.created_at_rms IS 'When it was entered in Current RMS.';
COMMENT ON COLUMN opportunities_without_money.updated_at_rms IS 'When Current RMS last changed it.';
COMMENT ON COLUMN opportunities_without_money.venue_name IS 'The name of its venue.';
COMMENT ON COLUMN opportunities_without_money.organisation_id IS 'The customer''s id in Current RMS.';
COMMENT ON COLUMN opportunities_without_money.organisation_name IS 'The customer''s name.';
COMMENT ON COLUMN opportunities_without_money.owner_id IS 'The id of its owner, a colleague.';
COMMENT ON COLUMN opportunities_without_money.owner_name IS 'The name of its owner.';
COMMENT ON COLUMN opportunities_without_money.number IS 'Its number.';
COMMENT ON COLUMN opportunities_without_money.state_name IS 'Enquiry, Draft, Quotation or Order.';
COMMENT ON COLUMN opportunities_without_money.store_id IS 'The id of the store from which the equipment leaves.';
COMMENT ON COLUMN opportunities_without_money.project_id IS 'The id of its project.';
COMMENT ON COLUMN opportunities_without_money.venue_id IS 'The venue''s id in Current RMS.';
COMMENT ON COLUMN opportunities_without_money.ordered_at IS 'When it became an order.';
COMMENT ON COLUMN opportunities_without_money.quote_invalid_at IS 'How long the quotation is valid.';
COMMENT ON COLUMN opportunities_without_money.weight_total IS 'The weight of all its items.';
COMMENT ON COLUMN opportunities_without_money.rating IS 'How likely the order is, as rated by colleagues.';
COMMENT ON COLUMN opportunities_without_money.open_ended_rental IS 'Whether the hire has no end date.';
COMMENT ON COLUMN opportunities_without_money.prep_starts_at IS 'When preparing it starts.';
COMMENT ON COLUMN opportunities_without_money.prep_ends_at IS 'When preparing it ends.';
COMMENT ON COLUMN opportunities_without_money.load_starts_at IS 'When loading it starts.';
COMMENT ON COLUMN opportunities_without_money.load_ends_at IS 'When loading it ends.';
COMMENT ON COLUMN opportunities_without_money.deliver_starts_at IS 'When delivering it starts.';
COMMENT ON COLUMN opportunities_without_money.deliver_ends_at IS 'When delivering it ends.';
COMMENT ON COLUMN opportunities_without_money.setup_starts_at IS 'When setting it up starts.';
COMMENT ON COLUMN opportunities_without_money.setup_ends_at IS 'When setting it up ends.';
COMMENT ON COLUMN opportunities_without_money.show_starts_at IS 'When the show starts.';
COMMENT ON COLUMN opportunities_without_money.show_ends_at IS 'When the show ends.';
COMMENT ON COLUMN opportunities_without_money.takedown_starts_at IS 'When taking it down starts.';
COMMENT ON COLUMN opportunities_without_money.takedown_ends_at IS 'When taking it down ends.';
COMMENT ON COLUMN opportunities_without_money.collect_starts_at IS 'When collecting it starts.';
COMMENT ON COLUMN opportunities_without_money.collect_ends_at IS 'When collecting it ends.';
COMMENT ON COLUMN opportunities_without_money.unload_starts_at IS 'When unloading it starts.';
COMMENT ON COLUMN opportunities_without_money.unload_ends_at IS 'When unloading it ends.';
COMMENT ON COLUMN opportunities_without_money.deprep_starts_at IS 'When putting it back starts.';
COMMENT ON COLUMN opportunities_without_money.deprep_ends_at IS 'When putting it back ends.';
COMMENT ON COLUMN opportunities_without_money.hire IS 'From deliver_starts_at, else starts_at, to collect_ends_at, else ends_at, both included. It has no end when the hire is open-ended. Empty when the dates are not a valid period.';
COMMENT ON COLUMN opportunities_without_money.confirmed_at IS 'When it was first stored in a status that the table statuses calls confirmed. Empty if that was before the history began.';
COMMENT ON COLUMN opportunities_without_money.synced_at IS 'When the record was last requested from the API.';
COMMENT ON COLUMN opportunities_without_money.last_webhook_at IS 'When a webhook last refreshed it.';
COMMENT ON COLUMN opportunities_without_money.phase IS 'open, confirmed or lost, from the table statuses.';
