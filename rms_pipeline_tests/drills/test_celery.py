"""Celery for real: Redis, two workers as if on two hosts, a daemon, a webserver, two web services.

One of them after the other is killed in the middle of its work. A run that was lost has to be
recovered within a minute, no webhook that was acknowledged may be lost, and the mirror has to be
equal to the account in the end. The counts are printed; --long has ten rounds and 1,000 deliveries.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

from rms_pipeline.mirror.queue import LEASE
from rms_pipeline.sandbox import SandboxServer, Store, Switches
from rms_pipeline.web.dagster_api import launch
from rms_pipeline.web.sessions import Sessions
from rms_pipeline_tests.conftest import new_database
from rms_pipeline_tests.drills import programs
from rms_pipeline_tests.drills.conftest import Tell, end_claims
from rms_pipeline_tests.drills.test_burst import Service
from rms_pipeline_tests.drills.test_faults import World
from rms_pipeline_tests.forks import Child
from rms_pipeline_tests.processes import (
    PROJECT,
    SECRET_KEY,
    free_port,
    query,
    stop_schedules,
    wait_until,
)
from rms_pipeline_tests.sandbox.holding import held
from rms_pipeline_tests.web.conftest import WEBHOOK_TOKEN, delivery

REDIS = Path("/usr/bin/redis-server")
LAUNCHER = """
run_launcher:
  module: rms_pipeline.defs.celery_launcher
  class: LockedCeleryRunLauncher
  config:
    broker: "{broker}"
    backend: "{broker}"
"""
WORKER = """
execution:
  config:
    broker: "{broker}"
    backend: "{broker}"
"""
# Nobody should wait that long: how long it took is printed.
PATIENCE = 180.0
TOKEN = "a-token-of-this-installation"


class Process:
    """One process in a group and a folder of its own, on its host, as it were. Those of Python are
    forks (`programs.py`)."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self._command, self._environment, self._folder = command, environment, folder
        self._process: subprocess.Popen[bytes] | Child | None = None

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            if programs.words_of(self._command):
                self._process = programs.start(self._command, self._environment, self._folder, log)
                return
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """With all of its group, as a host that goes down."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Installation:
    """All of it, around one account and one database."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self._folder = world, folder
        self.broker_port, self.dagster_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.dagster_port}"
        environment = world.environment | {
            "POSTGRES_URL_NON_POOLING": "",
            "RMS_DAGSTER_URL": self.url,
            "RMS_API_TOKEN": TOKEN,
            # dagster-celery starts celery by its name.
            "PATH": f"{Path(sys.executable).parent}:{world.environment['PATH']}",
        }
        python = [sys.executable, "-m"]
        worker = [*python, "dagster_celery.cli", "worker", "start", "-A", "dagster_celery.app"]
        self.broker = self._on_host(
            "broker", [str(REDIS), "--port", str(self.broker_port), "--save", ""], environment
        )
        self.workers = [
            self._on_host(
                f"worker{n}", [*worker, "-n", f"w{n}", "--", "--concurrency=2"], environment
            )
            for n in (1, 2)
        ]
        self.daemon = self._on_host(
            "daemon", [*python, "dagster._daemon", "run", "-w", "workspace.yaml"], environment
        )
        ui = ["--port", str(self.dagster_port), "--sign-in", self.url]
        self.dagster = self._on_host(
            "dagster", [*python, "rms_pipeline.dagster_ui", *ui], environment
        )
        self.webs = [Service(environment, folder / f"web{n}.log") for n in (1, 2)]

    def _on_host(self, name: str, command: list[str], environment: dict[str, str]) -> Process:
        folder = self._folder / name
        folder.mkdir()
        broker = f"redis://127.0.0.1:{self.broker_port}/0"
        text = (PROJECT / "dagster.yaml").read_text()
        before, _, after = text.partition("run_launcher:")
        after = after[after.index("\n\n") :]
        (folder / "dagster.yaml").write_text(before + LAUNCHER.format(broker=broker) + after)
        (folder / "workspace.yaml").write_text((PROJECT / "workspace.yaml").read_text())
        (folder / "celery.yaml").write_text(WORKER.format(broker=broker))
        if "worker" in name:
            command = [*command[:-2], "-y", str(folder / "celery.yaml"), *command[-2:]]
        return Process(command, environment | {"DAGSTER_HOME": str(folder)}, folder)

    def start(self) -> None:
        for part in (self.broker, self.daemon, *self.workers, self.dagster):
            part.start()
        for web in self.webs:
            web.start()
        wait_until(lambda: stop_schedules(self.url, TOKEN), timeout=120)
        for web in self.webs:
            wait_until(web.up, timeout=60)

    def stop(self) -> None:
        for web in self.webs:
            web.__exit__()
        for part in (self.dagster, *self.workers, self.daemon, self.broker):
            part.kill()

    def sync(self, kind: str) -> float:
        """Runs one through the sync API of the first web service; seconds until it succeeded."""
        began = time.monotonic()
        answer = requests.post(
            f"{self.webs[0].url}/api/sync/{kind}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=120,
        )
        assert answer.status_code == 200, answer.text
        return time.monotonic() - began

    def begun(self) -> str:
        """A full sync that is at work: its run."""
        token = Sessions(SecretStr(TOKEN)).dagster_token
        return launch(self.url, "initial_sync", token=token)

    def terminate(self, run: str) -> None:
        """As "Terminate" in Dagster's UI does."""
        asked = "mutation End($run: String!) { terminateRun(runId: $run) { __typename } }"
        answer = requests.post(
            f"{self.url}/graphql",
            json={"query": asked, "variables": {"run": run}},
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=60,
        )
        assert answer.json()["data"]["terminateRun"]["__typename"] == "TerminateRunSuccess"

    def executing(self, run: str) -> int:
        """The process of a worker's pool that executes `run`."""
        noted = self.rows(
            r"SELECT substring(event FROM 'Executing steps in process \(pid: (\d+)\)')"
            f" FROM dagster.event_logs WHERE run_id = '{run}' AND event LIKE '%in process (pid:%'"
        )
        return int(str(noted[0][0]))

    def worker_of(self, process: int) -> Process:
        (found,) = [w for w in self.workers if os.getpgid(process) == w.pid]
        return found

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        return query({"POSTGRES_URL": self.world.url}, statement)

    def recovered(self, run: str) -> float:
        """Seconds until `run` is told to have failed, in words, and its retry has completed."""
        began = time.monotonic()
        tag = "t.key = 'dagster/parent_run_id'"
        retry = (
            "SELECT 1 FROM dagster.run_tags t JOIN dagster.runs r USING (run_id)"
            f" WHERE {tag} AND t.value = '{run}' AND r.status = 'SUCCESS'"
        )
        wait_until(lambda: self.rows(retry), timeout=PATIENCE)
        told = self.rows(f"SELECT status, error FROM sync_metadata WHERE run_id = '{run}'")
        assert told[0][0] == "failed"
        assert "died" in str(told[0][1])
        return time.monotonic() - began


@pytest.fixture
def installation(embedded_url: str, tmp_path: Path) -> Iterator[Installation]:
    if not REDIS.exists():
        pytest.skip("no Redis is installed (Debian: apt-get install redis-server)")
    server = SandboxServer(Store(200), api_key=SECRET_KEY, switches=Switches(max_per_page=25))
    with server as sandbox, new_database(embedded_url) as url:
        world = World(url, sandbox, random.Random(19))
        made = Installation(world, tmp_path)
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.mark.timeout(5_400)
def test_whatever_part_is_killed_runs_are_recovered_and_no_webhook_is_lost(
    installation: Installation, long: bool, tell: Tell
) -> None:
    world, rounds, deliveries = installation.world, 10 if long else 1, 1_000 if long else 100
    installation.sync("initial")
    installation.sync("incremental")
    assert world.differences() == {}

    def kill_worker(run: str) -> Callable[[], None]:
        worker = installation.worker_of(installation.executing(run))
        worker.kill()
        return worker.start

    def kill_pool_process(run: str) -> Callable[[], None]:
        os.kill(installation.executing(run), signal.SIGKILL)
        return lambda: None

    for name, kill in (("a worker", kill_worker), ("a process of its pool", kill_pool_process)):
        longest = 0.0
        for _ in range(rounds):
            world.edit(10)
            with held(world.sandbox, after=world.chance.randrange(3, 9)) as waits:
                run = installation.begun()
                assert waits.wait(60)
                restart = kill(run)
            longest = max(longest, installation.recovered(run))
            restart()
            assert world.differences() == {}
        tell(f"Celery: {name} killed {rounds} times, recovered within {longest:.0f} s")

    with held(world.sandbox, after=3) as waits:
        run = installation.begun()
        assert waits.wait(60)
        installation.terminate(run)
        status = f"SELECT status FROM dagster.runs WHERE run_id = '{run}'"
        wait_until(lambda: installation.rows(status) == [("CANCELED",)], timeout=60)
    told = installation.rows(f"SELECT status, error FROM sync_metadata WHERE run_id = '{run}'")
    assert told[0][0] == "failed"
    assert str(told[0][1]).startswith("Somebody terminated this run")
    # If Dagster retried it, this one would be refused.
    installation.sync("initial")
    tell("Celery: a run that somebody terminated was canceled")

    for _ in range(rounds):
        world.edit(10)
        with held(world.sandbox, after=world.chance.randrange(3, 9)) as waits:
            run = installation.begun()
            assert waits.wait(60)
            installation.daemon.kill()
        done = f"SELECT 1 FROM sync_metadata WHERE run_id = '{run}' AND status = 'completed'"
        wait_until(lambda done=done: installation.rows(done), timeout=60)  # type: ignore[misc]
        installation.daemon.start()
        installation.sync("incremental")
        assert world.differences() == {}
    tell(f"Celery: the daemon killed {rounds} times, the run at work went on")

    refused = _burst(installation, deliveries, long)
    tell(f"Celery: {deliveries} deliveries, a web service killed, {refused} sent again, none lost")

    for _ in range(rounds):
        installation.broker.kill()
        world.edit(10)
        with contextlib.suppress(AssertionError):
            # It fails, or waits: either way the next one has to work.
            installation.sync("incremental")
        installation.broker.start()
        seconds = _recovers(installation)
        assert world.differences() == {}
    tell(f"Celery: the broker lost {rounds} times, the next sync succeeded within {seconds:.0f} s")


def _burst(installation: Installation, deliveries: int, long: bool) -> int:
    """Deliveries to both web services, of which one dies; how many had to be sent again.

    What it had claimed is free again when its lease ends, which `long` waits for.
    """
    world, refused = installation.world, 0
    ids = world.store.ids()
    for number in range(deliveries):
        id_ = world.chance.choice(ids)
        world.store.edit(id_, {"subject": f"Burst {number}"})
        if number == deliveries // 2:
            installation.webs[1].kill()
        for web in (installation.webs[number % 2], installation.webs[0]):
            with contextlib.suppress(requests.ConnectionError):
                answer = requests.post(
                    f"{web.url}/api/webhook/{WEBHOOK_TOKEN}",
                    json=delivery(number + 1, id_),
                    timeout=30,
                )
                if answer.status_code == 200:
                    break
            refused += 1
        else:
            raise AssertionError("a service that lives refused a delivery")
    installation.webs[1].start()
    kept = "SELECT count(*), count(*) FILTER (WHERE processed_at IS NULL) FROM webhook_events"
    if not long:
        end_claims(world.url)
    patience = LEASE.total_seconds() + 60
    wait_until(lambda: installation.rows(kept) == [(deliveries, 0)], timeout=patience)
    assert world.differences() == {}
    return refused


def _recovers(installation: Installation) -> float:
    began = time.monotonic()

    def succeeds() -> bool:
        try:
            installation.sync("incremental")
        except AssertionError:
            return False
        return True

    wait_until(succeeds, timeout=PATIENCE)
    return time.monotonic() - began
