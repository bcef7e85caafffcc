"""Real processes: the command, and `dagster dev`."""

import contextlib
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import psycopg2
import requests

from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN, SandboxServer
from rms_pipeline.settings import child_environment
from rms_pipeline.web.dagster_api import LOCATION, is_up
from rms_pipeline_tests.forks import Child

PROJECT = Path(__file__).parent.parent
COMMAND = "rms_pipeline.cli"
SECRET_KEY = "planted-key-71f3"
SECRET_PASSWORD = "planted-password-88c2"
SECRET_TOKEN = "planted-api-token-40d7"
REPOSITORY = {"repositoryLocationName": LOCATION, "repositoryName": "__repository__"}

Seen = TypeVar("Seen")


def why_not_here() -> str | None:
    """Return why tests and benchmarks cannot run in this checkout, or None."""
    if not (PROJECT / ".env").exists():
        return None
    return (
        f"{PROJECT / '.env'} would lead what is started here to a real account or database: "
        "move it elsewhere, or use another clone."
    )


def with_password(url: str) -> str:
    """Return the URL of the same database with a password that a trusting server ignores."""
    return re.sub(r"//postgres:?@", f"//postgres:{SECRET_PASSWORD}@", url)


def environment_for(url: str, sandbox: SandboxServer, **changes: str | None) -> dict[str, str]:
    values: dict[str, str | None] = {
        "POSTGRES_URL": with_password(url),
        "POSTGRES_URL_NON_POOLING": None,
        "CURRENT_RMS_SUBDOMAIN": SANDBOX_SUBDOMAIN,
        "CURRENT_RMS_API_KEY": SECRET_KEY,
        "CURRENT_RMS_BASE_URL": sandbox.url,
        "CURRENT_RMS_REQUESTS_PER_MINUTE": "0",
        "DAGSTER_HOME": None,
        "PYTHONWARNINGS": None,
        "COLUMNS": "200",
        **changes,
    }
    return child_environment(**values)


def _without_gaps(environment: dict[str, str]) -> dict[str, str]:
    """Set the variable that would be looked for in a `.env` file if it is not set."""
    return {"POSTGRES_URL_NON_POOLING": environment.get("POSTGRES_URL", ""), **environment}


def command(
    *arguments: str, environment: dict[str, str], timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    with Child(
        *(COMMAND, *arguments),
        env=_without_gaps(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@contextlib.contextmanager
def started(
    *arguments: str,
    environment: dict[str, str],
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    warm: bool = False,
) -> Iterator[Child]:
    """The command, running. At the end of the block it is told to end, and no process of its group
    stays.

    With `warm`, its children are forked too (forks.py).
    """
    process = Child(
        *(COMMAND, *arguments),
        env=_without_gaps(environment),
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        warm=warm,
    )
    with process:
        try:
            yield process
        finally:
            # Not the group: the tests check that the command ends its own children.
            process.terminate()
            _leave_nothing(process)


def _leave_nothing(process: "subprocess.Popen[Any] | Child") -> None:
    """Wait for the head of a group, and kill what is left of it. Raises TimeoutExpired."""
    try:
        process.wait(timeout=90)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def query(environment: dict[str, str], statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(environment["POSTGRES_URL"])
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()
    finally:
        connection.close()


# Below the ports that the system gives to connections, because such a port could be taken before
# its server listens. Each process of the tests starts elsewhere, and no port is handed out twice.
_PORTS = itertools.cycle(random.SystemRandom().sample(range(20_000, 32_000), 12_000))


def free_port() -> int:
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("ports are without end")


class Dagster:
    """`dagster dev` on a free port, head of its own process group.

    With `warm`, it and all its children, including runs, are forked (forks.py).
    """

    process: "subprocess.Popen[bytes] | Child"

    def __init__(
        self,
        environment: dict[str, str],
        log: Path,
        *,
        workspace: str = "workspace.yaml",
        warm: bool = False,
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        arguments = ["dagster", "dev", "-w", workspace, "-p", str(port)]
        env = _without_gaps(environment)
        with log.open("ab") as out:
            if warm:
                self.process = Child(
                    *arguments, env=env, stdout=out, stderr=out, start_new_session=True, warm=True
                )
            else:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", *arguments],
                    env=env,
                    cwd=PROJECT,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )

    def wait_until_quiet(self) -> None:
        """Wait until it is up and its schedules are off."""
        wait_until(lambda: stop_schedules(self.url))

    def end(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        _leave_nothing(self.process)


@contextlib.contextmanager
def dagster_webserver(
    environment: dict[str, str], *, workspace: str | Path = "workspace.yaml"
) -> Iterator[str]:
    """Dagster's webserver without the daemon, which is up much sooner. Yields its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Child(
        *("dagster_webserver", "-w", str(workspace), "-p", str(port)),
        env={**environment, "DAGSTER_HOME": str(PROJECT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        warm=True,
    ) as process:
        try:
            wait_until(lambda: is_up(url))
            yield url
        finally:
            # With its code server, which would wait for it a while.
            os.killpg(process.pid, signal.SIGKILL)


def stop_schedules(url: str, token: str = "") -> bool:
    """Switch off every schedule. Returns whether that worked: it needs a Dagster with loaded code.

    `token` is the API token, for a guarded Dagster. A sync that started by itself at a quarter of
    an hour would be counted with those of a test.
    """
    selector = {"selector": REPOSITORY}
    try:
        found = _ask(url, _SCHEDULES, selector, token)["schedulesOrError"].get("results", [])
        for schedule in found:
            _ask(url, _STOP, {"id": schedule["scheduleState"]["id"]}, token)
        found = _ask(url, _SCHEDULES, selector, token)["schedulesOrError"].get("results", [])
    except requests.ConnectionError:
        return False
    except requests.HTTPError as error:
        # The daemon, which has just begun, may store the state of a schedule at the same moment.
        # Dagster then refuses one of the two.
        if error.response.status_code < 500:
            raise
        return False
    return bool(found) and {s["scheduleState"]["status"] for s in found} == {"STOPPED"}


def stop_sensors(url: str, token: str = "") -> bool:
    """Switch off every sensor. Returns whether that worked, like `stop_schedules`.

    Dagster asks each sensor every five seconds. The fast lane needs none of them.
    """
    asked = {"selector": REPOSITORY}
    try:
        for sensor in _ask(url, _SENSORS, asked, token)["sensorsOrError"]["results"]:
            _ask(url, _STOP_SENSOR, {"id": sensor["sensorState"]["id"]}, token)
        found = _ask(url, _SENSORS, asked, token)["sensorsOrError"]["results"]
    except requests.HTTPError as error:
        if error.response.status_code < 500:
            raise
        return False
    return {s["sensorState"]["status"] for s in found} == {"STOPPED"}


def reset_sensors(url: str, token: str = "") -> None:
    """Reset every sensor to what the code says."""
    for sensor in _ask(url, _SENSORS, {"selector": REPOSITORY}, token)["sensorsOrError"]["results"]:
        selector = {**REPOSITORY, "sensorName": sensor["name"]}
        _ask(url, _RESET_SENSOR, {"selector": selector}, token)


def reset_schedules(url: str, token: str = "") -> None:
    """Reset every schedule to what the code says."""
    found = _ask(url, _SCHEDULES, {"selector": REPOSITORY}, token)["schedulesOrError"]["results"]
    for schedule in found:
        selector = {**REPOSITORY, "scheduleName": schedule["name"]}
        _ask(url, _RESET, {"selector": selector}, token)


_SCHEDULES = """
query Schedules($selector: RepositorySelector!) {
  schedulesOrError(repositorySelector: $selector) {
    ... on Schedules { results { name scheduleState { id status } } }
  }
}
"""
_STOP = "mutation Stop($id: String!) { stopRunningSchedule(id: $id) { __typename } }"
_RESET = """
mutation Reset($selector: ScheduleSelector!) {
  resetSchedule(scheduleSelector: $selector) { __typename }
}
"""
_SENSORS = """
query Sensors($selector: RepositorySelector!) {
  sensorsOrError(repositorySelector: $selector) {
    ... on Sensors { results { name sensorState { id status } } }
  }
}
"""
_STOP_SENSOR = "mutation Stop($id: String!) { stopSensor(id: $id) { __typename } }"
_RESET_SENSOR = """
mutation Reset($selector: SensorSelector!) {
  resetSensor(sensorSelector: $selector) { __typename }
}
"""


def _ask(url: str, asked: str, variables: dict[str, Any], token: str = "") -> dict[str, Any]:
    body = {"query": asked, "variables": variables}
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = requests.post(f"{url}/graphql", json=body, headers=headers, timeout=60)
    answer.raise_for_status()
    data: dict[str, Any] = answer.json()["data"]
    return data


def wait_until(condition: Callable[[], Seen], timeout: float = 90) -> Seen:
    """Return what the condition returned once it was true. It is checked less and less often."""
    deadline = time.monotonic() + timeout
    pause = 0.02
    while not (seen := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)
        pause = min(1.5 * pause, 0.2)
    return seen
