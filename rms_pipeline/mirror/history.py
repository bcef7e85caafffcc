"""Reading `sync_metadata`, and the mirror's own state, for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.mirror.database import dagster_schema_beside

SYNC_TYPES = ("initial_sync", "incremental_sync", "reconciliation", "webhook_refresh")
FULL_SYNCS = ("initial_sync", "reconciliation")
# What is read is not yet merged; and of what the first version read nobody noted the time.
_STORED = "settled_at IS NOT NULL AND watermark IS NOT NULL"
COLUMNS = (
    "id",
    "sync_type",
    "status",
    "started_at",
    "completed_at",
    "records_synced",
    "records_failed",
    "error",
    "metadata",
)
# Dagster itself gives up on such a run after three minutes.
_LEFT = (
    "id IN (SELECT run_id FROM {dagster}.runs WHERE CASE status"
    " WHEN 'NOT_STARTED' THEN update_timestamp < now() AT TIME ZONE 'UTC' - interval '20 s'"
    " WHEN 'STARTING' THEN update_timestamp < now() AT TIME ZONE 'UTC' - interval '60 s' END)"
    " AND id NOT IN (SELECT run FROM run_workers WHERE ended_at IS NULL AND lost_at IS NULL)"
)


@dataclass(frozen=True, slots=True)
class Sync:
    """A row of `sync_metadata`."""

    id: str
    sync_type: str
    status: str
    started_at: datetime
    completed_at: datetime | None
    records_synced: int
    records_failed: int
    error: str | None
    metadata: dict[str, Any]


def latest_syncs(connection: Connection, limit: int = 5) -> list[Sync]:
    """The newest syncs first."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(COLUMNS)} FROM sync_metadata ORDER BY started_at DESC LIMIT %s",
            (limit,),
        )
        return [Sync(*row) for row in cursor.fetchall()]


def watermarks(connection: Connection, limit: int = 20) -> list[datetime]:
    """Where an incremental sync may start, by the API's clock, best first.

    Those of incremental syncs that stored what they read, newest first, then of the full syncs,
    oldest first: a full sync reads its window only, and must not hide what changed elsewhere before
    it. Read from our own tables, so that a restore of these alone goes on.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT watermark FROM walks WHERE {_STORED} AND kind IN ('changes', 'full')"
            " ORDER BY CASE kind WHEN 'changes' THEN settled_at END DESC NULLS LAST, settled_at"
            " LIMIT %s",
            (limit,),
        )
        return [row[0] for row in cursor.fetchall()]


def last_completed(connection: Connection, types: Sequence[str]) -> datetime | None:
    """When a sync of one of these `types` last completed (UTC), None for never."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT max(completed_at) FROM sync_metadata WHERE status = 'completed'"
            " AND sync_type = ANY(%s)",
            (list(types),),
        )
        row = cursor.fetchone()
    return row[0] if row else None


def has_full_sync(connection: Connection) -> bool:
    """Whether a full sync of this mirror ever stored all it read."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT EXISTS (SELECT FROM walks WHERE kind = 'full' AND {_STORED})")
        row = cursor.fetchone()
    return bool(row and row[0])


def find_sync(connection: Connection, id_: str) -> Sync | None:
    """One sync by its id, None when there is no such run."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(COLUMNS)} FROM sync_metadata WHERE id = %s", (id_,))
        row = cursor.fetchone()
    return Sync(*row) if row else None


def running_sync(connection: Connection, types: Sequence[str] = SYNC_TYPES) -> Sync | None:
    """A sync of one of these `types` that has not ended, None when there is none.

    Of several the one that is at work, rather than one that waits for it; else the newest. One that
    should have started long ago, while no process executes it, was left by whoever launched it.
    """
    left = _LEFT.format(dagster=dagster_schema_beside(connection))
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(COLUMNS)} FROM sync_metadata WHERE status = 'running'"
            f" AND sync_type = ANY(%s) AND NOT ({left})"
            " ORDER BY id IN (SELECT run FROM sync_progress) DESC,"
            " sync_type = 'webhook_refresh', started_at DESC LIMIT 1",
            (list(types),),
        )
        row = cursor.fetchone()
    return Sync(*row) if row else None


def outcome(sync: Sync) -> dict[str, Any]:
    """How a sync ended, as the sync API and `--json` say it; `duration` in seconds."""
    ended = sync.completed_at or sync.started_at
    said = {
        "success": sync.status == "completed",
        "syncId": sync.id,
        "syncType": sync.sync_type,
        "recordsSynced": sync.records_synced,
        "recordsFailed": sync.records_failed,
        "duration": round((ended - sync.started_at).total_seconds(), 3),
    }
    if sync.status == "failed":
        said["error"] = sync.error or "The sync failed; see the run in Dagster's UI."
    return said


def run_error(connection: Connection, id_: str) -> str | None:
    """Why any run, a sync or not, failed; None when nothing failed in it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT rms_run_error(%s)", (id_,))
        row = cursor.fetchone()
    return row[0] if row else None
