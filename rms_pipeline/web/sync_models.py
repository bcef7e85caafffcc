"""The answers of the sync API."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from rms_pipeline.web.refusals import Refused

_ID, _RUN = 812, "5f3a0c1e-7a44-4a0e-9c1b-1f0d6a5f2b77"
_ENDED: dict[str, Any] = {
    "success": True,
    "syncId": _ID,
    "runId": _RUN,
    "syncType": "initial_sync",
    "recordsSynced": 5012,
    "recordsFailed": 0,
    "duration": 61.204,
}
_ROW: dict[str, Any] = {
    "id": _ID,
    "run_id": _RUN,
    "sync_type": "initial_sync",
    "status": "running",
    "started_at": "2026-11-24T12:03:11.204000Z",
    "completed_at": None,
    "records_synced": 0,
    "records_failed": 0,
    "error": None,
    "metadata": {},
}
_DONE_ROW: dict[str, Any] = {
    **_ROW,
    "status": "completed",
    "completed_at": "2026-11-24T12:04:12.408000Z",
    "records_synced": 5012,
    "metadata": {"created": 12, "updated": 5000, "api_calls": 53},
}


def _is_none(value: object) -> bool:
    return value is None


def _example(value: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"example": value})


class Figures(BaseModel):
    """The figures of one collection in a sync."""

    recordsSynced: int
    recordsFailed: int


class Ended(BaseModel):
    """A completed sync. `duration` is in seconds. `syncId` is its number in `sync_metadata`, and
    `runId` the id of its run in Dagster, in all answers. If several collections are mirrored,
    `collections` has the figures of each by its name, and the figures above are their sums."""

    model_config = _example(_ENDED)

    success: bool
    syncId: int
    runId: str
    syncType: str
    recordsSynced: int
    recordsFailed: int
    duration: float
    collections: dict[str, Figures] | None = Field(None, exclude_if=_is_none)


class Failed(Ended):
    """A sync that failed. What it had stored stays stored."""

    model_config = _example(
        {
            **_ENDED,
            "success": False,
            "recordsSynced": 0,
            "error": "Current RMS answered 401: check CURRENT_RMS_SUBDOMAIN and "
            "CURRENT_RMS_API_KEY.",
        }
    )

    error: str


class Started(BaseModel):
    """A sync that was launched and is running."""

    model_config = _example(
        {
            "success": True,
            "syncId": _ID,
            "runId": _RUN,
            "syncType": "initial_sync",
            "status": "running",
        }
    )

    success: bool
    syncId: int
    runId: str
    syncType: str
    status: str


class StillRunning(Refused):
    """The request no longer waits, but the sync continues."""

    model_config = _example(
        {
            "success": False,
            "error": (
                "The sync is not done after 900 seconds. It goes on. /api/sync/status shows it."
            ),
            "syncId": _ID,
            "runId": _RUN,
            "status": "running",
        }
    )

    syncId: int
    runId: str
    status: str


class SyncRow(BaseModel):
    """A row of `sync_metadata`. Times are UTC."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"example": _ROW})

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


class NotStarted(Refused):
    """Why no sync was started, and the sync that is `running` instead."""

    model_config = _example(
        {
            "success": False,
            "error": (
                "A sync of this kind (initial_sync) has been running since 2026-11-24 "
                f"12:03:11 UTC: sync {_ID}, run {_RUN}. Wait for it; /api/sync/status shows "
                "its progress."
            ),
            "running": _ROW,
        }
    )

    running: SyncRow | None = None


class SyncProgress(BaseModel):
    """The progress of a running sync: `pages` of `pagesExpected` are fetched or stored.
    `secondsLeft` is the time until the stage ends, null before the speed is known. `collection` is
    the one that is being fetched or stored, if several are mirrored."""

    syncId: int
    runId: str
    stage: str
    pages: int
    pagesExpected: int
    records: int
    recordsExpected: int
    secondsLeft: float | None
    collection: str | None = Field(None, exclude_if=_is_none)


class Queue(BaseModel):
    """Webhook events that wait for their refresh, and dead letters."""

    waiting: int
    deadLetters: int
    oldestWaitingSeconds: float


class CollectionRow(BaseModel):
    """The state of one collection. `isOn` is false if it was mirrored before and is switched off
    now: its table is then as of `syncedAt`, the last time that a sync stored everything that it
    read. `faults` counts values of the last day that could not be stored as received, `unreadable`
    the records that Current RMS cannot deliver, and `deletionsHeldBack` the rows whose deletion
    waits for a person."""

    name: str
    isOn: bool
    rows: int
    syncedAt: datetime | None
    faults: int
    unreadable: int
    deletionsHeldBack: int
    certificate: dict[str, Any] | None


class SyncStatus(BaseModel):
    """`history` is newest first and begins with `lastSync`. `certificate` says how complete the
    mirror is. Its `state` is green, amber (proved, but a later sync failed, or the proof is more
    than a day old) or red (the proof failed); null before the first proof. It is that of
    opportunities. If several collections are mirrored, `collections` has that of each."""

    model_config = _example(
        {
            "success": True,
            "lastSync": _DONE_ROW,
            "history": [_DONE_ROW],
            "progress": None,
            "queue": {"waiting": 0, "deadLetters": 0, "oldestWaitingSeconds": 0.0},
            "certificate": {
                "state": "green",
                "shown": True,
                "counted": 5012,
                "mirrored": 5012,
                "as_of": "2026-11-24T12:04:10+00:00",
                "sentence": "complete as of 2026-11-24 12:04:10 UTC: 5,012 of 5,012",
            },
        }
    )

    success: bool
    lastSync: SyncRow | None
    history: list[SyncRow]
    progress: SyncProgress | None
    queue: Queue
    certificate: dict[str, Any] | None
    collections: list[CollectionRow] | None = Field(None, exclude_if=_is_none)
