"""The filters of a list: Ransack predicates in `q[...]`, as far as clients use them."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from rms_pipeline.sandbox.answers import Refusal
from rms_pipeline.sandbox.store import Records
from rms_pipeline.sandbox.switches import Switches

_FIELDS = frozenset(
    {"id", "store_id", "project_id", "member_id", "venue_id", "subject", "description", "number"}
    | {"starts_at", "ends_at", "charge_starts_at", "charge_ends_at", "ordered_at", "created_at"}
    | {"updated_at", "state", "status", "owned_by", "reference", "invoiced", "charge_total"}
)
_KEY = re.compile(
    r"q\[(?P<field>\w+?)_(?P<predicate>not_eq|not_null|null|gteq|lteq|gt|lt|eq|cont|in)\](?P<many>\[\])?"
)
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_NOT_LIVE = frozenset({40, 50, 60, 70})
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: bool(a == b),
    "not_eq": lambda a, b: bool(a != b),
    "gt": lambda a, b: bool(a > b),
    "gteq": lambda a, b: bool(a >= b),
    "lt": lambda a, b: bool(a < b),
    "lteq": lambda a, b: bool(a <= b),
    "cont": lambda a, b: str(b).lower() in str(a).lower(),
}


def select(store: Records, query: list[tuple[str, str]], switches: Switches) -> list[int]:
    """Ids of the list that `query` asks for, in its order. Raises Refusal."""
    conditions: list[tuple[str, str, Any]] = []
    many: dict[tuple[str, str], set[Any]] = {}
    lower = upper = None
    sort, mode = "id asc", switches.filtermode_default
    for key, value in query:
        if key.startswith(switches.refused):
            raise Refusal(f"{key} is not known")
        if key == "filtermode":
            if value not in ("live", "all"):
                raise Refusal(f"filtermode {value} is not known")
            if switches.honours_filtermode:
                mode = "all" if value == "all" else "live"
        elif key == "q[s]":
            sort = value
        elif key.startswith("q["):
            match = _KEY.fullmatch(key)
            if match is None or match["field"] not in _FIELDS:
                if switches.unknown_predicate == "ignored":
                    continue
                raise Refusal(f"{key} is not known", int(switches.unknown_predicate))
            field, predicate = match["field"], match["predicate"]
            if predicate in ("null", "not_null"):
                if switches.null_predicates == "422":
                    raise Refusal(f"{key} is not known")
                if switches.null_predicates == "honoured":
                    conditions.append((field, predicate, value in ("1", "true", "t")))
            elif field == "id" and predicate in ("gt", "lt"):
                if switches.honours_id_predicates:
                    number = _parse("id", value)
                    lower = number if predicate == "gt" else lower
                    upper = number if predicate == "lt" else upper
            elif (field == "created_at" and not switches.honours_created_at) or (
                field == "id" and predicate == "in" and not switches.honours_id_in
            ):
                continue
            elif match["many"]:
                many.setdefault((field, predicate), set()).add(_parse(field, value))
            else:
                conditions.append((field, predicate, _parse(field, value)))
    for (field, _), values in many.items():
        conditions.append((field, "in", frozenset(values)))
    found = store.select(
        (mode, tuple(conditions)), lambda id_: _matches(store, id_, mode, conditions)
    )
    if lower is not None or upper is not None:
        found = _between(found, lower, upper)
    return _sorted(store, found, sort, switches)


def _matches(store: Records, id_: int, mode: str, conditions: list[tuple[str, str, Any]]) -> bool:
    if mode == "live" and store.value(id_, "status") in _NOT_LIVE:
        return False
    for field, predicate, wanted in conditions:
        if field.endswith("_at"):
            value = store.moment(id_, field)
            if isinstance(value, str):
                value = _parse(field, value)
        else:
            value = store.value(id_, field)
        if predicate in ("null", "not_null"):
            if (value is None) != ((predicate == "null") == wanted):
                return False
        elif value is None:
            return False
        elif predicate == "in":
            if value not in wanted:
                return False
        elif not _COMPARE[predicate](value, wanted):
            return False
    return True


def _between(ids: list[int], lower: int | None, upper: int | None) -> list[int]:
    start = 0 if lower is None else bisect_right(ids, lower)
    end = len(ids) if upper is None else bisect_left(ids, upper)
    return ids[start:end]


def _sorted(store: Records, ids: list[int], sort: str, switches: Switches) -> list[int]:
    if not switches.honours_sort:
        return sorted(ids, key=lambda id_: (id_ * 2_654_435_761) % 4_294_967_296)
    field, _, direction = sort.partition(" ")
    if field not in _FIELDS or direction not in ("", "asc", "desc"):
        raise Refusal(f"cannot sort by {sort}")
    if field == "id":
        return ids if direction != "desc" else ids[::-1]

    def place(id_: int) -> tuple[bool, Any, int]:
        value = store.value(id_, field)
        return (value is None, 0 if value is None else value, id_)

    return sorted(ids, key=place, reverse=direction == "desc")


def _parse(field: str, value: str) -> Any:
    try:
        if field.endswith("_at"):
            moment = datetime.fromisoformat(value)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
            return (moment - _EPOCH) // _MICROSECOND
        if field == "id" or field.endswith("_id") or field in ("state", "status", "owned_by"):
            return int(value)
    except ValueError:
        raise Refusal(f"{value} is not a value for {field}") from None
    return value
