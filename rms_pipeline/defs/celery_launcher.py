"""The run launcher of `dagster-celery` with the check for dead workers, for `dagster.yaml`.

It needs the package `dagster-celery`, which the rest of this project does not need.
"""

from dagster_celery.launcher import CeleryRunLauncher

from rms_pipeline.defs.run_launcher import UnannouncedRunCheck


class LockedCeleryRunLauncher(UnannouncedRunCheck, CeleryRunLauncher):
    """Celery believes for ever that a task runs if its worker was killed. The lock shows that it is
    dead."""
