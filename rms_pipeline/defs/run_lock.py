"""Which runs of Dagster are dead or running, decided by the workers that announced themselves.

Other runs in the same instance announce nothing (`mirror.run_workers`). So no code here ends them
or waits for them.
"""

import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from rms_pipeline.defs.compat import REPOSITORY_LABEL_TAG, module_of, steps_of
from rms_pipeline.defs.naming import OWN, OWN_DEFINITIONS, Naming
from rms_pipeline.defs.recording import SYNC_TYPE_TAG, sync_type_of, why_failed
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.run_workers import latest_announced, living_runs, lost_runs, was_seen
from rms_pipeline.mirror.sync_runs import (
    DIED,
    NEVER_BEGAN,
    TERMINATED,
    declare_dead,
    declare_lost_dead,
    end_run,
    known_runs,
    launched_runs,
    note_failure,
    runs_at_work,
)

DEAD_RUN_MESSAGE = DIED
# An executor with a process a step may notice by itself that one of them died, and go on.
GRACE = timedelta(seconds=4)
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
# From so many of its last runs a mirror knows which code locations are its own.
_LAST_RUNS = 20
_FAILED = {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
# A started run announces itself before its first step. If it has not by then, its process has died.
ANNOUNCED_WITHIN = timedelta(minutes=5)
# Each tick of a schedule looks for them, so an hour is enough.
_NOTED_WITHIN, _NOTED_AT_ONCE = timedelta(hours=1), 100
# In seconds. If a run stays in this status for longer and no process announces it, the process that
# should start or execute it has died. (Dagster gives up on it later, or never; until then it must
# not keep the next sync of its kind from starting.)
_STARTS_WITHIN = {
    dg.DagsterRunStatus.NOT_STARTED: 20.0,
    dg.DagsterRunStatus.STARTING: 60.0,
    dg.DagsterRunStatus.STARTED: ANNOUNCED_WITHIN.total_seconds(),
}


def is_dead(database: Database, run: dg.DagsterRun, *, grace: timedelta = GRACE) -> bool:
    """Whether a worker of `run` had announced itself and ended without recording it."""
    with database.session() as connection:
        return bool(lost_runs(connection, [run.run_id], for_longer_than=grace))


def is_own(run: dg.DagsterRun) -> bool:
    """Whether `run` is of this project's own code location. It uses the mirror of the settings."""
    return module_of(run) == OWN_DEFINITIONS


def died_unseen(database: Database, instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process of `run` died where no announcement shows it: after Dagster noted its
    start and before it announced itself, or after its last step and before Dagster noted its end.

    `database` has to be the mirror of the settings, and only runs of this project's own code
    location, which always use it, are judged. Any other may have been announced to another mirror.
    """
    if not is_own(run):
        return False
    record = instance.get_run_record_by_id(run.run_id)
    if record is None or record.start_time is None:
        return False
    if time.time() - record.start_time < ANNOUNCED_WITHIN.total_seconds():
        return False
    with database.session() as connection:
        if was_seen(connection, run.run_id, within=ANNOUNCED_WITHIN):
            return False
    return not _are_elsewhere(database, instance, [run])


def _are_elsewhere(
    database: Database, instance: dg.DagsterInstance, runs: Sequence[dg.DagsterRun]
) -> set[str]:
    """Those of `runs` that are of another code location than the last runs of this mirror.

    An instance can have several with the same jobs, as for production and for staging, and each has
    a mirror of its own. While this one has had no run here, any may be its own.
    """
    with database.session() as connection:
        ids = latest_announced(connection, _LAST_RUNS)
    last = instance.get_runs(dg.RunsFilter(run_ids=ids)) if ids else []
    known = {_location_of(run) for run in last} - {None}
    return {run.run_id for run in runs if known and _location_of(run) not in {None, *known}}


def _location_of(run: dg.DagsterRun) -> str | None:
    """The repository and the code location of `run`. None if it was not launched from one."""
    return run.tags.get(REPOSITORY_LABEL_TAG)


def dead_runs(
    database: Database, instance: dg.DagsterInstance, *, grace: timedelta = GRACE
) -> list[dg.DagsterRun]:
    """Every run that Dagster believes to be unfinished although its worker is dead."""
    unfinished = [s for s in UNDER_WAY if s is not dg.DagsterRunStatus.QUEUED]
    runs = {r.run_id: r for r in instance.get_runs(dg.RunsFilter(statuses=unfinished))}
    with database.session() as connection:
        lost = lost_runs(connection, list(runs), for_longer_than=grace)
    return [run for id_, run in runs.items() if id_ in lost]


def fail_dead_runs(database: Database, instance: dg.DagsterInstance) -> list[str]:
    """Ends every run whose worker is dead, also runs that Dagster no longer has. Returns the ids of
    those that Dagster has."""
    end_runs_that_never_began(database, instance)
    dead = dead_runs(database, instance, grace=timedelta(0))
    with database.session() as connection:
        declare_dead(connection, [run.run_id for run in dead])
        declare_lost_dead(connection)
    for run in dead:
        instance.report_run_failed(run, DEAD_RUN_MESSAGE)
    return [run.run_id for run in dead]


def end_runs_that_never_began(database: Database, instance: dg.DagsterInstance) -> None:
    """Ends the row of every launched sync whose run ended in Dagster before its first step, as when
    its code could not be loaded or a person terminated it in the queue.

    Such a run has no process that could write its end. A run that this instance does not have may
    be another instance's, and stays.
    """
    with database.session() as connection:
        launched = launched_runs(connection)
    for id_ in launched:
        run = instance.get_run_by_id(id_)
        if run is None or run.status not in _FAILED:
            continue
        is_failure = run.status is dg.DagsterRunStatus.FAILURE
        why = (why_failed(instance, id_) or NEVER_BEGAN) if is_failure else TERMINATED
        with database.session() as connection:
            end_run(connection, id_, why)


def note_failures_before_the_first_step(
    database: Database, instance: dg.DagsterInstance, naming: Naming = OWN
) -> None:
    """Gives a row to every sync of our jobs that failed of late before its first step, as when its
    process could not use the mirror, or was not started.

    No process of such a run could write it. Without a row, only Dagster's UI would show why the
    mirror is not brought up to date.
    """
    since = datetime.now(UTC) - _NOTED_WITHIN
    found = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    failed = {
        record.dagster_run.run_id: record
        for record in instance.get_run_records(found, limit=_NOTED_AT_ONCE)
        if SYNC_TYPE_TAG in record.dagster_run.tags
        # Other accounts of the instance have the tag too.
        and naming.own(record.dagster_run.job_name) == record.dagster_run.tags[SYNC_TYPE_TAG]
    }
    if not failed:
        return
    with database.session() as connection:
        unseen = failed.keys() - known_runs(connection, list(failed))
    runs = [failed[id_].dagster_run for id_ in unseen]
    elsewhere = _are_elsewhere(database, instance, runs) if runs else set()
    for run in runs:
        kind = sync_type_of(run, naming.prefix, steps_of(instance, run))
        if run.run_id in elsewhere or kind is None:
            continue
        record = failed[run.run_id]
        with database.session() as connection:
            note_failure(
                connection,
                run.run_id,
                kind,
                why_failed(instance, run.run_id) or NEVER_BEGAN,
                launched_at=record.create_timestamp,
                ended_at=record.update_timestamp,
            )


def jobs_under_way(
    database: Database,
    instance: dg.DagsterInstance,
    types: Collection[str],
    naming: Naming = OWN,
) -> set[str]:
    """The types of sync of which a run is queued, starting or running.

    Our own rows say what is running. Dagster is asked only for what it alone knows: queued runs,
    and runs of a version of this program that keeps no rows. A run whose worker is dead, or that
    nobody started, does not count.
    """
    with database.session() as connection:
        found = runs_at_work(connection, list(types))
    jobs = {naming.name(each): each for each in types}
    records = {
        record.dagster_run.run_id: record
        for record in instance.get_run_records(dg.RunsFilter(statuses=UNDER_WAY))
        if record.dagster_run.job_name in jobs
    }
    if not records:
        return found
    with database.session() as connection:
        dead = lost_runs(connection, list(records), for_longer_than=GRACE)
        alive = living_runs(connection, list(records))
    elsewhere = _are_elsewhere(
        database, instance, [record.dagster_run for record in records.values()]
    )
    now = time.time()
    for id_, record in records.items():
        run = record.dagster_run
        waits = now - record.update_timestamp.timestamp()
        was_left = waits > _STARTS_WITHIN.get(run.status, float("inf")) and id_ not in alive
        is_ours = id_ in alive or id_ not in elsewhere
        if is_ours and id_ not in dead and not was_left:
            found.add(jobs[run.job_name])
    return found
