"""The sandbox's opportunities: generated, created, edited, deleted, filtered. Thread-safe.

Changes raise events; planting (`put`) raises none.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from rms_pipeline.sandbox.data import (
    STATE_NAMES,
    STATUS_NAMES,
    Row,
    generate_rows,
    iso,
    member,
    render,
)
from rms_pipeline.sandbox.events import Event, actions_of_edit

NESTED = {"member": ("Organisation", "member_id"), "venue": ("Venue", "venue_id"),
          "owner": ("User", "owned_by")}  # fmt: skip

_TIMES = frozenset(field for field in Row._fields if field.endswith("_at"))


class Store:
    """`rows` opportunities made from `seed`, relative to `today` (default: today, UTC).

    `ahead` is how wrong the account's clock is.
    """

    def __init__(
        self,
        rows: int = 0,
        seed: int = 1,
        today: datetime | None = None,
        ahead: timedelta = timedelta(0),
    ) -> None:
        now = today or datetime.now(UTC)
        self.today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        self.seed = seed
        self.ahead = ahead
        self.version = 0
        self._lock = threading.RLock()
        self._rows = {row.id: row for row in generate_rows(rows, seed, self.today)}
        self._edited: dict[int, dict[str, Any]] = {}
        self._raw: dict[int, bytes] = {}
        self._next_id = max(self._rows, default=1_000) + 1
        self._lists: dict[object, tuple[int, list[int]]] = {}
        self._listeners: tuple[Callable[[Event], None], ...] = ()
        # Greater than any of a store before this one: mirrors remember the ids of actions.
        self._next_action = time.time_ns() // 1_000

    def now(self) -> datetime:
        """The account's clock, UTC."""
        return datetime.now(UTC) + self.ahead

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Calls `listener`, which must not block, with every event. Returns what ends this."""

        def end() -> None:
            with self._lock:
                self._listeners = tuple(known for known in self._listeners if known is not listener)

        with self._lock:
            self._listeners = (*self._listeners, listener)
        return end

    def _tell(self, id_: int, record: Mapping[str, Any], *actions: str) -> None:
        for action in actions:
            event = Event(self._next_action, action, id_, record, self.now())
            self._next_action += 1
            for listener in self._listeners:
                listener(event)

    def ids(self) -> list[int]:
        """All ids, ascending."""
        with self._lock:
            return sorted({*self._rows, *self._edited})

    def get(self, id_: int, include: Sequence[str] = tuple(NESTED)) -> dict[str, Any] | None:
        """One record with the nested objects of `include`, None when there is none."""
        with self._lock:
            edited = self._edited.get(id_)
            row = self._rows.get(id_)
        if edited is not None:
            record = dict(edited)
        elif row is not None:
            record = render(row, self.seed)
        else:
            return None
        for name in include:
            kind, key = NESTED[name]
            if name not in record and isinstance(record.get(key), int):
                record[name] = member(kind, record[key])
        return record

    def body(self, id_: int, include: Sequence[str]) -> bytes | None:
        """One record as JSON."""
        if id_ in self._raw:
            return self._raw[id_]
        record = self.get(id_, include)
        return None if record is None else msgspec.json.encode(record)

    def truth(self) -> Iterator[dict[str, Any]]:
        """Every record as a list with everything asked for would serve it."""
        for id_ in self.ids():
            record = self.get(id_)
            if record is not None:
                yield record

    def create(self, fields: dict[str, Any]) -> int:
        """A new opportunity with the next id; returns the id."""
        with self._lock:
            id_ = self._next_id
            now = round(self.now().timestamp() * 1000)
            base: dict[str, Any] = render(
                Row(id_, None, None, now, now, 0, 0, 100, 1_000, 10), self.seed
            )
            record = {**base, "created_at": iso(now), "updated_at": iso(now), **fields}
            self.put(id_, record)
            self._tell(id_, record, "create")
        return id_

    def edit(self, id_: int, fields: dict[str, Any]) -> bool:
        """Changes fields of a record.

        Moves `updated_at` and raises events, unless `updated_at` is among the fields.
        """
        with self._lock:
            record = self.get(id_, ())
            if record is None:
                return False
            changed = {**record, "updated_at": iso(round(self.now().timestamp() * 1000)), **fields}
            if "status" in fields and "status_name" not in fields:
                changed["status_name"] = STATUS_NAMES.get(fields["status"], "Unknown")
            if "state" in fields and "state_name" not in fields:
                changed["state_name"] = STATE_NAMES.get(fields["state"], "Unknown")
            self.put(id_, changed)
            if "updated_at" not in fields:
                self._tell(id_, changed, *actions_of_edit(record, changed))
        return True

    def put(self, id_: int, record: dict[str, Any]) -> None:
        """Plants a record exactly as it is given."""
        with self._lock:
            self._edited[id_] = record
            self._next_id = max(self._next_id, id_ + 1)
            self.version += 1

    def put_raw(self, id_: int, body: bytes, **index_fields: Any) -> None:
        """Serves `body` as the record `id_`; lists are filtered by `index_fields`."""
        with self._lock:
            self._raw[id_] = body
            self.put(id_, {"id": id_, "starts_at": None, "ends_at": None, **index_fields})

    def delete(self, id_: int) -> bool:
        """Removes a record; False when there was none."""
        with self._lock:
            record = self.get(id_, ())
            if record is None:
                return False
            self._rows.pop(id_, None)
            self._edited.pop(id_, None)
            self._raw.pop(id_, None)
            self.version += 1
            self._tell(id_, record, "destroy")
        return True

    def value(self, id_: int, field: str) -> Any:
        """A field as the database behind the API holds it: an empty date or text is null."""
        row = None if id_ in self._edited else self._rows.get(id_)
        if row is not None and field in Row._fields:
            found = getattr(row, field)
            return iso(found) if field.endswith("_at") else found
        record = self.get(id_, ())
        found = None if record is None else record.get(field)
        return None if found == "" else found

    def moment(self, id_: int, field: str) -> int | Any:
        """A time as microseconds since 1970 (UTC) where it is at hand, else as `value` gives it."""
        row = None if id_ in self._edited else self._rows.get(id_)
        if row is None or field not in _TIMES:
            return self.value(id_, field)
        found = getattr(row, field)
        return None if found is None else found * 1_000

    def select(self, key: object, matches: Callable[[int], bool]) -> list[int]:
        """Ids for which `matches`, ascending; remembered under `key` until something changes."""
        with self._lock:
            known = self._lists.get(key)
            if known is not None and known[0] == self.version:
                return known[1]
            version = self.version
            found = [id_ for id_ in self.ids() if matches(id_)]
            if len(self._lists) > 50:
                self._lists.clear()
            self._lists[key] = (version, found)
            return found
