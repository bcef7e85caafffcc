"""Calls to Current RMS may wait for a quarter of an hour: a pause, or a low limit."""

import threading
import time
from collections.abc import Callable

from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import Store, Switches
from rms_pipeline.sync.queued import work_off
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.sync.conftest import Mirror

# A transaction of a thread that works ends within this (s).
_AT_WORK = 2.0


def open_transactions(database: Database) -> dict[int, object]:
    """Those that no statement runs in, by the process of the server."""
    return dict(
        query(
            database,
            "SELECT pid, xact_start FROM pg_stat_activity WHERE state LIKE 'idle in%'"
            " AND datname = current_database() AND pid <> pg_backend_pid()",
        )
    )


def test_no_transaction_is_open_while_a_call_waits(mirror_of: Callable[..., Mirror]) -> None:
    """The server would end it, and the sync with it. Until then, its locks would hold others."""
    mirror = mirror_of(Store(40), switches=Switches(max_per_page=5))
    turn, found = threading.Lock(), list[str]()

    def look(asked: str) -> None:
        with turn:
            first, until = open_transactions(mirror.database), time.monotonic() + _AT_WORK
            while first and time.monotonic() < until:
                time.sleep(0.02)
                now = open_transactions(mirror.database)
                first = {pid: at for pid, at in first.items() if now.get(pid) == at}
            if first:
                found.append(asked)

    mirror.sandbox.before_request = look
    mirror.full_sync()
    ids = list(mirror.rows())
    mirror.store.edit(ids[0], {"subject": "Edited"})
    for id_ in ids[1:3]:
        mirror.store.delete(id_)
    mirror.proved_sync()
    mirror.store.delete(ids[3])
    refresh(mirror.database, mirror.client(), ids[3:20], mirror.run())
    query(
        mirror.database,
        "INSERT INTO webhook_events (subject_type, opportunity_id, action_type)"
        " SELECT 'Opportunity', i, 'update' FROM unnest(%s::bigint[]) AS i RETURNING 1",
        ids[4:9],
    )
    with mirror.database.session() as connection:
        work_off(mirror.database, connection, mirror.client(), mirror.run())
    mirror.full_sync(reverify_calls=2)
    assert found == []
