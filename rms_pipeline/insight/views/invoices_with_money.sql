-- version 4. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- All columns of invoices, for readers who can only read views. Add a new column at the end.

CREATE OR REPLACE VIEW invoices_with_money AS
SELECT
    i.id, i.number, i.subject, i.invoice_type, i.status, i.invoiced_at, i.due_at, i.organisation_id,
    i.owner_id, i.charge_total, i.charge_excluding_tax_total, i.charge_including_tax_total,
    i.tax_total, i.custom_fields, i.created_at_rms, i.updated_at_rms, i.data, i.synced_at,
    i.last_webhook_at,
    CASE i.invoice_type WHEN 0 THEN 'Invoice' WHEN 1 THEN 'Credit' ELSE i.invoice_type::text END
        AS invoice_type_name,
    CASE i.status WHEN 0 THEN 'Open' WHEN 10 THEN 'Issued' WHEN 20 THEN 'Paid' WHEN 30 THEN 'Posted'
        WHEN 40 THEN 'Voided' ELSE i.status::text END AS status_name
FROM invoices i;

COMMENT ON VIEW invoices_with_money IS 'The table invoices, with its credit notes, for readers of views: all of it.';
COMMENT ON COLUMN invoices_with_money.id IS 'The invoice''s id in Current RMS.';
COMMENT ON COLUMN invoices_with_money.number IS 'Its number.';
COMMENT ON COLUMN invoices_with_money.subject IS 'Its subject.';
COMMENT ON COLUMN invoices_with_money.invoice_type IS '0 Invoice, 1 Credit.';
COMMENT ON COLUMN invoices_with_money.status IS '0 Open, 10 Issued, 20 Paid, 30 Posted, 40 Voided.';
COMMENT ON COLUMN invoices_with_money.invoiced_at IS 'When it was issued.';
COMMENT ON COLUMN invoices_with_money.due_at IS 'When it is due.';
COMMENT ON COLUMN invoices_with_money.organisation_id IS 'The customer''s id in Current RMS.';
COMMENT ON COLUMN invoices_with_money.owner_id IS 'The id of its owner, a colleague.';
COMMENT ON COLUMN invoices_with_money.charge_total IS 'The charge before tax.';
COMMENT ON COLUMN invoices_with_money.charge_excluding_tax_total IS 'The charge without tax.';
COMMENT ON COLUMN invoices_with_money.charge_including_tax_total IS 'The charge with tax.';
COMMENT ON COLUMN invoices_with_money.tax_total IS 'The tax.';
COMMENT ON COLUMN invoices_with_money.custom_fields IS 'The custom fields.';
COMMENT ON COLUMN invoices_with_money.created_at_rms IS 'When it was entered in Current RMS.';
COMMENT ON COLUMN invoices_with_money.updated_at_rms IS 'When Current RMS last changed it.';
COMMENT ON COLUMN invoices_with_money.data IS 'The whole record from the API. An association that no longer comes stays as it last came.';
COMMENT ON COLUMN invoices_with_money.synced_at IS 'When the record was last requested from the API.';
COMMENT ON COLUMN invoices_with_money.last_webhook_at IS 'When a webhook last refreshed it.';
COMMENT ON COLUMN invoices_with_money.invoice_type_name IS 'Invoice or Credit.';
COMMENT ON COLUMN invoices_with_money.status_name IS 'The status as text.';
