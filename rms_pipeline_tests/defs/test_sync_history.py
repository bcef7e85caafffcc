"""What syncs rest on when Dagster's history is wiped, elsewhere, or in part: our own rows."""

import signal
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.events import EngineEventData
from dagster._core.execution.api import create_execution_plan, execute_plan_iterator
from dagster_shared.error import SerializableErrorInfo
from rich.console import Console

from rms_pipeline import CurrentRms, Mirror
from rms_pipeline.cli.foreground import run_sync
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.definitions import build_defs
from rms_pipeline.defs.build import build_defs as build_account_defs
from rms_pipeline.defs.recording import SYNC_TYPE_TAG, recorded, sync_type_of
from rms_pipeline.defs.run_lock import end_runs_that_never_began, fail_dead_runs
from rms_pipeline.doctor.finding import Examination
from rms_pipeline.doctor.syncs import check_certificate, check_syncs
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.schema import demand_tables, migrate
from rms_pipeline.mirror.sync_metadata import find_sync, latest_syncs
from rms_pipeline.mirror.sync_runs import (
    DIED,
    NEVER_BEGAN,
    TERMINATED,
    begin_run,
    note_launch,
)
from rms_pipeline.mirror.sync_state import read_sync_state
from rms_pipeline.mirror.walks import watermarks
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer
from rms_pipeline.settings import settings
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.defs.histories import history_in_files
from rms_pipeline_tests.defs.test_assets import instance, ready_url, sandbox, synced
from rms_pipeline_tests.defs.test_run_workers import kill_worker_of
from rms_pipeline_tests.defs.test_schedules import decide
from rms_pipeline_tests.rows import query

__all__ = ["instance", "ready_url", "sandbox", "synced"]

STABLE = (
    "SELECT id, run_id, sync_type, status, records_synced, records_failed, error, metadata"
    " FROM sync_metadata ORDER BY id"
)


@pytest.fixture
def database(instance: dg.DagsterInstance) -> Database:
    return open_database(settings())


def run(instance: dg.DagsterInstance, job: str, **config: Any) -> dg.ExecuteInProcessResult:
    return (
        build_defs()
        .resolve_job_def(job)
        .execute_in_process(instance=instance, raise_on_error=False, **config)
    )


def levels(database: Database) -> dict[str, str]:
    exam = Examination(settings(), database)
    found = [*check_syncs(exam), *check_certificate(exam)]
    return {finding.check: finding.level for finding in found}


def wipe(instance: dg.DagsterInstance, database: Database) -> None:
    """`dagster run wipe --force`."""
    instance.wipe()


def delete_each(instance: dg.DagsterInstance, database: Database) -> None:
    for record in instance.get_runs():
        instance.delete_run(record.run_id)


@pytest.mark.usefixtures("synced")
@pytest.mark.parametrize(
    ("job", "when"),
    [
        ("incremental_sync", "true"),
        # The end of its first step is deleted with it.
        ("initial_sync", "bool_or(completed_at IS NOT NULL AND settled_at IS NULL) FROM walks"),
    ],
    ids=["in its first step", "in its second step"],
)
def test_a_command_tells_its_outcome_if_its_run_was_deleted_from_dagsters_history_meanwhile(
    instance: dg.DagsterInstance, database: Database, sandbox: SandboxServer, job: str, when: str
) -> None:
    def lose(_: str) -> None:
        if query(database, f"SELECT {when}") == [(True,)]:
            sandbox.before_request = None
            wipe(instance, database)

    sandbox.before_request = lose
    before = signal.getsignal(signal.SIGTERM)
    try:
        sync = run_sync(job, as_json=True, console=Console())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert instance.get_runs() == []
    assert (sync.status, sync.error) == ("completed", None)


@pytest.mark.usefixtures("synced")
@pytest.mark.parametrize("lose", [wipe, delete_each], ids=["wiped", "deleted"])
def test_syncs_stay_correct_when_dagsters_history_is_gone(
    instance: dg.DagsterInstance, database: Database, sandbox: SandboxServer, lose: Any
) -> None:
    assert run(instance, "incremental_sync").success
    with database.session() as connection:
        since, before = watermarks(connection, OPPORTUNITIES), latest_syncs(connection)
    rows, found = query(database, STABLE), levels(database)
    assert [row[3] for row in rows] == ["completed"] * 2
    lose(instance, database)
    assert instance.get_runs() == []
    assert query(database, STABLE) == rows
    with database.session() as connection:
        assert watermarks(connection, OPPORTUNITIES) == since
        state = read_sync_state(connection, OPPORTUNITIES)
        for had, has in zip(before, latest_syncs(connection), strict=True):
            # By our own clock instead of Dagster's.
            assert abs((had.started_at - has.started_at).total_seconds()) < 5
            assert had.completed_at is not None
            assert has.completed_at is not None
            assert abs((had.completed_at - has.completed_at).total_seconds()) < 5
    assert state.has_full_sync
    assert (state.running, len(state.history)) == (None, 2)
    assert levels(database) == found
    assert set(found.values()) == {"ok"}
    assert decide("incremental_sync", instance) == "run"
    edited = sandbox.store.ids()[0]
    sandbox.store.edit(edited, {"subject": "Edited after the wipe"})
    sandbox.requests.clear()
    done = run(instance, "incremental_sync")
    assert done.success
    pages = done.asset_materializations_for_node("raw_rms_pages")[0].metadata
    assert pages["changed_since"].value == since[0].isoformat(sep=" ", timespec="seconds")
    assert pages["api_calls"].value == 1
    name = query(database, "SELECT name FROM opportunities WHERE id = %s", edited)
    assert name == [("Edited after the wipe",)]
    assert len(query(database, STABLE)) == 3
    # Nor does a run count as running that Dagster has forgotten.
    job = build_defs().resolve_job_def("housekeeping")
    assert job.execute_in_process(instance=instance).success
    assert len(query(database, STABLE)) == 3


@pytest.fixture
def elsewhere(
    instance: dg.DagsterInstance, database: Database, tmp_path: Any
) -> Iterator[dg.DagsterInstance]:
    """An instance that keeps its history in files, while the mirror's database has none."""
    query(database, "DROP SCHEMA dagster CASCADE")
    with history_in_files(tmp_path) as opened:
        yield opened


def test_syncs_are_shown_when_dagsters_history_is_elsewhere(
    elsewhere: dg.DagsterInstance, database: Database, sandbox: SandboxServer
) -> None:
    # DROP took the view along.
    migrate(database)
    with database.session() as connection:
        demand_tables(connection)
    assert "No full sync" in decide("incremental_sync", elsewhere)
    full = run(elsewhere, "initial_sync")
    sandbox.api_key = "another"
    failed = run(elsewhere, "incremental_sync")
    sandbox.api_key = SANDBOX_API_KEY
    assert decide("incremental_sync", elsewhere) == "run"
    later = run(elsewhere, "incremental_sync")
    assert (full.success, failed.success, later.success) == (True, False, True)
    with database.session() as connection:
        syncs = {s.run_id: s for s in latest_syncs(connection)}
    assert [s.status for s in syncs.values()] == ["completed", "failed", "completed"]
    assert "401" in str(syncs[failed.run_id].error)
    assert syncs[full.run_id].records_synced > 100
    assert syncs[full.run_id].metadata["complete"] is True
    assert syncs[later.run_id].metadata["proof_calls"] == 3
    assert set(levels(database).values()) == {"ok"}
    assert run(elsewhere, "housekeeping").success


def test_a_run_that_dagster_has_forgotten_and_whose_process_died_is_declared_dead(
    instance: dg.DagsterInstance, database: Database
) -> None:
    query(
        database,
        "INSERT INTO sync_runs (run_id, sync_type, status, started_at)"
        " VALUES ('gone', 'initial_sync', 'running', now())",
    )
    assert "initial_sync is running" in decide("reconciliation", instance)
    kill_worker_of(database, "gone")
    assert decide("reconciliation", instance) == "run"
    assert fail_dead_runs(database, instance) == []
    assert query(database, "SELECT status, error FROM sync_runs") == [("failed", DIED)]


@pytest.mark.usefixtures("synced")
def test_a_living_sync_that_dagster_has_forgotten_keeps_the_next_one_waiting(
    instance: dg.DagsterInstance, database: Database
) -> None:
    query(database, "UPDATE sync_runs SET ended_at = NULL, status = 'running' RETURNING 1")
    instance.wipe()
    for schedule in ("incremental_sync", "reconciliation"):
        assert "initial_sync is running" in decide(schedule, instance)


@pytest.mark.parametrize("canceled", [True, False], ids=["canceled", "failed"])
def test_a_run_that_dagster_ended_before_it_began_says_so_in_words(
    instance: dg.DagsterInstance, database: Database, canceled: bool
) -> None:
    made = instance.create_run_for_job(build_defs().resolve_job_def("initial_sync"))
    query(
        database,
        "INSERT INTO sync_runs (run_id, sync_type, status) VALUES (%s, 'initial_sync', 'launched')"
        " RETURNING 1",
        made.run_id,
    )
    (instance.report_run_canceled if canceled else instance.report_run_failed)(made)
    with database.session() as connection:
        sync = find_sync(connection, made.run_id)
    assert sync is not None
    assert (sync.status, sync.completed_at is not None) == ("failed", True)
    assert (sync.error == TERMINATED) is canceled
    assert "run the sync again" in str(sync.error).lower()


ALL, STORED, LANDED = (), ("raw_rms_pages", "opportunities"), ("raw_rms_pages",)


@pytest.mark.parametrize(
    ("job", "chosen", "checks", "tags", "kind"),
    [
        ("__ASSET_JOB", None, None, {}, "initial_sync"),
        ("__ASSET_JOB_0", ALL, None, {}, "initial_sync"),
        ("__ASSET_JOB", STORED, None, {}, "initial_sync"),
        ("__ASSET_JOB", LANDED, None, {}, None),
        ("__ASSET_JOB", ("opportunities",), None, {}, None),
        ("__ASSET_JOB", (), ("no_faults",), {}, None),
        ("acme__incremental_sync", None, None, {"rms/sync_type": "incremental_sync"},
         "incremental_sync"),
        ("rebuild", None, None, {}, None),
        ("somebody_elses", None, None, {}, None),
    ],
)  # fmt: skip
def test_a_run_that_reads_and_stores_is_a_sync_whatever_launched_it(
    job: str,
    chosen: tuple[str, ...] | None,
    checks: tuple[str, ...] | None,
    tags: dict[str, str],
    kind: str | None,
) -> None:
    made = dg.DagsterRun(
        job_name=job,
        asset_selection=None
        if chosen is None
        else frozenset(dg.AssetKey(["acme", name]) for name in chosen),
        asset_check_selection=None
        if checks is None
        else frozenset(dg.AssetCheckKey(dg.AssetKey("opportunities"), c) for c in checks),
        tags=tags,
    )
    assert sync_type_of(made) == kind


READS, STORES = "acme__raw_rms_pages", "acme__opportunities"


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ((), "initial_sync"),
        ((READS, STORES), "initial_sync"),
        ((STORES,), "initial_sync"),
        (("acme__raw_members", "acme__members"), "initial_sync"),
        (("acme__status_counts",), "initial_sync"),
        ((READS,), None),
        ((READS, "acme__members"), None),
        ((READS, STORES, "acme__raw_members"), None),
    ],
)
def test_steps_of_a_sync_that_read_and_do_not_store_are_no_sync_when_executed_again(
    steps: tuple[str, ...], kind: str | None
) -> None:
    made = dg.DagsterRun(job_name="acme__initial_sync", tags={"rms/sync_type": "initial_sync"})
    assert sync_type_of(made, ["acme"], steps) == kind


@pytest.fixture
def somebody_elses() -> Iterator[dg.DagsterInstance]:
    """Keeps Dagster's history elsewhere, so that only our own rows tell of syncs."""
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def defs_of(sandbox: SandboxServer, url: str) -> dg.Definitions:
    account = CurrentRms(
        subdomain=SANDBOX_SUBDOMAIN,
        api_key=SANDBOX_API_KEY,
        base_url=sandbox.url,
        requests_per_minute=0,
    )
    return build_account_defs(account, Mirror(url=url))


def test_a_sync_whose_steps_are_processes_ends_with_the_last_of_them_and_takes_one_number(
    sandbox: SandboxServer, ready_url: str, somebody_elses: dg.DagsterInstance
) -> None:
    job = defs_of(sandbox, ready_url).resolve_job_def("initial_sync")
    plan, mirror = create_execution_plan(job), database_at(ready_url)
    run = somebody_elses.create_run_for_job(job, execution_plan=plan)
    steps = [step.key for step in plan.get_steps_to_execute_in_topo_order()]
    assert len(steps) == 3
    said = []
    for step in steps:
        part = create_execution_plan(job, step_keys_to_execute=[step])
        list(execute_plan_iterator(part, InMemoryJob(job), run, somebody_elses))
        said += query(mirror, "SELECT id, status FROM sync_metadata")
    numbers, statuses = zip(*said, strict=True)
    assert statuses == (*["running"] * (len(steps) - 1), "completed")
    assert set(numbers) == {1}
    with mirror.session() as connection:
        assert begin_run(connection, "another", "initial_sync") == 2
        assert note_launch(connection, "another", "initial_sync") == 2
        assert note_launch(connection, "one more", "initial_sync") == 3


def test_a_run_that_repeats_only_the_last_steps_of_a_sync_completes(
    sandbox: SandboxServer, ready_url: str, somebody_elses: dg.DagsterInstance
) -> None:
    """As "Re-execute from failure" makes it when the last table could not be counted."""
    job = defs_of(sandbox, ready_url).resolve_job_def("initial_sync")
    plan = create_execution_plan(job, step_keys_to_execute=["status_counts"])
    run = somebody_elses.create_run_for_job(job, execution_plan=plan, tags=job.tags)
    list(execute_plan_iterator(plan, InMemoryJob(job), run, somebody_elses))
    recorded = query(database_at(ready_url), "SELECT sync_type, status, error FROM sync_metadata")
    assert recorded == [("initial_sync", "completed", None)]


def test_a_step_of_somebody_elses_that_fails_in_the_same_run_fails_no_sync_that_stored_everything(
    sandbox: SandboxServer, ready_url: str, somebody_elses: dg.DagsterInstance
) -> None:
    @dg.asset(deps=["status_counts"])
    def theirs() -> None:
        raise ValueError("Their own trouble.")

    nightly = dg.define_asset_job(
        "nightly",
        ["status_counts", "theirs"],
        executor_def=dg.in_process_executor,
        tags={SYNC_TYPE_TAG: "initial_sync"},
    )
    theirs_too = dg.Definitions(assets=[theirs], jobs=[nightly])
    defs = dg.Definitions.merge(defs_of(sandbox, ready_url), theirs_too)
    job = defs.resolve_job_def("nightly")
    assert not job.execute_in_process(instance=somebody_elses, raise_on_error=False).success
    recorded = query(database_at(ready_url), "SELECT status, error FROM sync_metadata")
    assert recorded == [("completed", None)]


def test_a_run_whose_process_is_known_has_its_row_whatever_kills_it(
    ready_url: str, somebody_elses: dg.DagsterInstance
) -> None:
    mirror = database_at(ready_url)
    with mirror.session() as connection, connection.cursor() as cursor:
        # PostgreSQL asks for the row when the announcement is committed.
        cursor.execute(
            "CREATE FUNCTION demand_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NOT EXISTS (SELECT FROM sync_runs WHERE run_id = NEW.run)"
            " THEN RAISE 'A worker without a sync.'; END IF; RETURN NULL; END $$;"
            "CREATE CONSTRAINT TRIGGER demand_row AFTER INSERT ON run_workers"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION demand_row()"
        )
    run = dg.DagsterRun(job_name="incremental_sync", tags={SYNC_TYPE_TAG: "incremental_sync"})
    for _ in ("first step", "second step"):
        with recorded(mirror, somebody_elses, run):
            assert query(mirror, "SELECT sync_type, status FROM sync_metadata") == [
                ("incremental_sync", "running")
            ]
    # The process of the third step died, and said nothing.
    query(mirror, "UPDATE run_workers SET ended_at = NULL RETURNING 1")
    assert query(mirror, "SELECT status, error FROM sync_metadata") == [("failed", DIED)]


@pytest.mark.parametrize(
    ("becomes", "status", "says"),
    [
        (dg.DagsterRunStatus.FAILURE, "failed", NEVER_BEGAN),
        (dg.DagsterRunStatus.CANCELED, "failed", TERMINATED),
        (dg.DagsterRunStatus.STARTING, "running", None),
        (dg.DagsterRunStatus.STARTED, "running", None),
        (None, "running", None),
    ],
)
def test_a_run_that_ended_before_it_began_is_ended_by_the_next_tick(
    ready_url: str,
    somebody_elses: dg.DagsterInstance,
    becomes: dg.DagsterRunStatus | None,
    status: str,
    says: str | None,
) -> None:
    mirror, run = database_at(ready_url), str(uuid.uuid4())
    if becomes is not None:
        somebody_elses.create_run_for_job(
            defs_without_account().resolve_job_def("noop"), run_id=run, status=becomes
        )
    with mirror.session() as connection:
        note_launch(connection, run, "initial_sync")
    end_runs_that_never_began(mirror, somebody_elses)
    assert query(mirror, "SELECT status, error FROM sync_metadata") == [(status, says)]


def launched_by(dagster: dg.DagsterInstance, mirror: Database) -> dg.DagsterRun:
    """A run that was launched as an initial sync and has not begun."""
    run = dagster.create_run_for_job(defs_without_account().resolve_job_def("noop"))
    with mirror.session() as connection:
        note_launch(connection, run.run_id, "initial_sync")
    return run


def test_a_run_whose_end_dagster_explains_has_that_reason(
    ready_url: str, somebody_elses: dg.DagsterInstance
) -> None:
    mirror = database_at(ready_url)
    run = launched_by(somebody_elses, mirror)
    somebody_elses.report_run_failed(run, "The image could not be pulled.")
    end_runs_that_never_began(mirror, somebody_elses)
    ((error,),) = query(mirror, "SELECT error FROM sync_metadata")
    assert error == "The image could not be pulled."


def test_a_run_that_left_the_queue_for_code_that_cannot_be_loaded_has_its_error_as_the_reason(
    ready_url: str, somebody_elses: dg.DagsterInstance
) -> None:
    """As Dagster's queue notes it, whose text for the end of the run is no reason."""
    mirror = database_at(ready_url)
    run = launched_by(somebody_elses, mirror)
    stack = 'Stack Trace:\n  File "dagster/_grpc/server.py", line 504, in __init__\n    load(\n'
    error = SerializableErrorInfo(
        f"dagster._core.errors.DagsterCodeLocationLoadError: Failure loading rentals\n\n{stack}"
        "\nThe above exception was caused by the following exception:\n"
        f'  File "rentals.py", line 11\n    no Python\nSyntaxError: invalid syntax\n\n{stack}',
        [],
        "DagsterCodeLocationLoadError",
    )
    somebody_elses.report_engine_event("Dequeuing.", run, EngineEventData.engine_error(error))
    somebody_elses.report_run_failed(run)
    end_runs_that_never_began(mirror, somebody_elses)
    ((reason,),) = query(mirror, "SELECT error FROM sync_metadata")
    assert reason == (
        'Dagster did not start this run: File "rentals.py", line 11 no Python SyntaxError: invalid'
        " syntax. Correct that, then run the sync again."
    )


def test_a_sync_that_failed_before_its_first_step_has_a_row_after_the_next_tick(
    instance: dg.DagsterInstance, database: Database
) -> None:
    """As when its image cannot be pulled: no code of ours runs."""
    ours, others = build_defs(), build_account_defs(key_prefix="acme")
    jobs = [ours.resolve_job_def(name) for name in ("initial_sync", "rebuild")]
    jobs.append(others.resolve_job_def("acme__initial_sync"))
    failed = {job.name: instance.create_run_for_job(job, tags=job.tags) for job in jobs}
    for each in failed.values():
        instance.report_run_failed(each, "The image could not be pulled.")
    for _ in range(2):
        decide("incremental_sync", instance)
    recorded = query(database, "SELECT run_id, sync_type, status, error FROM sync_metadata")
    reason = "The image could not be pulled."
    assert recorded == [(failed["initial_sync"].run_id, "initial_sync", "failed", reason)]
    ((took, number),) = query(
        database,
        "SELECT ended_at - launched_at, (SELECT last_value FROM sync_runs_id_seq) FROM sync_runs",
    )
    assert (number, took < timedelta(minutes=1)) == (1, True)


def defs_without_account() -> dg.Definitions:
    @dg.job
    def noop() -> None: ...

    return dg.Definitions(jobs=[noop])
