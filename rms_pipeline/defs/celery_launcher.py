"""The run launcher of `dagster-celery` with the check for dead workers. Named in `dagster.yaml`.

Needs the package `dagster-celery`, which the rest of this project does not.
"""

from dagster_celery.launcher import CeleryRunLauncher

from rms_pipeline.defs.run_launcher import WorkerLockCheck


class LockedCeleryRunLauncher(WorkerLockCheck, CeleryRunLauncher):
    """Celery takes a task for started for ever when its worker was killed; the lock does not."""
