"""When syncs start by themselves, and why they do not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorType, TickStatus
from dagster._utils.schedules import schedule_execution_time_iterator

from rms_pipeline.definitions import build_defs
from rms_pipeline.defs.resources import Mirror
from rms_pipeline.defs.schedules import reason_to_skip, schedules
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.sandbox import SandboxServer
from rms_pipeline.settings import settings
from rms_pipeline_tests.defs.test_assets import instance, materialize, ready_url, sandbox, synced
from rms_pipeline_tests.rows import query

__all__ = ["instance", "ready_url", "sandbox", "synced"]


def decide(name: str, instance: dg.DagsterInstance) -> str:
    """ "run", or the reason for which not."""
    schedule = build_defs().resolve_schedule_def(name)
    mirror = Mirror()
    with dg.build_schedule_context(instance=instance, resources={"mirror": mirror}) as context:
        data = schedule.evaluate_tick(context)
    return "run" if data.run_requests else str(data.skip_message)


def test_an_incremental_sync_is_skipped_with_a_reason_until_a_full_one_has_completed(
    instance: dg.DagsterInstance,
) -> None:
    assert "No full sync" in decide("incremental_sync", instance)
    assert decide("reconciliation", instance) == "run"
    materialize(instance)
    assert decide("incremental_sync", instance) == "run"


@pytest.mark.usefixtures("synced")
def test_a_scheduled_sync_is_skipped_with_a_reason_while_one_is_running(
    instance: dg.DagsterInstance,
) -> None:
    job = build_defs().resolve_job_def("initial_sync")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    for schedule in ("incremental_sync", "reconciliation"):
        assert "initial_sync is running" in decide(schedule, instance)
    instance.report_run_failed(run)
    assert decide("incremental_sync", instance) == "run"


@pytest.mark.usefixtures("synced")
def test_reconciliation_has_one_tick_a_day_and_gives_it_up_to_no_incremental_sync(
    instance: dg.DagsterInstance,
) -> None:
    job = build_defs().resolve_job_def("incremental_sync")
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert "incremental_sync is running" in decide("incremental_sync", instance)
    assert decide("reconciliation", instance) == "run"


def test_a_walk_that_landed_and_was_never_merged_is_no_full_sync(
    instance: dg.DagsterInstance,
) -> None:
    materialize(instance, "raw_rms_pages")
    assert "No full sync" in decide("incremental_sync", instance)


@pytest.mark.parametrize("name", ["incremental_sync", "reconciliation", "housekeeping"])
def test_a_schedule_is_on_by_default(name: str) -> None:
    schedule = build_defs().resolve_schedule_def(name)
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def ticks(name: str, time_zone: str, after: datetime, days: int) -> list[datetime]:
    """When the schedule runs, by the clock of `time_zone`."""
    schedule = next(s for s in schedules(time_zone) if s.name == name)
    until = after + timedelta(days=days)
    found = []
    zone = schedule.execution_timezone
    for moment in schedule_execution_time_iterator(after.timestamp(), schedule.cron_schedule, zone):
        if moment >= until:
            break
        found.append(moment.astimezone(ZoneInfo(time_zone)))
    return found


@pytest.mark.parametrize("time_zone", ["UTC", "Australia/Sydney", "America/Los_Angeles"])
@pytest.mark.parametrize(("name", "at"), [("reconciliation", (2, 20)), ("housekeeping", (3, 50))])
def test_the_nightly_schedules_run_in_the_companys_own_night(
    name: str, at: tuple[int, int], time_zone: str
) -> None:
    found = ticks(name, time_zone, datetime(2026, 11, 20, tzinfo=UTC), days=5)
    assert [(t.hour, t.minute) for t in found] == [at] * 5


@pytest.mark.parametrize(
    "change", [datetime(2026, 10, 25, tzinfo=UTC), datetime(2027, 3, 28, tzinfo=UTC)]
)
def test_a_night_in_which_the_clocks_change_has_one_full_sync(change: datetime) -> None:
    """In Berlin 02:20 comes twice on the one day, and not at all on the other."""
    found = ticks("reconciliation", "Europe/Berlin", change - timedelta(days=1), days=3)
    assert len({t.date() for t in found}) == len(found) == 3


def test_the_time_zone_of_the_settings_is_that_of_the_schedules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RMS_TIME_ZONE", "Australia/Sydney")
    settings.cache_clear()
    for name in ("incremental_sync", "reconciliation", "housekeeping"):
        schedule = build_defs().resolve_schedule_def(name)
        assert schedule.execution_timezone == "Australia/Sydney"
        assert name == "incremental_sync" or "(Australia/Sydney)" in str(schedule.description)
    monkeypatch.undo()
    settings.cache_clear()


def test_all_that_is_running_is_named() -> None:
    reason = reason_to_skip({"b", "a"}, needs_full_sync=True, has_full_sync=True)
    assert reason == "a and b is running. The next tick tries again."


@pytest.mark.usefixtures("synced")
def test_an_incremental_job_in_dagster_fetches_only_changes(
    instance: dg.DagsterInstance,
    sandbox: object,
) -> None:
    result = (
        build_defs()
        .resolve_job_def("incremental_sync")
        .execute_in_process(instance=instance, raise_on_error=False)
    )
    assert result.success
    pages = result.asset_materializations_for_node("raw_rms_pages")[0].metadata
    # The proof's calls are told beside it.
    assert pages["api_calls"].value == 1
    stored = result.asset_materializations_for_node("opportunities")[0].metadata
    assert stored["proof_calls"].value == 3
    assert pages["pages"].value == 1
    assert "changed_since" in pages
    # Or what a full sync found would be out of sight a quarter of an hour later.
    passed = {c.check_name for c in result.get_asset_check_evaluations() if c.passed}
    assert passed >= {"mirror_is_complete", "deletions_are_plausible"}


@pytest.mark.usefixtures("synced")
def test_housekeeping_forgets_old_runs_and_all_that_is_kept_of_them_but_never_the_watermark(
    instance: dg.DagsterInstance,
) -> None:
    first, *_ = runs = [record.run_id for record in instance.get_runs()]
    runs += [materialize(instance).run_id for _ in range(3)]
    for _ in range(2):
        instance.report_runless_asset_event(dg.AssetMaterialization("opportunities"))
    database = open_database(settings())
    of_no_run = "SELECT id FROM dagster.event_logs WHERE run_id = '' ORDER BY id"
    old, new = (row[0] for row in query(database, of_no_run))
    long_ago = "now() - interval '100 days'"
    query(database, f"UPDATE dagster.runs SET create_timestamp = {long_ago}")
    query(database, f"UPDATE dagster.asset_check_executions SET create_timestamp = {long_ago}")
    query(database, f"UPDATE dagster.event_logs SET timestamp = {long_ago} WHERE id = %s", old)
    query(database, "INSERT INTO dagster.asset_event_tags (event_id, asset_key, key)"
                    " VALUES (%s, '', ''), (%s, '', '')", old, new)  # fmt: skip
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO sync_faults (field, problem, run, seen_at)"
                       " VALUES ('id', 'old', 'r', now() - interval '91 days'),"
                       " ('id', 'new', 'r', now())")  # fmt: skip
    job = build_defs().resolve_job_def("housekeeping")
    assert job.execute_in_process(instance=instance).success
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), bool_or(run_id = %s) FROM sync_metadata", (first,))
        assert cursor.fetchone() == (3, True)
        cursor.execute("SELECT problem FROM sync_faults")
        assert cursor.fetchall() == [("new",)]
        cursor.execute("SELECT run_id FROM sync_metadata")
        kept = {row[0] for row in cursor.fetchall()}
    # What a run printed lies in files, which its deletion leaves.
    printed = Path(instance.storage_directory())
    assert {run for run in runs if (printed / run).exists()} == kept
    assert decide("incremental_sync", instance) == "run"
    # And of no run.
    assert query(database, of_no_run) == [(new,)]
    tagged = "SELECT event_id FROM dagster.asset_event_tags WHERE event_id >= %s"
    assert query(database, tagged, old) == [(new,)]
    checked = "SELECT count(DISTINCT c.run_id), count(DISTINCT r.run_id)"
    assert query(
        database,
        f"{checked} FROM dagster.asset_check_executions c LEFT JOIN dagster.runs r USING (run_id)",
    ) == [(3, 3)]
    assert instance.get_latest_materialization_event(dg.AssetKey("opportunities")) is not None


@pytest.mark.parametrize("kind", [InstigatorType.SCHEDULE, InstigatorType.SENSOR])
def test_no_tick_of_a_schedule_or_sensor_is_kept_for_ever(
    instance: dg.DagsterInstance, kind: InstigatorType
) -> None:
    days = instance.get_tick_retention_settings(kind)
    ended = (TickStatus.SKIPPED, TickStatus.SUCCESS, TickStatus.FAILURE)
    assert all(0 < days[status] <= 90 for status in ended)


@pytest.mark.usefixtures("synced")
def test_the_audit_says_which_changes_webhooks_told_of_and_warns_when_they_stop(
    instance: dg.DagsterInstance, sandbox: SandboxServer
) -> None:
    edited = sandbox.store.ids()[:6]
    for id_ in edited:
        sandbox.store.edit(id_, {"subject": "Edited"})

    def tell(*ids: int) -> None:
        with open_database(settings()).session() as connection, connection.cursor() as cursor:
            for id_ in ids:
                cursor.execute(
                    "INSERT INTO webhook_events (subject_type, opportunity_id, processed_at)"
                    " VALUES ('Opportunity', %s, now())",
                    (id_,),
                )

    def audit() -> tuple[object, object, object]:
        job = build_defs().resolve_job_def("incremental_sync")
        config = {"ops": {"raw_rms_pages": {"config": {"overlap_minutes": 0}}}}
        result = job.execute_in_process(instance=instance, run_config=config)
        metadata = result.asset_materializations_for_node("opportunities")[0].metadata
        checks = {c.check_name: c.passed for c in result.get_asset_check_evaluations()}
        changed, told = metadata["changed_in_current_rms"], metadata["came_by_webhook"]
        return changed.value, told.value, checks["webhooks_arrive"]

    tell(*edited[:4])
    sandbox.store.ahead += timedelta(minutes=1)
    assert audit() == (6, 4, True)
    sandbox.store.ahead += timedelta(minutes=5)
    for id_ in edited:
        sandbox.store.edit(id_, {"subject": "Edited in silence"})
    sandbox.store.ahead += timedelta(minutes=1)
    assert audit() == (6, 0, False)
