"""An invented event-hire company: the same seed and day give the same opportunities.

Only what lists are filtered and sorted by is held in memory; the rest of a record is made when it
is asked for, from the seed and the id.
"""

import itertools
import random
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

STATUS_NAMES = {
    0: "Open", 1: "Provisional", 5: "Reserved", 20: "Active", 40: "Completed",
    50: "Cancelled", 60: "Lost", 70: "Dead", 80: "Postponed",
}  # fmt: skip
STATE_NAMES = {0: "Enquiry", 1: "Draft", 2: "Quotation", 3: "Order"}
DAY = 86_400_000

_CUSTOMERS = 180
_VENUES = 70
_OWNERS = 12
_PLACES = (
    "Harbour", "Castle", "River", "Northgate", "Abbey", "Market", "Foundry", "Orchard", "Station",
    "Cathedral", "Meadow", "Bridge", "Tower", "Garden", "Quarry", "Mill", "Lighthouse", "Zürich",
    "São Paulo", "Kraków",
)  # fmt: skip
_FIRMS = ("Events", "Productions", "Weddings", "Live", "Festivals", "Conferences", "Theatre Trust",
          "Catering & Co", "Arena", "Studios", "Broadcast")  # fmt: skip
_SITES = ("Hall", "Gardens", "Pavilion", "Arena", "Barn", "Hotel", "Conference Centre", "Park",
          "Warehouse", "Chapel")  # fmt: skip
_FORENAMES = ("Alex", "Sam", "Jo", "Chris", "Robin", "Kim", "Zoë", "Max", "Ida", "Noor", "Lee",
              "Mika")  # fmt: skip
_OCCASIONS = ("Summer gala", "Winter ball", "Product launch", "Wedding", "Annual conference",
              "Charity dinner", "Film premiere", "Graduation", "Trade fair", "Open-air concert 🎶",
              "Fête de la musique", "Christmas party", "Awards night", "Club night",
              "Board meeting")  # fmt: skip
_KIT = ("main stage", "lighting", "PA and monitors", "LED wall", "marquee 12×30 m", "rigging",
        "dance floor", "silent disco", "power distribution", "conference AV")  # fmt: skip
_SENTENCES = (
    "Load-in from the north gate, ask for the duty manager on arrival.",
    "Curfew is 23:00 sharp; de-rig the same night.",
    "The client provides power: 63 A three-phase within 20 m of the stage.",
    "Ceiling height is 4.2 m, no ground support above that.",
    "Parking for two artics and one van has been booked.",
    "Customer asked for a quiet generator — neighbours complained last year.",
    "Café opens at 7; crew catering for eight, two vegetarian 🥗.",
    "Access is by goods lift only (max. 1,200 kg, 2.1 m deep).",
)
_TIMES = ("prep", "load", "deliver", "setup", "show", "takedown", "collect", "unload", "deprep")


Mix = tuple[tuple[tuple[int, int], int], ...]
# ((status, state), weight) by when the event is.
_PAST: Mix = (((40, 3), 62), ((60, 2), 18), ((50, 3), 10), ((70, 2), 10))
_UNDER_WAY: Mix = (((20, 3), 85), ((50, 3), 15))
_SOON: Mix = (((5, 3), 55), ((1, 2), 25), ((50, 3), 8), ((60, 2), 12))
_LATER: Mix = (((0, 0), 30), ((0, 2), 25), ((1, 2), 23), ((5, 3), 14), ((80, 2), 4), ((60, 1), 4))


class Row(NamedTuple):
    """What lists are filtered and sorted by. Times are milliseconds since 1970 (UTC) or None."""

    id: int
    starts_at: int | None
    ends_at: int | None
    created_at: int
    updated_at: int | None
    status: int
    state: int
    member_id: int
    venue_id: int
    owned_by: int


def iso(milliseconds: int | None) -> str | None:
    """As the API writes times: UTC, milliseconds, `Z`."""
    if milliseconds is None:
        return None
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def generate_rows(count: int, seed: int, today: datetime) -> Iterator[Row]:
    """`count` rows with ascending ids, around `today` (midnight, UTC)."""
    rng = random.Random(seed)
    midnight = int(today.timestamp() * 1000)
    id_ = 1_000
    for number in range(count):
        id_ += 1 + (rng.random() < 0.15) * rng.randrange(1, 9)
        day = _event_day(rng, today)
        length = 1 + int(rng.expovariate(0.7))
        if rng.random() < 0.01:
            length = rng.randrange(60, 300)
        starts: int | None = midnight + day * DAY + rng.randrange(6, 20) * 3_600_000
        ends: int | None = (starts or 0) + length * DAY - rng.randrange(3_600_000)
        # Enquiries come in the order of their ids, a few weeks to a year before the event.
        created = midnight - int((1 - number / count) * 500 * DAY) - rng.randrange(3_600_000)
        created = min(created, midnight + min(day, 0) * DAY - DAY)
        latest = midnight - rng.randrange(DAY)
        updated: int | None = max(min(created + rng.randrange(1, 120 * DAY), latest), created)
        if rng.random() < 0.005:
            updated = None
        status, state = _status(rng, day, length)
        undated = rng.random()
        if undated < 0.03:
            status, state = (0, 0) if undated < 0.025 else (70, 0)
            if undated > 0.006:
                starts = None
            if undated < 0.024:
                ends = None
        customer = 100 + int(_CUSTOMERS * rng.random() ** 2.2)
        yield Row(
            id_, starts, ends, created, updated, status, state, customer,
            1_000 + int(_VENUES * rng.random() ** 1.8), 10 + rng.randrange(_OWNERS),
        )  # fmt: skip


def _event_day(rng: random.Random, today: datetime) -> int:
    """Days from today: mostly inside the mirror's window, busy in summer, December and weekends."""
    low, high = (-30, 365) if rng.random() < 0.92 else (-300, 420)
    for _ in range(4):
        day = rng.randrange(low, high)
        date = today + timedelta(days=day)
        wanted = 0.35 + 0.35 * (date.month in {5, 6, 7, 8, 9, 12}) + 0.3 * (date.weekday() >= 4)
        if rng.random() < wanted:
            return day
    return day


def _status(rng: random.Random, day: int, length: int) -> tuple[int, int]:
    if day + length < 0:
        mix = _PAST
    elif day <= 0:
        mix = _UNDER_WAY
    else:
        mix = _SOON if day < 60 else _LATER
    return rng.choices([pair for pair, _ in mix], [weight for _, weight in mix])[0]


@lru_cache(maxsize=1_000)
def member(kind: str, id_: int) -> dict[str, Any]:
    """A customer (`Organisation`), `Venue` or colleague (`User`), as nested in a record."""
    rng = random.Random(id_ * 31 + len(kind))
    if kind == "User":
        name = f"{_FORENAMES[id_ % len(_FORENAMES)]} {_PLACES[id_ % len(_PLACES)]}"
    else:
        words = _FIRMS if kind == "Organisation" else _SITES
        name = f"{_PLACES[id_ % len(_PLACES)]} {words[id_ // len(_PLACES) % len(words)]}"
    return {
        "id": id_, "uuid": f"{rng.getrandbits(64):016x}-{id_}", "name": name, "description": None,
        "active": True, "bookable": False, "location_type": 0, "locale": "en-GB",
        "membership_type": kind, "lawful_basis_type_id": 10001, "sale_tax_class_id": 1,
        "purchase_tax_class_id": 1, "tag_list": [], "custom_fields": {},
        "membership": {
            "id": id_ + 7, "owned_by": 1, "active": True, "price_category_id": 10,
            "discount_category_id": None, "tax_class_id": None, "invoice_term_id": 1,
        },
        "primary_address": {
            "id": id_, "name": None, "street": f"{id_} High Street", "postcode": "AB1 2CD",
            "city": "London", "county": "", "country_id": 1, "country_name": "United Kingdom",
            "type_id": 3001,
        },
        "emails": [{"id": id_, "address": f"m{id_}@example.com", "type_id": 4001}],
        "phones": [], "links": [], "addresses": [],
        "icon": _icon(id_),
    }  # fmt: skip


def _icon(member_id: int) -> dict[str, Any]:
    """Every third has no picture, as in accounts where people have begun to give them."""
    icon = {"image": "", "iconable_id": member_id, "iconable_type": "Member"}
    if member_id % 3 == 0:
        return icon
    place = f"https://pictures.example/members/{member_id}"
    return icon | {
        "image": "picture.png",
        "url": f"{place}/picture.png",
        "thumb_url": f"{place}/thumb_picture.png",
    }


_signatures = itertools.count(1)


def with_signed_picture(record: dict[str, Any]) -> dict[str, Any]:
    """A copy whose links to a picture are signed, differently each time."""
    icon = record.get("icon")
    if not isinstance(icon, dict) or not icon.get("url"):
        return record
    signature = f"{next(_signatures) * 0x9E3779B97F4A7C15 % 2**64:016x}"
    query = f"?X-Amz-Expires=21600&X-Amz-SignedHeaders=host&X-Amz-Signature={signature}"
    links = {name: icon[name] + query for name in ("url", "thumb_url")}
    return {**record, "icon": {**icon, **links}}


def participants(opportunity_id: int, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The colleague who owns it takes part."""
    who = record.get("owned_by")
    if not isinstance(who, int):
        return []
    return [{
        "id": opportunity_id, "uuid": f"p{opportunity_id}", "member_id": who, "mute": False,
        "member_name": member("User", who)["name"], "assignment_type": "Activity",
    }]  # fmt: skip


def render(row: Row, seed: int) -> dict[str, Any]:
    """The whole record of `row`, without its nested objects."""
    rng = random.Random(row.id * 1_000_003 + seed)
    number = f"{row.id:08d}"
    subject = f"{rng.choice(_OCCASIONS)}, {rng.choice(_KIT)}"
    net = round(rng.lognormvariate(7.5, 1.2), 2)
    tax = round(net * 0.2, 2)
    money = f"{net:.2f}"
    starts, ends = iso(row.starts_at), iso(row.ends_at)
    empty: str | None = "" if row.id % 2 else None
    long = rng.random()
    sentences = 3 if long < 0.9 else 40 if long < 0.999 else 900
    record: dict[str, Any] = {
        "id": row.id, "store_id": 1, "project_id": None, "member_id": row.member_id,
        "billing_address_id": row.member_id, "venue_id": row.venue_id, "tax_class_id": 1,
        "subject": None if row.id % 211 == 0 else subject,
        "description": "\n".join(rng.choices(_SENTENCES, k=sentences)) if long > 0.3 else "",
        "number": number, "starts_at": starts if starts else empty,
        "ends_at": ends if ends else empty, "charge_starts_at": starts, "charge_ends_at": ends,
        "ordered_at": iso(row.created_at) if row.state == 3 else None, "quote_invalid_at": None,
        "state": row.state, "state_name": STATE_NAMES[row.state], "use_chargeable_days": False,
        "chargeable_days": "1.0", "open_ended_rental": False, "invoiced": row.status == 40,
        "rating": rng.randrange(6), "revenue": money, "customer_collecting": False,
        "customer_returning": False, "reference": f"PO {rng.randrange(9999)}",
        "external_description": "", "delivery_instructions": rng.choice(_SENTENCES),
        "collection_instructions": "", "owned_by": row.owned_by,
    }  # fmt: skip
    for i, name in enumerate(_TIMES):
        known = starts is not None and i < 4
        record[f"{name}_starts_at"] = starts if known else empty
        record[f"{name}_ends_at"] = starts if known else empty
    record |= {
        "status": row.status, "status_name": STATUS_NAMES[row.status], "charge_total": money,
        "charge_excluding_tax_total": money, "charge_including_tax_total": f"{net + tax:.2f}",
        "rental_charge_total": money, "sale_charge_total": "0.0", "surcharge_total": "0.0",
        "service_charge_total": "0.0", "tax_total": f"{tax:.2f}",
        "original_rental_charge_total": money, "original_sale_charge_total": "0.0",
        "original_surcharge_total": "0.0", "original_service_charge_total": "0.0",
        "original_tax_total": "0.0", "replacement_charge_total": "0.0",
        "provisional_cost_total": f"{net * 0.4:.2f}", "actual_cost_total": "0.0",
        "predicted_cost_total": f"{net * 0.45:.2f}", "weight_total": f"{rng.randrange(5000)}.5",
        "item_returned": False, "prices_include_tax": False, "pricing_locked": False,
        "latest_approval_document_status": 0, "has_deal_price": False,
        "has_opportunity_deal": False, "auto_costing_enabled": True,
        "source_opportunity_id": None, "tag_list": ["festival"] if row.id % 9 == 0 else [],
        "assigned_surcharge_group_ids": [],
        "custom_fields": {
            "risk_score": "", "po_received": "Yes" if row.state == 3 else "",
            "number_of_attendees": str(rng.randrange(20, 5000)), "event_type": 1000050 + row.id % 9,
        },
        "billing_address": {
            "id": row.member_id, "street": "1 High Street", "city": "London", "country_id": 1,
        },
        "destination": None, "opportunity_surcharges": [],
        "created_at": iso(row.created_at), "updated_at": iso(row.updated_at),
    }  # fmt: skip
    return record
