"""The sensor and the job that complete the work of the fast lane: one run processes everything that
it left in the queue."""

from collections.abc import Iterable, Sequence

import dagster as dg
from pydantic import Field

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import CurrentRmsError
from rms_pipeline.defs.asset_checks import report_checks
from rms_pipeline.defs.config import LaunchpadConfig
from rms_pipeline.defs.data_versions import tagged, version_of_counts
from rms_pipeline.defs.failures import Explained, explained
from rms_pipeline.defs.metadata import refresh_metadata, status_metadata
from rms_pipeline.defs.naming import Naming
from rms_pipeline.defs.recording import SYNC_TYPE_TAG
from rms_pipeline.defs.resources import CurrentRms, Mirror
from rms_pipeline.defs.run_lock import end_runs_that_never_began, jobs_under_way
from rms_pipeline.mirror.database import Database, is_locked
from rms_pipeline.mirror.queue import FAST_LANE_LOCK, queue_state
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.statuses import read_colours
from rms_pipeline.mirror.summary import count_rows, refresh_status_counts
from rms_pipeline.mirror.sync_runs import (
    WEBHOOK_REFRESH,
    note_figures,
    note_metadata,
    seconds_since_failures,
)
from rms_pipeline.sync.parts import refresh_told
from rms_pipeline.sync.queued import WorkedOff, work_off
from rms_pipeline.sync.refreshing import Refreshed, refresh

# What a living fast lane has not taken up by then, it will not.
FAST_LANE_SECONDS = 10.0
# After a run that failed, and twice as long after each further one, up to the longest.
_FIRST_REST, _LONGEST_REST = 10.0, 120.0
# In a run; what is left then is read by the next sync.
_TURNS_OF_PARTS = 4


class RefreshConfig(LaunchpadConfig):
    """What to refresh."""

    ids: list[int] = Field(
        default=[],
        description="Ids of records to refresh, in addition to those that wait in the webhook "
        "queue.",
    )
    collection: str = Field(
        default=OPPORTUNITIES.name,
        description="The collection of these records, by the name of its table.",
    )


def _refresh(
    context: dg.OpExecutionContext,
    config: RefreshConfig,
    mirror: Mirror,
    current_rms: CurrentRms,
    collections: Sequence[Collection],
    naming: Naming,
) -> None:
    database, run = mirror.database, context.run.run_id
    if config.collection not in {c.name for c in collections}:
        known = ", ".join(c.name for c in collections)
        raise Explained(
            f"The collection {config.collection} is not mirrored. The mirrored collections are: "
            f"{known}."
        )
    total, by_hand = WorkedOff(), Refreshed()
    lives = is_locked(database, FAST_LANE_LOCK)
    for collection in collections:
        ids = config.ids if collection.name == config.collection else []
        done, of_ids = _refresh_collection(context, mirror, current_rms, collection, ids, lives)
        total += done
        by_hand += of_ids
        if done.records or collection is OPPORTUNITIES:
            _report(context, database, collection, done, naming)
    counts = refresh_status_counts(database, mirror.settings.time_zone, only_if_changed=True)
    if total.error and not total.blameless:
        # It failed over single events: the API serves all others.
        with database.session() as connection:
            note_metadata(connection, run, {"events_at_fault": True})
    with database.session() as connection:
        metadata = status_metadata(counts, read_colours(connection))
    context.log_event(
        dg.AssetMaterialization(
            naming.key("status_counts"), metadata=metadata, tags=tagged(version_of_counts(counts))
        )
    )
    report_checks(context.instance, database, collections, run, naming=naming)
    if failure := _why_incomplete(config.collection, total, by_hand):
        raise Explained(failure)


def _refresh_collection(
    context: dg.OpExecutionContext,
    mirror: Mirror,
    current_rms: CurrentRms,
    collection: Collection,
    ids: Sequence[int],
    fast_lane_lives: bool,
) -> tuple[WorkedOff, Refreshed]:
    """Refreshes `ids`, and the records of waiting events. Returns the result of both, and that of
    `ids` alone."""
    database, run = mirror.database, context.run.run_id
    done, of_ids = WorkedOff(), Refreshed()
    with (
        explained("refresh"),
        current_rms.client(database, collection) as client,
        database.session() as connection,
    ):
        if collection.parts is not None:
            _refresh_parts(context, database, client, run, done)
        else:
            if ids:
                of_ids = refresh(database, client, ids, run)
                done.refreshed += of_ids
                done.records += len(set(ids))
            _work_off_all(database, connection, client, run, fast_lane_lives, done)
        # With those that led to nothing.
        done.refreshed.calls = client.counts.calls
    return done, of_ids


def _report(
    context: dg.OpExecutionContext,
    database: Database,
    collection: Collection,
    done: WorkedOff,
    naming: Naming,
) -> None:
    """Writes the figures into the row of the sync, and reports them to Dagster."""
    with database.session() as connection:
        metadata = refresh_metadata(done, count_rows(connection, collection))
        note_figures(
            connection,
            context.run.run_id,
            collection.name,
            synced=done.records,
            failed=done.failed + done.dead + done.refreshed.result.failed,
            metadata=metadata,
        )
    # Freshness follows syncs: a few rows that were refreshed, or were not, make no table fresh.
    context.log_event(dg.AssetObservation(naming.key(collection.name), metadata=metadata))


def _why_incomplete(collection: str, total: WorkedOff, by_hand: Refreshed) -> str | None:
    """Which events, or which records of `collection` whose ids a person gave, were not refreshed,
    and why. None if all were."""
    if total.error:
        return (
            f"{total.failed + total.dead} events were put back into the queue and will be tried "
            f"again: {total.error}"
        )
    if by_hand.locked:
        return (
            f"{collection.capitalize()} that could not be written: {_first(by_hand.locked)}. "
            f"{next(iter(by_hand.locked.values()))} End that transaction, then refresh them again."
        )
    if by_hand.failed:
        return (
            f"{collection.capitalize()} that Current RMS did not give: {_first(by_hand.failed)}. "
            f"{next(iter(by_hand.failed.values()))}"
        )
    return None


def _first(ids: Iterable[int]) -> str:
    return ", ".join(str(id_) for id_ in sorted(ids)[:10])


def _refresh_parts(
    context: dg.OpExecutionContext,
    database: Database,
    client: CurrentRmsClient,
    run: str,
    total: WorkedOff,
) -> None:
    """Reads lists of parts of records that webhooks named, at most a limited number, and adds the
    result to `total`. If the API does not answer, the lists stay due. What was refreshed before is
    not affected."""
    try:
        for _ in range(_TURNS_OF_PARTS):
            done = refresh_told(database, client, run)
            total += done
            if not done.claimed:
                return
    except CurrentRmsError as error:
        context.log.warning(f"The next sync reads {client.collection.name}: {error}")


def _work_off_all(
    database: Database,
    connection: Connection,
    client: CurrentRmsClient,
    run: str,
    lives: bool,
    total: WorkedOff,
) -> None:
    """Refreshes the records of waiting events and adds the result to `total`. Events that a running
    fast lane has claimed are left alone."""
    while True:
        done = work_off(
            database, connection, client, run, older_than=FAST_LANE_SECONDS if lives else 0.0
        )
        total += done
        if not done.claimed or done.error:
            return


def rest_after(failed: Sequence[float]) -> float:
    """Seconds until the next run, from how many seconds ago the last runs failed, newest first.
    Pure. A time in the future comes from a wrong clock and is ignored."""
    if not failed or failed[0] < 0:
        return 0.0
    return max(min(_FIRST_REST * (1 << len(failed) - 1), _LONGEST_REST) - failed[0], 0.0)


def reason_to_skip(
    waiting: int, *, lane_lives: bool, under_way: bool, rest: float = 0.0
) -> str | None:
    """The reason why the sensor launches nothing now, None if it has to launch. Pure."""
    if waiting == 0:
        return (
            "The fast lane is working, and no event has waited for more than 10 s."
            if lane_lives
            else "No webhook event is waiting."
        )
    if under_way:
        return f"A webhook_refresh run is processing the queue; {waiting} events wait."
    if rest:
        return f"The last run failed. The next starts in {rest:.0f} s. {waiting} events wait."
    return None


def webhook_refresh_of(
    collections: Sequence[Collection], naming: Naming, *, running: bool = True
) -> tuple[dg.JobDefinition, dg.SensorDefinition]:
    """The job and the sensor `webhook_refresh`."""
    name = naming.name(WEBHOOK_REFRESH)
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED

    @dg.op(
        name=naming.name("refresh_opportunities"),
        description="Asks Current RMS for the opportunities that webhooks named, many in a call, "
        "and brings their rows up to date.",
    )
    @naming.bind
    def refresh_opportunities(
        context: dg.OpExecutionContext,
        config: RefreshConfig,
        mirror: Mirror,
        current_rms: CurrentRms,
    ) -> None:
        _refresh(context, config, mirror, current_rms, collections, naming)

    @dg.job(
        name=name,
        tags={SYNC_TYPE_TAG: WEBHOOK_REFRESH},
        executor_def=dg.in_process_executor,
        description="Refreshes the opportunities of webhooks that the fast lane has not "
        "processed, and those with ids given by hand.",
    )
    def webhook_refresh() -> None:
        refresh_opportunities()

    @dg.sensor(
        name=name,
        job=webhook_refresh,
        minimum_interval_seconds=5,
        default_status=status,
        description="Starts one run for the webhook events that the fast lane has not processed "
        "within 10 s, or for all events when no web service runs.",
    )
    @naming.bind
    def sensor(
        context: dg.SensorEvaluationContext, mirror: Mirror
    ) -> dg.RunRequest | dg.SkipReason:
        # A queue that cannot be read raises, and shows as a failed tick: it is not an empty queue.
        database = mirror.database
        end_runs_that_never_began(database, context.instance)
        lives = is_locked(database, FAST_LANE_LOCK)
        with database.session() as connection:
            # More than nothing, so that only what is due and unclaimed counts.
            state = queue_state(connection, older_than=FAST_LANE_SECONDS if lives else 0.001)
            failed = seconds_since_failures(connection, WEBHOOK_REFRESH)
        under_way = jobs_under_way(database, context.instance, [WEBHOOK_REFRESH], naming)
        reason = reason_to_skip(
            state.depth,
            lane_lives=lives,
            under_way=bool(under_way),
            rest=rest_after(failed) if state.depth else 0.0,
        )
        return dg.SkipReason(reason) if reason else dg.RunRequest()

    return webhook_refresh, sensor
