"""Compares what a sync over changes found with what webhooks had announced."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.queued_events import RECORD
from rms_pipeline.mirror.statements import Connection, one_row

_ENOUGH = 5


@dataclass(frozen=True, slots=True)
class Audit:
    """Webhooks had announced `by_webhook` of `changed` records, `lag_seconds` (median) after the
    edit.

    `last_event_at` (UTC) is when the last webhook arrived, or None for never.
    """

    changed: int
    by_webhook: int
    lag_seconds: float | None
    last_event_at: datetime | None

    @property
    def share(self) -> float | None:
        return self.by_webhook / self.changed if self.changed else None

    @property
    def seem_stopped(self) -> bool:
        """Return whether webhooks used to arrive, and several edits in a row came without one."""
        return self.last_event_at is not None and self.changed >= _ENOUGH and self.by_webhook == 0

    def as_json(self) -> dict[str, Any]:
        last = self.last_event_at
        return {
            **asdict(self),
            "last_event_at": last.isoformat() if last else None,
            "share": self.share,
            "seem_stopped": self.seem_stopped,
        }


def audit_webhooks(
    connection: Connection,
    collection: Collection,
    walk: int,
    since: datetime,
    until: datetime,
) -> Audit:
    """Examine the records of `walk` that were edited in `[since, until)` by Current RMS's own
    times.

    `until` lies some minutes back, so that every webhook has had time to arrive. A webhook counts
    from two minutes before the edit, because the clocks of two machines differ.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), count(told.at), (percentile_cont(0.5) WITHIN GROUP"
            " (ORDER BY extract(epoch FROM told.at - o.updated_at_rms)))::float8"
            f" FROM {collection.name} o CROSS JOIN LATERAL"
            " (SELECT min(received_at) AS at FROM webhook_events e"
            f" WHERE e.collection = %s AND {RECORD} = o.id"
            " AND e.received_at >= o.updated_at_rms - interval '2 min') told"
            " WHERE o.updated_at_rms >= %s AND o.updated_at_rms < %s AND o.id IN"
            " (SELECT unnest(record_ids) FROM raw_rms_pages WHERE walk = %s)",
            (collection.name, since, until, walk),
        )
        row = one_row(cursor)
        cursor.execute(
            "SELECT max(received_at) FROM webhook_events WHERE collection = %s", (collection.name,)
        )
        last = cursor.fetchone()
    connection.commit()
    changed, by_webhook, lag = row
    return Audit(changed, by_webhook, lag, last[0] if last else None)


def last_audit(connection: Connection, collection: Collection) -> dict[str, Any] | None:
    """Return what the last sync over changes found, as `Audit.as_json` writes it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT audit FROM walks WHERE audit IS NOT NULL AND collection = %s"
            " ORDER BY id DESC LIMIT 1",
            (collection.name,),
        )
        row = cursor.fetchone()
    connection.commit()
    return dict(row[0]) if row else None
