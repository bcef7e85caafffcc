"""The sandbox's opportunities: generated, created, edited, deleted, filtered. Thread-safe.

Changes raise events; planting (`put`) raises none.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from rms_pipeline.sandbox.data import (
    STATE_NAMES,
    STATUS_NAMES,
    Row,
    generate_rows,
    iso,
    member,
    participants,
    render,
    with_signed_picture,
)
from rms_pipeline.sandbox.events import Event, actions_of_edit

# Associations that are members of their own, and the field that says which.
NESTED = {"member": ("Organisation", "member_id"), "venue": ("Venue", "venue_id"),
          "owner": ("User", "owned_by")}  # fmt: skip
PLAIN = ("destination", "billing_address", "opportunity_surcharges")
# What a list gives when it is asked for.
LISTED = (*NESTED, *PLAIN)
# What only the single record gives.
SINGLE_ONLY = ("participants",)
ASSOCIATIONS = frozenset({*LISTED, *SINGLE_ONLY})

_TIMES = frozenset(field for field in Row._fields if field.endswith("_at"))


class _Before(NamedTuple):
    """What stood in the place of `id` until the moment `at`, on the store's clock."""

    at: float
    id: int
    row: Row | None
    edited: dict[str, Any] | None
    raw: bytes | None


class Records:
    """Opportunities to be read: those of now in a `Store`, those of a while ago in its past."""

    def __init__(
        self,
        rows: dict[int, Row],
        edited: dict[int, dict[str, Any]],
        raw: dict[int, bytes],
        seed: int,
    ) -> None:
        self.seed = seed
        self.version = 0
        self._lock = threading.RLock()
        self._rows, self._edited, self._raw = rows, edited, raw
        self._lists: dict[object, tuple[int, list[int]]] = {}

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
            record = render(row, self.seed)
        else:
            return None
        for name in include:
            if name in record:
                continue
            if name == "participants":
                record[name] = participants(id_, record)
            elif name in NESTED:
                kind, key = NESTED[name]
                if isinstance(record.get(key), int):
                    record[name] = member(kind, record[key])
        return record

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


class Store(Records):
    """`rows` opportunities made from `seed`, relative to `today` (default: today, UTC).

    `ahead` is how wrong the account's clock is. `clock` tells seconds that only grow: by it the
    past is as far behind as it is asked to be.
    """

    def __init__(
        self,
        rows: int = 0,
        seed: int = 1,
        today: datetime | None = None,
        ahead: timedelta = timedelta(0),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        now = today or datetime.now(UTC)
        self.today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        self.ahead = ahead
        super().__init__(
            {row.id: row for row in generate_rows(rows, seed, self.today)}, {}, {}, seed
        )
        self._clock = clock
        self._next_id = max(self._rows, default=1_000) + 1
        self._listeners: tuple[Callable[[Event], None], ...] = ()
        # Greater than any of a store before this one: mirrors remember the ids of actions.
        self._next_action = time.time_ns() // 1_000
        self._history: deque[_Before] = deque()
        self._memory = 0.0
        self._born: dict[int, float] = {}
        self._past: tuple[object, Records] | None = None

    def remember(self, seconds: float) -> None:
        """From now on `ago` and `age` know of changes for so long; a change costs memory then."""
        with self._lock:
            self._memory = seconds
            if not seconds:
                self._history.clear()

    def ago(self, seconds: float) -> Records:
        """The records as they were then; those of now where nothing has changed since."""
        with self._lock:
            then = self._clock() - seconds
            hidden = [change for change in self._history if change.at > then]
            if not hidden:
                return self
            key = (self.version, len(hidden))
            if self._past is None or self._past[0] != key:
                rows, edited, raw = dict(self._rows), dict(self._edited), dict(self._raw)
                for change in reversed(hidden):
                    _restore(rows, change.id, change.row)
                    _restore(edited, change.id, change.edited)
                    _restore(raw, change.id, change.raw)
                self._past = (key, Records(rows, edited, raw, self.seed))
            return self._past[1]

    def age(self, id_: int) -> float:
        """Seconds since the record came to be, as far as that is remembered; else infinite."""
        with self._lock:
            born = self._born.get(id_)
        return float("inf") if born is None else self._clock() - born

    def _changing(self, id_: int) -> None:
        """To be called before each change, with the lock held."""
        self.version += 1
        if not self._memory:
            return
        now = self._clock()
        while self._history and self._history[0].at < now - self._memory:
            self._history.popleft()
        before = _Before(now, id_, self._rows.get(id_), self._edited.get(id_), self._raw.get(id_))
        self._history.append(before)
        if before.row is None and before.edited is None:
            self._born[id_] = now

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
            self._changing(id_)
            self._edited[id_] = record
            self._next_id = max(self._next_id, id_ + 1)

    def put_raw(self, id_: int, body: bytes, **index_fields: Any) -> None:
        """Serves `body` as the record `id_`; lists are filtered by `index_fields`."""
        with self._lock:
            self.put(id_, {"id": id_, "starts_at": None, "ends_at": None, **index_fields})
            self._raw[id_] = body

    def delete(self, id_: int) -> bool:
        """Removes a record; False when there was none."""
        with self._lock:
            record = self.get(id_, ())
            if record is None:
                return False
            self._changing(id_)
            self._rows.pop(id_, None)
            self._edited.pop(id_, None)
            self._raw.pop(id_, None)
            self._born.pop(id_, None)
            self._tell(id_, record, "destroy")
        return True


def _restore(records: dict[int, Any], id_: int, before: Any) -> None:
    if before is None:
        records.pop(id_, None)
    else:
        records[id_] = before
