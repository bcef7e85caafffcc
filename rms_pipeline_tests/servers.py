"""PostgreSQL servers that come and go, for tests and benchmarks."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg2

from rms_pipeline.mirror.embedded import start_embedded, stop_embedded

POSTGRESQL_15 = Path("/usr/lib/postgresql/15/bin")


@contextlib.contextmanager
def embedded_postgresql() -> Iterator[str]:
    """The embedded server; its URL."""
    # Not below pytest's own temporary folder: the server's system user must reach it.
    folder = Path(tempfile.mkdtemp(prefix="rms-test-"))
    try:
        yield start_embedded(folder)
    finally:
        stop_embedded(folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def installed_postgresql(programs: Path = POSTGRESQL_15) -> Iterator[str]:
    """A server of the programs in a folder, with their own defaults; its URL."""
    folder = Path(tempfile.mkdtemp(prefix="rms-test-15-"))
    user: str | None = None
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        user = "postgres"

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL, cwd="/")

    data = str(folder / "data")
    run(f"{programs}/initdb", "-A", "trust", "-U", "postgres", "-D", data)
    options = f"-c listen_addresses= -k {folder}"
    run(f"{programs}/pg_ctl", "-w", "-D", data, "-o", options, "-l", f"{data}.log", "start")
    try:
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        run(f"{programs}/pg_ctl", "-w", "-D", data, "-m", "immediate", "stop")
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
    try:
        yield f"{head.rpartition('/')[0]}/{name}?{query}"
    finally:
        with admin.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
        admin.close()
