"""Real processes: the command, and `dagster dev`."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg2

from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN, SandboxServer
from rms_pipeline.settings import child_environment

PROJECT = Path(__file__).parent.parent
SECRET_KEY = "planted-key-71f3"
SECRET_PASSWORD = "planted-password-88c2"
SECRET_TOKEN = "planted-api-token-40d7"


def with_password(url: str) -> str:
    """The same database, with a password that a trusting server ignores."""
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


def command(
    *arguments: str, environment: dict[str, str], timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rms_pipeline.cli", *arguments],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def query(environment: dict[str, str], statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(environment["POSTGRES_URL"])
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Dagster:
    """`dagster dev` on a free port, head of its own process group."""

    def __init__(
        self, environment: dict[str, str], log: Path, *, workspace: str = "workspace.yaml"
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        arguments = ["-m", "dagster", "dev", "-w", workspace, "-p", str(port)]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                cwd=PROJECT,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def end(self, number: int) -> None:
        os.killpg(self.process.pid, number)
        self.process.wait(timeout=60)


def wait_until(condition: Callable[[], object], timeout: float = 90) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
