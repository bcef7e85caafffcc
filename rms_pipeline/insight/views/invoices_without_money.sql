-- version 5. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- Invoices for readers who must not see money. The view has no amounts and no record as received.
-- It has no free text, because people may type amounts there: no subject and no custom fields. The
-- number identifies each invoice.

CREATE OR REPLACE VIEW invoices_without_money AS
SELECT
    i.id, i.number, i.invoice_type, i.status, i.invoiced_at, i.due_at, i.organisation_id,
    i.owner_id, i.created_at_rms, i.updated_at_rms, i.synced_at, i.last_webhook_at,
    CASE i.invoice_type WHEN 0 THEN 'Invoice' WHEN 1 THEN 'Credit' ELSE i.invoice_type::text END
        AS invoice_type_name,
    CASE i.status WHEN 0 THEN 'Open' WHEN 10 THEN 'Issued' WHEN 20 THEN 'Paid' WHEN 30 THEN 'Posted'
        WHEN 40 THEN 'Voided' ELSE i.status::text END AS status_name
FROM invoices i;

COMMENT ON VIEW invoices_without_money IS 'The table invoices, with its credit notes, for readers who must not see money: without amounts, without data and without free text.';
COMMENT ON COLUMN invoices_without_money.id IS 'The invoice''s id in Current RMS.';
COMMENT ON COLUMN invoices_without_money.number IS 'Its number.';
COMMENT ON COLUMN invoices_without_money.invoice_type IS '0 Invoice, 1 Credit.';
COMMENT ON COLUMN invoices_without_money.status IS '0 Open, 10 Issued, 20 Paid, 30 Posted, 40 Voided.';
COMMENT ON COLUMN invoices_without_money.invoiced_at IS 'When it was issued.';
COMMENT ON COLUMN invoices_without_money.due_at IS 'When it is due.';
COMMENT ON COLUMN invoices_without_money.organisation_id IS 'The customer''s id in Current RMS.';
COMMENT ON COLUMN invoices_without_money.owner_id IS 'The id of its owner, a colleague.';
COMMENT ON COLUMN invoices_without_money.created_at_rms IS 'When it was entered in Current RMS.';
COMMENT ON COLUMN invoices_without_money.updated_at_rms IS 'When Current RMS last changed it.';
COMMENT ON COLUMN invoices_without_money.synced_at IS 'When the record was last requested from the API.';
COMMENT ON COLUMN invoices_without_money.last_webhook_at IS 'When a webhook last refreshed it.';
COMMENT ON COLUMN invoices_without_money.invoice_type_name IS 'Invoice or Credit.';
COMMENT ON COLUMN invoices_without_money.status_name IS 'The status as text.';
