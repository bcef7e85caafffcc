"""A burst of real deliveries while service, database and API die."""

import contextlib
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.sandbox.deliveries import WebhookSwitches
from rms_pipeline_tests.conftest import POSTGRESQL_15, database_at
from rms_pipeline_tests.drills.conftest import end_claims
from rms_pipeline_tests.processes import (
    SECRET_KEY,
    command,
    environment_for,
    free_port,
    query,
    started,
    wait_until,
)
from rms_pipeline_tests.test_sync import rows
from rms_pipeline_tests.web.conftest import WEBHOOK_TOKEN
from rms_pipeline_tests.web.test_end_to_end import subscribe

QUICK = WebhookSwitches(backoff=0.05, longest_wait=0.5, attempts=400, duplicated=0.1)


class Service:
    """`rms-pipeline web` in a process of its own, on the same port each time."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment, self._log = environment, log
        self._running = contextlib.ExitStack()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Service":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def start(self) -> None:
        out = self._running.enter_context(self._log.open("ab"))
        self._child = self._running.enter_context(
            started(
                *("web", "--port", str(self.port)),
                environment=self._environment,
                stdout=out,
                stderr=out,
            )
        )

    def up(self) -> bool:
        try:
            return requests.get(f"{self.url}/healthz", timeout=2).ok
        except requests.RequestException:
            return False

    def kill(self) -> None:
        self._child.kill()
        self._running.close()


class Postgres:
    """A server of our own, to be killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run("initdb", "-A", "trust", "-U", "postgres", "-D", str(folder / "data"))
        self.start()
        self.url = f"postgresql://postgres@/postgres?host={folder}"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [f"{POSTGRESQL_15}/{program}", *arguments],
            check=True,
            user="postgres",
            stdout=subprocess.DEVNULL,
            cwd="/",
        )

    def start(self) -> None:
        data = str(self._folder / "data")
        options = f"-c listen_addresses= -k {self._folder}"
        self._run("pg_ctl", "-w", "-D", data, "-o", options, "-l", f"{data}.log", "start")

    def crash(self) -> None:
        """Every process of it ends without a chance to write; it recovers from its log."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "stop")


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    if not (POSTGRESQL_15 / "initdb").exists():
        pytest.skip("no PostgreSQL 15 server is installed (Debian: apt-get install postgresql-15)")
    with tempfile.TemporaryDirectory(prefix="rms-test-crash-") as name:
        shutil.chown(name, "postgres")
        server = Postgres(Path(name))
        yield server
        server.crash()


@pytest.mark.timeout(300)
def test_service_database_and_api_dying_in_a_burst_lose_no_acknowledged_event(
    postgres: Postgres, tmp_path: Path, long: bool
) -> None:
    store = Store(60)
    log = tmp_path / "web.log"
    with contextlib.ExitStack() as stack:
        sandbox = SandboxServer(store, api_key=SECRET_KEY, webhooks=QUICK)
        stack.enter_context(sandbox)
        environment = environment_for(postgres.url, sandbox, RMS_WEBHOOK_TOKEN=WEBHOOK_TOKEN)
        assert command("sync", "initial", environment=environment).returncode == 0
        service = stack.enter_context(Service(environment, log))
        wait_until(service.up)
        subscribe(sandbox, service.url, SECRET_KEY)
        chance = random.Random(11)
        edits: list[int] = []

        def edit_for(seconds: float) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                id_ = chance.choice(store.ids())
                assert store.edit(id_, {"subject": f"Edit {time.monotonic_ns()}"})
                edits.append(id_)
                time.sleep(0.02)

        for trouble in ("service", "postgres", "api", "service"):
            edit_for(chance.uniform(0.3, 1.5))
            if trouble == "service":
                service.kill()
                edit_for(0.5)
                service.start()
            elif trouble == "postgres":
                postgres.crash()
                edit_for(0.5)
                postgres.start()
            else:
                sandbox.faults.probabilities = {"error_503": 1.0}
                edit_for(6)
                sandbox.faults.probabilities = {}
            wait_until(service.up)
        assert sandbox.deliveries.wait_until_idle(90)
        if not long:
            end_claims(postgres.url)
        waiting = "SELECT count(*) FROM webhook_events WHERE processed_at IS NULL"
        wait_until(lambda: query(environment, waiting) == [(0,)], timeout=150)
        found = rows(database_at(postgres.url))
        assert set(edits) <= found.keys()
        for id_, row in found.items():
            record = store.get(id_)
            assert record is not None
            assert row["name"] == (record["subject"] or record["number"])
        # Each edit was told by one event, which was delivered more than once now and then.
        kept = query(environment, "SELECT count(*) FROM webhook_events WHERE subject_type ="
                     " 'Opportunity' AND action_type = 'update'")  # fmt: skip
        assert kept == [(len(edits),)]
    written = log.read_text()
    assert WEBHOOK_TOKEN not in written
    assert SECRET_KEY not in written
