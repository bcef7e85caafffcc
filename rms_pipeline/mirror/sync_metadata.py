"""Reads `sync_metadata`, for people: the syncs, and which is running."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rms_pipeline.mirror.statements import Connection, in_the_future
from rms_pipeline.mirror.sync_runs import (
    AT_WORK,
    NO_REASON,
    SYNC_TYPES,
    WEBHOOK_REFRESH,
)

COLUMNS = (
    "id",
    "run_id",
    "sync_type",
    "status",
    "started_at",
    "completed_at",
    "records_synced",
    "records_failed",
    "error",
    "metadata",
)


# The figures of each collection, in addition to the columns of the view.
_FIGURES = (
    "coalesce((SELECT jsonb_object_agg(collection, jsonb_build_object('synced', f.records_synced,"
    " 'failed', f.records_failed)) FROM sync_figures f WHERE f.sync = s.id), '{}')"
)


@dataclass(frozen=True, slots=True)
class Sync:
    """A row of `sync_metadata`. `id` is our own number, `run_id` the id of its run in Dagster.

    `collections` has the number of records that were "synced" and "failed", by collection.
    """

    id: int
    run_id: str
    sync_type: str
    status: str
    started_at: datetime
    completed_at: datetime | None
    records_synced: int
    records_failed: int
    error: str | None
    metadata: dict[str, Any]
    collections: dict[str, dict[str, int]] = field(default_factory=dict)


def latest_syncs(connection: Connection, limit: int = 5) -> list[Sync]:
    """Return the newest syncs, the newest first.

    Those of a clock that was ahead come last, or they would stand for the newest until then.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            # The syncs launched last, so that the view is not read completely.
            f"SELECT {', '.join(COLUMNS)}, {_FIGURES} FROM sync_metadata s WHERE id IN"
            f" (SELECT id FROM sync_runs ORDER BY {in_the_future('launched_at')}, launched_at DESC"
            f" LIMIT %s) ORDER BY {in_the_future('started_at')}, started_at DESC, id DESC",
            (limit,),
        )
        return [Sync(*row) for row in cursor.fetchall()]


def last_completed(connection: Connection, types: Sequence[str]) -> datetime | None:
    """Return when a sync of one of these `types` last completed (UTC), or None for never.

    What completed while the clock was ahead does not count, because nobody knows when that was.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT max(completed_at) FROM sync_metadata WHERE status = 'completed'"
            f" AND sync_type = ANY(%s) AND NOT {in_the_future('completed_at')}",
            (list(types),),
        )
        row = cursor.fetchone()
    return row[0] if row else None


def find_sync(connection: Connection, id_: int | str) -> Sync | None:
    """Return one sync by its id (a number) or by the id of its run (a text), or None."""
    column = "id" if isinstance(id_, int) else "run_id"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(COLUMNS)}, {_FIGURES} FROM sync_metadata s WHERE {column} = %s",
            (id_,),
        )
        row = cursor.fetchone()
    return Sync(*row) if row else None


def running_sync(connection: Connection, types: Sequence[str] = SYNC_TYPES) -> Sync | None:
    """Return a sync of one of these `types` that has not ended, or None.

    If there are several, the one at work comes before one that waits for it, and then the newest.
    Locks show which of them live. Dagster's history decides nothing.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, run_id, sync_type, 'running', coalesce(started_at, launched_at), NULL,"
            " records_synced, records_failed, NULL, metadata FROM sync_runs s"
            f" WHERE sync_type = ANY(%s) AND {AT_WORK}"
            " ORDER BY run_id IN (SELECT run FROM sync_progress) DESC,"
            " sync_type = %s, coalesce(started_at, launched_at) DESC LIMIT 1",
            (list(types), WEBHOOK_REFRESH),
        )
        row = cursor.fetchone()
    return Sync(*row) if row else None


def outcome(sync: Sync) -> dict[str, Any]:
    """Return how a sync ended, as the sync API and `--json` show it. `duration` is in seconds.

    A sync of several collections also has the figures of each.
    """
    ended = sync.completed_at or sync.started_at
    said = {
        "success": sync.status == "completed",
        "syncId": sync.id,
        "runId": sync.run_id,
        "syncType": sync.sync_type,
        "recordsSynced": sync.records_synced,
        "recordsFailed": sync.records_failed,
        "duration": round((ended - sync.started_at).total_seconds(), 3),
    }
    if len(sync.collections) > 1:
        said["collections"] = {
            name: {"recordsSynced": each["synced"], "recordsFailed": each["failed"]}
            for name, each in sync.collections.items()
        }
    if sync.status == "failed":
        said["error"] = sync.error or NO_REASON
    return said
