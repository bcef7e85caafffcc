"""Enquiries, quotations and orders.

Only what lists are filtered and sorted by is held in memory; the rest of a record is made when it
is asked for, from the seed and the id.
"""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from rms_pipeline.sandbox.world.items import plan, surcharges
from rms_pipeline.sandbox.world.members import COLLEAGUES, CUSTOMERS, VENUES
from rms_pipeline.sandbox.world.values import DAY, HOUR, iso, money

STATUS_NAMES = {
    0: "Open", 1: "Provisional", 5: "Reserved", 20: "Active", 40: "Completed",
    50: "Cancelled", 60: "Lost", 70: "Dead", 80: "Postponed",
}  # fmt: skip
STATE_NAMES = {0: "Enquiry", 1: "Draft", 2: "Quotation", 3: "Order"}
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
_TAGS = ((9, "festival"), (14, "repeat"), (25, "VIP"), (33, "dry hire"))
# Pairs of schedule times as hours from the start, and from the end.
_BEFORE = (("prep", -48, -24), ("load", -20, -18), ("deliver", -16, -14), ("setup", -14, -1))
_AFTER = (("takedown", 1, 5), ("collect", 5, 8), ("unload", 9, 11), ("deprep", 24, 48))

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
        updated: int | None = max(
            min(created + rng.randrange(1, 120 * DAY), latest), created + HOUR
        )
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
        # Few customers bring much of the work, mostly to the same place and the same colleague.
        customer = CUSTOMERS.start + int(len(CUSTOMERS) * rng.random() ** 2.2)
        venue = VENUES.start + int(len(VENUES) * rng.random() ** 1.8)
        owner = COLLEAGUES.start + rng.randrange(len(COLLEAGUES))
        if id_ % 5 < 3:
            venue = VENUES.start + customer * 7 % len(VENUES)
            owner = COLLEAGUES.start + customer % len(COLLEAGUES)
        yield Row(id_, starts, ends, created, updated, status, state, customer, venue, owner)


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


def invoiced(row: Row) -> bool:
    """Most of what is over, and some of what was cancelled late."""
    return (row.status == 40 and row.id % 8 != 0) or (
        row.status == 50 and row.state == 3 and row.id % 4 == 0
    )


def store_id(row: Row) -> int:
    return 2 if row.id % 8 == 3 else 1


def number_of(row: Row) -> str:
    return f"{row.id:08d}"


def ordered_at(row: Row) -> int | None:
    """When it became an order: after it was created, and before it was last changed."""
    if row.state != 3:
        return None
    until = row.updated_at if row.updated_at is not None else row.created_at + DAY
    return row.created_at + (until - row.created_at) * (1 + row.id % 5) // 6


def render(row: Row, seed: int) -> dict[str, Any]:
    """The whole record of `row`, without what is nested in it but belongs to others."""
    rng = random.Random(row.id * 1_000_003 + seed)
    subject = f"{rng.choice(_OCCASIONS)}, {rng.choice(_KIT)}"
    starts, ends = iso(row.starts_at), iso(row.ends_at)
    days = 1
    if row.starts_at is not None and row.ends_at is not None:
        days = max(1, min((row.ends_at - row.starts_at) // DAY, 30))
    planned = plan(row.id, seed, days)
    net = planned.net
    empty: str | None = "" if row.id % 2 else None
    long = rng.random()
    sentences = 3 if long < 0.9 else 40 if long < 0.999 else 900
    collecting = row.id % 10 == 4
    record: dict[str, Any] = {
        "id": row.id, "store_id": store_id(row), "project_id": None, "member_id": row.member_id,
        "billing_address_id": row.member_id, "venue_id": row.venue_id, "tax_class_id": 1,
        "subject": None if row.id % 211 == 0 else subject,
        "description": "\n".join(rng.choices(_SENTENCES, k=sentences)) if long > 0.3 else "",
        "number": number_of(row), "starts_at": starts if starts else empty,
        "ends_at": ends if ends else empty, "charge_starts_at": starts, "charge_ends_at": ends,
        "ordered_at": iso(ordered_at(row)),
        "quote_invalid_at": iso(row.created_at + 30 * DAY) if row.state == 2 else None,
        "state": row.state, "state_name": STATE_NAMES[row.state], "use_chargeable_days": days > 1,
        "chargeable_days": f"{days}.0", "open_ended_rental": False, "invoiced": invoiced(row),
        "rating": rng.randrange(6), "revenue": money(net), "customer_collecting": collecting,
        "customer_returning": collecting, "reference": f"PO {rng.randrange(9999)}",
        "external_description": "", "delivery_instructions": rng.choice(_SENTENCES),
        "collection_instructions": "", "owned_by": row.owned_by,
    }  # fmt: skip
    record |= _schedule(row, collecting, empty)
    record |= {
        "status": row.status, "status_name": STATUS_NAMES[row.status], "charge_total": money(net),
        "charge_excluding_tax_total": money(net),
        "charge_including_tax_total": money(net + planned.tax),
        "rental_charge_total": money(planned.rental), "sale_charge_total": money(planned.sale),
        "surcharge_total": money(planned.surcharge),
        "service_charge_total": money(planned.service), "tax_total": money(planned.tax),
        "original_rental_charge_total": money(planned.original - planned.sale - planned.service),
        "original_sale_charge_total": money(planned.sale),
        "original_surcharge_total": money(planned.surcharge),
        "original_service_charge_total": money(planned.service),
        "original_tax_total": money(planned.tax),
        "replacement_charge_total": money(planned.replacement),
        "provisional_cost_total": money(net * 40 // 100),
        "actual_cost_total": money(net * 38 // 100) if row.status == 40 else "0.0",
        "predicted_cost_total": money(net * 45 // 100),
        "weight_total": f"{planned.weight / 10:.1f}",
        "item_returned": row.status == 40, "prices_include_tax": False, "pricing_locked": False,
        "latest_approval_document_status": 0, "has_deal_price": False,
        "has_opportunity_deal": False, "auto_costing_enabled": True,
        "source_opportunity_id": None, "tag_list": _tags(row),
        "assigned_surcharge_group_ids": [4] if planned.surcharge else [],
        "custom_fields": _custom_fields(row, rng),
        "billing_address": {
            "id": row.member_id, "street": f"{row.member_id} High Street", "city": "London",
            "country_id": 1,
        },
        "destination": None if collecting else {
            "id": row.id, "source_type": "Opportunity",
            "address": {"id": row.id, "street": f"{row.venue_id} High Street", "city": "York"},
        },
        "opportunity_surcharges": surcharges(row.id, planned),
        "created_at": iso(row.created_at), "updated_at": iso(row.updated_at),
    }  # fmt: skip
    return record


def _schedule(row: Row, collecting: bool, empty: str | None) -> dict[str, str | None]:
    """Nine pairs of times around the start and the end; nobody delivers what is collected."""
    times: dict[str, str | None] = {}
    for name, first, last in _BEFORE:
        known = row.starts_at is not None and not (collecting and name in ("deliver", "setup"))
        times[f"{name}_starts_at"] = iso((row.starts_at or 0) + first * HOUR) if known else empty
        times[f"{name}_ends_at"] = iso((row.starts_at or 0) + last * HOUR) if known else empty
    known = row.starts_at is not None and row.ends_at is not None
    times["show_starts_at"] = iso(row.starts_at) if known else empty
    times["show_ends_at"] = iso(row.ends_at) if known else empty
    for name, first, last in _AFTER:
        known = row.ends_at is not None and not (collecting and name in ("takedown", "collect"))
        times[f"{name}_starts_at"] = iso((row.ends_at or 0) + first * HOUR) if known else empty
        times[f"{name}_ends_at"] = iso((row.ends_at or 0) + last * HOUR) if known else empty
    return times


def _tags(row: Row) -> list[str]:
    return [tag for divisor, tag in _TAGS if row.id % divisor == 0]


def _custom_fields(row: Row, rng: random.Random) -> dict[str, Any]:
    """One of each kind, filled in by some and not by others; two that nobody ever fills in."""
    order, lost = row.state == 3, row.status in (50, 60, 70)
    starts = iso(row.starts_at)
    return {
        "risk_score": "",
        "legacy_reference": "",
        "po_received": "Yes" if order else "",
        "number_of_attendees": str(rng.randrange(20, 5000)),
        "event_type": 1000050 + row.id % 9,
        "services_required": [1000070 + n for n in range(4) if row.id % (n + 2) == 0],
        "reason_lost": 1000090 + row.id % 4 if lost else "",
        "client_name_on_day": _SENTENCES[row.id % 8][:12] if row.id % 3 == 0 else "",
        "site_notes": _SENTENCES[row.id % len(_SENTENCES)] if order else "",
        "site_visit_at": starts if starts and row.id % 4 == 1 else "",
        "contract_due_on": starts[:10] if starts and order else "",
        "doors_open": f"{17 + row.id % 4}:30" if row.id % 2 else "",
        "site_contact_email": f"site{row.venue_id}@example.com" if order else "",
        "event_website": f"https://events.example/{row.id}" if row.id % 6 == 0 else "",
        "site_contact_phone": f"+44 20 7946 {row.venue_id % 10_000:04d}" if order else "",
        "job_code": f"J-{row.id:06d}",
        "deposit": money(row.id % 40 * 2_500) if order else "",
    }
