"""What stands in an opportunity: groups of products, services and what they cost.

A plan is drawn from the seed and the id; the totals of the opportunity and its items are two views
of it, so that they add up.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rms_pipeline.sandbox.world.stock import BY_GROUP, Product
from rms_pipeline.sandbox.world.values import money, total

ITEM_STATUS_NAMES = {
    0: "Open", 1: "Provisional", 5: "Reserved", 10: "Allocated", 15: "Prepared", 20: "Booked Out",
    25: "Part Checked In", 30: "Checked In", 35: "Mixed", 40: "Completed", 45: "Moved",
    50: "Cancelled", 60: "Lost", 70: "Dead", 80: "Postponed",
}  # fmt: skip
ITEMS_AN_OPPORTUNITY = 100
_TECHNICAL = ("Lighting", "Sound", "Staging", "Video", "Power")
_TRANSACTIONS = {1: "Rental", 2: "Sale", 3: "Service"}
_TYPES = {0: "Group", 1: "Principal", 2: "Accessory"}
_SURCHARGE = 3_500
_TAX_PERCENT = 20


class Line(NamedTuple):
    """Cents each. `accessories` come with it and cost nothing."""

    product: Product
    quantity: int
    discount: int
    days: int
    charge: int
    surcharge: int
    tax: int
    accessories: tuple[Product, ...]


class Plan(NamedTuple):
    """Lines by group, and their totals in cents; weights in hundreds of grams."""

    groups: tuple[tuple[str, tuple[Line, ...]], ...]
    rental: int
    sale: int
    service: int
    surcharge: int
    tax: int
    weight: int
    replacement: int
    original: int

    @property
    def net(self) -> int:
        return self.rental + self.sale + self.service + self.surcharge


@lru_cache(maxsize=200)
def plan(opportunity_id: int, seed: int, days: int) -> Plan:
    """The same for the same arguments. `days` are those that are charged."""
    # Only `random` is called: with the rest of the module this would take twice as long.
    dice = random.Random(opportunity_id * 7_919 + seed).random
    size = math.exp(2.4 * (dice() + dice() + dice() - 1.5) - 0.6)
    first = int(dice() * len(_TECHNICAL))
    groups = [_TECHNICAL[(first + 2 * n) % len(_TECHNICAL)] for n in range(1 + int(dice() * 2.5))]
    drawn = [(group, _some_of(group, 1 + int(dice() * 3), dice)) for group in groups]
    if dice() < 0.3:
        drawn.append(("Consumables", _some_of("Consumables", 1, dice)))
    if dice() < 0.7:
        drawn.append(("Services", _some_of("Services", 1 + int(dice() * 2), dice)))
    discount = (0, 0, 0, 10, 15, 25)[int(dice() * 6)]
    surcharge = _SURCHARGE if opportunity_id % 7 == 0 else 0
    made, sums = [], [0] * 8
    for group, products in drawn:
        lines = []
        for product in products:
            line = _line(product, size * dice(), discount, days, surcharge)
            surcharge = 0
            lines.append(line)
            sums[product.transaction] += line.charge
            sums[4] += line.surcharge
            sums[5] += line.tax
            sums[6] += product.weight * line.quantity
            sums[7] += product.replacement * line.quantity
            sums[0] += product.price * line.quantity * line.days
        made.append((group, tuple(lines)))
    original, rental, sale, service, surcharges, tax, weight, replacement = sums
    return Plan(tuple(made), rental, sale, service, surcharges, tax, weight, replacement, original)


def _some_of(group: str, count: int, dice: Callable[[], float]) -> list[Product]:
    products = BY_GROUP[group]
    first = int(dice() * len(products))
    return [products[(first + n) % len(products)] for n in range(min(count, len(products)))]


def _line(product: Product, size: float, discount: int, days: int, surcharge: int) -> Line:
    quantity = max(1, round(product.most * size))
    charged = days if product.transaction == 1 else 1
    off = discount if product.transaction == 1 else 0
    charge = (product.price * quantity * charged * (100 - off) + 50) // 100
    tax = ((charge + surcharge) * _TAX_PERCENT + 50) // 100
    alongside = BY_GROUP["Power"][-1:] if product.group == "Video" else ()
    return Line(product, quantity, off, charged, charge, surcharge, tax, alongside)


def surcharges(opportunity_id: int, planned: Plan) -> list[dict[str, Any]]:
    """As `opportunity_surcharges` gives them."""
    if not planned.surcharge:
        return []
    return [{
        "id": opportunity_id * 10 + 1, "opportunity_id": opportunity_id, "surcharge_group_id": 4,
        "name": "Fuel", "charge": money(planned.surcharge),
    }]  # fmt: skip


def days_charged(record: Mapping[str, Any]) -> int:
    try:
        return max(1, int(float(record["chargeable_days"])))
    except (KeyError, TypeError, ValueError):
        return 1


def items(record: Mapping[str, Any], seed: int) -> list[dict[str, Any]]:
    """The items of an opportunity, groups before what is in them, each with `item` and
    `item_assets`. Their ids grow with the opportunity's."""
    planned = plan(record["id"], seed, days_charged(record))
    return list(_items(record, planned))


def _items(record: Mapping[str, Any], planned: Plan) -> Iterator[dict[str, Any]]:
    first = record["id"] * ITEMS_AN_OPPORTUNITY + 1
    number = 0
    for place, (name, lines) in enumerate(planned.groups, 1):
        group, path = first + number, f"{place:04d}"
        number += 1
        yield _item(record, group, None, path, 0, name, lines[0].product.transaction, lines)
        for position, line in enumerate(lines, 1):
            own, own_path = first + number, f"{path}.{position:04d}"
            number += 1
            yield _item(
                record, own, group, own_path, 1, line.product.name,
                line.product.transaction, [line], line.product, line.quantity,
            )  # fmt: skip
            for nth, product in enumerate(line.accessories, 1):
                yield _item(
                    record, first + number, own, f"{own_path}.{nth:04d}", 2, product.name,
                    product.transaction, [], product, line.quantity,
                )  # fmt: skip
                number += 1


def _item(
    record: Mapping[str, Any],
    id_: int,
    parent: int | None,
    path: str,
    type_: int,
    name: str,
    transaction: int,
    lines: Sequence[Line],
    product: Product | None = None,
    quantity: int = 1,
) -> dict[str, Any]:
    charges = {1: 0, 2: 0, 3: 0}
    for line in lines:
        charges[line.product.transaction] += line.charge
    surcharge = sum(line.surcharge for line in lines)
    first = lines[0] if lines and product else None
    status = _status(record, product)
    item: dict[str, Any] = {
        "id": id_, "opportunity_id": record["id"], "parent_opportunity_item_id": parent,
        "item_id": product.id if product else None,
        "item_type": None if not product else "Service" if transaction == 3
        else "AccessoryProduct" if type_ == 2 else "Product",
        "opportunity_item_type": type_, "opportunity_item_type_name": _TYPES[type_],
        "name": name, "description": "", "transaction_type": transaction,
        "transaction_type_name": _TRANSACTIONS[transaction], "accessory_inclusion_type": 0,
        "accessory_inclusion_type_name": "None", "accessory_mode": 0,
        "accessory_mode_name": "Included", "quantity": f"{quantity}.0", "revenue_group_id": 3,
        "rate_definition_id": 2, "service_rate_type": 1, "service_rate_type_name": "Day",
        "price": money(product.price) if product and type_ == 1 else "0.0",
        "discount_percent": f"{first.discount if first else 0}.0",
        "starts_at": record.get("starts_at") or None, "ends_at": record.get("ends_at") or None,
        "use_chargeable_days": transaction == 1,
        "chargeable_days": f"{first.days if first else 1}.0",
        "sub_rent": bool(product and id_ % 23 == 0),
        "has_shortage": bool(product and product.stock_method and id_ % 31 == 0),
        "replacement_charge": money(product.replacement if product else 0),
        "weight": f"{(product.weight if product else 0) / 10:.1f}",
        "status": status, "status_name": ITEM_STATUS_NAMES[status], "path": path,
        "rental_charge_total": money(charges[1]), "sale_charge_total": money(charges[2]),
        "service_charge_total": money(charges[3]), "surcharge_total": money(surcharge),
        "tax_total": money(sum(line.tax for line in lines)),
        "charge_total": money(sum(charges.values()) + surcharge), "custom_fields": {},
        "item": {"id": product.id, "name": product.name, "stock_method": product.stock_method}
        if product else None,
        "item_assets": [], "created_at": record.get("created_at"),
        "updated_at": record.get("updated_at") or record.get("created_at"),
    }  # fmt: skip
    if product and product.stock_method:
        item["item_assets"] = list(_assets(item, product, quantity))
    return item


def _assets(item: Mapping[str, Any], product: Product, quantity: int) -> Iterator[dict[str, Any]]:
    """Serialised products one by one where they are few, all else as a booking of so many."""
    single = product.stock_method == 2 and quantity <= 6 and not item["has_shortage"]
    bulk = "Group Booking" if product.stock_method == 1 else "Non-Stock Booking"
    out = item["status"] in (20, 40)
    for number in range(quantity if single else 1):
        held = f"{1 if single else quantity}.0"
        yield {
            "id": item["id"] * 10 + number, "opportunity_item_id": item["id"],
            "stock_level_id": product.id * 10 + number,
            "stock_level_asset_number": f"{product.id}-{number + 1:03d}" if single else bulk,
            "supplier_id": 101 if item["sub_rent"] else None, "sub_rent": item["sub_rent"],
            "quantity": held, "quantity_allocated": held if out else "0.0",
            "quantity_returned": held if item["status"] == 40 else "0.0",
            "status": item["status"], "status_name": item["status_name"],
            "has_shortage": item["has_shortage"],
            "opportunity_cost": money(product.price // 3) if item["sub_rent"] else "0.0",
        }  # fmt: skip


def _status(record: Mapping[str, Any], product: Product | None) -> int:
    """That of the opportunity; in some of those reserved, stock is allocated or prepared."""
    status = record.get("status")
    if status == 5 and product and product.stock_method and record["id"] % 4 == 0:
        return 10 if product.id % 2 else 15
    return status if status in ITEM_STATUS_NAMES else 0


def totals(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The totals of an opportunity that has these items."""
    lines = [item for item in found if item["opportunity_item_type"] != 0]
    sums = {
        f"{kind}_total": total([item[f"{kind}_total"] for item in lines])
        for kind in ("rental_charge", "sale_charge", "service_charge", "surcharge", "tax", "charge")
    }
    return sums | {
        "charge_excluding_tax_total": sums["charge_total"],
        "charge_including_tax_total": total([sums["charge_total"], sums["tax_total"]]),
    }
