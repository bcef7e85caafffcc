"""`up` with everything that it starts, for tests that look at it in a browser."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2
from playwright.sync_api import Page

from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.conftest import with_all_tables
from rms_pipeline_tests.copies import copy_of
from rms_pipeline_tests.processes import (
    SECRET_KEY,
    environment_for,
    free_port,
    query,
    started,
    stop_schedules,
    stop_sensors,
    wait_until,
)

TOKEN = "planted-dashboard-token-77"


@dataclass
class Stand:
    """Everything running: the dashboard at `url`, over `sandbox`, and Dagster's UI at `dagster`."""

    url: str
    dagster: str
    sandbox: SandboxServer
    environment: dict[str, str]
    log: Path

    def visit(self, page: Page, path: str = "/") -> None:
        separator = "&" if "?" in path else "?"
        page.goto(f"{self.url}{path}{separator}token={TOKEN}")

    def write(self, statement: str, *values: object) -> None:
        connection = psycopg2.connect(self.environment["POSTGRES_URL"])
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
        connection.close()

    def syncs(self, columns: str) -> list[tuple[object, ...]]:
        return query(self.environment, f"SELECT {columns} FROM sync_metadata ORDER BY started_at")


@contextlib.contextmanager
def everything(embedded_url: str, folder: Path, *, opportunities: int) -> Iterator[Stand]:
    """`up` over an account with so many opportunities. Its output is in the folder.

    Nothing is mirrored, and no schedule or sensor is on. In the end the output lacks the token.
    """
    log = folder / "up.log"
    port, dagster_port = free_port(), free_port()
    with (
        copy_of(embedded_url, with_all_tables(embedded_url)) as url,
        SandboxServer(Store(opportunities), api_key=SECRET_KEY) as sandbox,
    ):
        environment = environment_for(url, sandbox, RMS_API_TOKEN=TOKEN)
        ports = ["--dagster-port", str(dagster_port), "--port", str(port)]
        with (
            log.open("wb") as out,
            started(
                *("up", "--no-initial-sync", *ports),
                environment=environment,
                stdout=out,
                stderr=out,
                warm=True,
            ) as up,
        ):
            dagster = f"http://127.0.0.1:{dagster_port}"
            wait_until(lambda: stop_schedules(dagster, TOKEN) or up.poll() is not None, timeout=180)
            wait_until(lambda: "Ready" in log.read_text() or up.poll() is not None, timeout=180)
            assert "Ready" in log.read_text(), log.read_text()
            wait_until(lambda: stop_sensors(dagster, TOKEN))
            yield Stand(f"http://127.0.0.1:{port}", dagster, sandbox, environment, log)
    assert TOKEN not in log.read_text()
