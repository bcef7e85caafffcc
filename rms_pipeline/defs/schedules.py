"""When syncs run by themselves. All on by default; switch them off in Dagster's UI."""

from collections.abc import Collection

import dagster as dg

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.defs.housekeeping import housekeeping
from rms_pipeline.defs.run_lock import jobs_under_way
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.history import FULL_SYNCS, has_full_sync
from rms_pipeline.mirror.sync_runs import INCREMENTAL
from rms_pipeline.settings import settings


def reason_to_skip(
    under_way: Collection[str], *, needs_full_sync: bool, has_full_sync: bool
) -> str | None:
    """Why a scheduled sync must not start now, None when it may. Pure."""
    if under_way:
        return f"{' and '.join(sorted(under_way))} is running; the next tick tries again."
    if needs_full_sync and not has_full_sync:
        return "No full sync has completed yet, and an incremental sync needs one."
    return None


def _reason_to_skip(
    instance: dg.DagsterInstance, gives_way_to: Collection[str], *, needs_full_sync: bool
) -> str | None:
    database = open_database(settings())
    under_way = jobs_under_way(database, instance, gives_way_to)
    with database.session() as connection:
        full = has_full_sync(connection, OPPORTUNITIES)
    return reason_to_skip(under_way, needs_full_sync=needs_full_sync, has_full_sync=full)


def schedules(time_zone: str) -> list[dg.ScheduleDefinition]:
    """All of them, by the clocks of `time_zone`: the nightly ones are to run in the company's own
    night."""
    running = dg.DefaultScheduleStatus.RUNNING

    @dg.schedule(
        name="incremental_sync",
        job_name=INCREMENTAL,
        cron_schedule="*/15 * * * *",
        execution_timezone=time_zone,
        default_status=running,
        description="Every 15 minutes: what changed since the last sync.",
    )
    def incremental_sync(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        reason = _reason_to_skip(context.instance, [INCREMENTAL, *FULL_SYNCS], needs_full_sync=True)
        return dg.SkipReason(reason) if reason else dg.RunRequest()

    @dg.schedule(
        name="reconciliation",
        job_name="reconciliation",
        cron_schedule="20 2 * * *",
        execution_timezone=time_zone,
        default_status=running,
        description=f"Every night at 02:20 ({time_zone}): a full sync, with deletions and the "
        "proof that the mirror is complete.",
    )
    def reconciliation(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        # It has one tick a day, and rather waits for an incremental sync than for tomorrow.
        reason = _reason_to_skip(context.instance, FULL_SYNCS, needs_full_sync=False)
        return dg.SkipReason(reason) if reason else dg.RunRequest()

    nightly = dg.ScheduleDefinition(
        name="housekeeping",
        job=housekeeping,
        cron_schedule="50 3 * * *",
        execution_timezone=time_zone,
        default_status=running,
        description=f"Every night at 03:50 ({time_zone}): forgets old runs, faults and events.",
    )
    return [incremental_sync, reconciliation, nightly]
