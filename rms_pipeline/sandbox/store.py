"""The account's opportunities while people work in it: created, edited, deleted. Thread-safe.

Changes raise events; planting (`put`) raises none.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from rms_pipeline.sandbox.events import Event, actions_of_edit
from rms_pipeline.sandbox.invoices import Invoices
from rms_pipeline.sandbox.records import Records
from rms_pipeline.sandbox.tables import Table
from rms_pipeline.sandbox.world.items import totals
from rms_pipeline.sandbox.world.members import members
from rms_pipeline.sandbox.world.opportunities import (
    STATE_NAMES,
    STATUS_NAMES,
    Row,
    generate_rows,
    render,
)
from rms_pipeline.sandbox.world.stock import products, stores
from rms_pipeline.sandbox.world.values import iso


class _Before(NamedTuple):
    """What stood in the place of `id` until the moment `at`, on the store's clock."""

    at: float
    id: int
    row: Row | None
    edited: dict[str, Any] | None
    raw: bytes | None


_ORDER = 3
_BARE_ITEM: dict[str, Any] = {
    "parent_opportunity_item_id": None, "opportunity_item_type": 1, "name": "", "item": None,
    "item_assets": [], "status": 0, "charge_total": "0.0", "rental_charge_total": "0.0",
    "sale_charge_total": "0.0", "service_charge_total": "0.0", "surcharge_total": "0.0",
    "tax_total": "0.0",
}  # fmt: skip


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
        made = {row.id: row for row in generate_rows(rows, seed, self.today)}

        def told_of(subject: str) -> Callable[[int, Mapping[str, Any], str], None]:
            return lambda id_, record, action: self._tell(id_, record, action, subject=subject)

        people = Table(lambda: members(self.today), self.now, told_of("member"))
        super().__init__(made, {}, {}, seed, people)
        self.invoices = Invoices(self, self.now, told_of("invoice"), self._lock)
        self.products = Table(lambda: products(self.today), self.now)
        self.stores = Table(lambda: stores(self.today), self.now)
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
                self._past = (key, Records(rows, edited, raw, self.seed, self.members))
            return self._past[1]

    def age(self, id_: int) -> float:
        """Seconds since the record was created, if that is known; otherwise infinite."""
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

    def _tell(
        self, id_: int, record: Mapping[str, Any], *actions: str, subject: str = "opportunity"
    ) -> None:
        with self._lock:
            for action in actions:
                event = Event(self._next_action, action, id_, record, self.now(), subject)
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
            self.invoices.follow({}, record)
        return id_

    def edit(self, id_: int, fields: dict[str, Any]) -> bool:
        """Changes fields of a record.

        Moves `updated_at` and raises events, unless `updated_at` is among the fields.
        """
        with self._lock:
            record = self.get(id_, ())
            if record is None:
                return False
            changed = {**record, "updated_at": self._moment(), **fields}
            if "status" in fields and "status_name" not in fields:
                changed["status_name"] = STATUS_NAMES.get(fields["status"], "Unknown")
            if "state" in fields and "state_name" not in fields:
                changed["state_name"] = STATE_NAMES.get(fields["state"], "Unknown")
            if fields.get("state") == _ORDER and not record.get("ordered_at"):
                changed["ordered_at"] = fields.get("ordered_at") or self._moment()
            self.put(id_, changed)
            if "updated_at" not in fields:
                self._tell(id_, changed, *actions_of_edit(record, changed))
                self.invoices.follow(record, changed)
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
            self._items.pop(id_, None)
            self._born.pop(id_, None)
            self._tell(id_, record, "destroy")
            self.invoices.follow(record, {})
        return True

    def create_item(self, id_: int, fields: dict[str, Any], *, loud: bool = True) -> int | None:
        """A new item, like the last one as far as `fields` say nothing else; returns its id.

        The totals of the opportunity follow its items. With `loud` its `updated_at` moves and an
        event is raised; some edits in Current RMS do neither. None when there is no such
        opportunity.
        """
        with self._lock:
            if self.get(id_, ()) is None:
                return None
            found = self.items(id_)
            moment = self._moment()
            base = next(iter(reversed(found)), _BARE_ITEM)
            item_id = max((item["id"] for item in found), default=id_ * 100) + 1
            item = {**base, "created_at": moment, "updated_at": moment, **fields}
            item |= {"id": item_id, "opportunity_id": id_}
            self._keep_items(id_, [*found, item], "create_item" if loud else None)
        return item_id

    def edit_item(
        self, id_: int, item_id: int, fields: dict[str, Any], *, loud: bool = True
    ) -> bool:
        """Changes fields of an item; else as `create_item`. False when there is none."""
        with self._lock:
            found = self.items(id_)
            if item_id not in {item["id"] for item in found}:
                return False
            changed = [
                {**item, "updated_at": self._moment(), **fields} if item["id"] == item_id else item
                for item in found
            ]
            self._keep_items(id_, changed, "update_item" if loud else None)
        return True

    def delete_item(self, id_: int, item_id: int, *, loud: bool = True) -> bool:
        """Removes an item and what is below it; else as `create_item`. False when there is none."""
        with self._lock:
            found = self.items(id_)
            gone = {item_id}
            for item in found:
                if item["parent_opportunity_item_id"] in gone:
                    gone.add(item["id"])
            left = [item for item in found if item["id"] not in gone]
            if len(left) == len(found):
                return False
            self._keep_items(id_, left, "destroy_item" if loud else None)
        return True

    def _keep_items(self, id_: int, found: list[dict[str, Any]], action: str | None) -> None:
        record = self.get(id_, ()) or {}
        changed = record | totals(found)
        if action is not None:
            changed["updated_at"] = self._moment()
        self.put(id_, changed)
        self._items[id_] = found
        if action is not None:
            self._tell(id_, changed, action)
            self.invoices.follow(record, changed)

    def _moment(self) -> str | None:
        return iso(round(self.now().timestamp() * 1000))


def _restore(records: dict[int, Any], id_: int, before: Any) -> None:
    if before is None:
        records.pop(id_, None)
    else:
        records[id_] = before
