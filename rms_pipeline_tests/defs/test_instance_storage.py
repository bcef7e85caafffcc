"""How Dagster's storage uses its connections. Over a real server."""

import gc
import os
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from rms_pipeline.defs.instance_storage import MirrorPostgresStorage
from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.mirror.test_merge import fetch_all
from rms_pipeline_tests.processes import wait_until

pytestmark = pytest.mark.new_connections

PROCESSES = (
    "SELECT pid FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'dagster'"
)


@pytest.fixture
def storage(history: None) -> MirrorPostgresStorage:
    return MirrorPostgresStorage.from_config_value(None, {})


def look(storage: MirrorPostgresStorage) -> None:
    """Asks each part of the storage for something."""
    assert storage.run_storage.get_runs_count() == 0
    assert storage.event_log_storage.get_maximum_record_id() is None
    assert storage.schedule_storage.all_instigator_state() == []


def the_one(database: Database) -> int:
    """The server's process of the only connection. The server is slower in ending one than we are
    in closing it, so those of the storages' making may have to go first."""
    wait_until(lambda: len(fetch_all(database, PROCESSES)) == 1)
    return int(fetch_all(database, PROCESSES)[0][0])


def test_all_storages_of_a_process_share_one_connection(
    storage: MirrorPostgresStorage, database: Database
) -> None:
    look(storage)
    first = the_one(database)
    other = MirrorPostgresStorage.from_config_value(None, {})
    for _ in range(5):
        look(storage)
        look(other)
    assert the_one(database) == first


def test_a_connection_that_the_server_ended_is_replaced_unnoticed(
    storage: MirrorPostgresStorage, database: Database
) -> None:
    look(storage)
    before = the_one(database)
    fetch_all(database, f"SELECT pg_terminate_backend({before}, 10000)")
    look(storage)
    assert the_one(database) != before


def statements_of(storage: MirrorPostgresStorage, act: Callable[[], object]) -> list[str]:
    """What was asked of the server meanwhile, by whatever part of the storage."""
    found: list[str] = []

    class Noting(psycopg2.extensions.cursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            found.append(str(query))
            super().execute(query, vars)

    runs: Any = storage.run_storage
    with runs.connect() as connection:
        raw = connection.connection.dbapi_connection
        raw.cursor_factory = Noting
    act()
    raw.cursor_factory = None
    return found


def test_that_there_is_a_table_is_looked_up_once(storage: MirrorPostgresStorage) -> None:
    events: Any = storage.event_log_storage
    assert events.supports_asset_checks
    assert statements_of(storage, lambda: events.supports_asset_checks) == []
    assert not events.has_table("no_such")
    assert statements_of(storage, lambda: events.has_table("no_such")) != []
    # Dagster 1.13.0 left one open for each question, until the server took no more.
    assert events._engine.pool.checkedout() == 0


def test_that_a_table_has_a_column_is_looked_up_once(storage: MirrorPostgresStorage) -> None:
    events: Any = storage.event_log_storage
    assert events.has_asset_key_index_cols()
    assert statements_of(storage, events.has_asset_key_index_cols) == []
    assert not events.has_asset_key_col("no_such")
    assert statements_of(storage, lambda: events.has_asset_key_col("no_such")) != []


def test_what_a_run_and_the_daemon_ask_for_is_looked_up_once(
    storage: MirrorPostgresStorage,
) -> None:
    runs: Any = storage.run_storage
    schedules: Any = storage.schedule_storage
    questions = (
        *(runs.has_run_stats_index_cols, runs.has_backfill_id_column, runs.has_backfill_tags_table),
        *(schedules.has_instigators_table, schedules.has_secondary_index_table),
    )
    for ask in questions:
        assert ask()
        assert statements_of(storage, ask) == []
    other: Any = MirrorPostgresStorage.from_config_value(None, {}).run_storage
    assert statements_of(storage, other.has_run_stats_index_cols) == []
    assert not schedules.has_built_index("no_such")
    assert statements_of(storage, lambda: schedules.has_built_index("no_such")) != []


def test_to_open_a_storage_whose_tables_are_there_takes_dagster_one_connection(
    history: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    opened: list[str] = []
    connect = psycopg2.connect

    def noting(*given: Any, **named: Any) -> Any:
        connection = connect(*given, **named)
        opened.append(connection.info.dsn_parameters["application_name"])
        return connection

    monkeypatch.setattr(psycopg2, "connect", noting)
    MirrorPostgresStorage.from_config_value(None, {})
    assert opened.count("dagster") == 1


def test_a_forked_child_opens_a_connection_of_its_own(
    storage: MirrorPostgresStorage, database: Database
) -> None:
    look(storage)
    before = the_one(database)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            look(storage)
            status = len(fetch_all(database, PROCESSES)) - 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    look(storage)
    assert the_one(database) == before


def test_the_connection_goes_with_the_last_storage(history: None, database: Database) -> None:
    storage = MirrorPostgresStorage.from_config_value(None, {})
    look(storage)
    the_one(database)
    del storage
    gc.collect()
    wait_until(lambda: not fetch_all(database, PROCESSES))
