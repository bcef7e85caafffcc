"""The nightly tidying-up: Dagster's old runs, and old rows of our own tables."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from rms_pipeline.defs.config import HousekeepingConfig
from rms_pipeline.defs.resources import MirrorResource
from rms_pipeline.mirror import housekeeping as old_rows

_RUNS_AT_ONCE = 2_000

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@dg.op(
    description="Deletes runs, faults, settled webhook events, records of walks and reports of the "
    "fast lane that are older than configured. The last completed runs of each sync always stay."
)
def forget_what_is_old(
    context: dg.OpExecutionContext, config: HousekeepingConfig, mirror: MirrorResource
) -> None:
    with mirror.database.session() as connection:
        gone = old_rows.purge(
            connection,
            faults_days=config.faults_days,
            webhook_events_days=config.webhook_events_days,
            walks_days=config.walks_days,
        )
        needed = old_rows.runs_still_needed(connection)
    gone["runs"] = _delete_runs(
        context.instance, datetime.now(UTC) - timedelta(days=config.runs_days), needed
    )
    with mirror.database.session() as connection:
        gone["events"] = old_rows.purge_events(
            connection, reports_days=config.reports_days, runs_days=config.runs_days
        )
    context.log.info("Deleted: " + ", ".join(f"{count} {name}" for name, count in gone.items()))
    context.add_output_metadata(gone)


def _delete_runs(instance: dg.DagsterInstance, before: datetime, needed: set[str]) -> int:
    records = instance.get_run_records(
        dg.RunsFilter(statuses=_ENDED, created_before=before),
        limit=_RUNS_AT_ONCE,
        ascending=True,
    )
    ids = [r.dagster_run.run_id for r in records if r.dagster_run.run_id not in needed]
    for id_ in ids:
        # What its steps printed lies in files of this host, or wherever the instance keeps it.
        instance.compute_log_manager.delete_logs(prefix=[id_])
        instance.delete_run(id_)
    return len(ids)


@dg.job(
    description="Forgets what is old: runs, faults, settled webhook events, records of walks. "
    "Nothing that the mirror needs."
)
def housekeeping() -> None:
    forget_what_is_old()
