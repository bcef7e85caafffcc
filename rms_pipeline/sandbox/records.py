"""Reading opportunities: as fields of a database, and as the JSON of a record."""

import functools
import threading
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from rms_pipeline.sandbox.tables import Table
from rms_pipeline.sandbox.world.items import items
from rms_pipeline.sandbox.world.members import (
    nested_member,
    participants,
    with_signed_picture,
)
from rms_pipeline.sandbox.world.opportunities import (
    Row,
    invoiced,
    number_of,
    ordered_at,
    render,
    store_id,
)
from rms_pipeline.sandbox.world.values import iso

T = TypeVar("T")

# Associations that are members of their own, and the field that says which.
NESTED = {"member": ("Organisation", "member_id"), "venue": ("Venue", "venue_id"),
          "owner": ("User", "owned_by")}  # fmt: skip
PLAIN = ("destination", "billing_address", "opportunity_surcharges")
# What a list gives when it is asked for.
LISTED = (*NESTED, *PLAIN)
# What only the single record gives.
SINGLE_ONLY = ("participants", "opportunity_items", "item_assets", "return_item_assets")
ASSOCIATIONS = frozenset({*LISTED, *SINGLE_ONLY})

_TIMES: dict[str, Callable[[Row], int | None]] = {
    "starts_at": attrgetter("starts_at"),
    "ends_at": attrgetter("ends_at"),
    "charge_starts_at": attrgetter("starts_at"),
    "charge_ends_at": attrgetter("ends_at"),
    "created_at": attrgetter("created_at"),
    "updated_at": attrgetter("updated_at"),
    "ordered_at": ordered_at,
}
_OTHERS: dict[str, Callable[[Row], Any]] = {
    "invoiced": invoiced,
    "store_id": store_id,
    "number": number_of,
}


@functools.lru_cache(maxsize=4_096)
def _rendered(row: Row, seed: int) -> bytes:
    """A record as JSON: to read that takes a tenth of what it takes to make the record."""
    return msgspec.json.encode(render(row, seed))


class Records:
    """Opportunities to be read: those of now in a `Store`, those of a while ago in its past.

    `members` are those that are nested in them.
    """

    def __init__(
        self,
        rows: dict[int, Row],
        edited: dict[int, dict[str, Any]],
        raw: dict[int, bytes],
        seed: int,
        members: Table,
    ) -> None:
        self.seed = seed
        self.version = 0
        self.members = members
        self._lock = threading.RLock()
        self._rows, self._edited, self._raw = rows, edited, raw
        self._items: dict[int, list[dict[str, Any]]] = {}
        self._lists: dict[object, tuple[int, list[Any]]] = {}

    def ids(self) -> list[int]:
        """All ids, ascending."""
        with self._lock:
            return sorted({*self._rows, *self._edited})

    def get(self, id_: int, include: Sequence[str] = LISTED) -> dict[str, Any] | None:
        """One record, None when there is none.

        Destination, billing address and surcharges are always in it; of the other associations
        those of `include`.
        """
        with self._lock:
            edited = self._edited.get(id_)
            row = self._rows.get(id_)
        if edited is not None:
            record = dict(edited)
        elif row is not None:
            record = msgspec.json.decode(_rendered(row, self.seed))
        else:
            return None
        for name in include:
            if name in NESTED and name not in record:
                kind, key = NESTED[name]
                if isinstance(record.get(key), int):
                    record[name] = self._member(kind, record[key])
        if "participants" in include:
            record.setdefault("participants", participants(id_, record))
        if not {*include}.isdisjoint(("opportunity_items", "item_assets")):
            self._add_items(record, include)
        if "return_item_assets" in include:
            record.setdefault("return_item_assets", [])
        return record

    def items(self, id_: int) -> list[dict[str, Any]]:
        """The items of an opportunity, with their products and assets; none when it is gone."""
        with self._lock:
            changed = self._items.get(id_)
        if changed is not None:
            return [dict(item) for item in changed]
        record = self.get(id_, ())
        return [] if record is None else items(record, self.seed)

    def body(self, id_: int, include: Sequence[str], *, signed: bool = False) -> bytes | None:
        """One record as JSON, with the associations of `include` and no others.

        `signed`: links to pictures are made anew.
        """
        if id_ in self._raw:
            return self._raw[id_]
        record = self.get(id_, include)
        if record is None:
            return None
        for name in ASSOCIATIONS.difference(include):
            record.pop(name, None)
        if signed:
            for name in NESTED:
                if isinstance(record.get(name), dict):
                    record[name] = with_signed_picture(record[name])
        return msgspec.json.encode(record)

    def value(self, id_: int, field: str) -> Any:
        """A field as the database behind the API holds it: an empty date or text is null.

        `field` may be one of a nested member, as in `member_name`.
        """
        edited = self._edited.get(id_)
        row = None if edited is not None else self._rows.get(id_)
        if row is not None:
            if field in _TIMES:
                return iso(_TIMES[field](row))
            if field in Row._fields:
                return getattr(row, field)
            if field in _OTHERS:
                return _OTHERS[field](row)
        association, _, tail = field.partition("_")
        if association in NESTED and field != "member_id" and field != "venue_id":
            kind, key = NESTED[association]
            which = self.value(id_, key)
            found = self._member(kind, which) if isinstance(which, int) else None
            return None if found is None else found.get(tail)
        record = edited if edited is not None else self.get(id_, ())
        found = None if record is None else record.get(field)
        return None if found == "" else found

    def moment(self, id_: int, field: str) -> int | Any:
        """A time as microseconds since 1970 (UTC) where it is at hand, else as `value` gives it."""
        row = None if id_ in self._edited else self._rows.get(id_)
        time = _TIMES.get(field)
        if row is None or time is None:
            return self.value(id_, field)
        found = time(row)
        return None if found is None else found * 1_000

    def select(self, key: object, matches: Callable[[int], bool]) -> list[int]:
        """Ids for which `matches`, ascending; remembered under `key` until something changes."""
        return self.remembered(key, lambda: [id_ for id_ in self.ids() if matches(id_)])

    def remembered(self, key: object, make: Callable[[], list[T]]) -> list[T]:
        """What `make` makes; made once for each `key` until something changes."""
        with self._lock:
            version = self.version + self.members.version
            known = self._lists.get(key)
            if known is None or known[0] != version:
                if len(self._lists) > 50:
                    self._lists.clear()
                known = self._lists[key] = (version, make())
            return known[1]

    def _member(self, kind: str, id_: int) -> dict[str, Any] | None:
        """As it is now; lists that lag show its new name too."""
        found = nested_member(kind, id_)
        if id_ in self.members.removed:
            return None
        changed = self.members.changed.get(id_)
        return found if changed is None else {name: changed.get(name) for name in found}

    def _add_items(self, record: dict[str, Any], include: Sequence[str]) -> None:
        found = self.items(record["id"])
        assets = [asset for item in found for asset in item["item_assets"]]
        if "item_assets" in include:
            record.setdefault("item_assets", assets)
        else:
            for item in found:
                del item["item_assets"]
        if "opportunity_items" in include:
            record.setdefault("opportunity_items", found)
