-- version 4. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- All columns of opportunities, for readers who can only read views. Add a new column at the end.

CREATE OR REPLACE VIEW opportunities_with_money AS
SELECT
    o.id, o.name, o.subject, o.description, o.starts_at, o.ends_at, o.opportunity_status,
    o.created_at_rms, o.updated_at_rms, o.venue_name, o.organisation_id, o.organisation_name,
    o.owner_id, o.owner_name, o.charge_total, o.total_value, o.number, o.reference, o.state_name,
    o.store_id, o.project_id, o.venue_id, o.ordered_at, o.quote_invalid_at, o.invoiced, o.tags,
    o.charge_excluding_tax_total, o.charge_including_tax_total, o.tax_total,
    o.provisional_cost_total, o.predicted_cost_total, o.actual_cost_total, o.weight_total,
    o.revenue, o.rating, o.open_ended_rental, o.prep_starts_at, o.prep_ends_at, o.load_starts_at,
    o.load_ends_at, o.deliver_starts_at, o.deliver_ends_at, o.setup_starts_at, o.setup_ends_at,
    o.show_starts_at, o.show_ends_at, o.takedown_starts_at, o.takedown_ends_at, o.collect_starts_at,
    o.collect_ends_at, o.unload_starts_at, o.unload_ends_at, o.deprep_starts_at, o.deprep_ends_at,
    o.custom_fields, o.profit, o.hire, o.confirmed_at, o.data, o.synced_at, o.last_webhook_at,
    coalesce(s.phase, 'open') AS phase
FROM opportunities o LEFT JOIN statuses s ON s.name = o.opportunity_status;

COMMENT ON VIEW opportunities_with_money IS 'The table opportunities, for readers of views: all of it.';
COMMENT ON COLUMN opportunities_with_money.id IS 'The opportunity''s id in Current RMS.';
COMMENT ON COLUMN opportunities_with_money.name IS 'Its subject; its number if it has none.';
COMMENT ON COLUMN opportunities_with_money.subject IS 'What it is about, as typed in Current RMS.';
COMMENT ON COLUMN opportunities_with_money.description IS 'The description, as typed in Current RMS.';
COMMENT ON COLUMN opportunities_with_money.starts_at IS 'When the hire starts.';
COMMENT ON COLUMN opportunities_with_money.ends_at IS 'When the hire ends.';
COMMENT ON COLUMN opportunities_with_money.opportunity_status IS 'Open, Provisional, Reserved, Lost, ...';
COMMENT ON COLUMN opportunities_with_money.created_at_rms IS 'When it was entered in Current RMS.';
COMMENT ON COLUMN opportunities_with_money.updated_at_rms IS 'When Current RMS last changed it.';
COMMENT ON COLUMN opportunities_with_money.venue_name IS 'The name of its venue.';
COMMENT ON COLUMN opportunities_with_money.organisation_id IS 'The customer''s id in Current RMS.';
COMMENT ON COLUMN opportunities_with_money.organisation_name IS 'The customer''s name.';
COMMENT ON COLUMN opportunities_with_money.owner_id IS 'The id of its owner, a colleague.';
COMMENT ON COLUMN opportunities_with_money.owner_name IS 'The name of its owner.';
COMMENT ON COLUMN opportunities_with_money.charge_total IS 'The charge before tax.';
COMMENT ON COLUMN opportunities_with_money.total_value IS 'The charge with tax.';
COMMENT ON COLUMN opportunities_with_money.number IS 'Its number.';
COMMENT ON COLUMN opportunities_with_money.reference IS 'The customer''s own reference.';
COMMENT ON COLUMN opportunities_with_money.state_name IS 'Enquiry, Draft, Quotation or Order.';
COMMENT ON COLUMN opportunities_with_money.store_id IS 'The id of the store from which the equipment leaves.';
COMMENT ON COLUMN opportunities_with_money.project_id IS 'The id of its project.';
COMMENT ON COLUMN opportunities_with_money.venue_id IS 'The venue''s id in Current RMS.';
COMMENT ON COLUMN opportunities_with_money.ordered_at IS 'When it became an order.';
COMMENT ON COLUMN opportunities_with_money.quote_invalid_at IS 'How long the quotation is valid.';
COMMENT ON COLUMN opportunities_with_money.invoiced IS 'Whether it has been invoiced.';
COMMENT ON COLUMN opportunities_with_money.tags IS 'Its tags.';
COMMENT ON COLUMN opportunities_with_money.charge_excluding_tax_total IS 'The charge without tax.';
COMMENT ON COLUMN opportunities_with_money.charge_including_tax_total IS 'The charge with tax.';
COMMENT ON COLUMN opportunities_with_money.tax_total IS 'The tax.';
COMMENT ON COLUMN opportunities_with_money.provisional_cost_total IS 'The planned cost.';
COMMENT ON COLUMN opportunities_with_money.predicted_cost_total IS 'The predicted cost.';
COMMENT ON COLUMN opportunities_with_money.actual_cost_total IS 'The actual cost.';
COMMENT ON COLUMN opportunities_with_money.weight_total IS 'The weight of all its items.';
COMMENT ON COLUMN opportunities_with_money.revenue IS 'The revenue that Current RMS expects of it.';
COMMENT ON COLUMN opportunities_with_money.rating IS 'How likely the order is, as rated by colleagues.';
COMMENT ON COLUMN opportunities_with_money.open_ended_rental IS 'Whether the hire has no end date.';
COMMENT ON COLUMN opportunities_with_money.prep_starts_at IS 'When preparing it starts.';
COMMENT ON COLUMN opportunities_with_money.prep_ends_at IS 'When preparing it ends.';
COMMENT ON COLUMN opportunities_with_money.load_starts_at IS 'When loading it starts.';
COMMENT ON COLUMN opportunities_with_money.load_ends_at IS 'When loading it ends.';
COMMENT ON COLUMN opportunities_with_money.deliver_starts_at IS 'When delivering it starts.';
COMMENT ON COLUMN opportunities_with_money.deliver_ends_at IS 'When delivering it ends.';
COMMENT ON COLUMN opportunities_with_money.setup_starts_at IS 'When setting it up starts.';
COMMENT ON COLUMN opportunities_with_money.setup_ends_at IS 'When setting it up ends.';
COMMENT ON COLUMN opportunities_with_money.show_starts_at IS 'When the show starts.';
COMMENT ON COLUMN opportunities_with_money.show_ends_at IS 'When the show ends.';
COMMENT ON COLUMN opportunities_with_money.takedown_starts_at IS 'When taking it down starts.';
COMMENT ON COLUMN opportunities_with_money.takedown_ends_at IS 'When taking it down ends.';
COMMENT ON COLUMN opportunities_with_money.collect_starts_at IS 'When collecting it starts.';
COMMENT ON COLUMN opportunities_with_money.collect_ends_at IS 'When collecting it ends.';
COMMENT ON COLUMN opportunities_with_money.unload_starts_at IS 'When unloading it starts.';
COMMENT ON COLUMN opportunities_with_money.unload_ends_at IS 'When unloading it ends.';
COMMENT ON COLUMN opportunities_with_money.deprep_starts_at IS 'When putting it back starts.';
COMMENT ON COLUMN opportunities_with_money.deprep_ends_at IS 'When putting it back ends.';
COMMENT ON COLUMN opportunities_with_money.custom_fields IS 'The custom fields. The operator @> finds a value through an index.';
COMMENT ON COLUMN opportunities_with_money.profit IS 'charge_total minus provisional_cost_total.';
COMMENT ON COLUMN opportunities_with_money.hire IS 'From deliver_starts_at, else starts_at, to collect_ends_at, else ends_at, both included. It has no end when the hire is open-ended. Empty when the dates are not a valid period.';
COMMENT ON COLUMN opportunities_with_money.confirmed_at IS 'When it was first stored in a status that the table statuses calls confirmed. Empty if that was before the history began.';
COMMENT ON COLUMN opportunities_with_money.data IS 'The whole record from the API. An association that no longer comes stays as it last came.';
COMMENT ON COLUMN opportunities_with_money.synced_at IS 'When the record was last requested from the API.';
COMMENT ON COLUMN opportunities_with_money.last_webhook_at IS 'When a webhook last refreshed it.';
COMMENT ON COLUMN opportunities_with_money.phase IS 'open, confirmed or lost, from the table statuses.';
