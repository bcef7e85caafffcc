"""Two accounts as components in a Dagster project of somebody else's, made and run with `dg`.

The project has an instance and a storage of its own, an executor with a process a step, loads of
`dagster-dlt`, and a job, a schedule and resources that are called what ours are called. Nothing of
`rms-pipeline` is configured but the two YAML files.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN, SandboxServer, Store
from rms_pipeline.settings import child_environment
from rms_pipeline_tests.conftest import database_at, new_database
from rms_pipeline_tests.drills import programs
from rms_pipeline_tests.drills.conftest import Tell, leave
from rms_pipeline_tests.drills.test_burst import Service
from rms_pipeline_tests.processes import command, free_port, query, wait_until
from rms_pipeline_tests.web.conftest import WEBHOOK_TOKEN, delivery

ACCOUNTS = ("acme", "globex")
LOCATION = "analytics"
TOKEN = "a-token-of-this-project"

PYPROJECT = """
[project]
name = "analytics"
version = "0.1.0"
requires-python = ">=3.11"

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "analytics"
"""
# As `create-dagster` writes it.
DEFINITIONS = """
from pathlib import Path

from dagster import definitions, load_from_defs_folder


@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
THEIRS = """
import os

import dagster as dg
import psycopg2


class Warehouse(dg.ConfigurableResource):
    url: str


@dg.asset
def margins(mirror: Warehouse) -> None:
    \"\"\"Has nothing to do with Current RMS.\"\"\"
    assert mirror.url == "theirs"


@dg.asset(deps=[dg.AssetKey(["acme", "opportunities"]), dg.AssetKey(["globex", "opportunities"])])
def hires() -> dg.MaterializeResult:
    \"\"\"Made of both mirrors.\"\"\"
    with psycopg2.connect(os.environ["ACME_POSTGRES_URL"]) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT (SELECT count(*) FROM acme.opportunities)"
                " + (SELECT count(*) FROM globex.opportunities)"
            )
            (rows,) = cursor.fetchone()
    return dg.MaterializeResult(metadata={"rows": rows})


@dg.op
def greet(mirror: Warehouse) -> str:
    return mirror.url


@dg.job(executor_def=dg.in_process_executor)
def initial_sync():
    \"\"\"Their own, of another thing.\"\"\"
    greet()


@dg.schedule(job=initial_sync, cron_schedule="0 0 1 1 *")
def incremental_sync():
    return dg.RunRequest()


@dg.definitions
def defs():
    return dg.Definitions(
        assets=[margins, hires],
        jobs=[
            initial_sync,
            dg.define_asset_job("nightly", selection=["margins", "hires", "crm/people"]),
        ],
        schedules=[incremental_sync],
        resources={"mirror": Warehouse(url="theirs"), "current_rms": 3},
        executor=dg.multiprocess_executor.configured({"max_concurrent": 2}),
    )
"""
LOADS = """
import dlt


@dlt.resource(name="people", primary_key="id", write_disposition="merge")
def people():
    yield [{"id": 1, "name": "Ada"}, {"id": 2, "name": "Grace"}]


@dlt.source(name="crm")
def crm():
    return people


crm_source = crm()
crm_pipeline = dlt.pipeline("crm", destination="filesystem", dataset_name="crm")
"""
LOADS_IN_YAML = """
type: dagster_dlt.DltLoadCollectionComponent

attributes:
  loads:
    - source: .loads.crm_source
      pipeline: .loads.crm_pipeline
"""
POSTGRESQL = """
storage:
  postgres:
    postgres_url:
      env: THEIR_DAGSTER_URL
"""
INSTANCE = """
telemetry:
  enabled: false
"""

_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on PipelineNotFoundError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
_RUN = """
query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }
"""
_RUNS = "query { runsOrError { ... on Runs { results { runId jobName status } } } }"
_FAILURES = """
query Failures($id: ID!) {
  logsForRun(runId: $id) {
    ... on EventConnection {
      events {
        ... on ExecutionStepFailureEvent { stepKey error { message cause { message } } }
        ... on RunFailureEvent { message }
      }
    }
  }
}
"""
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")


class Project:
    """The project's folder, and the databases and accounts that its environment names."""

    def __init__(self, folder: Path, server_url: str, accounts: dict[str, SandboxServer]) -> None:
        self.folder, self.accounts = folder, accounts
        self.home = folder / "home"
        self._server_url = server_url
        self.package = folder / "src" / LOCATION
        (self.package / "defs").mkdir(parents=True)
        self.home.mkdir()
        for made in (self.package, self.package / "defs"):
            (made / "__init__.py").write_text("")
        (folder / "pyproject.toml").write_text(PYPROJECT)
        (self.package / "definitions.py").write_text(DEFINITIONS)
        (self.package / "defs" / "theirs.py").write_text(THEIRS)
        (self.package / "defs" / "crm").mkdir()
        (self.package / "defs" / "crm" / "loads.py").write_text(LOADS)
        (self.package / "defs" / "crm" / "defs.yaml").write_text(LOADS_IN_YAML)

    def environment(self, mirror_url: str, dagster_url: str) -> dict[str, str]:
        keys = {f"{name.upper()}_API_KEY": SANDBOX_API_KEY for name in ACCOUNTS}
        urls = {f"{name.upper()}_POSTGRES_URL": mirror_url for name in ACCOUNTS}
        nobodys = ("POSTGRES_URL", "POSTGRES_URL_NON_POOLING", "CURRENT_RMS_SUBDOMAIN")
        return child_environment(
            **dict.fromkeys((*nobodys, "CURRENT_RMS_API_KEY", "RMS_SCHEMA", "VIRTUAL_ENV")),
            **keys,
            **urls,
            DAGSTER_HOME=str(self.home),
            THEIR_DAGSTER_URL=dagster_url,
            PYTHONPATH=str(self.folder / "src"),
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            DLT_DATA_DIR=str(self.folder / "dlt"),
            RUNTIME__DLTHUB_TELEMETRY="false",
            DESTINATION__FILESYSTEM__BUCKET_URL=(self.folder / "lake").as_uri(),
            COLUMNS="200",
        )

    def of_account(self, name: str, environment: dict[str, str], mirror_url: str) -> dict[str, str]:
        """What a process of ours is told of one: where it is, and what it is called here."""
        return environment | {
            "POSTGRES_URL": mirror_url,
            "POSTGRES_URL_NON_POOLING": mirror_url,
            "RMS_SCHEMA": name,
            "RMS_KEY_PREFIX": name,
            "CURRENT_RMS_SUBDOMAIN": SANDBOX_SUBDOMAIN,
            "CURRENT_RMS_API_KEY": SANDBOX_API_KEY,
            "CURRENT_RMS_BASE_URL": self.accounts[name].url,
        }

    def dg(self, *arguments: str, environment: dict[str, str]) -> str:
        """What `dg` printed; it has to succeed."""
        done = programs.run(["dg", *arguments], environment, self.folder, 120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def lead_to_the_sandbox(self, name: str) -> None:
        """All that is changed of the YAML that `dg` wrote: where the account is."""
        path = self.package / "defs" / name / "defs.yaml"
        written = yaml.safe_load(path.read_text())
        written["attributes"]["account"] |= {
            "subdomain": SANDBOX_SUBDOMAIN,
            "base_url": self.accounts[name].url,
            "requests_per_minute": 0,
            "days_back": 36_500,
            "days_ahead": 36_500,
        }
        written["attributes"]["collections"] = ["opportunities", "members"]
        path.write_text(yaml.safe_dump(written))


@pytest.fixture(scope="module")
def accounts() -> Iterator[dict[str, SandboxServer]]:
    with SandboxServer(Store(40, seed=1)) as acme, SandboxServer(Store(30, seed=2)) as globex:
        yield {"acme": acme, "globex": globex}


@pytest.fixture(scope="module")
def project(
    embedded_url: str,
    accounts: dict[str, SandboxServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """Made with the commands that Dagster's users know, and checked by them."""
    made = Project(tmp_path_factory.mktemp("projects") / LOCATION, embedded_url, accounts)
    nowhere = "postgresql://nobody@127.0.0.1:1/rental"
    environment = made.environment(nowhere, nowhere)
    assert "rms_pipeline.CurrentRmsComponent" in made.dg(
        "list", "components", environment=environment
    )
    for name in ACCOUNTS:
        component = "rms_pipeline.CurrentRmsComponent"
        made.dg("scaffold", "defs", component, name, environment=environment)
        made.lead_to_the_sandbox(name)
    made.dg("check", "defs", environment=environment)
    return made


class Running:
    """`dg dev` in the project: its webserver, its daemon, its code."""

    def __init__(self, project: Project, environment: dict[str, str]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = project.home / "dev.log"
        with self.log.open("wb") as out:
            command = ["dg", "dev", "--port", str(port), "--host", "127.0.0.1"]
            # Each step is a process that would import it.
            imports = ["dagster_dlt"]
            self._process = programs.start(
                command, environment, project.folder, out, imports=imports
            )

    def ask(self, asked: str, **variables: Any) -> dict[str, Any]:
        body = {"query": asked, "variables": variables}
        answer = requests.post(f"{self.url}/graphql", json=body, timeout=60)
        answer.raise_for_status()
        found = answer.json()
        assert "errors" not in found, found
        data: dict[str, Any] = found["data"]
        return data

    def is_up(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        with contextlib.suppress(requests.ConnectionError):
            found = self.ask("query { repositoriesOrError { ... on RepositoryConnection {"
                             " nodes { name } } } }")  # fmt: skip
            return bool(found["repositoriesOrError"]["nodes"])
        return False

    def launch(self, job: str, *assets: list[str]) -> str:
        """The run's id."""
        selector: dict[str, Any] = {
            "repositoryLocationName": LOCATION,
            "repositoryName": "__repository__",
            "jobName": job,
        }
        if assets:
            selector["assetSelection"] = [{"path": path} for path in assets]
            # Each would be a process more.
            selector["assetCheckSelection"] = []
        params = {"selector": selector, "runConfigData": {}, "mode": "default"}
        found = self.ask(_LAUNCH, params=params)["launchRun"]
        assert found["__typename"] == "LaunchRunSuccess", found
        return str(found["run"]["runId"])

    def succeed(self, *runs: str) -> None:
        """Waits until all of them have."""

        def ended(run: str) -> bool:
            status = self.ask(_RUN, id=run)["runOrError"]["status"]
            if status in ("FAILURE", "CANCELED"):
                raise AssertionError(self.ask(_FAILURES, id=run))
            return bool(status == "SUCCESS")

        for run in runs:
            wait_until(lambda run=run: ended(run), timeout=300)  # type: ignore[misc]

    def unfinished(self) -> list[str]:
        return [job for job, status in self.jobs() if status not in _ENDED]

    def jobs(self) -> list[tuple[str, str]]:
        """Each run's job and status."""
        found = self.ask(_RUNS)["runsOrError"]["results"]
        return [(run["jobName"], run["status"]) for run in found]

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.mark.timeout(900)
def test_two_accounts_live_in_it_beside_whatever_was_there(
    project: Project, embedded_url: str, tell: Tell
) -> None:
    began = time.monotonic()
    (project.home / "dagster.yaml").write_text(POSTGRESQL + INSTANCE)
    with new_database(embedded_url) as mirror_url, new_database(embedded_url) as dagster_url:
        environment = project.environment(mirror_url, dagster_url)
        running = Running(project, environment)
        try:
            wait_until(running.is_up, timeout=180)
            up = time.monotonic() - began
            _live_in(project, running, environment, mirror_url)
        finally:
            running.end()
        place = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        assert query({"POSTGRES_URL": dagster_url}, place) != [(0,)]
        assert query({"POSTGRES_URL": mirror_url}, place) == [(0,)]
        _judge(project, environment, mirror_url)
        assert "Traceback" not in running.log.read_text()
    tell(
        f"A project of somebody else's: up after {up:.0f} s, {time.monotonic() - began:.0f} s in"
        " all"
    )


def _live_in(
    project: Project, running: Running, environment: dict[str, str], mirror_url: str
) -> None:
    def rows(statement: str) -> list[tuple[object, ...]]:
        return query({"POSTGRES_URL": mirror_url}, statement)

    # One by our job, the other by hand, with their executor: a process a step.
    chosen = [["globex", name] for name in ("raw_rms_pages", "opportunities", "status_counts")]
    running.succeed(
        running.launch("acme__initial_sync"),
        running.launch("__ASSET_JOB", *chosen),
        running.launch("initial_sync"),
    )
    assert_equal(project, mirror_url)
    running.succeed(running.launch("nightly"))
    change(project)
    running.succeed(running.launch("globex__incremental_sync"))
    # One has a web service of ours, and whoever uses its sync API; the sensor sees to the other.
    acme = project.of_account("acme", environment, mirror_url) | {
        "RMS_DAGSTER_URL": running.url,
        "RMS_API_TOKEN": TOKEN,
        "RMS_WEBHOOK_TOKEN": WEBHOOK_TOKEN,
    }
    told = {name: account.store.ids()[-1] for name, account in project.accounts.items()}
    with Service(acme, project.home / "web.log") as web:
        wait_until(web.up, timeout=120)
        asked = requests.post(
            f"{web.url}/api/sync/incremental",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=180,
        )
        assert (asked.status_code, asked.json()["success"]) == (200, True), asked.text
        assert_equal(project, mirror_url)
        for name, id_ in told.items():
            project.accounts[name].store.edit(id_, {"subject": f"Told by {name}"})
        leave(database_at(mirror_url), "globex", told["globex"])
        address = f"{web.url}/api/webhook/{WEBHOOK_TOKEN}"
        assert requests.post(address, json=delivery(1, told["acme"]), timeout=30).ok
        left = " UNION ALL ".join(
            f"SELECT 1 FROM {name}.webhook_events WHERE processed_at IS NULL" for name in ACCOUNTS
        )
        wait_until(lambda: rows(left) == [], timeout=180)
    assert_equal(project, mirror_url)
    wait_until(lambda: running.unfinished() == [], timeout=180)
    assert {status for _, status in running.jobs()} == {"SUCCESS"}
    # It asks that Dagster, because no daemon has ever run in this project's own instance.
    doctor = command("doctor", "--json", environment=acme)
    told_of = {f["check"]: f["found"] for f in json.loads(doctor.stdout)["findings"]}
    assert told_of["daemon"] == "Dagster's daemon is alive."
    assert told_of["webserver"] == f"Dagster at {running.url} has the jobs of this project."


@pytest.mark.timeout(900)
def test_its_dagster_can_keep_its_history_in_files(project: Project, embedded_url: str) -> None:
    """As every project does that nobody has configured."""
    (project.home / "dagster.yaml").write_text(INSTANCE)
    with new_database(embedded_url) as mirror_url:
        environment = project.environment(mirror_url, "postgresql:///nowhere")
        for name in ACCOUNTS:
            project.dg("launch", "--job", f"{name}__initial_sync", environment=environment)
        change(project)
        project.dg("launch", "--job", "globex__incremental_sync", environment=environment)
        assert_equal(project, mirror_url, "globex")
        _judge(project, environment, mirror_url)


def change(project: Project) -> None:
    for name, account in project.accounts.items():
        gone, edited, *_ = account.store.ids()
        account.store.delete(gone)
        account.store.edit(edited, {"subject": f"Edited at {name}"})


def assert_equal(project: Project, mirror_url: str, *names: str) -> None:
    for name in names or ACCOUNTS:
        found = query({"POSTGRES_URL": mirror_url}, f"SELECT id, subject FROM {name}.opportunities")
        truth = project.accounts[name].store.truth()
        assert {i: text or "" for i, text in found} == {
            r["id"]: r["subject"] or "" for r in truth
        }, name


def _judge(project: Project, environment: dict[str, str], mirror_url: str) -> None:
    """What our own command says of each account, which is told no more than where it is."""
    for name in ACCOUNTS:
        ours = project.of_account(name, environment, mirror_url)
        told = command("status", "--json", environment=ours)
        assert told.returncode == 0, told.stderr
        sync = json.loads(told.stdout)["sync"]
        assert {each["status"] for each in sync["history"]} == {"completed"}
        assert sync["certificate"]["state"] == "green"
        doctor = command("doctor", "--json", environment=ours)
        findings = json.loads(doctor.stdout)["findings"]
        assert [f for f in findings if f["level"] == "problem"] == []
