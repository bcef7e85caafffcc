"""The sensor and the run behind the fast lane, and business events."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

from rms_pipeline import actions
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.definitions import build_defs
from rms_pipeline.defs.business_events import business_events_of
from rms_pipeline.defs.naming import OWN
from rms_pipeline.defs.resources import Mirror
from rms_pipeline.defs.webhook_refresh import reason_to_skip, webhook_refresh_of
from rms_pipeline.insight.sense import SENSE_CHECKS
from rms_pipeline.mirror.database import Database, advisory_lock
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.housekeeping import purge_events
from rms_pipeline.mirror.queue import FAST_LANE_LOCK
from rms_pipeline.mirror.sync_metadata import latest_syncs
from rms_pipeline.sandbox import Faults, SandboxServer
from rms_pipeline.settings import settings
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.web.reporting import Reporter
from rms_pipeline_tests.defs.test_assets import instance, ready_url, sandbox, synced
from rms_pipeline_tests.rows import query

__all__ = ["instance", "ready_url", "sandbox", "synced"]

_, webhook_refresh_sensor = webhook_refresh_of([OPPORTUNITIES], OWN)
_, business_events_sensor = business_events_of(OWN)


@pytest.fixture
def database(instance: dg.DagsterInstance) -> Database:
    return open_database(settings())


def tell(database: Database, *ids: int) -> None:
    with database.session() as connection, connection.cursor() as cursor:
        for id_ in ids:
            cursor.execute(
                "INSERT INTO webhook_events (subject_type, opportunity_id)"
                " VALUES ('Opportunity', %s)",
                (id_,),
            )


def decide(instance: dg.DagsterInstance, sensor: dg.SensorDefinition, cursor: str | None = None
           ) -> Any:  # fmt: skip
    resources = {"mirror": Mirror()}
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
        return sensor.evaluate_tick(context)


def run(instance: dg.DagsterInstance, succeed: bool = True, **config: object) -> dg.DagsterRun:
    job = build_defs().resolve_job_def("webhook_refresh")
    ops = {"ops": {"refresh_opportunities": {"config": config}}}
    result = job.execute_in_process(instance=instance, run_config=ops, raise_on_error=False)
    assert result.success is succeed
    return result.dagster_run


def test_waiting_events_become_one_run_that_settles_them(
    instance: dg.DagsterInstance, database: Database, sandbox: SandboxServer
) -> None:
    assert "No webhook event" in str(decide(instance, webhook_refresh_sensor).skip_message)
    ids = sandbox.store.ids()[:3]
    tell(database, *ids)
    assert len(decide(instance, webhook_refresh_sensor).run_requests or []) == 1
    sandbox.requests.clear()
    run(instance)
    assert len(sandbox.requests) == 1
    assert "No webhook event" in str(decide(instance, webhook_refresh_sensor).skip_message)
    with database.session() as connection:
        sync = latest_syncs(connection)[0]
    assert (sync.sync_type, sync.status, sync.records_synced) == ("webhook_refresh", "completed", 3)
    assert sync.metadata["created"] == 3


def test_a_living_fast_lane_is_given_ten_seconds(
    instance: dg.DagsterInstance, database: Database, sandbox: SandboxServer
) -> None:
    tell(database, sandbox.store.ids()[0])
    with advisory_lock(database, FAST_LANE_LOCK):
        assert "fast lane" in str(decide(instance, webhook_refresh_sensor).skip_message)
        with database.session() as connection, connection.cursor() as cursor:
            cursor.execute("UPDATE webhook_events SET received_at = now() - interval '11 s'")
        assert len(decide(instance, webhook_refresh_sensor).run_requests or []) == 1


def test_there_is_never_a_second_run_while_one_is_at_work(
    instance: dg.DagsterInstance, database: Database, sandbox: SandboxServer
) -> None:
    tell(database, sandbox.store.ids()[0])
    job = build_defs().resolve_job_def("webhook_refresh")
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert "is processing the queue" in str(decide(instance, webhook_refresh_sensor).skip_message)


def test_a_queue_that_cannot_be_read_is_no_empty_queue(
    instance: dg.DagsterInstance, database: Database
) -> None:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE webhook_events RENAME TO elsewhere")
    with pytest.raises(Exception, match="webhook_events"):
        decide(instance, webhook_refresh_sensor)


@pytest.mark.usefixtures("synced")
@pytest.mark.parametrize("succeed", [True, False])
def test_a_refresh_makes_no_table_fresh_whether_it_succeeds_or_not(
    instance: dg.DagsterInstance, database: Database, sandbox: SandboxServer, succeed: bool
) -> None:
    key = dg.AssetKey("opportunities")

    def stored() -> float:
        event = instance.get_latest_materialization_event(key)
        assert event is not None
        return event.timestamp

    before = stored()
    tell(database, *sandbox.store.ids()[:2])
    if not succeed:
        sandbox.api_key = "another"
    run(instance, succeed)
    assert stored() == before
    seen = instance.fetch_observations(key, limit=1).records
    assert [e.asset_observation.metadata["refreshed"].value for e in seen
            if e.asset_observation] == [2 if succeed else 0]  # fmt: skip


@pytest.mark.usefixtures("synced")
def test_ids_can_be_refreshed_by_hand_and_one_that_is_gone_is_deleted(
    instance: dg.DagsterInstance, database: Database, sandbox: SandboxServer
) -> None:
    there, gone = sandbox.store.ids()[:2]
    sandbox.store.edit(there, {"subject": "By hand"})
    sandbox.store.delete(gone)
    run(instance, ids=[there, gone])
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT name FROM opportunities WHERE id = %s", (there,))
        assert cursor.fetchone() == ("By hand",)
        cursor.execute("SELECT id FROM deleted_opportunities")
        assert cursor.fetchall() == [(gone,)]


def test_one_that_current_rms_does_not_give_fails_a_refresh_by_hand_and_costs_no_other(
    instance: dg.DagsterInstance, database: Database, sandbox: SandboxServer
) -> None:
    bad, good = sandbox.store.ids()[:2]
    sandbox.switches = replace(
        sandbox.switches, undeliverable=frozenset([bad]), undeliverable_single=True
    )
    run(instance, succeed=False, ids=[bad, good])
    with database.session() as connection:
        said = latest_syncs(connection)[0].error
    assert said is not None
    assert f"did not give: {bad}." in said
    assert query(database, "SELECT id FROM opportunities") == [(good,)]


def test_a_refused_refresh_fails_the_run_and_keeps_the_events(
    instance: dg.DagsterInstance, database: Database, sandbox: SandboxServer
) -> None:
    tell(database, sandbox.store.ids()[0])
    sandbox.faults = Faults(queue=["redirect"])
    run(instance, succeed=False)
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT processed_at, error IS NOT NULL FROM webhook_events")
        assert cursor.fetchone() == (None, True)


def test_while_the_api_serves_nobody_the_runs_come_at_ever_longer_intervals(
    instance: dg.DagsterInstance, database: Database, sandbox: SandboxServer
) -> None:
    def ended(seconds_ago: float) -> None:
        query(
            database,
            "UPDATE sync_runs SET ended_at = now() - make_interval(secs => %s)",
            seconds_ago,
        )
        query(database, "UPDATE webhook_events SET next_attempt_at = now()")

    tell(database, sandbox.store.ids()[0])
    sandbox.faults = Faults(probabilities={"redirect": 1.0})
    for rests in (10, 20, 40):
        run(instance, succeed=False)
        ended(rests - 2)
        assert "The next starts in" in str(decide(instance, webhook_refresh_sensor).skip_message)
        ended(rests + 1)
        assert decide(instance, webhook_refresh_sensor).run_requests
    sandbox.faults = Faults()
    run(instance)
    tell(database, sandbox.store.ids()[1])
    assert decide(instance, webhook_refresh_sensor).run_requests


def test_a_run_that_failed_over_its_events_keeps_no_other_event_waiting(
    instance: dg.DagsterInstance, database: Database, sandbox: SandboxServer
) -> None:
    bad, other = sandbox.store.ids()[:2]
    tell(database, bad)
    sandbox.faults = Faults(queue=["error_400"])
    run(instance, succeed=False)
    tell(database, other)
    assert decide(instance, webhook_refresh_sensor).run_requests


@pytest.mark.parametrize(
    ("waiting", "lives", "under_way", "says"),
    [(0, True, False, "fast lane"), (0, False, False, "No webhook"), (4, False, True, "4 events")],
)
def test_the_sensor_says_why_it_skips(
    waiting: int, lives: bool, under_way: bool, says: str
) -> None:
    assert says in str(reason_to_skip(waiting, lane_lives=lives, under_way=under_way))


@pytest.fixture
def registered() -> Iterator[list[actions.Change]]:
    seen: list[actions.Change] = []
    before = list(actions._actions)
    actions.when(actions.STATE, to="Order")(seen.append)
    yield seen
    actions._actions[:] = before


def test_a_conversion_to_order_reaches_the_action_that_waits_for_it(
    instance: dg.DagsterInstance,
    database: Database,
    sandbox: SandboxServer,
    registered: list[actions.Change],
) -> None:
    id_ = sandbox.store.create({"subject": "Quoted", "state": 2, "state_name": "Quotation"})
    run(instance, ids=[id_])
    begins = decide(instance, business_events_sensor)
    sandbox.store.edit(id_, {"state": 3})
    run(instance, ids=[id_])
    told = decide(instance, business_events_sensor, begins.cursor)
    requests = told.run_requests or []
    assert len(requests) == 1
    job = build_defs().resolve_job_def("business_events")
    assert job.execute_in_process(instance=instance, run_config=requests[0].run_config).success
    assert [(c.opportunity_id, c.old_value, c.new_value) for c in registered] == [
        (id_, "Quotation", "Order")
    ]
    assert not decide(instance, business_events_sensor, told.cursor).run_requests


def test_an_action_that_fails_gets_its_change_again_and_the_others_once(
    instance: dg.DagsterInstance,
    database: Database,
    registered: list[actions.Change],
) -> None:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO opportunity_changes (opportunity_id, field, new_value)"
            " SELECT n, 'state_name', 'Order' FROM generate_series(1, 3) AS n"
        )
    fails = iter([True, False])

    @actions.when(actions.STATE)
    def stumble(change: actions.Change) -> None:
        if change.opportunity_id == 2 and next(fails):
            raise RuntimeError("the chat server restarts")

    job = build_defs().resolve_job_def("business_events")
    config = {"ops": {"act_on_changes": {"config": {"after": 0, "until": 3}}}}
    result = job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)
    assert result.success
    # The other action of the second change had come first.
    assert [c.opportunity_id for c in registered] == [1, 2, 2, 3]


def test_no_change_is_passed_over_because_it_is_committed_late(
    instance: dg.DagsterInstance, database: Database
) -> None:
    insert = (
        "INSERT INTO opportunity_changes (opportunity_id, field, new_value)"
        " VALUES (1, 'state_name', 'Order')"
    )
    begins = decide(instance, business_events_sensor)
    with database.session() as slow, slow.cursor() as cursor:
        cursor.execute(insert)
        with database.session() as quick, quick.cursor() as other:
            other.execute(insert)
        told: list[dg.SensorExecutionData] = []
        looking = threading.Thread(
            target=lambda: told.append(decide(instance, business_events_sensor, begins.cursor))
        )
        looking.start()
        looking.join(1)
    looking.join(30)
    requests = told[0].run_requests or []
    config = requests[0].run_config["ops"]["act_on_changes"]["config"]
    assert config["until"] - config["after"] == 2


@pytest.mark.parametrize("prefix", [[], ["acme"], ["rentals", "acme"]])
def test_what_the_fast_lane_did_shows_in_dagster(
    instance: dg.DagsterInstance, database: Database, prefix: list[str]
) -> None:
    reporter = Reporter(database, lambda: instance, "UTC", prefix)
    reporter.start()
    for _ in range(2):
        reporter(OPPORTUNITIES, WorkedOff(settled=3, records=2))
    reporter.stop()
    event = instance.get_latest_materialization_event(dg.AssetKey([*prefix, "opportunities"]))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert (metadata["webhook_events"].value, metadata["refreshed"].value) == (6, 4)
    counted = dg.AssetKey([*prefix, "status_counts"])
    assert instance.get_latest_materialization_event(counted) is not None
    checked = dg.AssetCheckKey(counted, "status_counts_add_up")
    assert instance.get_latest_asset_check_evaluation_record(checked) is not None
    assert {key.path[:-1] == prefix for key in instance.all_asset_keys()} == {True}


# What makes no sense in the sandbox is no concern here.
_SENSE = [("opportunities", name) for name in SENSE_CHECKS]
# As many as there are of opportunities, and of what is made of them.
CHECKS = 9 + len(SENSE_CHECKS)


def standing(instance: dg.DagsterInstance) -> dict[str, bool | None]:
    """What Dagster's UI shows of each check: how it ended, None when it is "Not Evaluated"."""
    keys = [
        dg.AssetCheckKey(dg.AssetKey(asset), name)
        for asset, name in (
            *(("opportunities", n) for n in ("opportunity_ids_are_unique", "no_faults")),
            *(("opportunities", n) for n in ("mirror_is_complete", "deletions_are_plausible")),
            *(("opportunities", n) for n in ("hires_have_a_length", "statuses_are_known")),
            *(("opportunities", "webhooks_arrive"), ("status_counts", "status_counts_add_up")),
            *(("opportunities", "own_fields_are_as_before"), *_SENSE),
        )
    ]
    found: dict[str, bool | None] = {key.name: None for key in keys}

    async def look() -> None:
        context = LoadingContextForTest(instance)
        for key in keys:
            record = await AssetCheckExecutionRecord.gen(context, key)
            if record and await record.targets_latest_materialization(context):
                found[key.name] = record.evaluation.passed if record.evaluation else None

    asyncio.run(look())
    return found


def is_up_to_date(instance: dg.DagsterInstance, asset: str) -> bool:
    """Whether Dagster's UI shows the asset as made of what its own sources hold now."""
    graph = build_defs().resolve_asset_graph()
    stale = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return stale.get_status(dg.AssetKey(asset)) is StaleStatus.FRESH


@pytest.mark.usefixtures("synced")
def test_a_refresh_leaves_no_check_unevaluated(
    instance: dg.DagsterInstance, database: Database
) -> None:
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO held_deletions (collection, id, because, asked_at, answered_at)"
            " SELECT 'opportunities', id, 'gone', now(), now() FROM opportunities LIMIT 40"
        )
        cursor.execute(
            "INSERT INTO sync_faults (field, problem, run, seen_at) VALUES"
            " ('name', 'too long', 'fast lane', now() - interval '1 day')"
        )
    reporter = Reporter(database, lambda: instance, "UTC")
    reporter.start()
    reporter(OPPORTUNITIES, WorkedOff(settled=1, records=1))
    reporter.stop()
    stands = standing(instance)
    # That too many rows would go is still in sight; a fault of yesterday is of no refresh of now.
    assert stands.pop("deletions_are_plausible") is False
    assert None not in [stands.pop(name) for name in SENSE_CHECKS]
    assert set(stands.values()) == {True}, stands


@pytest.mark.usefixtures("synced")
def test_the_fast_lane_reports_once_a_minute_and_repeats_no_check_that_says_the_same(
    instance: dg.DagsterInstance, database: Database
) -> None:
    now = [1000.0]
    reporter = Reporter(database, lambda: instance, "UTC", clock=lambda: now[0])
    count = ("SELECT dagster_event_type, count(*) FROM dagster.event_logs"
             " WHERE run_id = '' AND id > %s GROUP BY 1")  # fmt: skip
    kinds = ("ASSET_MATERIALIZATION", "ASSET_OBSERVATION", "ASSET_CHECK_EVALUATION")

    def events(seconds: int) -> tuple[int, ...]:
        """Of each kind, while something is refreshed every ten seconds."""
        ((last,),) = query(database, "SELECT coalesce(max(id), 0) FROM dagster.event_logs")
        for _ in range(0, seconds, 10):
            reporter(OPPORTUNITIES, WorkedOff(settled=1, records=1))
            reporter._look()
            now[0] += 10
        found = {str(kind): int(str(many)) for kind, many in query(database, count, last)}
        return tuple(found.get(kind, 0) for kind in kinds)

    assert events(60) == (2, 0, CHECKS)
    # Six minutes in which nothing new is to be said.
    assert events(360) == (0, 6, 0)
    assert None not in standing(instance).values()
    query(database, "INSERT INTO held_deletions (collection, id, because, asked_at, answered_at)"
                    " SELECT 'opportunities', id, 'gone', now(), now() FROM opportunities"
                    " LIMIT 40 RETURNING 1")  # fmt: skip
    query(database, "UPDATE opportunities SET name = 'Edited' WHERE id ="
                    " (SELECT min(id) FROM opportunities) RETURNING 1")  # fmt: skip
    # The counts are as before, but they are those of the rows of now.
    assert events(120) == (2, 1, CHECKS)
    assert is_up_to_date(instance, "status_counts")
    stands = standing(instance)
    assert stands["deletions_are_plausible"] is False
    assert None not in stands.values()


def test_housekeeping_forgets_old_reports_but_not_the_last(
    instance: dg.DagsterInstance, database: Database
) -> None:
    for _ in range(3):
        reporter = Reporter(database, lambda: instance, "UTC")
        reporter.start()
        reporter(OPPORTUNITIES, WorkedOff(settled=1, records=1))
        reporter.stop()
    count = "SELECT count(*) FROM dagster.event_logs WHERE run_id = ''"
    count += " AND dagster_event_type LIKE 'ASSET%'"
    executions = "SELECT count(*) FROM dagster.asset_check_executions"
    assert query(database, count) == [(3 * (2 + CHECKS),)]
    with database.session() as connection, connection.cursor() as cursor:
        assert purge_events(connection, reports_days=14, runs_days=90) == 0
        cursor.execute("UPDATE dagster.event_logs SET timestamp = timestamp - interval '15 d'")
        cursor.execute(
            "UPDATE dagster.asset_check_executions"
            " SET create_timestamp = create_timestamp - interval '15 d'"
        )
        connection.commit()
        assert purge_events(connection, reports_days=14, runs_days=90) > 0
    assert query(database, executions) == [(CHECKS,)]
    assert instance.get_latest_materialization_event(dg.AssetKey("opportunities")) is not None
    assert None not in standing(instance).values()
