"""The items of one opportunity in their order, with shortages and sub-hires.

Items are mirrored if RMS_COLLECTIONS names `opportunity_items`. The mirror has those of
opportunities that start soon or are out, and of those that changed.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from rms_pipeline.mirror.statements import Connection, one_row

MOST = 300
_KINDS: dict[int, Literal["group", "principal", "accessory"]] = {
    0: "group",
    1: "principal",
    2: "accessory",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One item. `charge_total` is without tax, in the account's currency."""

    id: int
    kind: Literal["group", "principal", "accessory"] | None
    name: str | None
    quantity: Decimal | None
    status: str | None
    has_shortage: bool
    is_sub_hired: bool
    charge_total: Decimal | None


@dataclass(frozen=True, slots=True)
class Items:
    """The first `MOST` items. `count` counts all items without groups. `shortages` and `sub_hires`
    count those with a shortage, and those that are sub-hired."""

    count: int
    shortages: int
    sub_hires: int
    items: list[Item]


def read_items(connection: Connection, opportunity: int) -> Items:
    """The items of the opportunity with this id. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FILTER (WHERE opportunity_item_type IS DISTINCT FROM 0),"
            " count(*) FILTER (WHERE has_shortage), count(*) FILTER (WHERE sub_rent)"
            " FROM opportunity_items WHERE opportunity_id = %s",
            (opportunity,),
        )
        count, shortages, sub_hires = one_row(cursor)
        cursor.execute(
            "SELECT id, opportunity_item_type, name, quantity, status_name,"
            " coalesce(has_shortage, false), coalesce(sub_rent, false), charge_total"
            " FROM opportunity_items WHERE opportunity_id = %s"
            ' ORDER BY path COLLATE "C" NULLS LAST, id LIMIT %s',
            (opportunity, MOST),
        )
        items = [Item(id_, _KINDS.get(kind), *rest) for id_, kind, *rest in cursor.fetchall()]
    connection.commit()
    return Items(count, shortages, sub_hires, items)
