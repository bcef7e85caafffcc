"""The disk of the database fills up in the middle of a sync."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.conftest import dagsters_tables, database_at
from rms_pipeline_tests.processes import SECRET_KEY, command, environment_for
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.servers import POSTGRESQL_15, installed_postgresql

SIZE = 40 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = Path("/tmp") / f"rms-small-disk-{os.getpid()}"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


@contextlib.contextmanager
def database_on(disk: Path) -> Iterator[str]:
    """A database whose tables, Dagster's too, lie on `disk`; the server's own files do not."""
    space = disk / "space"
    space.mkdir()
    if os.geteuid() == 0:
        shutil.chown(disk, "postgres")
        shutil.chown(space, "postgres")
    with installed_postgresql(POSTGRESQL_15) as url:
        connection = psycopg2.connect(url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
            cursor.execute("CREATE DATABASE mirror TABLESPACE small")
        connection.close()
        yield url.replace("/postgres?", "/mirror?")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("left", [800 << 10, 4 << 20], ids=["while it reads", "while it stores"])
def test_a_full_disk_fails_the_sync_in_words_and_what_was_fetched_is_kept(
    disk: Path, left: int
) -> None:
    if not (POSTGRESQL_15 / "initdb").exists():
        pytest.skip("no PostgreSQL 15 server is installed")
    with (
        SandboxServer(Store(2_000), api_key=SECRET_KEY) as sandbox,
        database_on(disk) as url,
    ):
        database = database_at(url)
        with dagsters_tables(database):
            pass
        ballast = disk / "ballast"
        free = shutil.disk_usage(disk).free
        ballast.write_bytes(b"\0" * (free - left))
        environment = environment_for(url, sandbox)
        done = command("sync", "initial", "--json", environment=environment)
        assert done.returncode == 1
        assert "disk is full" in done.stderr
        assert "Traceback" not in done.stderr
        answer = json.loads(done.stdout)
        assert answer["success"] is False
        assert answer["syncType"] == "initial_sync"
        assert "disk is full" in answer["error"]
        pages = query(database, "SELECT count(*) FROM raw_rms_pages")[0][0]
        assert pages > 0
        # Where a disk is full is not to the byte. A walk that was whole is read again.
        whole = query(database, "SELECT completed_at IS NOT NULL FROM walks")[0][0]
        ballast.unlink()
        done = command("sync", "initial", "--json", environment=environment)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["success"] is True
        assert query(
            database,
            "SELECT status, (metadata ->> 'pages_kept_from_unfinished_sync')::int > 0"
            " FROM sync_metadata ORDER BY started_at",
        )[-1] == ("completed", not whole)
        statuses = query(database, "SELECT status FROM sync_metadata ORDER BY started_at")
        assert statuses == [("failed",), ("completed",)]
