"""Customers, their contacts, venues, colleagues and vehicles."""

import itertools
import random
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

from rms_pipeline.sandbox.world.values import DAY, iso

Kind = Literal["Organisation", "Contact", "Venue", "User", "Vehicle"]
CUSTOMERS = range(100, 280)
VENUES = range(1_000, 1_070)
COLLEAGUES = range(10, 22)
_VEHICLES = range(40, 44)
_FIRST_CONTACT = 2_000

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
_VEHICLE_NAMES = ("Luton van", "Sprinter", "7.5 t box", "Artic 44 t")
_TITLES = ("Events Manager", "Producer", "Accounts", "Technical Director")
_DEPARTMENTS = ("Events", "Production", "Finance", "")


@lru_cache(maxsize=1_000)
def nested_member(kind: str, id_: int) -> dict[str, Any]:
    """One as it is nested in other records."""
    rng = random.Random(id_ * 31 + len(kind))
    return {
        "id": id_, "uuid": f"{rng.getrandbits(64):016x}-{id_}", "name": _name(kind, id_),
        "description": None, "active": _is_active(kind, id_), "bookable": False,
        "location_type": 0, "locale": "en-GB",
        "membership_type": kind, "lawful_basis_type_id": 10001, "sale_tax_class_id": 1,
        "purchase_tax_class_id": 1, "tag_list": ["agency"] if id_ % 17 == 0 else [],
        "custom_fields": {"account_code": f"A{id_:04d}"} if kind == "Organisation" else {},
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


def members(today: datetime) -> Iterator[dict[str, Any]]:
    """All of them whole, by id, as `/members` gives them."""
    midnight = int(today.timestamp() * 1000)
    for id_ in COLLEAGUES:
        yield _whole("User", id_, midnight)
    for id_ in _VEHICLES:
        yield _whole("Vehicle", id_, midnight)
    for id_ in CUSTOMERS:
        yield _whole("Organisation", id_, midnight)
    for id_ in VENUES:
        yield _whole("Venue", id_, midnight)
    for customer in CUSTOMERS:
        for id_ in _contacts(customer):
            yield _whole("Contact", id_, midnight)


def participants(opportunity_id: int, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The colleague who owns an opportunity takes part in it."""
    who = record.get("owned_by")
    if not isinstance(who, int):
        return []
    return [{
        "id": opportunity_id, "uuid": f"p{opportunity_id}", "member_id": who, "mute": False,
        "member_name": _name("User", who), "assignment_type": "Activity",
    }]  # fmt: skip


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


def picture(place: str, id_: int, kind: str) -> dict[str, Any]:
    """The icon of a member or product that has one."""
    at = f"https://pictures.example/{place}/{id_}"
    return {
        "image": "picture.png", "iconable_id": id_, "iconable_type": kind,
        "url": f"{at}/picture.png", "thumb_url": f"{at}/thumb_picture.png",
    }  # fmt: skip


def _icon(id_: int) -> dict[str, Any]:
    """Every third has no picture, as in accounts where people have begun to give them."""
    if id_ % 3:
        return picture("members", id_, "Member")
    return {"image": "", "iconable_id": id_, "iconable_type": "Member"}


def _whole(kind: Kind, id_: int, midnight: int) -> dict[str, Any]:
    record = dict(nested_member(kind, id_))
    created = midnight - (500 + id_ % 900) * DAY
    membership = dict(record["membership"])
    if kind == "Contact":
        membership |= {
            "title": _TITLES[id_ % len(_TITLES)],
            "department": _DEPARTMENTS[id_ // 3 % len(_DEPARTMENTS)],
        }
    phone = {"id": id_, "number": f"+44 20 7946 {id_ % 10_000:04d}", "type_id": 6001}
    return record | {
        "location_type_name": "Internal",
        "membership_id": membership["id"],
        "membership": membership,
        "primary_address": {**record["primary_address"], "address_type_name": "Primary"},
        "emails": [{**email, "email_type_name": "Work"} for email in record["emails"]],
        "phones": [{**phone, "phone_type_name": "Work"}] if id_ % 4 else [],
        "child_members": [_relation(id_, contact) for contact in _contacts(id_)]
        if kind == "Organisation"
        else [],
        "parent_members": [_relation(_customer_of(id_), id_)] if kind == "Contact" else [],
        "created_at": iso(created),
        "updated_at": iso(created + id_ * 7 % 480 * DAY + id_ % 24 * 3_600_000),
    }


def _relation(organisation: int, contact: int) -> dict[str, Any]:
    return {
        "id": contact, "relatable_id": organisation, "relatable_type": "Member",
        "relatable_name": _name("Organisation", organisation),
        "related_id": contact, "related_type": "Member", "related_name": _name("Contact", contact),
    }  # fmt: skip


def _contacts(customer: int) -> list[int]:
    """None, one or two of them."""
    first = _FIRST_CONTACT + (customer - CUSTOMERS.start) * 2
    return [first, first + 1][: customer % 3]


def _customer_of(contact: int) -> int:
    return CUSTOMERS.start + (contact - _FIRST_CONTACT) // 2


def _is_active(kind: str, id_: int) -> bool:
    """A few are not any more; customers and venues of live opportunities always are."""
    return kind != "Contact" or id_ % 29 != 0


def _name(kind: str, id_: int) -> str:
    place = _PLACES[id_ % len(_PLACES)]
    if kind in ("User", "Contact"):
        return f"{_FORENAMES[id_ % len(_FORENAMES)]} {place}"
    if kind == "Vehicle":
        return _VEHICLE_NAMES[id_ % len(_VEHICLE_NAMES)]
    words = _FIRMS if kind == "Organisation" else _SITES
    return f"{place} {words[id_ // len(_PLACES) % len(words)]}"
