"""Items of opportunities: their products, services, texts and groups.

The assets that are booked for an item (`item_assets`) stay in its `data`.
"""

from rms_pipeline.collections.base import TIMES, Collection, Column, Parts
from rms_pipeline.collections.opportunities import OPPORTUNITIES


def _number(name: str, says: str) -> Column:
    return Column(name, "numeric", says, source=name)


OPPORTUNITY_ITEMS = Collection(
    name="opportunity_items",
    single="opportunity_item",
    says="One row for each item of the opportunities whose items were read: those that start or are"
    " out soon, and those that changed. Those that Current RMS no longer has are in"
    " deleted_opportunity_items.",
    says_of_deleted="Items that Current RMS no longer has, or whose opportunity is gone, with "
    "their last known values.",
    columns=(
        Column(
            "opportunity_id",
            "bigint",
            "The opportunity that it belongs to.",
            source="opportunity_id",
            index="ascending",
        ),
        Column(
            "parent_opportunity_item_id",
            "bigint",
            "Its parent item: its group, or the item that it is an accessory of.",
            source="parent_opportunity_item_id",
        ),
        Column(
            "item_id",
            "bigint",
            "The product's id. Empty for groups, 1 for texts.",
            source="item_id",
            index="ascending",
        ),
        Column("item_type", "text", "Product, Service, AccessoryProduct, ...", source="item_type"),
        Column(
            "opportunity_item_type",
            "bigint",
            "0 Group, 1 Principal, 2 Accessory. A group has the charges of its items once more: add"
            " up without groups.",
            source="opportunity_item_type",
        ),
        Column("name", "text", "The name of the item.", source="name"),
        Column(
            "description", "text", "The description, as typed in Current RMS.", source="description"
        ),
        Column(
            "transaction_type",
            "bigint",
            "1 Rental, 2 Sale, 3 Service.",
            source="transaction_type",
        ),
        _number("quantity", "How many."),
        _number("price", "The unit price."),
        _number("discount_percent", "The discount."),
        Column("starts_at", "timestamptz", "When its hire starts.", source="starts_at"),
        Column("ends_at", "timestamptz", "When its hire ends.", source="ends_at"),
        _number("chargeable_days", "The number of days that are charged."),
        Column("sub_rent", "boolean", "Whether it is sub-hired.", source="sub_rent"),
        Column("has_shortage", "boolean", "Whether there is a shortage.", source="has_shortage"),
        _number("weight", "The weight of one unit."),
        _number("replacement_charge", "The replacement charge of one unit."),
        Column(
            "status",
            "bigint",
            "0 Open, 1 Provisional, 5 Reserved, 10 Allocated, 15 Prepared, 20 Booked Out, 30"
            " Checked In, ...",
            source="status",
        ),
        Column("status_name", "text", "The status as text.", source="status_name"),
        Column("path", "text", "Its position among the items.", source="path"),
        _number("rental_charge_total", "The charge for rental."),
        _number("sale_charge_total", "The charge for sales."),
        _number("service_charge_total", "The charge for services."),
        _number("surcharge_total", "The surcharges."),
        _number("tax_total", "The tax."),
        _number("charge_total", "The charge before tax."),
        Column("custom_fields", "jsonb", "The custom fields.", source="custom_fields"),
        *TIMES,
    ),
    remembers=True,
    # Those that are due to leave, out, or due back; without dates that make a hire, those that
    # start. Lost, cancelled and dead ones move no equipment.
    parts=Parts(
        of=OPPORTUNITIES,
        soon="(o.hire && tstzrange(%(now)s, %(until)s, '[]')"
        " OR o.starts_at BETWEEN %(now)s AND %(until)s) AND NOT EXISTS (SELECT FROM statuses s"
        " WHERE s.name = o.opportunity_status AND s.phase = 'lost')",
        # Only items have these charges. They are not cast, because they may be any text.
        has_some="concat(o.data->>'rental_charge_total', o.data->>'sale_charge_total',"
        " o.data->>'service_charge_total') ~ '[1-9]'",
    ),
    includes=("item", "item_assets"),
    associations={"item": "item_id"},
)
