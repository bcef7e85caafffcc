"""An account that lives: opportunities created, edited, moved and deleted while others read."""

import random
import threading
from datetime import timedelta
from typing import Any, Literal

from rms_pipeline.sandbox.store import Store
from rms_pipeline.sandbox.world.opportunities import STATUS_NAMES
from rms_pipeline.sandbox.world.values import iso

Change = Literal["create", "edit", "move", "silent_edit", "delete"]
CHANGES: tuple[Change, ...] = ("create", "edit", "move", "silent_edit", "delete")
_WEIGHTS = (2, 6, 2, 1, 1)


class Churn:
    """Changes `store` one step at a time, the same way for the same `seed`.

    `changes` says which kinds may happen. A silent edit leaves `updated_at` as it was, as some
    edits in Current RMS do.
    """

    def __init__(
        self, store: Store, *, seed: int = 1, changes: tuple[Change, ...] = CHANGES
    ) -> None:
        self._store = store
        self._random = random.Random(seed)
        self._changes = changes
        self._weights = [_WEIGHTS[CHANGES.index(c)] for c in changes]
        self._lock = threading.Lock()

    def step(self, _: object = None) -> tuple[Change, int]:
        """Makes one change; which, and to which opportunity."""
        with self._lock:
            change = self._random.choices(self._changes, self._weights)[0]
            ids = self._store.ids()
            if change == "create" or not ids:
                return "create", self._store.create({"subject": "Walk-in enquiry", **self._dates()})
            id_ = self._random.choice(ids)
            if change == "delete":
                self._store.delete(id_)
            elif change == "move":
                self._store.edit(id_, self._dates())
            elif change == "edit":
                status = self._random.choice(list(STATUS_NAMES))
                self._store.edit(id_, {"status": status})
            else:
                record = self._store.get(id_, ()) or {}
                fields = {"reference": f"R{self._random.randrange(10_000)}"}
                self._store.edit(id_, {**fields, "updated_at": record.get("updated_at")})
        return change, id_

    def _dates(self) -> dict[str, Any]:
        """Inside the usual window, outside it, or none at all."""
        if self._random.random() < 0.15:
            return {"starts_at": None, "ends_at": None}
        start = self._store.today + timedelta(days=self._random.randint(-200, 600))
        end = start + timedelta(days=self._random.randint(0, 20))
        return {
            "starts_at": iso(round(start.timestamp() * 1000)),
            "ends_at": iso(round(end.timestamp() * 1000)),
        }

    def run(self, per_minute: float, stopped: threading.Event) -> None:
        """Makes `per_minute` changes a minute until `stopped`, in this thread."""
        while not stopped.wait(60 / per_minute):
            self.step()
