"""Whether the process that executes a run still lives.

It holds a PostgreSQL advisory lock on the run's id, which falls when the process does, on whatever
host and however it ends. That is a surer sign than any heartbeat or process id.
"""

import time

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from rms_pipeline.mirror.database import Database, is_locked

# Between Dagster marking a run as started and the run taking its lock.
GRACE_SECONDS = 8.0

DEAD_RUN_MESSAGE = (
    "The process that ran this sync died (killed, out of memory, or the machine went down). "
    "What it had stored is kept and in order; the next sync completes it."
)


def lock_name(run_id: str) -> str:
    """The advisory lock that the executing process of `run_id` holds."""
    return f"run {run_id}"


def seems_alive(database: Database, instance: DagsterInstance, run: DagsterRun) -> bool:
    """True while the lock is held, and for a moment after the start."""
    if is_locked(database, lock_name(run.run_id)):
        return True
    record = instance.get_run_record_by_id(run.run_id)
    started = record.start_time if record else None
    return started is None or time.time() - started < GRACE_SECONDS


def fail_dead_runs(database: Database, instance: DagsterInstance) -> list[str]:
    """Ends every run that is marked as started but has no living process. Returns their ids."""
    dead = []
    for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED])):
        if not seems_alive(database, instance, run):
            instance.report_run_failed(run, DEAD_RUN_MESSAGE)
            dead.append(run.run_id)
    return dead
