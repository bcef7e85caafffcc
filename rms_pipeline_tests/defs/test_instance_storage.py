"""How Dagster's storage uses its connections. Over a real server."""

import gc
import os
import time

import pytest

from rms_pipeline.defs.instance_storage import MirrorPostgresStorage
from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.mirror.test_merge import fetch_all

PIDS = (
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


def test_all_storages_of_a_process_share_one_connection(
    storage: MirrorPostgresStorage, database: Database
) -> None:
    look(storage)
    (first,) = fetch_all(database, PIDS)
    other = MirrorPostgresStorage.from_config_value(None, {})
    for _ in range(5):
        look(storage)
        look(other)
    assert fetch_all(database, PIDS) == [first]


def test_a_connection_that_the_server_ended_is_replaced_unnoticed(
    storage: MirrorPostgresStorage, database: Database
) -> None:
    look(storage)
    before = fetch_all(database, PIDS)
    fetch_all(database, f"SELECT pg_terminate_backend(pid, 10000) FROM ({PIDS}) AS ours")
    look(storage)
    (after,) = fetch_all(database, PIDS)
    assert after not in before


def test_a_forked_child_opens_a_connection_of_its_own(
    storage: MirrorPostgresStorage, database: Database
) -> None:
    look(storage)
    before = fetch_all(database, PIDS)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            look(storage)
            status = len(fetch_all(database, PIDS)) - len(before) - 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    look(storage)
    assert before == [pid for pid in fetch_all(database, PIDS) if pid in before]


def test_the_connection_goes_with_the_last_storage(history: None, database: Database) -> None:
    storage = MirrorPostgresStorage.from_config_value(None, {})
    look(storage)
    assert len(fetch_all(database, PIDS)) == 1
    del storage
    gc.collect()
    deadline = time.monotonic() + 20
    while fetch_all(database, PIDS):
        assert time.monotonic() < deadline, "it stays open"
        time.sleep(0.05)
