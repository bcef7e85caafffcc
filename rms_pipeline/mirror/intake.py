"""Limits what webhooks may bring, so that nobody who knows their address can fill the disk.

The limits are far above what an account's users do, even with bulk edits. Current RMS delivers
again what is refused, for some 13 hours.
"""

import threading
import time
from dataclasses import dataclass

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.queued_events import RECORD
from rms_pipeline.mirror.statements import Connection, one_row

MOST_A_MINUTE = 20_000
MOST_A_DAY = 500_000
# Waiting events of records that the mirror does not know.
MOST_STRANGERS = 4_000
# Bytes of a body that are kept. Of a longer body, only its short fields are kept. Real bodies have
# a few hundred bytes.
MOST_KEPT = 64 * 1024
# Bytes of all bodies in a minute. Above this, only short fields are kept.
MOST_BYTES_A_MINUTE = 32 * 1024 * 1024
_MEASURED_EVERY, _DAY_MEASURED_EVERY = 1.0, 60.0


@dataclass(slots=True)
class Brought:
    """What webhooks brought: events and kept bytes of the last minute, events of the last day, and
    waiting events of records that the mirror does not know.
    """

    minute: int = 0
    bytes: int = 0
    day: int = 0
    strangers: int = 0

    @property
    def refusal(self) -> str | None:
        """Return why no more is accepted now, or None if it is."""
        if self.minute >= MOST_A_MINUTE:
            return f"More than {MOST_A_MINUTE:,} webhook events arrived within a minute."
        if self.day >= MOST_A_DAY:
            return f"More than {MOST_A_DAY:,} webhook events arrived within a day."
        return None


def brought(connection: Connection, *, day: bool = True) -> Brought:
    """Return what webhooks brought recently. The count of the day is optional. Commits."""
    found = Brought()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), coalesce(sum(size_bytes), 0)::bigint FROM webhook_events"
            " WHERE received_at > clock_timestamp() - interval '1 min'"
        )
        found.minute, found.bytes = one_row(cursor)
        for collection in COLLECTIONS:
            cursor.execute(
                "SELECT count(*) FROM webhook_events e"
                f" LEFT JOIN {collection.versions} v ON v.id = {RECORD}"
                " WHERE processed_at IS NULL AND dead_at IS NULL AND collection = %s"
                " AND (v.id IS NULL OR v.deleted)",
                (collection.name,),
            )
            found.strangers += one_row(cursor)[0]
        if day:
            cursor.execute(
                "SELECT count(*) FROM webhook_events"
                " WHERE received_at > clock_timestamp() - interval '1 day'"
            )
            (found.day,) = one_row(cursor)
    connection.commit()
    return found


class Intake:
    """Whether one more event may come in. Threads may share it. It counts all receivers' events."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._brought = Brought()
        self._measured_at = self._day_measured_at = -_DAY_MEASURED_EVERY

    def refusal(
        self, connection: Connection, collection: Collection | None, record: int | None
    ) -> str | None:
        """Return why an event of `record` is not accepted now. None means that it is, and is
        counted.
        """
        self._measure(connection)
        with self._lock:
            found = self._brought
            reason = found.refusal
            is_crowded = found.strangers >= MOST_STRANGERS and record is not None
            if reason is None and not is_crowded:
                found.minute += 1
                found.day += 1
                return None
        if reason is None and not _is_known(connection, collection, record):
            of_what = collection.name if collection else "records"
            reason = f"{found.strangers:,} events of unknown {of_what} already wait."
        return reason

    def _measure(self, connection: Connection) -> None:
        """Measure now and then, in one thread. The others use the last result."""
        with self._lock:
            now = time.monotonic()
            if now - self._measured_at < _MEASURED_EVERY:
                return
            day = now - self._day_measured_at >= _DAY_MEASURED_EVERY
            self._measured_at = now
            if day:
                self._day_measured_at = now
        found = brought(connection, day=day)
        with self._lock:
            if not day:
                found.day = self._brought.day
            self._brought = found

    @property
    def keeps_bodies(self) -> bool:
        """Return whether whole bodies are kept now."""
        return self._brought.bytes < MOST_BYTES_A_MINUTE

    def note_kept(self, size: int) -> None:
        """Count the kept bytes of a body."""
        with self._lock:
            self._brought.bytes += size


def _is_known(connection: Connection, collection: Collection | None, record: int | None) -> bool:
    if collection is None:
        return True
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT EXISTS (SELECT FROM {collection.versions} WHERE id = %s AND NOT deleted)",
            (record,),
        )
        row = cursor.fetchone()
    connection.commit()
    return bool(row and row[0])
