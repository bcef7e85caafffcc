"""Invoices while people work: they follow from opportunities, and are edited by themselves, too."""

import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from rms_pipeline.sandbox.world.invoices import INVOICES_AN_OPPORTUNITY, invoices
from rms_pipeline.sandbox.world.values import iso

Tell = Callable[[int, Mapping[str, Any], str], None]
# Those that are no opportunity's begin here.
_FIRST_CREATED = 1_000_000_000


class Opportunities(Protocol):
    """What invoices follow from."""

    def ids(self) -> list[int]: ...

    def value(self, id_: int, field: str) -> Any: ...

    def get(self, id_: int, include: tuple[str, ...]) -> dict[str, Any] | None: ...


class Invoices:
    """All invoices by id. `tell` hears of what is done to them: id, record, and the action.

    `now` is the account's clock (UTC). `lock` is that of the opportunities: each of the two asks
    the other.
    """

    def __init__(
        self,
        opportunities: Opportunities,
        now: Callable[[], datetime],
        tell: Tell,
        lock: "threading.RLock",
    ) -> None:
        self._opportunities, self._now, self._tell = opportunities, now, tell
        self._lock = lock
        self._changed: dict[int, dict[str, Any]] = {}
        self._removed: set[int] = set()
        self._next = _FIRST_CREATED
        self.version = 0

    def all(self) -> list[dict[str, Any]]:
        """By id."""
        opportunities = self._opportunities
        with self._lock:
            invoiced = (i for i in opportunities.ids() if opportunities.value(i, "invoiced"))
            found = [i for id_ in invoiced for i in self._of(opportunities.get(id_, ()) or {})]
            created = (i for i in sorted(self._changed) if i >= _FIRST_CREATED)
            return found + [self._changed[i] for i in created]

    def get(self, id_: int) -> dict[str, Any] | None:
        if id_ >= _FIRST_CREATED:
            with self._lock:
                return self._changed.get(id_)
        record = self._opportunities.get(id_ // INVOICES_AN_OPPORTUNITY, ()) or {}
        return next((made for made in self._of(record) if made["id"] == id_), None)

    def create(self, fields: dict[str, Any]) -> dict[str, Any]:
        """One that is no opportunity's, like the first there is as far as `fields` say nothing."""
        with self._lock:
            base = next(iter(self.all()), {})
            moment = self._moment()
            times = {"created_at": moment, "updated_at": moment}
            record = {**base, **times, "invoice_items": [], **fields, "id": self._next}
            self._next += 1
            self._keep(record, "create")
        return record

    def edit(self, id_: int, fields: dict[str, Any]) -> dict[str, Any] | None:
        """It with `fields`; None when there is none. Where they name no `updated_at` it has a new
        one, and `tell` hears of it."""
        with self._lock:
            record = self.get(id_)
            if record is None:
                return None
            record = {**record, "updated_at": self._moment(), **fields, "id": id_}
            self._keep(record, None if "updated_at" in fields else "update")
        return record

    def delete(self, id_: int) -> bool:
        """False when there is none."""
        with self._lock:
            record = self.get(id_)
            if record is None:
                return False
            self._changed.pop(id_, None)
            self._removed.add(id_)
            self.version += 1
            self._tell(id_, record, "destroy")
        return True

    def follow(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Tells what becomes of those of an opportunity that was `before` and is `after`; {} is
        none."""
        older = {made["id"]: made for made in self._of(before)}
        newer = {made["id"]: made for made in self._of(after)}
        for id_ in sorted(older.keys() | newer.keys()):
            if id_ not in older:
                self._tell(id_, newer[id_], "create")
            elif id_ not in newer:
                self._tell(id_, older[id_], "destroy")
            elif older[id_] != newer[id_]:
                self._tell(id_, newer[id_], "update")

    def _of(self, opportunity: Mapping[str, Any]) -> list[dict[str, Any]]:
        now = round(self._now().timestamp() * 1000)
        with self._lock:
            return [
                self._changed.get(made["id"], made)
                for made in invoices(opportunity, now)
                if made["id"] not in self._removed
            ]

    def _keep(self, record: dict[str, Any], action: str | None) -> None:
        self._changed[record["id"]] = record
        self.version += 1
        if action is not None:
            self._tell(record["id"], record, action)

    def _moment(self) -> str | None:
        return iso(round(self._now().timestamp() * 1000))
