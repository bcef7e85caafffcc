"""Which runs are dead: only those whose process announced itself and then died."""

import contextlib
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import (
    CheckRunHealthResult,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring import execute_run_monitoring_iteration
from dagster._serdes import ConfigurableClassData

from rms_pipeline.collections.base import Collection
from rms_pipeline.definitions import build_defs
from rms_pipeline.defs import run_lock
from rms_pipeline.defs.celery_launcher import LockedCeleryRunLauncher
from rms_pipeline.defs.instance_storage import instance_of
from rms_pipeline.defs.naming import OWN_DEFINITIONS
from rms_pipeline.defs.recording import SYNC_TYPE_TAG
from rms_pipeline.defs.resources import CurrentRmsResource
from rms_pipeline.defs.run_launcher import LockedRunLauncher, UnannouncedRunCheck, WorkerLockCheck
from rms_pipeline.defs.run_lock import DEAD_RUN_MESSAGE, fail_dead_runs
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.embedded import open_database
from rms_pipeline.mirror.run_workers import announced, living_runs, lost_runs
from rms_pipeline.mirror.sync_metadata import find_sync, running_sync
from rms_pipeline.mirror.sync_runs import begin_run, note_launch
from rms_pipeline.settings import settings
from rms_pipeline_tests.defs.test_assets import instance, sandbox
from rms_pipeline_tests.defs.test_schedules import decide
from rms_pipeline_tests.processes import PROJECT
from rms_pipeline_tests.rows import query

__all__ = ["instance", "sandbox"]

STARTED, NOT_STARTED = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED

_WORKER = """
import sys, time
from pydantic import SecretStr
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.run_workers import announced
url = SecretStr(sys.argv[1])
with announced(Database(url, url), sys.argv[2]):
    print("announced", flush=True)
    time.sleep(300)
"""
# A run in this process, which announces its step once it is told to.
_WORKER_OF_A_STEP = _WORKER.replace(
    "    time.sleep(300)",
    "    sys.stdin.readline()\n    with announced(Database(url, url), sys.argv[2]):\n        pass",
)


@dg.op
def somebody_elses_work() -> None: ...


@dg.job
def somebody_elses_job() -> None:
    somebody_elses_work()


@pytest.fixture
def database(instance: dg.DagsterInstance) -> Database:
    return open_database(settings())


@contextlib.contextmanager
def worker(database: Database, run: str, code: str = _WORKER) -> Iterator["subprocess.Popen[str]"]:
    """A process that executes `run`."""
    with subprocess.Popen(
        [sys.executable, "-c", code, database.url.get_secret_value(), run],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "announced\n"
        try:
            yield process
        finally:
            process.kill()


def kill_worker_of(database: Database, run: str) -> None:
    """kill -9, and its lock has fallen."""
    with worker(database, run) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with database.session() as connection:
        while living_runs(connection, [run]):
            pass


def sync_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus = STARTED) -> dg.DagsterRun:
    job = build_defs().resolve_job_def("initial_sync")
    return instance.create_run_for_job(job, status=status)


def health(instance: dg.DagsterInstance, run: dg.DagsterRun) -> WorkerStatus:
    launcher = instance.run_launcher
    assert isinstance(launcher, LockedRunLauncher)
    return launcher.check_run_worker_health(run).status


def test_a_run_that_announced_nothing_is_never_judged(
    instance: dg.DagsterInstance, database: Database
) -> None:
    run = instance.create_run_for_job(somebody_elses_job, status=STARTED)
    query(database, "UPDATE dagster.runs SET start_time = 1, update_timestamp = 'epoch'")
    assert health(instance, run) is WorkerStatus.RUNNING
    assert fail_dead_runs(database, instance) == []


def started_long_ago(
    instance: dg.DagsterInstance, database: Database, module: str | None
) -> dg.DagsterRun:
    """A full sync that Dagster calls started for six minutes, and that no process announced."""
    origin = None
    if module is not None:
        code = RepositoryPythonOrigin(sys.executable, ModuleCodePointer(module, "defs"))
        origin = JobPythonOrigin("initial_sync", code)
    job = build_defs().resolve_job_def("initial_sync")
    run = instance.create_run_for_job(job, status=STARTED, job_code_origin=origin)
    query(
        database,
        "UPDATE dagster.runs SET start_time = extract(epoch FROM now()) - 360,"
        " update_timestamp = update_timestamp - interval '360 s' RETURNING 1",
    )
    return run


def test_a_run_of_ours_that_died_before_it_was_announced_is_ended_and_blocks_nothing(
    instance: dg.DagsterInstance, database: Database
) -> None:
    run = started_long_ago(instance, database, OWN_DEFINITIONS)
    assert decide("reconciliation", instance) == "run"
    assert health(instance, run) is WorkerStatus.FAILED
    with worker(database, run.run_id):
        assert health(instance, run) is WorkerStatus.RUNNING
        assert "initial_sync is running" in decide("reconciliation", instance)


@pytest.mark.parametrize("module", [None, "somebody.elses"])
def test_a_run_of_other_code_that_was_not_announced_here_blocks_nothing_and_is_not_ended(
    instance: dg.DagsterInstance, database: Database, module: str | None
) -> None:
    run = started_long_ago(instance, database, module)
    assert decide("reconciliation", instance) == "run"
    assert health(instance, run) is WorkerStatus.RUNNING


LABEL_HERE, LABEL_ELSEWHERE = "__repository__@production", "__repository__@staging"


def announced_at(instance: dg.DagsterInstance, database: Database, label: str) -> None:
    """The mirror has had a run of this code location."""
    job, tags = build_defs().resolve_job_def("initial_sync"), {REPOSITORY_LABEL_TAG: label}
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.SUCCESS, tags=tags)
    with announced(database, run.run_id):
        pass


def test_a_run_of_another_code_location_with_the_same_jobs_keeps_no_sync_of_ours_waiting(
    instance: dg.DagsterInstance, database: Database
) -> None:
    job = build_defs().resolve_job_def("initial_sync")
    tags = {REPOSITORY_LABEL_TAG: LABEL_ELSEWHERE}
    instance.create_run_for_job(job, status=STARTED, tags=tags)
    # It may be that of this mirror, which has not had a run yet.
    assert "initial_sync is running" in decide("reconciliation", instance)
    announced_at(instance, database, LABEL_HERE)
    assert decide("reconciliation", instance) == "run"
    tags = {REPOSITORY_LABEL_TAG: LABEL_HERE}
    instance.create_run_for_job(job, status=STARTED, tags=tags)
    assert "initial_sync is running" in decide("reconciliation", instance)


def test_a_run_of_another_code_location_with_the_same_code_is_not_ended(
    instance: dg.DagsterInstance, database: Database
) -> None:
    run = started_long_ago(instance, database, OWN_DEFINITIONS)
    instance.add_run_tags(run.run_id, {REPOSITORY_LABEL_TAG: LABEL_ELSEWHERE})
    run = instance.get_run_by_id(run.run_id) or run
    assert health(instance, run) is WorkerStatus.FAILED
    announced_at(instance, database, LABEL_HERE)
    assert health(instance, run) is WorkerStatus.RUNNING


def test_a_run_of_ours_that_has_just_started_may_still_announce_itself(
    instance: dg.DagsterInstance, database: Database
) -> None:
    run = started_long_ago(instance, database, OWN_DEFINITIONS)
    query(database, "UPDATE dagster.runs SET start_time = start_time + 120 RETURNING 1")
    assert health(instance, run) is WorkerStatus.RUNNING


def test_a_process_that_is_killed_while_it_announces_a_step_leaves_a_dead_run(
    database: Database,
) -> None:
    """PostgreSQL still executes the statement that the dead process has sent."""
    waiting = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE query ~ 'UPDATE run_workers' AND wait_event = 'relation'"
    )
    with (
        database.session() as connection,
        database.session() as looking,
        worker(database, "run", _WORKER_OF_A_STEP) as process,
    ):
        connection.cursor().execute("LOCK TABLE run_workers IN SHARE MODE")
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
        while not (found := query(database, waiting)):
            pass
        process.kill()
        process.wait()
        while living_runs(looking, ["run"]):
            pass
        connection.rollback()
        while query(database, "SELECT 1 FROM pg_stat_activity WHERE pid = %s", found[0][0]):
            pass
        assert lost_runs(looking, ["run"]) == {"run"}


def test_a_run_whose_process_was_killed_is_dead_and_ended(
    instance: dg.DagsterInstance, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = sync_run(instance), sync_run(instance)
    with database.session() as connection:
        begin_run(connection, run.run_id, "initial_sync")
    with worker(database, run.run_id) as process, worker(database, other.run_id):
        assert health(instance, run) is WorkerStatus.RUNNING
        process.kill()
        process.wait()
        monkeypatch.setattr(run_lock, "GRACE", timedelta(0))
        monkeypatch.setattr(run_lock.is_dead, "__kwdefaults__", {"grace": timedelta(0)})
        while health(instance, run) is not WorkerStatus.FAILED:
            pass
        assert health(instance, other) is WorkerStatus.RUNNING
        assert fail_dead_runs(database, instance) == [run.run_id]
    with database.session() as connection:
        sync = find_sync(connection, run.run_id)
    assert sync is not None
    assert (sync.status, sync.error) == ("failed", DEAD_RUN_MESSAGE)


def test_an_executor_that_lost_one_of_its_processes_is_given_a_moment_to_deal_with_it(
    database: Database,
) -> None:
    kill_worker_of(database, "run")
    with database.session() as connection:
        assert lost_runs(connection, ["run"], for_longer_than=timedelta(seconds=5)) == set()
        assert lost_runs(connection, ["run"]) == {"run"}
        query(database, "UPDATE run_workers SET lost_at = lost_at - interval '6 s' RETURNING 1")
        assert lost_runs(connection, ["run"], for_longer_than=timedelta(seconds=5)) == {"run"}


def test_between_two_steps_and_after_the_last_a_run_is_not_dead(
    instance: dg.DagsterInstance, database: Database
) -> None:
    run = sync_run(instance)
    for _ in ("first step", "second step"):
        with announced(database, run.run_id):
            pass
        with database.session() as connection:
            assert lost_runs(connection, [run.run_id]) == set()


def test_a_worker_that_fails_ends_with_a_word(database: Database) -> None:
    with pytest.raises(RuntimeError), announced(database, "run"):
        raise RuntimeError
    with database.session() as connection:
        assert lost_runs(connection, ["run"]) == set()


def test_a_worker_that_loses_its_connection_and_then_ends_is_not_dead(database: Database) -> None:
    with announced(database, "run"):
        query(
            database,
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            " AND pid <> pg_backend_pid()",
        )
    with database.session() as connection:
        assert lost_runs(connection, ["run"]) == set()


def test_a_run_that_is_resumed_after_its_process_died_lives(database: Database) -> None:
    kill_worker_of(database, "run")
    with announced(database, "run"), database.session() as connection:
        assert lost_runs(connection, ["run"]) == set()
        assert living_runs(connection, ["run", "another"]) == {"run"}


class _Resumes(dg.DefaultRunLauncher):
    """Can start a new process for a run, as launchers on Celery and Kubernetes do. This one is
    slow: nothing has started yet."""

    says = WorkerStatus.RUNNING

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        self.resumed: list[str] = []

    @property
    def supports_resume_run(self) -> bool:
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        self.resumed.append(context.dagster_run.run_id)

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        return CheckRunHealthResult(self.says)


class LockedResuming(UnannouncedRunCheck, _Resumes):
    """Named by the `dagster.yaml` of `resuming`."""


@pytest.fixture
def resuming(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """An instance whose monitoring resumes a dead run up to three times."""
    told = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    told["run_launcher"] = {"module": __name__, "class": "LockedResuming", "config": {}}
    told["run_monitoring"]["max_resume_run_attempts"] = 3
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(told))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as opened:
        yield opened


def look(instance: dg.DagsterInstance) -> None:
    """Dagster's monitoring looks at every run once, as its daemon does."""
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace:
        assert list(execute_run_monitoring_iteration(workspace, logging.getLogger())) == [None]


def lose_worker_of(database: Database, run: str) -> None:
    """Its process was killed, longer ago than an executor needs to notice."""
    kill_worker_of(database, run)
    with database.session() as connection:
        assert lost_runs(connection, [run]) == {run}
    query(database, "UPDATE run_workers SET lost_at = lost_at - interval '9 s' RETURNING 1")


def resumed_by(instance: dg.DagsterInstance) -> list[str]:
    assert isinstance(instance.run_launcher, LockedResuming)
    return instance.run_launcher.resumed


@pytest.mark.parametrize("says", [WorkerStatus.RUNNING, WorkerStatus.UNKNOWN])
def test_a_dead_run_is_resumed_once_for_each_death_while_its_new_process_starts(
    resuming: dg.DagsterInstance,
    database: Database,
    says: WorkerStatus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Celery does not know a task that waits for a worker."""
    monkeypatch.setattr(_Resumes, "says", says)
    run = sync_run(resuming).run_id
    for deaths in (1, 2):
        lose_worker_of(database, run)
        for _ in range(4):
            look(resuming)
        assert resumed_by(resuming) == [run] * deaths
    with announced(database, run):
        look(resuming)
    found = resuming.get_run_by_id(run)
    assert found is not None
    assert found.status is STARTED


@pytest.mark.parametrize("says", [WorkerStatus.RUNNING, WorkerStatus.UNKNOWN])
@pytest.mark.parametrize("module", [OWN_DEFINITIONS, "somebody.elses"])
def test_a_run_whose_new_process_never_came_is_resumed_again_and_in_the_end_failed(
    resuming: dg.DagsterInstance,
    database: Database,
    says: WorkerStatus,
    module: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it was announced before its first process died, or, as one of our own, never."""
    monkeypatch.setattr(_Resumes, "says", says)
    run = started_long_ago(resuming, database, module).run_id
    if module != OWN_DEFINITIONS:
        lose_worker_of(database, run)
    for attempts in (1, 2, 3):
        look(resuming)
        look(resuming)
        assert resumed_by(resuming) == [run] * attempts
        query(database, "UPDATE run_workers SET lost_at = lost_at - interval '305 s' RETURNING 1")
    look(resuming)
    found = resuming.get_run_by_id(run)
    assert found is not None
    assert found.status is dg.DagsterRunStatus.FAILURE


def test_a_run_that_lives_is_not_ended_because_its_launcher_has_forgotten_it(
    resuming: dg.DagsterInstance, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Celery does once Redis was started anew, or the task began a day ago."""
    monkeypatch.setattr(_Resumes, "says", WorkerStatus.UNKNOWN)
    run = sync_run(resuming)
    with announced(database, run.run_id):
        look(resuming)
    look(resuming)
    assert resumed_by(resuming) == []
    query(database, "UPDATE run_workers SET ended_at = ended_at - interval '301 s' RETURNING 1")
    look(resuming)
    assert resumed_by(resuming) == [run.run_id]


def test_a_run_of_ours_that_died_between_its_last_step_and_its_end_is_ended(
    instance: dg.DagsterInstance, database: Database
) -> None:
    run = started_long_ago(instance, database, OWN_DEFINITIONS)
    with announced(database, run.run_id):
        pass
    assert health(instance, run) is WorkerStatus.RUNNING
    query(database, "UPDATE run_workers SET ended_at = ended_at - interval '301 s' RETURNING 1")
    assert health(instance, run) is WorkerStatus.FAILED


def test_a_lock_in_another_database_of_the_server_is_nobodys_sign_of_life(
    database: Database, migrated: Database
) -> None:
    kill_worker_of(database, "run")
    (key,) = (row[0] for row in query(database, "SELECT lock_key FROM run_workers"))
    with migrated.session() as holder:
        with holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (key,))
        with database.session() as connection:
            assert lost_runs(connection, ["run"]) == {"run"}


@pytest.mark.parametrize("status", [NOT_STARTED, dg.DagsterRunStatus.STARTING])
def test_a_run_that_nobody_started_keeps_no_sync_of_its_kind_from_starting(
    instance: dg.DagsterInstance, database: Database, status: dg.DagsterRunStatus
) -> None:
    run = sync_run(instance, status)
    with database.session() as connection:
        note_launch(connection, run.run_id, "initial_sync")
        assert running_sync(connection) is not None
    assert "initial_sync is running" in decide("reconciliation", instance)
    query(database, "UPDATE sync_runs SET launched_at = launched_at - interval '61 s' RETURNING 1")
    query(
        database,
        "UPDATE dagster.runs SET update_timestamp = update_timestamp - interval '61 s' RETURNING 1",
    )
    assert decide("reconciliation", instance) == "run"
    with database.session() as connection:
        assert running_sync(connection) is None


def test_a_command_that_was_killed_before_its_run_had_started_blocks_nothing(
    instance: dg.DagsterInstance, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sync_run(instance, NOT_STARTED)
    kill_worker_of(database, run.run_id)
    monkeypatch.setattr(run_lock, "GRACE", timedelta(0))
    assert decide("reconciliation", instance) == "run"
    assert fail_dead_runs(database, instance) == [run.run_id]


def test_a_run_that_starts_slowly_but_lives_is_under_way(
    instance: dg.DagsterInstance, database: Database
) -> None:
    run = sync_run(instance, NOT_STARTED)
    query(database, "UPDATE dagster.runs SET update_timestamp = 'epoch' RETURNING 1")
    with announced(database, run.run_id):
        assert "initial_sync is running" in decide("reconciliation", instance)


class _SaysDone(RunLauncher):
    """A launcher that can tell by itself."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        return CheckRunHealthResult(WorkerStatus.SUCCESS)

    def launch_run(self, context: Any) -> None: ...

    def terminate(self, run_id: str) -> bool:
        return False


def test_a_launcher_may_be_told_the_mirrors_whose_runs_it_watches(
    instance: dg.DagsterInstance,
    database: Database,
    empty_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in an instance of somebody else's, where no setting of the daemon's names one."""
    url = database.url.get_secret_value()
    monkeypatch.setenv("ACME_POSTGRES_URL", url)
    monkeypatch.delenv("POSTGRES_URL")
    settings.cache_clear()
    told = {
        "mirrors": [
            # One is away, and one has no tables yet: neither is in the way of the third.
            {"url": "postgresql://nobody@127.0.0.1:1/nowhere", "schema": "public"},
            {"url": empty_url, "schema": "globex"},
            {"url": {"env": "ACME_POSTGRES_URL"}},
        ]
    }
    of = ConfigurableClassData(
        "rms_pipeline.defs.run_launcher", "LockedRunLauncher", yaml.safe_dump(told)
    )
    launcher = of.rehydrate(as_type=LockedRunLauncher)
    run = sync_run(instance)
    assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    kill_worker_of(database, run.run_id)
    monkeypatch.setattr(run_lock.is_dead, "__kwdefaults__", {"grace": timedelta(0)})
    found = launcher.check_run_worker_health(run)
    assert (found.status, found.msg) == (WorkerStatus.FAILED, DEAD_RUN_MESSAGE)


def test_the_launcher_of_the_page_is_one_that_dagster_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (PROJECT / "docs/how-to/own-dagster.md").read_text()
    told = page.partition("```yaml\nrun_launcher:")[2].partition("```")[0]
    (tmp_path / "dagster.yaml").write_text(f"run_launcher:{told}")
    monkeypatch.setenv("RENTAL_POSTGRES_URL", "postgresql://u@127.0.0.1:1/rental")
    found = instance_of(tmp_path).run_launcher_data
    assert found is not None
    launcher = found.rehydrate(as_type=LockedRunLauncher)
    assert [mirror.schema for mirror in launcher.mirrors] == ["acme", "globex"]


class _Both(WorkerLockCheck, _SaysDone):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "launcher",
    [
        _Both(),
        LockedCeleryRunLauncher(
            default_queue="dagster", broker="memory://", backend="cache+memory://"
        ),
    ],
)
def test_any_launcher_takes_the_check_and_keeps_its_own(
    instance: dg.DagsterInstance,
    database: Database,
    launcher: RunLauncher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launcher.register_instance(instance)
    run = sync_run(instance).with_tags({"dagster-celery/task_id": "task"})
    own = WorkerStatus.SUCCESS if isinstance(launcher, _Both) else WorkerStatus.UNKNOWN
    assert launcher.check_run_worker_health(run).status is own
    kill_worker_of(database, run.run_id)
    monkeypatch.setattr(run_lock.is_dead, "__kwdefaults__", {"grace": timedelta(0)})
    assert launcher.check_run_worker_health(run).status is WorkerStatus.FAILED


@pytest.mark.parametrize("status", [STARTED, dg.DagsterRunStatus.STARTING])
def test_a_run_that_is_terminated_on_celery_is_canceled_and_not_retried(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    """The process of a run that is being canceled ends it as canceled. Any other interrupted run
    is a failure, and Dagster retries it."""
    launcher = LockedCeleryRunLauncher(
        default_queue="dagster", broker="memory://", backend="cache+memory://"
    )
    launcher.register_instance(instance)
    run = sync_run(instance, status)
    instance.add_run_tags(run.run_id, {"dagster-celery/task_id": "task"})
    assert launcher.terminate(run.run_id)
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status is dg.DagsterRunStatus.CANCELING
    instance.report_run_canceled(found)
    assert not launcher.terminate(run.run_id)


class _Terminated(CurrentRmsResource):
    """Somebody presses Terminate while the API is asked."""

    @contextlib.contextmanager
    def client(self, database: Database, collection: Collection) -> Iterator[Any]:
        raise dg.DagsterExecutionInterruptedError
        yield


def test_a_run_that_was_terminated_in_the_ui_says_so_in_words(
    instance: dg.DagsterInstance, database: Database
) -> None:
    job = build_defs({"current_rms": _Terminated()}).resolve_job_def("initial_sync")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    with database.session() as connection:
        sync = find_sync(connection, result.run_id)
    assert sync is not None
    assert sync.status == "failed"
    assert sync.error is not None
    assert sync.error.startswith("Somebody terminated this run")
    assert "run the sync again" in sync.error


def test_housekeeping_deletes_the_runs_of_this_project_only(
    instance: dg.DagsterInstance, database: Database
) -> None:
    here, there = {REPOSITORY_LABEL_TAG: "a@here"}, {REPOSITORY_LABEL_TAG: "a@there"}

    def run(job: dg.JobDefinition, tags: dict[str, str]) -> str:
        made = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.SUCCESS)
        return made.run_id

    job = build_defs().resolve_job_def("housekeeping")
    sync = build_defs().resolve_job_def("webhook_refresh")
    ours = {run(job, here), run(sync, {**here, SYNC_TYPE_TAG: "webhook_refresh"})}
    theirs = {
        run(somebody_elses_job, here),
        run(job, there),
        run(sync, {**there, SYNC_TYPE_TAG: "webhook_refresh"}),
    }
    query(database, "UPDATE dagster.runs SET create_timestamp = now() - interval '100 days'")
    query(database, "UPDATE dagster.runs SET status = 'FAILURE' RETURNING 1")
    assert job.execute_in_process(instance=instance, tags=here).success
    kept = {r.run_id for r in instance.get_runs()}
    assert theirs <= kept
    assert not ours & kept
