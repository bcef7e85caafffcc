"""Which opportunities a list holds, and in which order."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from rms_pipeline.sandbox.api.filters import (
    Condition,
    Fields,
    Filters,
    Kind,
    Query,
    between,
    comparable,
    in_order,
    parse,
    shuffled,
    unknown,
)
from rms_pipeline.sandbox.records import Records
from rms_pipeline.sandbox.switches import Switches

_OF_MEMBERS: dict[str, Kind] = {
    "name": "text",
    "description": "text",
    "membership_type": "text",
    "uuid": "text",
    "active": "flag",
}
_KINDS: dict[Kind, tuple[str, ...]] = {
    "number": (
        "id", "store_id", "project_id", "member_id", "billing_address_id", "venue_id",
        "tax_class_id", "state", "status", "owned_by", "rating", "source_opportunity_id",
        "charge_total", "charge_excluding_tax_total", "charge_including_tax_total",
        "rental_charge_total", "sale_charge_total", "service_charge_total", "surcharge_total",
        "tax_total", "provisional_cost_total", "predicted_cost_total", "actual_cost_total",
        "replacement_charge_total", "weight_total", "revenue", "chargeable_days",
    ),
    "time": (
        "starts_at", "ends_at", "charge_starts_at", "charge_ends_at", "ordered_at",
        "quote_invalid_at", "created_at", "updated_at",
    ),
    "flag": (
        "invoiced", "open_ended_rental", "customer_collecting", "customer_returning",
        "item_returned", "use_chargeable_days", "prices_include_tax", "pricing_locked",
        "has_deal_price", "has_opportunity_deal",
    ),
    "text": (
        "subject", "description", "number", "reference", "external_description",
        "delivery_instructions", "collection_instructions",
    ),
}  # fmt: skip
# Schedule times, names of states and custom fields are none of them.
FIELDS: Fields = {
    **{field: kind for kind, fields in _KINDS.items() for field in fields},
    **{
        f"{association}_{field}": kind
        for association in ("member", "venue", "owner")
        for field, kind in _OF_MEMBERS.items()
    },
}

_CLOSED = frozenset({40, 50, 60, 70})
_STATES = {"enquiries": 0, "drafts": 1, "quotations": 2, "orders": 3}
_ORDER, _RESERVED, _CANCELLED = 3, 5, 50
_PREPARED_AHEAD = timedelta(days=7)


def select(records: Records, query: Query, now: datetime, switches: Switches) -> list[int]:
    """Ids of the list that `query` asks for, in its order. Raises Refusal."""
    filters = parse(query, FIELDS, switches)
    conditions, lower, upper = [], None, None
    for condition in filters.conditions:
        ranges = condition.fields == ("id",) and condition.predicate in ("gt", "lt")
        if ranges:
            if switches.honours_id_predicates and condition.predicate == "gt":
                lower = max(condition.wanted, lower or condition.wanted)
            elif switches.honours_id_predicates:
                upper = min(condition.wanted, upper or condition.wanted)
        elif (condition.fields == ("created_at",) and not switches.honours_created_at) or (
            condition.fields == ("id",)
            and condition.predicate == "in"
            and not switches.honours_id_in
        ):
            continue
        else:
            conditions.append(condition)
    kept = Filters(tuple(conditions), filters.sorts, filters.modes)
    modes = _modes(filters.modes, switches)
    key = (modes, kept.conditions, now.date() if "needing_prep" in modes else None)
    soon = round((now + _PREPARED_AHEAD - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 10**6

    def value(id_: int, field: str) -> Any:
        kind = FIELDS[field]
        found = records.moment(id_, field) if kind == "time" else records.value(id_, field)
        return comparable(found, kind)

    # Tens of thousands of rows are asked for each page while an account changes: no more is
    # called for a row than has to be.
    checks = [_check(records, value, condition) for condition in conditions]
    if modes != {"all"}:
        checks.insert(0, lambda id_: _in_modes(modes, partial(value, id_), soon))

    def matches(id_: int) -> bool:
        return all(check(id_) for check in checks)

    found = between(records.select(key, matches), lower, upper)
    return in_order(found, kept, value) if switches.honours_sort else shuffled(found)


def _check(
    records: Records, value: Callable[[int, str], Any], condition: Condition
) -> Callable[[int], bool]:
    """Whether `condition` holds for an id."""
    field = condition.fields[0]
    compare = condition.comparison
    if len(condition.fields) > 1 or FIELDS[field] != "time" or compare is None:
        return lambda id_: condition.holds(partial(value, id_))
    moment, wanted = records.moment, condition.wanted

    def check(id_: int) -> bool:
        found = moment(id_, field)
        if not isinstance(found, int):
            found = comparable(found, "time")
        return found is not None and compare(found, wanted)

    return check


def _modes(asked: tuple[str, ...], switches: Switches) -> frozenset[str]:
    """What is known of `asked`; what is absent when nothing is. Raises Refusal."""
    known = {"live", "all", "active", "inactive", "not_cancelled", "invoiced", "not_invoiced",
             "needing_prep", *_STATES}  # fmt: skip
    for mode in asked:
        if mode not in known:
            unknown(f"filtermode {mode}", switches)
    return frozenset(known.intersection(asked) or {switches.filtermode_default})


def _in_modes(modes: frozenset[str], value: Callable[[str], Any], soon: int) -> bool:
    """Several modes narrow one another, but for several states, of which each is let in."""
    status = value("status")
    if len(modes) == 1 and modes <= {"live", "active"}:
        return status not in _CLOSED
    state = value("state")
    if not modes & {"all", "inactive", "not_cancelled", "invoiced"} and status in _CLOSED:
        return False
    if "inactive" in modes and status not in _CLOSED:
        return False
    if "not_cancelled" in modes and status == _CANCELLED:
        return False
    states = {_STATES[mode] for mode in modes if mode in _STATES}
    if states and state not in states:
        return False
    if "invoiced" in modes and value("invoiced") is not True:
        return False
    if "not_invoiced" in modes and (value("invoiced") is True or state != _ORDER):
        return False
    if "needing_prep" in modes:
        starts = value("starts_at")
        return bool(
            state == _ORDER and status == _RESERVED and starts is not None and starts <= soon
        )
    return True
