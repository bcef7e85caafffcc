"""Launching a sync as a run of Dagster's, never two of a kind at once."""

from typing import Literal

import anyio
from pydantic import SecretStr

from rms_pipeline import dagster_api
from rms_pipeline.dagster_api import DagsterUnavailable
from rms_pipeline.errors import RmsPipelineError
from rms_pipeline.mirror.database import Database, advisory_lock
from rms_pipeline.mirror.history import Sync, has_full_sync, running_sync

__all__ = ["DagsterUnavailable", "Kind", "Launcher", "NoFullSync", "SyncUnderWay"]

Kind = Literal["initial", "incremental"]
JOBS: dict[Kind, str] = {"initial": "initial_sync", "incremental": "incremental_sync"}
# What does the work of each kind already: a reconciliation is a full sync.
_ALIKE: dict[Kind, list[str]] = {
    "initial": ["initial_sync", "reconciliation"],
    "incremental": ["incremental_sync"],
}
_LOCK = "launching a sync"


class SyncUnderWay(RmsPipelineError):
    """One of the kind is running already, or waits to."""

    def __init__(self, running: Sync) -> None:
        super().__init__(
            f"A sync of this kind ({running.sync_type}) is under way since "
            f"{running.started_at:%Y-%m-%d %H:%M:%S} UTC: {running.id}. Wait for it; "
            "/api/sync/status shows how far it has come."
        )
        self.running = running


class NoFullSync(RmsPipelineError):
    """There is nothing yet to be incremental to."""

    def __init__(self) -> None:
        super().__init__(
            "No full sync has completed yet, and an incremental sync needs one. Run an initial "
            "sync first: POST /api/sync/initial, or `rms-pipeline sync initial`."
        )


class Launcher:
    """Launches syncs through the Dagster at `dagster_url`, which may ask for `token`."""

    def __init__(
        self, database: Database, dagster_url: str, token: SecretStr | None = None
    ) -> None:
        self._database, self._dagster_url, self._token = database, dagster_url, token
        # Whoever waits for their turn, or for Dagster, must not take threads from the webhooks.
        self._turn = anyio.CapacityLimiter(1)

    def start(self, kind: Kind, by: str) -> str:
        """Launches one on behalf of `by`; its run's id, which is the sync's.

        Raises SyncUnderWay, NoFullSync or DagsterUnavailable.
        """
        with advisory_lock(self._database, _LOCK):
            with self._database.session() as connection:
                running = running_sync(connection, _ALIKE[kind])
                if running is not None:
                    raise SyncUnderWay(running)
                if kind == "incremental" and not has_full_sync(connection):
                    raise NoFullSync
            return dagster_api.launch(self._dagster_url, JOBS[kind], by=by, token=self._token)

    async def launch(self, kind: Kind, by: str) -> str:
        """`start`, for a route."""
        return await anyio.to_thread.run_sync(self.start, kind, by, limiter=self._turn)
