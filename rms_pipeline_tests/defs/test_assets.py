"""The assets in a real Dagster instance: "Materialize all", partial runs, checks, what they say."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.definitions import build_defs
from rms_pipeline.insight.sense import SENSE_CHECKS
from rms_pipeline.mirror.mirrored_windows import ask_for_days_back, read_reach
from rms_pipeline.mirror.sync_metadata import latest_syncs
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline.settings import settings
from rms_pipeline_tests.conftest import database_at, with_all_tables
from rms_pipeline_tests.copies import copy_of
from rms_pipeline_tests.servers import administrator, template

PROJECT = Path(__file__).parent.parent.parent


ROWS = 150


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(ROWS)) as server:
        yield server


@pytest.fixture
def ready_url(
    embedded_url: str, sandbox: SandboxServer, request: pytest.FixtureRequest
) -> Iterator[str]:
    """A database as `rms-pipeline migrate` leaves it, or as the first full sync does (`synced`)."""
    made = with_all_tables(embedded_url)
    if "synced" in request.fixturenames:
        # Records of a day are the same in each such sandbox.
        day = sandbox.store.today
        made = template(embedded_url, f"template_synced_{day:%Y%m%d}", materialize_all, like=made)
    with copy_of(embedded_url, made) as url:
        yield url


@pytest.fixture
def synced() -> None:
    """For tests that begin after "Materialize all". The mirror and Dagster's history are copies of
    one that had it: the sync took longer than most of these tests.
    """


def materialize_all(url: str) -> None:
    with (
        SandboxServer(Store(ROWS)) as server,
        pytest.MonkeyPatch.context() as changes,
        instance_at(url, server, changes) as opened,
    ):
        materialize(opened)
    # Whoever watched the run may still be connected, and then nobody can copy the database.
    with administrator(url) as ask:
        ask(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@contextlib.contextmanager
def instance_at(
    url: str, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("POSTGRES_URL", url)
    monkeypatch.setenv("DAGSTER_HOME", str(PROJECT))
    monkeypatch.setenv("CURRENT_RMS_SUBDOMAIN", SANDBOX_SUBDOMAIN)
    monkeypatch.setenv("CURRENT_RMS_API_KEY", SANDBOX_API_KEY)
    monkeypatch.setenv("CURRENT_RMS_BASE_URL", sandbox.url)
    monkeypatch.setenv("CURRENT_RMS_REQUESTS_PER_MINUTE", "0")
    settings.cache_clear()
    with dg.DagsterInstance.get() as opened:
        yield opened
    settings.cache_clear()


@pytest.fixture
def instance(
    ready_url: str, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    with instance_at(ready_url, sandbox, monkeypatch) as opened:
        yield opened


def materialize(
    instance: dg.DagsterInstance, *assets: str, succeed: bool = True
) -> dg.ExecuteInProcessResult:
    job = build_defs().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(a) for a in assets] or None,
        raise_on_error=False,
    )
    assert result.success is succeed
    return result


def test_materialize_all_without_config_is_a_full_sync_in_the_history(
    instance: dg.DagsterInstance, ready_url: str, sandbox: SandboxServer
) -> None:
    result = materialize(instance)
    with database_at(ready_url).session() as connection:
        syncs = latest_syncs(connection)
    assert [(s.run_id, s.sync_type, s.status) for s in syncs] == [
        (result.run_id, "initial_sync", "completed")
    ]
    assert syncs[0].records_synced > 100
    checks = result.get_asset_check_evaluations()
    # What makes sense in the sandbox changes with the day.
    assert {c.check_name for c in checks} >= SENSE_CHECKS.keys()
    assert {c.check_name for c in checks if c.passed} - SENSE_CHECKS.keys() == {
        *("opportunity_ids_are_unique", "no_faults", "status_counts_add_up"),
        *("mirror_is_complete", "deletions_are_plausible", "webhooks_arrive"),
        *("hires_have_a_length", "statuses_are_known", "own_fields_are_as_before"),
    }
    counts = result.asset_materializations_for_node("status_counts")[0].metadata["counts"].value
    assert "| Status" in str(counts)
    assert "| Open" in str(counts)


@pytest.mark.usefixtures("synced")
def test_a_full_sync_hides_no_edit_outside_its_window_from_the_next_incremental_sync(
    instance: dg.DagsterInstance, ready_url: str, sandbox: SandboxServer
) -> None:
    def run(job: str, config: dict[str, int]) -> None:
        result = (
            build_defs()
            .resolve_job_def(job)
            .execute_in_process(
                instance=instance, run_config={"ops": {"raw_rms_pages": {"config": config}}}
            )
        )
        assert result.success

    today = {"days_back": 0, "days_ahead": 0}
    for name in ("Edited before any incremental sync", "Edited after one"):
        sandbox.store.ahead += timedelta(hours=1)
        later = (sandbox.store.today + timedelta(days=90)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        id_ = sandbox.store.create({"subject": name, "starts_at": later, "ends_at": later})
        sandbox.store.ahead += timedelta(hours=1)
        run("initial_sync", today)
        run("reconciliation", today)
        run("incremental_sync", {})
        with database_at(ready_url).session() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT name FROM opportunities WHERE id = %s", (id_,))
            assert cursor.fetchone() == (name,)


def test_full_syncs_reach_as_far_back_as_was_asked_for_unless_a_run_is_told_otherwise(
    instance: dg.DagsterInstance, ready_url: str, sandbox: SandboxServer
) -> None:
    def reached(job: str, config: dict[str, int]) -> int:
        launched = build_defs().resolve_job_def(job)
        run_config = {"ops": {"raw_rms_pages": {"config": config}}} if config else None
        assert launched.execute_in_process(instance=instance, run_config=run_config).success
        with database_at(ready_url).session() as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT started_at - window_start, (SELECT window_start = p.window_start"
                " FROM proofs p ORDER BY id DESC LIMIT 1) FROM walks"
                " WHERE kind = 'full' ORDER BY id DESC LIMIT 1"
            )
            back, is_proved = cursor.fetchone() or (timedelta(0), False)
        assert is_proved, "the proof speaks of what was read"
        days: int = round(back / timedelta(days=1))
        return days

    with database_at(ready_url).session() as connection:
        ask_for_days_back(connection, OPPORTUNITIES, 400, "page")
    # The launchpad's own number is that of the setting.
    assert reached("initial_sync", {}) == 400
    assert reached("incremental_sync", {}) == 400
    assert reached("reconciliation", {"days_back": 30}) == 400
    assert reached("initial_sync", {"days_back": 50}) == 50
    with database_at(ready_url).session() as connection:
        # Less than the setting is no narrower window.
        ask_for_days_back(connection, OPPORTUNITIES, 3, "page")
    assert reached("initial_sync", {}) == 30
    with database_at(ready_url).session() as connection:
        covered = read_reach(connection, OPPORTUNITIES).reaches_back_to
    assert covered is not None
    assert round((datetime.now(UTC) - covered) / timedelta(days=1)) == 400


@pytest.mark.usefixtures("synced")
def test_an_asset_downstream_runs_exactly_when_rows_have_changed_if_it_asks_for_data_versions(
    instance: dg.DagsterInstance, sandbox: SandboxServer
) -> None:
    changed = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
    eager = dg.AutomationCondition.eager().replace("any_deps_updated", changed)

    def after(name: str) -> dg.AssetsDefinition:
        @dg.asset(name=f"after_{name}", deps=[name], automation_condition=eager)
        def made() -> None: ...

        return made

    names = ("raw_rms_pages", "opportunities", "status_counts")
    ours = build_defs()
    theirs = dg.Definitions.merge(ours, dg.Definitions([after(name) for name in names]))
    watched = dg.AssetSelection.assets(*(f"after_{name}" for name in names))
    told = dg.evaluate_automation_conditions(theirs, instance, watched)

    def tick() -> set[str]:
        """After which assets something is made again now."""
        nonlocal told
        told = dg.evaluate_automation_conditions(theirs, instance, watched, cursor=told.cursor)
        return {n for n in names if told.get_num_requested(dg.AssetKey(f"after_{n}"))}

    def asked_for(job: str, config: dict[str, list[int]] | None = None) -> set[str]:
        # Dagster takes nothing up that it asked for a tick ago.
        tick()
        run_config = {"ops": {"refresh_opportunities": {"config": config}}} if config else None
        launched = ours.resolve_job_def(job)
        assert launched.execute_in_process(instance=instance, run_config=run_config).success
        return tick()

    id_ = sandbox.store.create({"subject": "New"})
    assert asked_for("incremental_sync") == set(names)
    # Other pages, which hold nothing new.
    assert asked_for("incremental_sync") == {"raw_rms_pages"}
    assert asked_for("reconciliation") == {"raw_rms_pages"}
    sandbox.store.edit(id_, {"subject": "Renamed"})
    assert asked_for("webhook_refresh", {"ids": [id_]}) == set()
    # The sync tells what was refreshed meanwhile. No count changes with a subject.
    assert asked_for("incremental_sync") == {"raw_rms_pages", "opportunities"}


def test_a_part_of_the_lineage_alone_is_no_sync(
    instance: dg.DagsterInstance, ready_url: str
) -> None:
    materialize(instance, "raw_rms_pages", "opportunities", "status_counts")
    materialize(instance, "opportunities")
    materialize(instance, "status_counts")
    with database_at(ready_url).session() as connection:
        assert len(latest_syncs(connection)) == 1


def test_opportunities_before_any_page_says_what_to_materialize(
    instance: dg.DagsterInstance,
) -> None:
    result = materialize(instance, "opportunities", succeed=False)
    failure = result.failure_data_for_node("opportunities")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert "raw_rms_pages" in str(failure.user_failure_data.description)


def test_a_fault_is_a_warning_and_the_sync_completes(
    instance: dg.DagsterInstance, sandbox: SandboxServer
) -> None:
    sandbox.store.create({"subject": "Odd", "charge_total": "a lot"})
    result = materialize(instance)
    found = result.get_asset_check_evaluations()
    failed = [c for c in found if not c.passed and c.check_name not in SENSE_CHECKS]
    assert [(c.check_name, c.severity) for c in failed] == [
        ("no_faults", dg.AssetCheckSeverity.WARN)
    ]


def test_a_window_out_of_range_fails_with_a_sentence_and_without_a_stack(
    instance: dg.DagsterInstance, ready_url: str, sandbox: SandboxServer
) -> None:
    job = build_defs().resolve_job_def("initial_sync")
    config = {"ops": {"raw_rms_pages": {"config": {"days_back": -5}}}}
    result = job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)
    failure = result.failure_data_for_node("raw_rms_pages")
    assert failure is not None
    assert failure.error is not None
    assert failure.error.stack == []
    assert "days_back is -5" in failure.error.message
    assert not sandbox.requests
    with database_at(ready_url).session() as connection:
        assert "days_back is -5" in str(latest_syncs(connection)[0].error)


def test_a_failure_that_a_person_can_act_on_is_shown_without_a_stack(
    instance: dg.DagsterInstance,
) -> None:
    result = materialize(instance, "opportunities", succeed=False)
    failure = result.failure_data_for_node("opportunities")
    assert failure is not None
    assert failure.error is not None
    assert (failure.error.stack, failure.error.cause) == ([], None)
    assert failure.error.to_string().startswith("There are no pages")


def test_the_window_of_the_settings_is_that_of_a_sync_without_config(
    instance: dg.DagsterInstance, ready_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMS_SYNC_DAYS_BACK", "7")
    settings.cache_clear()
    job = build_defs().resolve_job_def("initial_sync")
    assert job.execute_in_process(instance=instance).success
    materialize(instance)
    with database_at(ready_url).session() as connection:
        windows = [
            datetime.fromisoformat(s.metadata["window_end"])
            - datetime.fromisoformat(s.metadata["window_start"])
            for s in latest_syncs(connection)
        ]
    assert windows == [timedelta(days=365 + 7)] * 2
