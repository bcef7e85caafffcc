"""The nightly housekeeping: deletes Dagster's old runs and old rows of our tables."""

from collections.abc import Callable
from datetime import datetime

import dagster as dg

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.defs.compat import REPOSITORY_LABEL_TAG
from rms_pipeline.defs.config import HousekeepingConfig
from rms_pipeline.defs.naming import Naming
from rms_pipeline.defs.recording import SYNC_TYPE_TAG
from rms_pipeline.defs.resources import Mirror
from rms_pipeline.mirror import housekeeping as old_rows
from rms_pipeline.mirror.record_history import forget
from rms_pipeline.mirror.redecode import reword
from rms_pipeline.mirror.run_workers import announced_runs, forget_workers
from rms_pipeline.mirror.sync_runs import all_runs, forget_runs, runs_to_keep

_RUNS_AT_ONCE, _LOOKED_AT_ONCE = 2_000, 500
# So many refusals to delete what steps printed, and no more is tried that night.
_REFUSALS = 3
# Jobs that are no syncs, and so have no tag that says so.
HOUSEKEEPING = "housekeeping"
OTHER_JOBS = frozenset({HOUSEKEEPING, "rebuild", "business_events"})

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def _forget(
    context: dg.OpExecutionContext, config: HousekeepingConfig, mirror: Mirror, naming: Naming
) -> None:
    with mirror.database.session() as connection:
        gone = old_rows.purge(
            connection,
            faults_days=config.faults_days,
            webhook_events_days=config.webhook_events_days,
            walks_days=config.walks_days,
        )
        if config.history_days is not None:
            for collection in COLLECTIONS:
                if collection.remembers:
                    gone[collection.past] = forget(connection, collection, config.history_days)
        needed = runs_to_keep(connection)
        syncs, announced = all_runs(connection), announced_runs(connection)
        until = old_rows.oldest_to_keep(connection, days=config.runs_days)
    for collection in COLLECTIONS:
        # Done already, unless the command that gave a field its column was interrupted.
        reword(mirror.database, collection)
    deleted = _delete_runs(
        context,
        until,
        lambda run: (
            run.run_id not in needed and _is_ours(naming, run, context.run, syncs, announced)
        ),
    )
    gone["runs"] = len(deleted)
    with mirror.database.session() as connection:
        gone["syncs"] = forget_runs(connection, days=config.runs_days, deleted=deleted)
        gone["run_workers"] = forget_workers(connection, days=config.runs_days)
        gone["events"] = old_rows.purge_events(
            connection, reports_days=config.reports_days, runs_days=config.runs_days
        )
    context.log.info("Deleted: " + ", ".join(f"{count} {name}" for name, count in gone.items()))
    context.add_output_metadata(gone)


def _is_ours(
    naming: Naming,
    run: dg.DagsterRun,
    housekeeping_run: dg.DagsterRun,
    syncs: set[str],
    announced: set[str],
) -> bool:
    """Whether `run` is of a job of this project and of this mirror.

    Other code may share the Dagster instance, with jobs of the same names, and other jobs may share
    the code location. We must not delete their history.
    """
    own = naming.own(run.job_name)
    is_job = (
        own in OTHER_JOBS
        or run.run_id in syncs
        # Those of another account of the same code location have the tag too.
        or (own is not None and own == run.tags.get(SYNC_TYPE_TAG))
    )
    label = REPOSITORY_LABEL_TAG
    is_here = run.tags.get(label) == housekeeping_run.tags.get(label) or run.run_id in announced
    return is_job and is_here


def _delete_runs(
    context: dg.OpExecutionContext, before: datetime, may_go: Callable[[dg.DagsterRun], bool]
) -> list[str]:
    instance = context.instance
    ids: list[str] = []
    cursor = None
    while len(ids) < _RUNS_AT_ONCE:
        records = instance.get_run_records(
            dg.RunsFilter(statuses=_ENDED, created_before=before),
            limit=_LOOKED_AT_ONCE,
            ascending=True,
            cursor=cursor,
        )
        ids += [r.dagster_run.run_id for r in records if may_go(r.dagster_run)]
        if len(records) < _LOOKED_AT_ONCE:
            break
        cursor = records[-1].dagster_run.run_id
    refused: list[Exception] = []
    for id_ in ids:
        # A store that is away must not hold up each of thousands.
        if len(refused) < _REFUSALS:
            # What its steps printed lies in files of this host, or wherever the instance keeps it.
            try:
                instance.compute_log_manager.delete_logs(prefix=[id_])
            except Exception as error:
                refused.append(error)
        instance.delete_run(id_)
    if refused:
        context.log.warning(
            f"The compute logs of deleted runs could not be deleted: {type(refused[0]).__name__}: "
            f"{' '.join(str(refused[0]).split())}. Give Dagster the right to delete in the store "
            "of compute_logs (dagster.yaml), or give that store a lifecycle rule."
        )
    return ids


def housekeeping_job(naming: Naming) -> dg.JobDefinition:
    """The job `housekeeping`."""

    @dg.op(
        name=naming.name("forget_what_is_old"),
        description="Deletes runs, syncs, faults, settled webhook events, records of walks and "
        "reports of the fast lane that are older than configured. The last completed runs of each "
        "sync always stay.",
    )
    @naming.bind
    def forget_what_is_old(
        context: dg.OpExecutionContext, config: HousekeepingConfig, mirror: Mirror
    ) -> None:
        _forget(context, config, mirror, naming)

    @dg.job(
        name=naming.name(HOUSEKEEPING),
        executor_def=dg.in_process_executor,
        description="Deletes old records: runs, faults, processed webhook events, walks. It "
        "deletes nothing that the mirror needs.",
    )
    def housekeeping() -> None:
        forget_what_is_old()

    return housekeeping
