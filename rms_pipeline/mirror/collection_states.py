"""The state of each collection that this mirror keeps, or has kept. All displays show the same.

This module decides which collections are shown, and reads the facts of each. What syncs and the
queue do meanwhile is in `sync_state`. The facts are made elsewhere.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.deletions import held_back
from rms_pipeline.mirror.proofs import standing
from rms_pipeline.mirror.statements import Connection, one_row
from rms_pipeline.mirror.summary import count_rows
from rms_pipeline.mirror.walks import has_full_sync

CountRows = Callable[[Connection, Collection], int]


@dataclass(frozen=True, slots=True)
class CollectionState:
    """The state of one collection.

    `is_on` says whether RMS_COLLECTIONS names it. If not, its `rows` are as the last sync left
    them. `synced_at` (UTC) is when a sync last stored everything that it read, or None for never.
    `has_full_sync` says whether all of it was ever read. `certificate` says how complete it is
    known to be (`proofs.Standing`). `faults` counts values of the last day that could not be stored
    as received, `unreadable` counts records that Current RMS cannot deliver, `held_back` counts
    rows whose deletion waits for a person.
    """

    name: str
    is_on: bool
    rows: int
    synced_at: datetime | None
    has_full_sync: bool
    certificate: dict[str, Any] | None
    faults: int
    unreadable: int
    held_back: int

    @property
    def is_proved(self) -> bool | None:
        """Whether it is known to be complete. None if nobody has checked."""
        return None if self.certificate is None else self.certificate["state"] == "green"

    @property
    def sentence(self) -> str:
        """How complete and how current it is, in a sentence without its name."""
        if not self.is_on:
            return self.why_off
        if not self.has_full_sync:
            parts = {c.name: c.parts for c in COLLECTIONS}[self.name]
            what = "all of it" if parts is None else f"those of {parts.of} that are out soon"
            return f"not read yet: the next sync reads {what}"
        if self.certificate is None:
            return "not compared with Current RMS yet; the next full sync compares them"
        return str(self.certificate["sentence"])

    @property
    def why_off(self) -> str:
        """A sentence that nothing keeps its rows up to date, and since when."""
        since = f"{self.synced_at:%Y-%m-%d %H:%M} UTC" if self.synced_at else "an earlier time"
        return (
            "not kept up to date any more, because RMS_COLLECTIONS does not name them. They "
            f"are as of {since}"
        )


def read_collection_states(
    connection: Connection, on: Sequence[Collection], count: CountRows = count_rows
) -> list[CollectionState]:
    """Return the collections that are `on`, and those that are off but were kept before. Commits.

    They come in the order of all collections.
    """
    kept = [c for c in COLLECTIONS if c in on or _was_kept(connection, c)]
    return [_read(connection, c, count, is_on=c in on) for c in kept]


def _was_kept(connection: Connection, collection: Collection) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT EXISTS (SELECT FROM {collection.name})")
        row = cursor.fetchone()
    connection.commit()
    return bool(row and row[0])


def _read(
    connection: Connection, collection: Collection, count: CountRows, *, is_on: bool
) -> CollectionState:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT settled_at FROM walks WHERE collection = %(name)s"
            " AND kind IN ('full', 'changes') AND watermark IS NOT NULL"
            " AND settled_at IS NOT NULL ORDER BY id DESC LIMIT 1),"
            # A full sync meets each of them again, every night.
            " (SELECT count(DISTINCT (opportunity_id, field)) FROM sync_faults"
            " WHERE collection = %(name)s AND seen_at > now() - interval '1 day'),"
            " (SELECT count(*) FROM unreadable_records WHERE collection = %(name)s)",
            {"name": collection.name},
        )
        row = one_row(cursor)
    connection.commit()
    synced_at, faults, unreadable = row
    return CollectionState(
        name=collection.name,
        is_on=is_on,
        rows=count(connection, collection),
        synced_at=synced_at,
        has_full_sync=has_full_sync(connection, collection),
        certificate=standing(connection, collection).as_json(),
        faults=faults,
        unreadable=unreadable,
        held_back=len(held_back(connection, collection)),
    )


class RowCounts:
    """`count_rows` for a page that is requested every second. Threads may share it.

    What is counted by status is not counted again. Any other count is reused for so long that
    counting takes at most a twentieth of the time.
    """

    _SHARE, _LEAST = 20, 1.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        # When each has to be counted again, and the count.
        self._known: dict[Collection, tuple[float, int]] = {}

    def __call__(self, connection: Connection, collection: Collection) -> int:
        if collection.has_phases and (counted := _counted_by_status(connection)):
            return counted
        with self._lock:
            began = self._clock()
            until, count = self._known.get(collection, (began, 0))
            if began < until:
                return count
            count = count_rows(connection, collection)
            took = self._clock() - began
            self._known[collection] = (began + max(self._SHARE * took, self._LEAST), count)
            return count


def _counted_by_status(connection: Connection) -> int:
    """Return the number as of the last count by status, or 0 before the first."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(sum(opportunities), 0)::bigint FROM status_counts")
        row = cursor.fetchone()
    connection.commit()
    return int(row[0]) if row else 0
