"""Dagster's default launcher, told how to see whether a worker lives. Named in `dagster.yaml`."""

from dagster import DagsterRun, DefaultRunLauncher
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus

from rms_pipeline.defs.run_lock import DEAD_RUN_MESSAGE, seems_alive
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.settings import settings


class LockedRunLauncher(DefaultRunLauncher):
    """Run monitoring asks it every few seconds about each started run.

    Without an answer, a run whose process was killed would stay started for ever, and every later
    sync would queue behind it.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        if seems_alive(open_database(settings()), self._instance, run):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, DEAD_RUN_MESSAGE)
