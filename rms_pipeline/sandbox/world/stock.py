"""What is for hire and for sale, what is done for customers, and the depots."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from rms_pipeline.sandbox.world.members import picture
from rms_pipeline.sandbox.world.values import DAY, iso, money


class Product(NamedTuple):
    """`price` and `replacement` are cents, `weight` is hundreds of grams.

    `transaction`: 1 rental, 2 sale, 3 service. `stock_method`: 0 none, 1 bulk, 2 serialised.
    `most`: how many of it an ordinary event takes.
    """

    id: int
    name: str
    group: str
    transaction: int
    stock_method: int
    price: int
    weight: int
    replacement: int
    most: int


_STOCK = (
    ("Lighting", 1, ("LED par, warm white", 1, 650, 24, 12_000, 24),
     ("Moving head spot", 2, 4_500, 210, 340_000, 12), ("Follow spot", 2, 6_000, 380, 180_000, 2),
     ("Lighting desk", 2, 9_500, 160, 620_000, 1), ("Haze machine", 2, 3_500, 90, 70_000, 2)),
    ("Sound", 1, ("Line array top", 2, 7_800, 320, 410_000, 12),
     ("Subwoofer 18″", 2, 5_200, 540, 190_000, 6), ("Wireless microphone", 2, 2_800, 6, 68_000, 8),
     ("Mixing desk, 48 channels", 2, 14_000, 240, 890_000, 1), ("DI box", 1, 400, 5, 9_000, 10)),
    ("Staging", 1, ("Stage deck 2 × 1 m", 1, 1_800, 420, 38_000, 30),
     ("Stage steps", 1, 1_200, 180, 22_000, 2), ("Truss, 3 m", 1, 1_500, 190, 41_000, 16),
     ("Marquee bay, 12 m", 1, 22_000, 3_100, 450_000, 6),
     ("Dance floor tile", 1, 300, 90, 6_000, 60)),
    ("Video", 1, ("LED wall tile", 2, 3_900, 95, 140_000, 40),
     ("Projector, 20k", 2, 32_000, 640, 1_900_000, 2), ("Screen, 4 m", 1, 4_800, 310, 95_000, 1)),
    ("Power", 1, ("Generator, 60 kVA", 2, 18_500, 14_000, 2_400_000, 1),
     ("Distribution, 63 A", 1, 2_200, 160, 88_000, 3),
     ("Cable, 32 A, 25 m", 1, 500, 120, 11_000, 12)),
    ("Consumables", 2, ("Gaffer tape", 1, 900, 6, 0, 8), ("Haze fluid, 5 l", 1, 2_700, 52, 0, 2)),
    ("Services", 3, ("Delivery and collection", 0, 18_000, 0, 0, 1),
     ("Technician, day", 0, 26_000, 0, 0, 3), ("Crew, shift", 0, 14_500, 0, 0, 6)),
)  # fmt: skip
_FIRST_ID = 301

PRODUCTS: tuple[Product, ...] = tuple(
    Product(_FIRST_ID + number, name, group, transaction, method, price, weight, worth, most)
    for number, (group, transaction, (name, method, price, weight, worth, most)) in enumerate(
        (group, transaction, product) for group, transaction, *made in _STOCK for product in made
    )
)
BY_GROUP: dict[str, tuple[Product, ...]] = {
    group: tuple(product for product in PRODUCTS if product.group == group) for group, *_ in _STOCK
}


def products(today: datetime) -> Iterator[dict[str, Any]]:
    """As `/products` gives them, by id; what is done for customers is none of them."""
    midnight = int(today.timestamp() * 1000)
    for product in PRODUCTS:
        if product.transaction == 3:
            continue
        created = midnight - (900 - product.id % 300) * DAY
        yield {
            "id": product.id, "name": product.name, "description": "",
            "type": "Product", "allowed_stock_type": product.transaction,
            "stock_method": product.stock_method,
            "stock_method_name": ("None", "Bulk", "Serialised")[product.stock_method],
            "replacement_charge": money(product.replacement),
            "weight": f"{product.weight / 10:.1f}", "barcode": f"50{product.id:010d}",
            "active": product.id % 19 != 0,
            "product_group_id": list(BY_GROUP).index(product.group) + 1,
            "product_group": {
                "id": list(BY_GROUP).index(product.group) + 1, "name": product.group,
            },
            "rental_rate": {"id": product.id, "price": money(product.price)}
            if product.transaction == 1 else None,
            "sale_rate": {"id": product.id, "price": money(product.price)}
            if product.transaction == 2 else None,
            "tag_list": [], "custom_fields": {"shelf": f"{product.group[0]}{product.id % 40}"},
            "icon": picture("products", product.id, "Product"),
            "created_at": iso(created), "updated_at": iso(created + product.id % 200 * DAY),
        }  # fmt: skip


def stores(_: datetime) -> Iterator[dict[str, Any]]:
    """The depots, as `/stores` gives them."""
    for id_, name, city in ((1, "Main warehouse", "London"), (2, "North depot", "Leeds")):
        yield {
            "id": id_, "name": name, "city": city, "active": True, "default": id_ == 1,
            "created_at": "2019-04-01T09:00:00.000Z", "updated_at": "2024-02-12T11:30:00.000Z",
        }  # fmt: skip
