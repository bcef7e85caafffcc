"""Real servers for the tests: PostgreSQL, embedded and (where installed) 15, and the sandbox."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg2
import pytest
from pydantic import SecretStr

from rms_pipeline.current_rms.client import CurrentRmsClient, Patience
from rms_pipeline.current_rms.pacing import ProcessBudget
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.embedded import start_embedded, stop_embedded
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN

POSTGRESQL_15 = Path("/usr/lib/postgresql/15/bin")
QUICK = Patience(connect=2, read=2, answer=5, attempts=8, throttled=30, backoff=0.02)


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    # Not below pytest's own temporary folder: the server's system user must reach it.
    folder = Path(tempfile.mkdtemp(prefix="rms-test-"))
    yield start_embedded(folder)
    stop_embedded(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql_15_url() -> Iterator[str]:
    if not (POSTGRESQL_15 / "initdb").exists():
        pytest.skip("no PostgreSQL 15 server is installed (Debian: apt-get install postgresql-15)")
    folder = Path(tempfile.mkdtemp(prefix="rms-test-15-"))
    user: str | None = None
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        user = "postgres"

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL, cwd="/")

    data = str(folder / "data")
    run(f"{POSTGRESQL_15}/initdb", "-A", "trust", "-U", "postgres", "-D", data)
    options = f"-c listen_addresses= -k {folder}"
    run(f"{POSTGRESQL_15}/pg_ctl", "-w", "-D", data, "-o", options, "-l", f"{data}.log", "start")
    yield f"postgresql://postgres@/postgres?host={folder}"
    run(f"{POSTGRESQL_15}/pg_ctl", "-w", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_database(server_url: str) -> Iterator[str]:
    """An empty database on the server; its URL."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    admin = psycopg2.connect(server_url)
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    head, _, query = server_url.partition("?")
    yield f"{head.rpartition('/')[0]}/{name}?{query}"
    with admin.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    admin.close()


def database_at(url: str) -> Database:
    return Database(SecretStr(url), SecretStr(url))


@pytest.fixture
def empty_url(embedded_url: str) -> Iterator[str]:
    with new_database(embedded_url) as url:
        yield url


@pytest.fixture(params=["embedded", "postgresql-15"])
def each_empty_url(request: pytest.FixtureRequest) -> Iterator[str]:
    name = "embedded_url" if request.param == "embedded" else "postgresql_15_url"
    with new_database(request.getfixturevalue(name)) as url:
        yield url


@pytest.fixture
def database(empty_url: str) -> Database:
    opened = database_at(empty_url)
    migrate(opened)
    return opened


@pytest.fixture
def window() -> Window:
    return Window.around(datetime.now(UTC), days_back=30, days_ahead=365)


@pytest.fixture
def client_for() -> Iterator[Callable[..., CurrentRmsClient]]:
    """Makes clients for a sandbox's URL, with little patience and no limit unless told."""
    with contextlib.ExitStack() as stack:

        def make(
            url: str,
            *,
            requests_per_minute: int = 0,
            patience: Patience = QUICK,
            api_key: str = SANDBOX_API_KEY,
        ) -> CurrentRmsClient:
            client = CurrentRmsClient(
                base_url=url,
                subdomain=SANDBOX_SUBDOMAIN,
                api_key=SecretStr(api_key),
                budget=ProcessBudget(requests_per_minute),
                patience=patience,
            )
            return stack.enter_context(client)

        yield make
