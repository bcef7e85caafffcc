"""The schedules of the syncs. All are on by default. Switch them off in Dagster's UI."""

from collections.abc import Collection

import dagster as dg

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.defs.housekeeping import HOUSEKEEPING
from rms_pipeline.defs.naming import OWN, Naming
from rms_pipeline.defs.resources import Mirror
from rms_pipeline.defs.run_lock import (
    end_runs_that_never_began,
    jobs_under_way,
    note_failures_before_the_first_step,
)
from rms_pipeline.mirror.sync_runs import FULL_SYNCS, INCREMENTAL, RECONCILIATION
from rms_pipeline.mirror.walks import has_full_sync


def reason_to_skip(
    under_way: Collection[str], *, needs_full_sync: bool, has_full_sync: bool
) -> str | None:
    """The reason not to start a scheduled sync now, None if there is none. Pure."""
    if under_way:
        return f"{' and '.join(sorted(under_way))} is running. The next tick tries again."
    if needs_full_sync and not has_full_sync:
        return "No full sync has completed yet, and an incremental sync needs one."
    return None


def _reason_to_skip(
    mirror: Mirror,
    instance: dg.DagsterInstance,
    gives_way_to: Collection[str],
    naming: Naming,
    *,
    needs_full_sync: bool,
) -> str | None:
    database = mirror.database
    end_runs_that_never_began(database, instance)
    note_failures_before_the_first_step(database, instance, naming)
    under_way = jobs_under_way(database, instance, gives_way_to, naming)
    with database.session() as connection:
        full = has_full_sync(connection, OPPORTUNITIES)
    return reason_to_skip(under_way, needs_full_sync=needs_full_sync, has_full_sync=full)


def schedules(
    time_zone: str, naming: Naming = OWN, *, running: bool = True
) -> list[dg.ScheduleDefinition]:
    """All schedules, in the time zone `time_zone`, because nightly ones have to run in the
    company's night."""
    status = dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED

    @dg.schedule(
        name=naming.name(INCREMENTAL),
        job_name=naming.name(INCREMENTAL),
        cron_schedule="*/15 * * * *",
        execution_timezone=time_zone,
        default_status=status,
        description="Every 15 minutes: what changed since the last sync.",
    )
    @naming.bind
    def incremental_sync(
        context: dg.ScheduleEvaluationContext, mirror: Mirror
    ) -> dg.RunRequest | dg.SkipReason:
        types = [INCREMENTAL, *FULL_SYNCS]
        reason = _reason_to_skip(mirror, context.instance, types, naming, needs_full_sync=True)
        return dg.SkipReason(reason) if reason else dg.RunRequest()

    @dg.schedule(
        name=naming.name(RECONCILIATION),
        job_name=naming.name(RECONCILIATION),
        cron_schedule="20 2 * * *",
        execution_timezone=time_zone,
        default_status=status,
        description=f"Every night at 02:20 ({time_zone}): a full sync, with deletions and the "
        "proof that the mirror is complete.",
    )
    @naming.bind
    def reconciliation(
        context: dg.ScheduleEvaluationContext, mirror: Mirror
    ) -> dg.RunRequest | dg.SkipReason:
        # It has one tick a day, and rather waits for an incremental sync than for tomorrow.
        types = FULL_SYNCS
        reason = _reason_to_skip(mirror, context.instance, types, naming, needs_full_sync=False)
        return dg.SkipReason(reason) if reason else dg.RunRequest()

    nightly = dg.ScheduleDefinition(
        name=naming.name(HOUSEKEEPING),
        job_name=naming.name(HOUSEKEEPING),
        cron_schedule="50 3 * * *",
        execution_timezone=time_zone,
        default_status=status,
        description=f"Every night at 03:50 ({time_zone}): deletes old runs, faults and events.",
    )
    return [incremental_sync, reconciliation, nightly]
