"""/api/sync: starts syncs and shows their state, for scripts and cron."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from rms_pipeline.collections import Collection
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.sync_metadata import Sync, find_sync, outcome
from rms_pipeline.mirror.sync_state import read_sync_state
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.launching import (
    JOBS,
    DagsterUnavailable,
    Kind,
    Launched,
    Launcher,
    NoFullSync,
    SyncUnderWay,
)
from rms_pipeline.web.refusals import (
    REFUSALS,
    RETRY_SECONDS,
    Answered,
    Refusal,
    Refused,
    is_outage,
)
from rms_pipeline.web.sync_models import (
    CollectionRow,
    Ended,
    Failed,
    NotStarted,
    Queue,
    Started,
    StillRunning,
    SyncProgress,
    SyncRow,
    SyncStatus,
)

WAIT_SECONDS, LONGEST_WAIT_SECONDS = 900, 3600
_POLL_SECONDS = 0.5
# How often Dagster is asked whether a run that has not begun still will.
_ASKS_DAGSTER_SECONDS = 5.0
# A database that restarts is no reason to give up on a sync that goes on.
_OUTAGE_SECONDS = 10.0

_ERRORS: dict[int | str, dict[str, Any]] = {
    **REFUSALS,
    422: {"model": Refused, "description": "A parameter is not valid."},
}
_SYNC_ANSWERS: dict[int | str, dict[str, Any]] = {
    **_ERRORS,
    202: {"model": Started, "description": "The sync was launched (`wait=false`)."},
    409: {
        "model": NotStarted,
        "description": ("A sync of this kind is running, or no full sync has completed yet."),
    },
    500: {"model": Failed, "description": "The sync failed; `error` is its reason."},
    503: {"model": Refused, "description": "Dagster or the database does not answer."},
    504: {
        "model": StillRunning,
        "description": "The sync has not ended within the time; it goes on.",
    },
}
_SUMMARIES: dict[Kind, tuple[str, str]] = {
    "initial": (
        "Run a full sync",
        "Fetches every opportunity in the window. Safe at any time, as often as you like.",
    ),
    "incremental": (
        "Fetch what changed",
        "Fetches everything that changed since the last sync. 409 until a full sync has completed.",
    ),
}

Wait = Annotated[
    bool,
    Query(
        description="Whether to answer only when the sync has ended. If false, the answer is 202 "
        "at once."
    ),
]
Timeout = Annotated[
    int,
    Query(
        ge=1,
        le=LONGEST_WAIT_SECONDS,
        description="Seconds to wait at most. After that the answer is 504.",
    ),
]
Limit = Annotated[int, Query(ge=1, le=100, description="How many syncs of the history to return.")]


def sync_api_routes(desk: Desk, launcher: Launcher, stopping: Callable[[], bool]) -> APIRouter:
    """The routes. `stopping` says that the service is about to end, so that no request waits
    longer."""
    router = APIRouter(prefix="/api/sync", tags=["sync"], **desk.for_programs)

    def route(kind: Kind) -> None:
        summary, description = _SUMMARIES[kind]

        @router.post(
            f"/{kind}",
            summary=summary,
            description=description,
            operation_id=JOBS[kind],
            response_model=Ended,
            responses=_SYNC_ANSWERS,
        )
        async def run(
            request: Request, wait: Wait = True, timeout: Timeout = WAIT_SECONDS
        ) -> Response:
            launched = await _launch(launcher, kind)
            if not wait:
                started = {"syncType": JOBS[kind], "status": "running"}
                return JSONResponse({"success": True, **_ids(launched), **started}, status_code=202)
            sync = await _wait_for(desk.database, request, launcher, launched, timeout, stopping)
            return JSONResponse(
                outcome(sync), status_code=200 if sync.status == "completed" else 500
            )

    route("initial")
    route("incremental")

    @router.get(
        "/status",
        summary="The last syncs and the state of the mirror",
        responses=_ERRORS,
    )
    def status(limit: Limit = 10) -> SyncStatus:
        with desk.database.session() as connection:
            return read_status(connection, desk.settings.collections, limit)

    return router


def read_status(connection: Connection, on: Sequence[Collection], limit: int = 10) -> SyncStatus:
    """The last `limit` syncs, and the state of the mirror for the collections `on`."""
    state = read_sync_state(connection, on[0], on=on, syncs=limit)
    history = [SyncRow.model_validate(s) for s in state.history]
    progress = None
    if state.running is not None and state.pace is not None:
        progress = SyncProgress(
            syncId=state.running.id,
            runId=state.running.run_id,
            stage=state.pace.stage,
            pages=state.pace.pages,
            pagesExpected=state.pace.pages_expected,
            records=state.pace.records,
            recordsExpected=state.pace.records_expected,
            secondsLeft=state.pace.seconds_left,
            collection=state.at_work if len(state.collections) > 1 else None,
        )
    return SyncStatus(
        success=True,
        lastSync=history[0] if history else None,
        history=history,
        progress=progress,
        queue=Queue(
            waiting=state.queue.depth,
            deadLetters=state.queue.dead,
            oldestWaitingSeconds=state.queue.oldest_seconds,
        ),
        certificate=state.certificate,
        collections=[
            CollectionRow(
                name=each.name,
                isOn=each.is_on,
                rows=each.rows,
                syncedAt=each.synced_at,
                faults=each.faults,
                unreadable=each.unreadable,
                deletionsHeldBack=each.held_back,
                certificate=each.certificate,
            )
            for each in state.collections
        ]
        if len(state.collections) > 1
        else None,
    )


def _ids(launched: Launched) -> dict[str, int | str]:
    return {"syncId": launched.id, "runId": launched.run_id}


async def _launch(launcher: Launcher, kind: Kind) -> Launched:
    try:
        return await launcher.launch(kind, "sync API")
    except SyncUnderWay as error:
        row = SyncRow.model_validate(error.running).model_dump(mode="json")
        raise Refusal(409, str(error), extra={"running": row}) from None
    except NoFullSync as error:
        raise Refusal(409, str(error)) from None
    except DagsterUnavailable as error:
        retry = {"Retry-After": str(RETRY_SECONDS)}
        raise Refusal(503, str(error), headers=retry) from None


async def _wait_for(
    database: Database,
    request: Request,
    launcher: Launcher,
    launched: Launched,
    timeout: int,
    stopping: Callable[[], bool],
) -> Sync:
    """The sync when it has ended. Raises Refusal (504, 503) if waiting longer makes no sense."""
    goes_on = {**_ids(launched), "status": "running"}

    def find() -> Sync | None:
        with database.session() as connection:
            return find_sync(connection, launched.id)

    began = heard = asked = time.monotonic()
    while True:
        if stopping():
            raise Refusal(
                503,
                "The web service is stopping. The sync goes on. Look at /api/sync/status later.",
                headers={"Retry-After": str(RETRY_SECONDS)},
                extra=goes_on,
            )
        if await request.is_disconnected():
            raise Answered(Response(status_code=204))
        try:
            sync = await run_in_threadpool(find)
            heard = time.monotonic()
        except Exception as error:
            if not is_outage(error):
                raise
            if time.monotonic() - heard > _OUTAGE_SECONDS:
                raise Refusal(
                    503,
                    "The database does not answer, so the state of the sync is unknown. The sync "
                    "may go on. Look at /api/sync/status when the database is up again "
                    "(`rms-pipeline doctor`).",
                    headers={"Retry-After": str(RETRY_SECONDS)},
                    extra=goes_on,
                ) from None
            sync = None
        if sync is not None and sync.status != "running":
            return sync
        if sync is not None and time.monotonic() - asked > _ASKS_DAGSTER_SECONDS:
            await run_in_threadpool(launcher.end_if_it_never_began, launched.run_id)
            asked = time.monotonic()
        if time.monotonic() - began > timeout:
            raise Refusal(
                504,
                f"The sync is not done after {timeout} seconds. It goes on. /api/sync/status "
                "shows it, and `rms-pipeline doctor` shows what may delay it.",
                extra=goes_on,
            )
        await asyncio.sleep(_POLL_SECONDS)
