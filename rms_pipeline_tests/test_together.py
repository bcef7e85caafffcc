"""Two of everything at once, by schedule, command and Dagster; and workers that are killed."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from rms_pipeline.dagster_api import launch
from rms_pipeline.sandbox import SandboxServer, Store, Switches
from rms_pipeline_tests.conftest import new_database
from rms_pipeline_tests.processes import (
    SECRET_KEY,
    Dagster,
    command,
    environment_for,
    query,
    started,
    wait_until,
)


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(
        Store(1_500), api_key=SECRET_KEY, switches=Switches(max_per_page=10)
    ) as server:
        yield server


@contextlib.contextmanager
def held(sandbox: SandboxServer, *, after: int = 0) -> Iterator[threading.Event]:
    """Requests beyond so many wait for the end of the block; set once one of them does."""
    number, waits, over = itertools.count(), threading.Event(), threading.Event()

    def hold(_: str) -> None:
        if next(number) >= after:
            waits.set()
            over.wait(120)

    sandbox.before_request = hold
    try:
        yield waits
    finally:
        sandbox.before_request = None
        over.set()


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
        dagster = Dagster(environment, tmp_path / "dagster.log")
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
                    " JOIN sync_metadata s ON s.id = t.run_id"
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
                failed = query(environment, f"SELECT status FROM sync_metadata WHERE id = '{run}'")
                assert failed == [("failed",)]
        finally:
            dagster.end(signal.SIGTERM)


def test_syncs_of_every_kind_at_once_take_turns_and_leave_one_truth(
    embedded_url: str, sandbox: SandboxServer
) -> None:
    with new_database(embedded_url) as url:
        environment = environment_for(url, sandbox)
        assert command("sync", "initial", environment=environment).returncode == 0
        for id_ in sandbox.store.ids()[:40]:
            sandbox.store.edit(id_, {"subject": f"Renamed {id_}"})
        for id_ in sandbox.store.ids()[-5:]:
            sandbox.store.delete(id_)
        sandbox.latency = 0.02
        kinds = ["initial", "incremental", "initial", "incremental"]
        with contextlib.ExitStack() as stack:
            children = [
                stack.enter_context(
                    started("sync", kind, environment=environment, stderr=subprocess.PIPE)
                )
                for kind in kinds
            ]
            for child in children:
                _, stderr = child.communicate(timeout=180)
                assert child.returncode == 0, stderr
        alone = query(environment, "SELECT id, name FROM opportunities ORDER BY id")
        assert command("sync", "initial", environment=environment).returncode == 0
        assert query(environment, "SELECT id, name FROM opportunities ORDER BY id") == alone
        assert query(environment, "SELECT count(*) FROM deleted_opportunities") == [(5,)]


def test_an_incremental_sync_before_any_full_one_says_what_to_run(
    empty_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(empty_url, sandbox)
    done = command("sync", "incremental", environment=environment)
    assert done.returncode == 1
    assert "rms-pipeline sync initial" in done.stderr
    assert len(sandbox.requests) == 0


def test_a_failed_sync_moves_no_watermark_and_an_incremental_one_costs_one_call(
    empty_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(empty_url, sandbox)
    assert command("sync", "initial", environment=environment).returncode == 0
    time.sleep(1.1)
    sandbox.store.edit(sandbox.store.ids()[0], {"subject": "Renamed"})
    wrong = {**environment, "CURRENT_RMS_API_KEY": "wrong"}
    assert command("sync", "incremental", environment=wrong).returncode == 1
    sandbox.requests.clear()
    done = command("sync", "incremental", environment=environment)
    assert done.returncode == 0, done.stderr
    assert "1 updated" in done.stdout
    assert len(sandbox.requests) == 1
    history = query(
        environment,
        "SELECT sync_type, status, metadata ->> 'watermark', metadata ->> 'changed_since'"
        " FROM sync_metadata ORDER BY started_at",
    )
    assert [row[:2] for row in history] == [
        ("initial_sync", "completed"),
        ("incremental_sync", "failed"),
        ("incremental_sync", "completed"),
    ]
    assert history[1][2] is None
    assert history[2][3] == history[0][2]
    assert str(history[2][2]) > str(history[0][2])


@pytest.mark.timeout(400)
def test_a_worker_and_the_daemon_killed_while_webhooks_wait_lose_no_event(
    embedded_url: str, sandbox: SandboxServer, tmp_path: Path
) -> None:
    with new_database(embedded_url) as url:
        environment = environment_for(url, sandbox)
        log = tmp_path / "dagster.log"
        dagster = Dagster(environment, log)
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
        dagster = Dagster(environment, log)
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
