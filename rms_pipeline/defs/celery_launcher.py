"""The run launcher of `dagster-celery` with the check for dead workers, for `dagster.yaml`.

It needs the package `dagster-celery`, which the rest of this project does not need.
"""

from dagster_celery.launcher import CeleryRunLauncher

from rms_pipeline.defs.run_launcher import UnannouncedRunCheck


class LockedCeleryRunLauncher(UnannouncedRunCheck, CeleryRunLauncher):
    """Celery believes for ever that a task runs if its worker was killed. The lock shows that it is
    dead."""

    def terminate(self, run_id: str) -> bool:
        # The process of the run then ends it as canceled, and not as failed: Dagster retries what
        # failed, so a run that somebody terminated started again within seconds.
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        return super().terminate(run_id)
