"""Launches a sync as a run of Dagster, never two of one kind at the same time."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Literal

import anyio
import psycopg2
from pydantic import SecretStr

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.errors import RmsPipelineError, in_one_line
from rms_pipeline.mirror.database import Database, DatabaseError, advisory_lock
from rms_pipeline.mirror.mirrored_windows import Reach, ask_for_days_back, read_reach
from rms_pipeline.mirror.run_workers import living_runs, lost_runs
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.sync_metadata import Sync, find_sync, running_sync
from rms_pipeline.mirror.sync_runs import (
    INCREMENTAL,
    INITIAL,
    NEVER_BEGAN,
    RECONCILIATION,
    TERMINATED,
    end_run,
    has_begun,
    launched_runs,
    note_launch,
)
from rms_pipeline.mirror.walks import has_full_sync
from rms_pipeline.web import dagster_api
from rms_pipeline.web.background import Background
from rms_pipeline.web.dagster_api import DagsterUnavailable

__all__ = [
    "DagsterUnavailable",
    "Kind",
    "LaunchWatch",
    "Launched",
    "Launcher",
    "NoFullSync",
    "SyncUnderWay",
]

logger = logging.getLogger(__name__)

Kind = Literal["initial", "incremental"]
JOBS: dict[Kind, str] = {"initial": INITIAL, "incremental": INCREMENTAL}
# What does the work of each kind already: a reconciliation is a full sync.
_ALIKE: dict[Kind, list[str]] = {
    "initial": [INITIAL, RECONCILIATION],
    "incremental": [INCREMENTAL],
}
# In seconds. If a run stays in this status for longer, the process that should start it has died.
# (Dagster gives up on it later; until then it must not keep the next sync of its kind from
# starting.)
_STARTS_WITHIN = {"NOT_STARTED": 20.0, "STARTING": 60.0}
_LOCK = "launching a sync"
# In seconds, between two looks at what was launched and has not begun.
_LOOKS = 15.0
# A sync of the command line, which another Dagster may know, begins within this time.
_BEGINS_WITHIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Launched:
    """A launched sync: its number here, and the id of its run in Dagster."""

    id: int
    run_id: str


class SyncUnderWay(RmsPipelineError):
    """A sync of this kind is already running or queued. `has_begun` is whether its first step has
    begun."""

    def __init__(self, running: Sync, *, has_begun: bool) -> None:
        at = f"{running.started_at:%Y-%m-%d %H:%M:%S} UTC"
        which = f"sync {running.id}, run {running.run_id}"
        super().__init__(
            f"A sync of this kind ({running.sync_type}) has been running since {at}: {which}. "
            "Wait for it; /api/sync/status shows its progress."
            if has_begun
            else f"A sync of this kind ({running.sync_type}) was launched at {at} and has not "
            f"begun yet: {which}. It waits in Dagster's queue, or is starting. Wait for it, or "
            "terminate its run in Dagster's UI."
        )
        self.running = running


class NoFullSync(RmsPipelineError):
    """No full sync has completed yet, and an incremental sync needs one."""

    def __init__(self) -> None:
        super().__init__(
            "No full sync has completed yet, and an incremental sync needs one. Run an initial "
            "sync first: POST /api/sync/initial, or `rms-pipeline sync initial`."
        )


class Launcher:
    """Launches syncs through the Dagster at `dagster_url`, with `token` if it asks for one. Its
    code location `location` has the jobs; None finds it by the job. `name` turns our name of a job
    into its name there."""

    def __init__(
        self,
        database: Database,
        dagster_url: str,
        token: SecretStr | None = None,
        *,
        location: str | None = None,
        name: Callable[[str], str] = lambda own: own,
    ) -> None:
        self._database, self._dagster_url, self._token = database, dagster_url, token
        self._location, self._name = location, name
        # Requests that wait for their turn, or for Dagster, must not take threads from the
        # webhooks.
        self._turn = anyio.CapacityLimiter(1)

    def start(self, kind: Kind, by: str, *, days_back: int | None = None) -> Launched:
        """Launches a sync on behalf of `by`. With `days_back`, full syncs read that many days back
        from this one on, unless the launch fails. Raises SyncUnderWay, NoFullSync or
        DagsterUnavailable."""
        with advisory_lock(self._database, _LOCK):
            self._demand_none_under_way(_ALIKE[kind])
            with self._database.session() as connection:
                if kind == "incremental" and not has_full_sync(connection, OPPORTUNITIES):
                    raise NoFullSync
            waiting = self._unfinished(_ALIKE[kind])
            if waiting is not None:
                with self._database.session() as connection:
                    raise SyncUnderWay(waiting, has_begun=has_begun(connection, waiting.run_id))
            before = self._ask_for(days_back, by) if days_back is not None else None
            try:
                run = dagster_api.launch(
                    self._dagster_url,
                    self._name(JOBS[kind]),
                    by=by,
                    token=self._token,
                    location=self._location,
                )
            except DagsterUnavailable:
                if before is not None:
                    self._ask_for(before.days_back, before.asked_by)
                raise
            with self._database.session() as connection:
                return Launched(note_launch(connection, run, JOBS[kind]), run)

    def _demand_none_under_way(self, types: list[str]) -> None:
        """Raises SyncUnderWay if one of `types` is at work, or was launched and may still begin."""
        ended: str | None = None
        while True:
            with self._database.session() as connection:
                running = running_sync(connection, types)
                if running is None:
                    return
                begun = has_begun(connection, running.run_id)
            if begun or running.run_id == ended:
                raise SyncUnderWay(running, has_begun=begun)
            # Somebody may have ended it in Dagster's queue, and its row does not say so yet.
            ended = running.run_id
            self.end_if_it_never_began(ended, is_known=False)

    def end_if_it_never_began(self, run: str, *, is_known: bool = True) -> None:
        """Ends the row of a run that ended in Dagster before its first step, as when its code
        could not be loaded or a person terminated it in the queue. If Dagster keeps its history in
        another database, the row cannot show that. Unless it `is_known` that this Dagster had the
        run, one that it does not have is left alone for a moment."""
        with self._database.session() as connection:
            if has_begun(connection, run):
                return
            try:
                end = dagster_api.end_of(self._dagster_url, run, self._token)
            except DagsterUnavailable:
                return
            if end == "deleted" and not is_known:
                late = launched_runs(connection, for_longer_than=_BEGINS_WITHIN)
                end = end if run in late else None
            # Its first step may have begun, and ended, meanwhile.
            if end is not None and not has_begun(connection, run):
                end_run(connection, run, TERMINATED if end == "canceled" else NEVER_BEGAN)

    def _ask_for(self, days_back: int | None, by: str | None) -> Reach:
        """The number of days back that was asked for before."""
        with self._database.session() as connection:
            before = read_reach(connection, OPPORTUNITIES)
            ask_for_days_back(connection, OPPORTUNITIES, days_back, by)
        return before

    def _unfinished(self, types: list[str]) -> Sync | None:
        """A run that only Dagster knows: it is queued, or a version of this program that keeps no
        rows started it. A run that is dead or that nobody started does not count."""
        jobs = {self._name(each): each for each in types}
        runs = dagster_api.unfinished_runs(
            self._dagster_url, list(jobs), self._token, location=self._location
        )
        if not runs:
            return None
        with self._database.session() as connection:
            ids = [run.id for run in runs]
            dead, alive = lost_runs(connection, ids), living_runs(connection, ids)
            for run in runs:
                was_left = run.seconds_ago > _STARTS_WITHIN.get(run.status, float("inf"))
                if run.id in dead or (was_left and run.id not in alive):
                    continue
                if _has_ended(connection, run.id):
                    continue
                note_launch(connection, run.id, jobs[run.job])
                return find_sync(connection, run.id)
        return None

    async def launch(self, kind: Kind, by: str, *, days_back: int | None = None) -> Launched:
        """`start`, for a route."""
        start = partial(self.start, kind, by, days_back=days_back)
        return await anyio.to_thread.run_sync(start, limiter=self._turn)


def _has_ended(connection: Connection, run: str) -> bool:
    """Whether `run` has recorded its own end. Dagster may know of it only a moment later."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM sync_runs WHERE run_id = %s AND ended_at IS NOT NULL)",
            (run,),
        )
        return cursor.fetchall() == [(True,)]


class LaunchWatch(Background):
    """A thread that ends the rows of syncs which ended in Dagster before they began, until `stop`.

    Nobody waits for them, and they have no process that could write their end.
    """

    ends_within = 0

    def __init__(self, database: Database, launcher: Launcher) -> None:
        super().__init__("launches")
        self._database, self._launcher = database, launcher

    def look(self) -> None:
        """Looks once."""
        with self._database.session() as connection:
            launched = launched_runs(connection, for_longer_than=_BEGINS_WITHIN)
        for run in launched:
            self._launcher.end_if_it_never_began(run)

    def _run(self) -> None:
        while not self._stopped.wait(_LOOKS):
            try:
                self.look()
            except (psycopg2.Error, DatabaseError) as error:
                text = in_one_line(error)
                logger.warning("Launched syncs could not be looked at: %s", text)
            except Exception:
                logger.exception("Launched syncs could not be looked at")
