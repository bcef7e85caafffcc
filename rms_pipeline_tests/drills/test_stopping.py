"""SIGTERM ends each process within a bound, whatever it is doing, and costs nothing.

Current RMS does not answer here, so that every call is in flight until the process has ended.
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.web.dagster_api import launch
from rms_pipeline.web.sessions import Sessions
from rms_pipeline_tests.drills.conftest import Tell
from rms_pipeline_tests.drills.test_burst import Service
from rms_pipeline_tests.drills.test_deploy import TOKEN, Deployment
from rms_pipeline_tests.mirror.test_schema import execute
from rms_pipeline_tests.processes import (
    PROJECT,
    SECRET_KEY,
    SECRET_TOKEN,
    command,
    environment_for,
    free_port,
    query,
    started,
    stop_schedules,
    wait_until,
)
from rms_pipeline_tests.sandbox.holding import held
from rms_pipeline_tests.web.conftest import WEBHOOK_TOKEN, delivery

# docs/how-to/operate.md says so.
BOUND = 30


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(40), api_key=SECRET_KEY) as server:
        yield server


@pytest.fixture
def environment(ready_url: str, sandbox: SandboxServer) -> dict[str, str]:
    return environment_for(
        ready_url, sandbox, RMS_WEBHOOK_TOKEN=WEBHOOK_TOKEN, RMS_API_TOKEN=SECRET_TOKEN
    )


def test_a_sync_in_the_middle_of_a_call_ends_and_the_next_one_goes_on(
    environment: dict[str, str], sandbox: SandboxServer, tell: Tell
) -> None:
    with (
        held(sandbox) as waits,
        started("sync", "initial", environment=environment, stderr=subprocess.PIPE) as child,
    ):
        assert waits.wait(60)
        began = time.monotonic()
        child.terminate()
        _, stderr = child.communicate(timeout=BOUND)
        took = time.monotonic() - began
    assert child.returncode == 1, stderr
    assert "Traceback" not in stderr, stderr
    done = command("sync", "initial", environment=environment)
    assert done.returncode == 0, done.stderr
    tell(f"stopping: a sync with a call in flight ended {took:.1f} s after SIGTERM")


def test_a_web_service_with_a_refresh_and_requests_in_flight_ends_and_loses_nothing(
    environment: dict[str, str], sandbox: SandboxServer, tmp_path: Path, tell: Tell
) -> None:
    assert command("sync", "initial", environment=environment).returncode == 0
    edited = sandbox.store.ids()[0]
    sandbox.store.edit(edited, {"subject": "Told just before the end"})
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        held(sandbox) as waits,
        (tmp_path / "web.log").open("wb") as log,
        started(
            "web", "--port", str(port), environment=environment, stdout=log, stderr=log
        ) as child,
    ):
        wait_until(lambda: _answers(url))
        hook = f"{url}/api/webhook/{WEBHOOK_TOKEN}"
        assert requests.post(hook, json=delivery(1, edited), timeout=30).ok
        assert waits.wait(60)
        # A client that has sent half of a request, and goes on with nothing.
        with closing(socket.create_connection(("127.0.0.1", port))) as half:
            half.sendall(b"POST /api/webhook/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            began = time.monotonic()
            child.terminate()
            child.wait(BOUND)
            took = time.monotonic() - began
    assert "Traceback" not in (tmp_path / "web.log").read_text(), (tmp_path / "web.log").read_text()
    pending = "SELECT count(*) FROM webhook_events WHERE processed_at IS NULL"
    assert query(environment, pending) == [(1,)]
    # As time does it.
    execute(
        environment["POSTGRES_URL"],
        "UPDATE webhook_events SET claimed_until = now(), next_attempt_at = now()",
    )
    with Service(environment, tmp_path / "again.log") as again:
        wait_until(again.up)
        wait_until(lambda: query(environment, pending) == [(0,)], timeout=180)
    subject = "SELECT data ->> 'subject' FROM opportunities WHERE id = "
    assert query(environment, f"{subject}{edited}") == [("Told just before the end",)]
    tell(
        f"stopping: a web service with a refresh, a delivery and half a request in flight ended "
        f"{took:.1f} s after SIGTERM"
    )


@pytest.mark.timeout(400)
def test_all_processes_end_while_a_run_is_at_work_and_the_next_sync_goes_on(
    ready_url: str, sandbox: SandboxServer, tmp_path: Path, tell: Tell
) -> None:
    deployment = Deployment(ready_url, sandbox, tmp_path, forked=True)
    environment = {"POSTGRES_URL": ready_url}
    with ExitStack() as ends:
        services = deployment.start_all(ends)
        wait_until(lambda: stop_schedules(deployment.dagster_url, TOKEN), timeout=60)
        waits = ends.enter_context(held(sandbox))
        token = Sessions(SecretStr(TOKEN)).dagster_token
        run = launch(deployment.dagster_url, "initial_sync", token=token)
        assert waits.wait(60)
        took = {}
        # As Docker does it: only the first process of a container is told, and a run is a process
        # that the code server started.
        for name in ("code-location", "daemon", "dagster", "web-a", "web-b"):
            began = time.monotonic()
            services[name].terminate()
            services[name].wait(BOUND)
            took[name] = time.monotonic() - began
    ended = f"SELECT status, error FROM sync_metadata WHERE run_id = '{run}'"
    [(status, error)] = query(environment, ended)
    assert status == "failed"
    assert error
    done = command("sync", "initial", environment=environment_for(ready_url, sandbox))
    assert done.returncode == 0, done.stderr
    told = ", ".join(f"{name} {seconds:.1f}" for name, seconds in took.items())
    tell(f"stopping: seconds after SIGTERM, with a run at work: {told}")


def test_a_run_that_is_soon_done_is_waited_for_when_its_code_server_is_told_to_end(
    ready_url: str, sandbox: SandboxServer, tmp_path: Path
) -> None:
    deployment = Deployment(ready_url, sandbox, tmp_path, forked=True)
    environment = {"POSTGRES_URL": ready_url}
    with ExitStack() as ends:
        services = deployment.start_all(ends, web=False)
        wait_until(lambda: stop_schedules(deployment.dagster_url, TOKEN), timeout=60)
        token = Sessions(SecretStr(TOKEN)).dagster_token
        with held(sandbox) as waits:
            run = launch(deployment.dagster_url, "initial_sync", token=token)
            assert waits.wait(60)
            services["code-location"].terminate()
            time.sleep(1)
        services["code-location"].wait(BOUND)
    ended = f"SELECT status FROM sync_metadata WHERE run_id = '{run}'"
    assert query(environment, ended) == [("completed",)]


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", timeout=5).ok
    except requests.RequestException:
        return False


def test_the_bound_is_that_of_the_documentation() -> None:
    page = (PROJECT / "docs/how-to/operate.md").read_text()
    assert f"within {BOUND} seconds of SIGTERM" in " ".join(page.split())
