"""The pods of deploy/helm-values.yaml and deploy/kubernetes.yaml, as processes of this machine.

Each has the command, environment and instance that Dagster's official Helm chart gives it.

They are forks (`programs.py`). What only a cluster shows (scheduling, networks, read-only file
systems) was not run.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from pydantic import SecretStr

from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN, SandboxServer, Store, Switches
from rms_pipeline.settings import child_environment
from rms_pipeline.web.dagster_api import DagsterUnavailable, code_locations, launch
from rms_pipeline.web.sessions import Sessions
from rms_pipeline_tests.conftest import database_at, new_database
from rms_pipeline_tests.drills import programs
from rms_pipeline_tests.drills.conftest import Tell, leave
from rms_pipeline_tests.drills.test_deploy import BIN, TOKEN, answers, end, post
from rms_pipeline_tests.forks import Child
from rms_pipeline_tests.helm_chart import Chart, manifests, values
from rms_pipeline_tests.processes import PROJECT, SECRET_KEY, free_port, query, wait_until
from rms_pipeline_tests.sandbox.holding import held
from rms_pipeline_tests.web.conftest import WEBHOOK_TOKEN, delivery

# What the Dockerfile copies into the working folder.
IMAGE = ("deploy/dagster.yaml", "workspace.yaml")


class Cluster:
    """The pods, and what they see: the chart's ConfigMaps, our secret, the image's folder."""

    def __init__(self, mirror: str, dagster: str, sandbox: SandboxServer) -> None:
        self.mirror, self.dagster, self.sandbox = mirror, dagster, sandbox
        self.code, self.ui, self.web = free_port(), free_port(), free_port()
        found = values()
        found["postgresql"] |= {
            "postgresqlHost": "localhost",
            "postgresqlUsername": "postgres",
            "postgresqlDatabase": dagster.partition("?")[0].rpartition("/")[2],
            # Where the server listens here.
            "postgresqlParams": {"host": dagster.rpartition("host=")[2]},
        }
        self.chart, self.manifests = Chart(found), manifests()
        self._ends = ExitStack()

    def lay_out(self, folder: Path) -> None:
        self.folder, self.home, self.image = folder, folder / "dagster_home", folder / "image"
        self.home.mkdir()
        self.image.mkdir()
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(self.chart.instance()))
        workspace = self.chart.workspace("127.0.0.1", self.code)
        (self.folder / "workspace.yaml").write_text(yaml.safe_dump(workspace))
        for name in IMAGE:
            (self.image / Path(name).name).write_text((PROJECT / name).read_text())

    @property
    def secret(self) -> dict[str, str]:
        """The secret "rms-pipeline"."""
        return {
            "POSTGRES_URL": self.mirror,
            "POSTGRES_URL_NON_POOLING": self.mirror,
            "CURRENT_RMS_SUBDOMAIN": SANDBOX_SUBDOMAIN,
            "CURRENT_RMS_API_KEY": SECRET_KEY,
            "CURRENT_RMS_BASE_URL": self.sandbox.url,
            "CURRENT_RMS_REQUESTS_PER_MINUTE": "0",
            "RMS_API_TOKEN": TOKEN,
            "RMS_WEBHOOK_TOKEN": WEBHOOK_TOKEN,
            "RMS_DAGSTER_URL": f"http://127.0.0.1:{self.ui}",
            "RMS_PUBLIC_URL": f"http://127.0.0.1:{self.web}",
        }

    def environment(self, *, secret: bool, instance: bool = True) -> dict[str, str]:
        """Of a pod, which may have our secret, and the instance's dagster.yaml."""
        ours = (n for n in os.environ if n.startswith(("RMS_", "CURRENT_RMS_", "POSTGRES_")))
        home = self.home if instance else self.folder / "not-there"
        return child_environment(
            **dict.fromkeys(ours),
            **(self.secret if secret else {}),
            DAGSTER_HOME=str(home),
            DAGSTER_PG_PASSWORD="not-asked-for-here",
            RMS_LOG_FORMAT="json",
            PATH=f"{BIN}:{os.environ['PATH']}",
            COLUMNS="200",
        )

    def start(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        folder: Path | None = None,
    ) -> Child:
        log = self._ends.enter_context((self.folder / f"{name}.log").open("ab"))
        process = programs.start(command, environment, folder or self.image, log)
        self._ends.callback(end, process)
        return process

    def start_code(self) -> Child:
        # The chart gives it no dagster.yaml, and `args` only: the image must have no entry point.
        args = ["dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(self.code)]
        args += self.chart.deployment["dagsterApiGrpcArgs"]
        return self.start("code", args, self.environment(secret=True, instance=False))

    def start_daemon(self) -> Child:
        # The chart has a shell run this line.
        command = ["dagster-daemon", "run", "-w", str(self.folder / "workspace.yaml")]
        secret = bool(self.chart.values["dagsterDaemon"].get("envSecrets"))
        return self.start("daemon", command, self.environment(secret=secret))

    def start_ui(self) -> Child:
        # Over the file of the image lies that of the chart.
        folder = self.folder / "image-of-ui"
        folder.mkdir()
        (folder / "dagster.yaml").write_text((self.image / "dagster.yaml").read_text())
        (folder / "workspace.yaml").write_text((self.folder / "workspace.yaml").read_text())
        command = [
            word.replace("$(RMS_PUBLIC_URL)", self.secret["RMS_PUBLIC_URL"])
            for word in self.container("Deployment", "rms-pipeline-dagster")
        ]
        command = [f"--port={self.ui}" if word == "--port=3000" else word for word in command]
        return self.start("ui", command, self.environment(secret=True), folder)

    def container(self, kind: str, name: str) -> list[str]:
        """The command of the one container of a manifest of ours."""
        (found,) = self.manifests[kind, name]["spec"]["template"]["spec"]["containers"]
        assert {"secretRef": {"name": "rms-pipeline"}} in found["envFrom"]
        return [word.replace("0.0.0.0", "127.0.0.1") for word in found["command"]]

    def start_web(self) -> Child:
        command = [*self.container("Deployment", "rms-pipeline-web"), "--port", str(self.web)]
        return self.start("web", command, self.environment(secret=True))

    def run(self, *command: str) -> str:
        """What a command prints that somebody runs in a pod of the web service."""
        done = programs.run(command, self.environment(secret=True), self.image, 180)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        return query({"POSTGRES_URL": self.mirror}, statement)

    def history(self, statement: str) -> list[tuple[object, ...]]:
        return query({"POSTGRES_URL": self.dagster}, statement)

    def ask(self, asked: str, **variables: object) -> dict[str, Any]:
        """What Dagster's webserver answers, as its pages ask it."""
        body = {"query": asked, "variables": variables}
        answer = requests.post(
            f"http://127.0.0.1:{self.ui}/graphql",
            json=body,
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=60,
        ).json()
        assert "errors" not in answer, answer
        found: dict[str, Any] = answer["data"]
        return found

    def printed(self, run: str) -> dict[str, Any]:
        """What the page of a run shows of what its steps printed."""
        found = self.ask(
            "query Captured($id: ID!) { logsForRun(runId: $id) { ... on EventConnection {"
            " events { ... on LogsCapturedEvent { fileKey } } } } }",
            id=run,
        )["logsForRun"]["events"]
        step, *_ = [each["fileKey"] for each in found if each]
        shown: dict[str, Any] = self.ask(
            "query Printed($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr } }",
            key=[run, "compute_logs", step],
        )["capturedLogs"]
        return shown

    def is_up(self) -> bool:
        return answers(f"http://127.0.0.1:{self.ui}/server_info")

    @property
    def token(self) -> SecretStr:
        """What the web service shows Dagster."""
        return Sessions(SecretStr(TOKEN)).dagster_token

    def has_code(self) -> bool:
        found = code_locations(f"http://127.0.0.1:{self.ui}", self.token)
        return "initial_sync" in found[self.chart.deployment["name"]].jobs

    def end(self) -> None:
        self._ends.close()


@pytest.fixture
def cluster(embedded_url: str, tmp_path: Path) -> Iterator[Cluster]:
    server = SandboxServer(Store(120), api_key=SECRET_KEY, switches=Switches(max_per_page=25))
    with (
        server as sandbox,
        new_database(embedded_url) as mirror,
        new_database(embedded_url) as dagster,
    ):
        made = Cluster(mirror, dagster, sandbox)
        made.lay_out(tmp_path)
        try:
            yield made
        finally:
            made.end()


@pytest.mark.timeout(600)
def test_the_charts_three_storages_and_a_launcher_of_ours_do_all_that_our_own_instance_does(
    cluster: Cluster, tell: Tell
) -> None:
    began = time.monotonic()
    store = cluster.sandbox.store
    cluster.run(*cluster.container("Job", "rms-pipeline-migrate"))
    # Pods start in any order: a sync that is asked for before there is code waits for it.
    cluster.start_ui()
    wait_until(cluster.is_up, timeout=180)
    with pytest.raises(DagsterUnavailable, match="would not launch"):
        launch(f"http://127.0.0.1:{cluster.ui}", "initial_sync", token=cluster.token, patience=2)
    code = cluster.start_code()
    web = cluster.start_web()
    wait_until(lambda: answers(f"http://127.0.0.1:{cluster.web}/healthz"), timeout=120)
    wait_until(cluster.has_code, timeout=180)
    replaced(cluster, code)

    full = post(cluster.web, "/api/sync/initial")
    assert full["success"] is True
    assert cluster.rows("SELECT count(*) FROM opportunities") == [(full["recordsSynced"],)]
    strangers = requests.post(f"http://127.0.0.1:{cluster.ui}/graphql", json={}, timeout=60)
    assert strangers.status_code == 401
    assert cluster.printed(full["runId"]) == {"stdout": None, "stderr": None}
    edited, told, left, *_ = store.ids()
    store.edit(edited, {"subject": "Edited"})
    assert post(cluster.web, "/api/sync/incremental")["success"] is True
    subject = "SELECT subject FROM opportunities WHERE id = "
    assert cluster.rows(f"{subject}{edited}") == [("Edited",)]

    store.edit(told, {"subject": "Told"})
    answer = requests.post(
        f"http://127.0.0.1:{cluster.web}/api/webhook/{WEBHOOK_TOKEN}",
        json=delivery(1, told),
        timeout=30,
    )
    assert answer.status_code == 200
    wait_until(lambda: cluster.rows(f"{subject}{told}") == [("Told",)], timeout=60)

    assert "incremental_sync" in cluster.run("rms-pipeline", "status")
    findings = json.loads(cluster.run("rms-pipeline", "doctor", "--json"))
    told_of = {f["check"]: f for f in findings["findings"]}
    assert told_of["webserver"]["level"] == "ok", told_of["webserver"]

    # What waits while no web service runs, the daemon sees to.
    web.send_signal(signal.SIGTERM)
    web.wait(60)
    store.edit(left, {"subject": "Left"})
    leave(database_at(cluster.mirror), "public", left)
    wait_until(lambda: cluster.rows(f"{subject}{left}") == [("Left",)], timeout=120)
    seconds = recovered(cluster)
    # Nothing of Dagster's is in the mirror's database, nor anything of ours in Dagster's.
    assert cluster.rows("SELECT to_regclass('runs'), to_regclass('dagster.runs')") == [(None, None)]
    assert cluster.history("SELECT to_regclass('opportunities')") == [(None,)]
    # The file system of a container cannot be written to. (Dagster's webserver makes two folders
    # for telemetry, also where that is off, and bears with it where it may not.)
    written = [*cluster.home.rglob("*"), *cluster.image.rglob("*")]
    assert {path.name for path in written if path.is_file()} == {"dagster.yaml", "workspace.yaml"}
    assert {path.name for path in written if path.is_dir()} <= {"logs", ".logs_queue"}
    for name in ("code", "daemon", "ui", "web"):
        assert "Traceback" not in (cluster.folder / f"{name}.log").read_text(), name
    tell(
        f"The Helm chart's shape: {time.monotonic() - began:.0f} s, a killed run was retried and"
        f" had succeeded after {seconds:.0f} s"
    )


def launched(cluster: Cluster) -> str:
    """The run of a full sync that nobody waits for."""
    answer = requests.post(
        f"http://127.0.0.1:{cluster.web}/api/sync/initial",
        params={"wait": "false"},
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=120,
    )
    assert answer.ok, answer.text
    run: str = answer.json()["runId"]
    return run


def replaced(cluster: Cluster, code: Child) -> None:
    """Replace the code while a sync waits in the queue, as a deployment does. The sync waits for
    the new code.
    """
    run = launched(cluster)
    end(code)
    cluster.start_daemon()
    tried = f"SELECT 1 FROM event_logs WHERE run_id = '{run}' AND event LIKE '%into the queue (%'"
    wait_until(lambda: cluster.history(tried), timeout=120)
    cluster.start_code()
    status = f"SELECT status, error FROM sync_metadata WHERE run_id = '{run}'"
    wait_until(lambda: cluster.rows(status) == [("completed", None)], timeout=120)
    # Its stacks tell of the code that was away.
    (cluster.folder / "daemon.log").write_text("")


def recovered(cluster: Cluster) -> float:
    """A run that is killed while it reads: seconds until its retry has succeeded."""
    cluster.start_web()
    wait_until(lambda: answers(f"http://127.0.0.1:{cluster.web}/healthz"), timeout=120)
    with held(cluster.sandbox, after=3) as waits:
        run = launched(cluster)
        assert waits.wait(120)
        noted = cluster.history(
            r"SELECT substring(event FROM 'Executing steps in process \(pid: (\d+)\)')"
            f" FROM event_logs WHERE run_id = '{run}' AND event LIKE '%in process (pid:%'"
        )
        os.kill(int(str(noted[0][0])), signal.SIGKILL)
    began = time.monotonic()
    retried = (
        "SELECT 1 FROM run_tags t JOIN runs r USING (run_id) WHERE t.key = 'dagster/parent_run_id'"
        f" AND t.value = '{run}' AND r.status = 'SUCCESS'"
    )
    wait_until(lambda: cluster.history(retried), timeout=180)
    told = cluster.rows(f"SELECT status, error FROM sync_metadata WHERE run_id = '{run}'")
    assert told[0][0] == "failed"
    assert "died" in str(told[0][1])
    return time.monotonic() - began
