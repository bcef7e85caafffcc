"""Run launchers that see when the process of a run has died. Named in `dagster.yaml`.

Dagster's run monitoring asks the launcher every few seconds about each started run of the instance.
Without an answer, a run whose process was killed stays started for ever, and every later sync waits
behind it.
"""

from datetime import timedelta
from typing import TYPE_CHECKING

from dagster import DagsterRun, DefaultRunLauncher

from rms_pipeline.defs.compat import CheckRunHealthResult, WorkerStatus
from rms_pipeline.defs.run_lock import DEAD_RUN_MESSAGE, is_dead
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.sync_runs import declare_dead
from rms_pipeline.settings import settings

if TYPE_CHECKING:
    from rms_pipeline.defs.compat import RunLauncher as _Launcher
else:
    _Launcher = object


class WorkerLockCheck(_Launcher):
    """Gives any launcher the check: `class Mine(WorkerLockCheck, SomeRunLauncher): ...`.

    A run is dead when a worker that had announced itself lost its lock without having ended. About
    every other run, and about ours between two steps, the launcher itself is asked, where it can
    tell; else the run is left alone.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        database = open_database(settings())
        if is_dead(database, run):
            with database.session() as connection:
                declare_dead(connection, [run.run_id])
            return CheckRunHealthResult(WorkerStatus.FAILED, DEAD_RUN_MESSAGE)
        if not super().supports_check_run_worker_health:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        found = super().check_run_worker_health(run)
        if found.status is WorkerStatus.FAILED and is_dead(database, run, grace=timedelta(0)):
            # The launcher was first to see it, and has no words for it that help anybody.
            with database.session() as connection:
                declare_dead(connection, [run.run_id])
            return CheckRunHealthResult(WorkerStatus.FAILED, DEAD_RUN_MESSAGE)
        return found


class LockedRunLauncher(WorkerLockCheck, DefaultRunLauncher):
    """Dagster's default launcher with the check: what this project's `dagster.yaml` names."""
