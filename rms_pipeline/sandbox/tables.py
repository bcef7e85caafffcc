"""A collection that is small enough to be held whole: members, products, stores."""

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from rms_pipeline.sandbox.world.values import iso


class Table:
    """Records by id, made by `make` when they are first asked for. Thread-safe.

    `changed` holds those that were created or edited, `removed` the ids of those deleted. `now`
    is the account's clock (UTC). `tell` hears of each change: id, record, and the action.
    """

    def __init__(
        self,
        make: Callable[[], Iterable[dict[str, Any]]],
        now: Callable[[], datetime],
        tell: Callable[[int, Mapping[str, Any], str], None] = lambda *_: None,
    ) -> None:
        self._make, self._now, self._tell = make, now, tell
        self._lock = threading.RLock()
        self._made: dict[int, dict[str, Any]] | None = None
        self.changed: dict[int, dict[str, Any]] = {}
        self.removed: set[int] = set()
        self.version = 0

    def all(self) -> list[dict[str, Any]]:
        """By id."""
        with self._lock:
            records = self._records()
            return [records[id_] for id_ in sorted(records)]

    def get(self, id_: int) -> dict[str, Any] | None:
        with self._lock:
            return self._records().get(id_)

    def create(self, fields: dict[str, Any]) -> dict[str, Any]:
        """A record like the first one, as far as `fields` say nothing else."""
        with self._lock:
            records = self._records()
            moment = self._moment()
            base = next(iter(records.values()), {})
            id_ = max(records, default=0) + 1
            record = {**base, **fields, "id": id_, "created_at": moment, "updated_at": moment}
            self._keep(id_, record)
            self._tell(id_, record, "create")
        return record

    def edit(self, id_: int, fields: dict[str, Any]) -> dict[str, Any] | None:
        """The record with `fields`. Where they name no `updated_at` it has a new one, and `tell`
        hears of it."""
        with self._lock:
            record = self._records().get(id_)
            if record is None:
                return None
            record = {**record, "updated_at": self._moment(), **fields, "id": id_}
            self._keep(id_, record)
            if "updated_at" not in fields:
                self._tell(id_, record, "update")
        return record

    def delete(self, id_: int) -> bool:
        """False when there is none."""
        with self._lock:
            record = self._records().pop(id_, None)
            if record is None:
                return False
            self.changed.pop(id_, None)
            self.removed.add(id_)
            self.version += 1
            self._tell(id_, record, "destroy")
        return True

    def _records(self) -> dict[int, dict[str, Any]]:
        if self._made is None:
            self._made = {record["id"]: record for record in self._make()}
        return self._made

    def _keep(self, id_: int, record: dict[str, Any]) -> None:
        self._records()[id_] = self.changed[id_] = record
        self.version += 1

    def _moment(self) -> str | None:
        return iso(round(self._now().timestamp() * 1000))
