-- version 4. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- All columns of opportunity_items, for readers who can only read views. Add a new column at the
-- end.

CREATE OR REPLACE VIEW opportunity_items_with_money AS
SELECT
    i.id, i.opportunity_id, i.parent_opportunity_item_id, i.item_id, i.item_type,
    i.opportunity_item_type, i.name, i.description, i.transaction_type, i.quantity, i.price,
    i.discount_percent, i.starts_at, i.ends_at, i.chargeable_days, i.sub_rent, i.has_shortage,
    i.weight, i.replacement_charge, i.status, i.status_name, i.path, i.rental_charge_total,
    i.sale_charge_total, i.service_charge_total, i.surcharge_total, i.tax_total, i.charge_total,
    i.custom_fields, i.created_at_rms, i.updated_at_rms, i.data, i.synced_at, i.last_webhook_at,
    i.data #>> '{item,name}' AS product_name
FROM opportunity_items i;

COMMENT ON VIEW opportunity_items_with_money IS 'The table opportunity_items, for readers of views: all of it. It has items of opportunities that start or are out soon, and of those that changed.';
COMMENT ON COLUMN opportunity_items_with_money.id IS 'The opportunity_item''s id in Current RMS.';
COMMENT ON COLUMN opportunity_items_with_money.opportunity_id IS 'The opportunity that it belongs to.';
COMMENT ON COLUMN opportunity_items_with_money.parent_opportunity_item_id IS 'Its parent item: its group, or the item that it is an accessory of.';
COMMENT ON COLUMN opportunity_items_with_money.item_id IS 'The product''s id. Empty for groups, 1 for texts.';
COMMENT ON COLUMN opportunity_items_with_money.item_type IS 'Product, Service, AccessoryProduct, ...';
COMMENT ON COLUMN opportunity_items_with_money.opportunity_item_type IS '0 Group, 1 Principal, 2 Accessory. A group has the charges of its items once more: add up without groups.';
COMMENT ON COLUMN opportunity_items_with_money.name IS 'The name of the item.';
COMMENT ON COLUMN opportunity_items_with_money.description IS 'The description, as typed in Current RMS.';
COMMENT ON COLUMN opportunity_items_with_money.transaction_type IS '1 Rental, 2 Sale, 3 Service.';
COMMENT ON COLUMN opportunity_items_with_money.quantity IS 'How many.';
COMMENT ON COLUMN opportunity_items_with_money.price IS 'The unit price.';
COMMENT ON COLUMN opportunity_items_with_money.discount_percent IS 'The discount.';
COMMENT ON COLUMN opportunity_items_with_money.starts_at IS 'When its hire starts.';
COMMENT ON COLUMN opportunity_items_with_money.ends_at IS 'When its hire ends.';
COMMENT ON COLUMN opportunity_items_with_money.chargeable_days IS 'The number of days that are charged.';
COMMENT ON COLUMN opportunity_items_with_money.sub_rent IS 'Whether it is sub-hired.';
COMMENT ON COLUMN opportunity_items_with_money.has_shortage IS 'Whether there is a shortage.';
COMMENT ON COLUMN opportunity_items_with_money.weight IS 'The weight of one unit.';
COMMENT ON COLUMN opportunity_items_with_money.replacement_charge IS 'The replacement charge of one unit.';
COMMENT ON COLUMN opportunity_items_with_money.status IS '0 Open, 1 Provisional, 5 Reserved, 10 Allocated, 15 Prepared, 20 Booked Out, 30 Checked In, ...';
COMMENT ON COLUMN opportunity_items_with_money.status_name IS 'The status as text.';
COMMENT ON COLUMN opportunity_items_with_money.path IS 'Its position among the items.';
COMMENT ON COLUMN opportunity_items_with_money.rental_charge_total IS 'The charge for rental.';
COMMENT ON COLUMN opportunity_items_with_money.sale_charge_total IS 'The charge for sales.';
COMMENT ON COLUMN opportunity_items_with_money.service_charge_total IS 'The charge for services.';
COMMENT ON COLUMN opportunity_items_with_money.surcharge_total IS 'The surcharges.';
COMMENT ON COLUMN opportunity_items_with_money.tax_total IS 'The tax.';
COMMENT ON COLUMN opportunity_items_with_money.charge_total IS 'The charge before tax.';
COMMENT ON COLUMN opportunity_items_with_money.custom_fields IS 'The custom fields.';
COMMENT ON COLUMN opportunity_items_with_money.created_at_rms IS 'When it was entered in Current RMS.';
COMMENT ON COLUMN opportunity_items_with_money.updated_at_rms IS 'When Current RMS last changed it.';
COMMENT ON COLUMN opportunity_items_with_money.data IS 'The whole record from the API. An association that no longer comes stays as it last came.';
COMMENT ON COLUMN opportunity_items_with_money.synced_at IS 'When the record was last requested from the API.';
COMMENT ON COLUMN opportunity_items_with_money.last_webhook_at IS 'When a webhook last refreshed it.';
COMMENT ON COLUMN opportunity_items_with_money.product_name IS 'The product''s name in the catalogue. Empty for groups and texts.';
