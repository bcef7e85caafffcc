"""Databases of every older version, with rows in every table, brought to this one."""

from collections.abc import Callable

import pytest

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.core import full_sync
from rms_pipeline_tests.mirror.upgrades import Rows, filled_at, rows_of, versions
from rms_pipeline_tests.rows import query

pytestmark = pytest.mark.slow


def lost(before: Rows, after: Rows) -> Rows:
    """Rows that are not there any more as they were, by table."""
    gone = {table: [r for r in rows if r not in after[table]] for table, rows in before.items()}
    return {table: rows for table, rows in gone.items() if rows}


@pytest.mark.parametrize("version", versions())
def test_an_upgrade_keeps_every_row_of_every_table_and_the_next_sync_completes(
    empty_url: str,
    version: str,
    client_for: Callable[..., CurrentRmsClient],
    window: Window,
) -> None:
    database = database_at(empty_url)
    columns = filled_at(database, version)
    before = rows_of(database, columns)
    assert all(len(rows) == 3 for rows in before.values())
    migrate(database)
    once = rows_of(database, columns)
    # A row may be added, such as a version for a deleted row that had none; none changes or goes.
    assert lost(before, once) == {}
    migrate(database)
    assert rows_of(database, columns) == once
    assert query(database, "SELECT count(*) FROM raw_rms_pages WHERE walk IS NULL") == [(0,)]
    with SandboxServer(Store(20)) as sandbox:
        done = full_sync(database, client_for(sandbox.url), window)
    assert done.merged.result.created > 0


def test_pages_that_were_landed_before_there_were_walks_belong_to_one_for_each_run(
    empty_url: str,
) -> None:
    database = database_at(empty_url)
    filled_at(database, "0001")
    migrate(database)
    found = query(
        database,
        "SELECT p.run, w.runs, w.kind, w.completed_at = p.fetched_at FROM raw_rms_pages p"
        " JOIN walks w ON w.id = p.walk ORDER BY p.id",
    )
    assert found == [(f"run {n}", [f"run {n}"], "full", True) for n in (1, 2, 3)]
