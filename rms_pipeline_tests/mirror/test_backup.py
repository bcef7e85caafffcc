"""A dump of one server is restored into another, and syncs go on from there."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.schema import demand_tables, migrate
from rms_pipeline.mirror.walks import has_full_sync, watermarks
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.conftest import dagsters_tables, database_at, with_all_tables
from rms_pipeline_tests.copies import copy_of
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.servers import POSTGRESQL_15, new_database
from rms_pipeline_tests.sync.conftest import Mirror

WHOLE, OURS = (), ("--schema=public",)


@pytest.fixture(scope="module")
def served() -> Iterator[SandboxServer]:
    with SandboxServer(Store(40)) as server:
        yield server


@pytest.fixture(scope="module")
def full_url(postgresql_15_url: str) -> Iterator[str]:
    """A database on a server that has lz4."""
    with copy_of(postgresql_15_url, with_all_tables(postgresql_15_url)) as url:
        yield url


def restore(url: str, into: str, file: Path, *what: str) -> str:
    """What the restore complained about."""
    dump = [f"{POSTGRESQL_15}/pg_dump", "--no-owner", *what, f"--file={file}", url]
    subprocess.run(dump, check=True)
    load = [f"{POSTGRESQL_15}/psql", "-q", "-X", "-f", str(file), into]
    return str(subprocess.run(load, capture_output=True, text=True, check=True).stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", some_in_drills([(WHOLE,), (OURS,)], (WHOLE,).__eq__, ["all of it", "our schema alone"])
)
def test_a_dump_is_restored_into_another_server_and_the_next_sync_is_incremental(
    full_url: str,
    empty_url: str,
    served: SandboxServer,
    client_for: Callable[..., CurrentRmsClient],
    tmp_path: Path,
    what: tuple[str, ...],
) -> None:
    there = Mirror(database_at(full_url), served, client_for)
    there.full_sync()
    served.store.edit(served.store.ids()[0], {"subject": "Edited before the backup"})
    there.incremental_sync()
    there.close()
    kept = "SELECT DISTINCT pg_column_compression(data) FROM opportunities WHERE data IS NOT NULL"
    assert ("lz4",) in query(there.database, kept)
    complaints = restore(full_url, empty_url, tmp_path / "dump.sql", *what)
    if what == WHOLE:
        assert complaints == ""
    restored = database_at(empty_url)
    rows = "SELECT * FROM opportunities ORDER BY id"
    assert query(restored, rows) == query(there.database, rows)
    with dagsters_tables(restored), restored.session() as connection:
        demand_tables(connection)
        assert has_full_sync(connection, OPPORTUNITIES)
        since = watermarks(connection, OPPORTUNITIES)
    assert since[0] == there.watermarks[0]
    here = Mirror(restored, served, client_for, watermarks=since)
    served.store.edit(served.store.ids()[1], {"subject": "Edited after the backup"})
    before = query(restored, "SELECT max(id) FROM walks")
    _, merged = here.incremental_sync()
    assert here.differences() == {}
    assert merged.result.updated == 1
    assert query(restored, "SELECT kind FROM walks WHERE id > %s", *before[0]) == [("changes",)]
    deleted = served.store.ids()[2]
    served.store.delete(deleted)
    here.full_sync()
    here.close()
    assert here.differences() == {}


def test_a_restore_that_left_a_table_out_is_told(database: Database) -> None:
    query(database, "DROP TABLE status_counts, sync_faults")
    with pytest.raises(DatabaseError, match="are missing: status_counts, sync_faults"):
        migrate(database)


def test_columns_that_named_lz4_name_it_no_more(postgresql_15_url: str) -> None:
    with new_database(postgresql_15_url) as url:
        database = database_at(url)
        migrate(database)
        named = "SELECT count(*) FROM pg_attribute WHERE attname = 'data' AND attcompression <> ''"
        assert query(database, named) == [(0,)]
