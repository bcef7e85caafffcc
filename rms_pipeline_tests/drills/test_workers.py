"""Workers and daemons that are killed in the middle of their work.

In the last test the processes of the Dagster that goes on are real ones. All others are forks
(`forks.py`).
"""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from rms_pipeline.sandbox import SandboxServer, Store, Switches
from rms_pipeline.web.dagster_api import launch
from rms_pipeline_tests.conftest import new_database
from rms_pipeline_tests.drills.conftest import end_claims
from rms_pipeline_tests.processes import (
    SECRET_KEY,
    Dagster,
    environment_for,
    query,
    wait_until,
)
from rms_pipeline_tests.sandbox.holding import held


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(
        Store(1_500), api_key=SECRET_KEY, switches=Switches(max_per_page=10)
    ) as server:
        yield server


def worker_of(environment: dict[str, str], run: str) -> int:
    """The process that executes `run`, from what Dagster noted when it began."""
    noted = query(
        environment,
        r"SELECT substring(event FROM 'Executing steps in process \(pid: (\d+)\)')"
        f" FROM dagster.event_logs WHERE run_id = '{run}' AND event LIKE '%in process (pid:%'",
    )
    return int(str(noted[0][0]))


@pytest.mark.timeout(600)
def test_a_worker_killed_three_times_is_retried_and_goes_on_with_the_pages_it_has(
    embedded_url: str, sandbox: SandboxServer, tmp_path: Path
) -> None:
    with new_database(embedded_url) as url:
        environment = environment_for(url, sandbox)
        dagster = Dagster(environment, tmp_path / "dagster.log", warm=True)
        chance = random.Random(3)
        try:
            dagster.wait_until_quiet()
            for _ in range(3):
                with held(sandbox, after=chance.randrange(20, 110)) as waits:
                    run = launch(dagster.url, "initial_sync")
                    assert waits.wait(90)
                    os.kill(worker_of(environment, run), signal.SIGKILL)
                retry = (
                    "SELECT t.run_id, s.status, s.metadata FROM dagster.run_tags t"
                    " JOIN sync_metadata s ON s.run_id = t.run_id"
                    f" WHERE t.key = 'dagster/parent_run_id' AND t.value = '{run}'"
                )
                wait_until(
                    lambda retry=retry: (
                        [r[1] for r in query(environment, retry)]  # type: ignore[misc]
                        == ["completed"]
                    ),
                    timeout=120,
                )
                metadata = query(environment, retry)[0][2]
                assert isinstance(metadata, dict)
                assert metadata["complete"] is True
                assert metadata["pages_kept_from_unfinished_sync"] > 0
                failed = query(
                    environment, f"SELECT status FROM sync_metadata WHERE run_id = '{run}'"
                )
                assert failed == [("failed",)]
        finally:
            dagster.end(signal.SIGTERM)


@pytest.mark.timeout(400)
def test_a_worker_and_the_daemon_killed_while_webhooks_wait_lose_no_event(
    embedded_url: str, sandbox: SandboxServer, tmp_path: Path, long: bool
) -> None:
    with new_database(embedded_url) as url:
        environment = environment_for(url, sandbox)
        log = tmp_path / "dagster.log"
        dagster = Dagster(environment, log, warm=True)
        try:
            dagster.wait_until_quiet()
            ids = sandbox.store.ids()[:30]
            values = ", ".join(f"('Opportunity', {id_})" for id_ in ids)
            connection = psycopg2.connect(environment["POSTGRES_URL"])
            with held(sandbox) as waits:
                with connection, connection.cursor() as cursor:
                    cursor.execute(
                        f"INSERT INTO webhook_events (subject_type, opportunity_id) VALUES {values}"
                    )
                connection.close()
                assert waits.wait(90)
                claimed = "SELECT count(*) FROM webhook_events WHERE claimed_until > now()"
                assert query(environment, claimed) == [(30,)]
                run = "SELECT run_id FROM dagster.runs WHERE pipeline_name = 'webhook_refresh'"
                os.kill(worker_of(environment, str(query(environment, run)[0][0])), signal.SIGKILL)
                dagster.end(signal.SIGKILL)
        finally:
            dagster.end(signal.SIGKILL)
        if not long:
            end_claims(url)
        dagster = Dagster(environment, log, warm=True)
        try:
            dagster.wait_until_quiet()
            waiting = "SELECT count(*) FROM webhook_events WHERE processed_at IS NULL"
            wait_until(lambda: query(environment, waiting) == [(0,)], timeout=180)
        finally:
            dagster.end(signal.SIGTERM)
        rows = query(environment, "SELECT id, name FROM opportunities")
        names = {row[0]: row[1] for row in rows}
        truth = {id_: sandbox.store.get(id_) or {} for id_ in ids}
        assert names == {id_: r["subject"] or r["number"] for id_, r in truth.items()}


@pytest.mark.timeout(400)
def test_dagster_dev_killed_in_mid_run_fails_that_run_and_the_next_one_succeeds(
    embedded_url: str, sandbox: SandboxServer, tmp_path: Path
) -> None:
    with new_database(embedded_url) as url:
        environment = environment_for(url, sandbox)
        log = tmp_path / "dagster.log"
        dagster = Dagster(environment, log, warm=True)
        try:
            dagster.wait_until_quiet()
            sandbox.latency = 30.0
            sandbox.requests.clear()
            run = launch(dagster.url, "initial_sync")
            status = f"SELECT status FROM dagster.runs WHERE run_id = '{run}'"
            wait_until(lambda: query(environment, status) == [("STARTED",)])
            # Dagster knows of it before its process does.
            began = f"SELECT FROM sync_runs JOIN run_workers ON run = run_id WHERE run = '{run}'"
            wait_until(lambda: query(environment, began) != [])
        finally:
            dagster.end(signal.SIGKILL)
        assert query(environment, status) == [("STARTED",)]
        sandbox.closing.set()  # whatever still waits for its answer gets it
        sandbox.latency = 0.0
        dagster = Dagster(environment, log)
        try:
            dagster.wait_until_quiet()
            history = "SELECT status, error FROM sync_metadata WHERE run_id = '" + run + "'"
            wait_until(lambda: query(environment, history)[0][0] == "failed")
            assert "died" in str(query(environment, history)[0][1])
            following = launch(dagster.url, "initial_sync")
            done = f"SELECT status FROM sync_metadata WHERE run_id = '{following}'"
            wait_until(lambda: query(environment, done) == [("completed",)])
        finally:
            dagster.end(signal.SIGTERM)
