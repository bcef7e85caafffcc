-- version 5. Raise it with every change. Of two programs on one database, the one with the higher
-- version makes the view.
-- Opportunity items for readers who must not see money. The view has no amounts and no record as
-- received. It has no free text, because people may type amounts there: no name, no description and
-- no custom fields. The product's name identifies each item.

CREATE OR REPLACE VIEW opportunity_items_without_money AS
SELECT
    i.id, i.opportunity_id, i.parent_opportunity_item_id, i.item_id, i.item_type,
    i.opportunity_item_type, i.transaction_type, i.quantity, i.starts_at, i.ends_at,
    i.chargeable_days, i.sub_rent, i.has_shortage, i.weight, i.status, i.status_name, i.path,
    i.created_at_rms, i.updated_at_rms, i.synced_at, i.last_webhook_at,
    i.data #>> '{item,name}' AS product_name
FROM opportunity_items i;

COMMENT ON VIEW opportunity_items_without_money IS 'The table opportunity_items, for readers who must not see money: without amounts, without data and without free text. It has items of opportunities that start or are out soon, and of those that changed.';
COMMENT ON COLUMN opportunity_items_without_money.id IS 'The opportunity_item''s id in Current RMS.';
COMMENT ON COLUMN opportunity_items_without_money.opportunity_id IS 'The opportunity that it belongs to.';
COMMENT ON COLUMN opportunity_items_without_money.parent_opportunity_item_id IS 'Its parent item: its group, or the item that it is an accessory of.';
COMMENT ON COLUMN opportunity_items_without_money.item_id IS 'The product''s id. Empty for groups, 1 for texts.';
COMMENT ON COLUMN opportunity_items_without_money.item_type IS 'Product, Service, AccessoryProduct, ...';
COMMENT ON COLUMN opportunity_items_without_money.opportunity_item_type IS '0 Group, 1 Principal, 2 Accessory.';
COMMENT ON COLUMN opportunity_items_without_money.transaction_type IS '1 Rental, 2 Sale, 3 Service.';
COMMENT ON COLUMN opportunity_items_without_money.quantity IS 'How many.';
COMMENT ON COLUMN opportunity_items_without_money.starts_at IS 'When its hire starts.';
COMMENT ON COLUMN opportunity_items_without_money.ends_at IS 'When its hire ends.';
COMMENT ON COLUMN opportunity_items_without_money.chargeable_days IS 'The number of days that are charged.';
COMMENT ON COLUMN opportunity_items_without_money.sub_rent IS 'Whether it is sub-hired.';
COMMENT ON COLUMN opportunity_items_without_money.has_shortage IS 'Whether there is a shortage.';
COMMENT ON COLUMN opportunity_items_without_money.weight IS 'The weight of one unit.';
COMMENT ON COLUMN opportunity_items_without_money.status IS '0 Open, 1 Provisional, 5 Reserved, 10 Allocated, 15 Prepared, 20 Booked Out, 30 Checked In, ...';
COMMENT ON COLUMN opportunity_items_without_money.status_name IS 'The status as text.';
COMMENT ON COLUMN opportunity_items_without_money.path IS 'Its position among the items.';
COMMENT ON COLUMN opportunity_items_without_money.created_at_rms IS 'When it was entered in Current RMS.';
COMMENT ON COLUMN opportunity_items_without_money.updated_at_rms IS 'When Current RMS last changed it.';
COMMENT ON COLUMN opportunity_items_without_money.synced_at IS 'When the record was last requested from the API.';
COMMENT ON COLUMN opportunity_items_without_money.last_webhook_at IS 'When a webhook last refreshed it.';
COMMENT ON COLUMN opportunity_items_without_money.product_name IS 'The product''s name in the catalogue. Empty for groups and texts.';
