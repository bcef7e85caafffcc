"""Syncs as rows of our own: who counts as running, how each ended, and what is forgotten."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.run_workers import announced
from rms_pipeline.mirror.sync_metadata import find_sync, latest_syncs, running_sync
from rms_pipeline.mirror.sync_runs import (
    AT_WORK,
    DIED,
    LOST,
    NEVER_BEGAN,
    NO_REASON,
    begin_run,
    declare_lost_dead,
    end_run,
    forget_runs,
    note_figures,
    note_launch,
    note_metadata,
    runs_at_work,
    seconds_since_failures,
)
from rms_pipeline.mirror.walks import has_full_sync
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.rows import insert, insert_sync, query


@pytest.fixture
def connection(emptied: Database) -> Iterator[Connection]:
    """Of a database in which there is nothing of Dagster's."""
    with emptied.session() as opened:
        yield opened


def store(connection: Connection, run: str, collection: str = "opportunities", n: int = 3) -> None:
    note_figures(connection, run, collection, synced=n, failed=1, metadata={"created": n})


def stands(connection: Connection, run: str) -> tuple[str, str | None]:
    sync = find_sync(connection, run)
    assert sync is not None
    return sync.status, sync.error


def lose_a_worker(database: Database, run: str) -> None:
    """A process announced `run` and ended without a word."""
    insert(database, "run_workers", [{"run": run, "lock_key": abs(hash(run)) % 2**40}])


def long_ago(database: Database, column: str, ago: str) -> None:
    query(database, f"UPDATE sync_runs SET {column} = {column} - interval '{ago}' RETURNING 1")


def test_a_sync_has_its_number_from_its_launch_on_and_keeps_it(
    emptied: Database, connection: Connection
) -> None:
    id_ = note_launch(connection, "run", "initial_sync")
    assert begin_run(connection, "run", "initial_sync") == id_
    # The sync API may note the launch after the first step has begun.
    assert note_launch(connection, "run", "initial_sync") == id_
    store(connection, "run")
    end_run(connection, "run")
    assert note_launch(connection, "run", "initial_sync") == id_
    sync = find_sync(connection, id_)
    assert sync == find_sync(connection, "run")
    assert sync is not None
    assert (sync.id, sync.run_id, sync.status, sync.error) == (id_, "run", "completed", None)
    assert (sync.records_synced, sync.records_failed) == (3, 1)
    assert sync.metadata == {"created": 3}
    assert begin_run(connection, "another", "incremental_sync") > id_


def test_figures_of_all_collections_add_up_and_a_step_that_is_repeated_counts_once(
    connection: Connection,
) -> None:
    begin_run(connection, "run", "initial_sync")
    note_metadata(connection, "run", {"pages": 2})
    for _ in range(2):
        store(connection, "run", n=3)
        store(connection, "run", "members", n=40)
    sync = find_sync(connection, "run")
    assert sync is not None
    assert (sync.records_synced, sync.records_failed) == (43, 2)
    assert sync.metadata == {"pages": 2, "created": 3, "members": {"created": 40}}


def test_a_run_that_has_read_and_not_stored_is_not_complete(connection: Connection) -> None:
    begin_run(connection, "run", "initial_sync")
    end_run(connection, "run")
    assert stands(connection, "run") == ("running", None)
    assert runs_at_work(connection, ["initial_sync"]) == {"initial_sync"}


def test_an_open_row_whose_lock_is_free_reads_failed_and_counts_as_running_for_nobody(
    emptied: Database, connection: Connection
) -> None:
    begin_run(connection, "run", "initial_sync")
    with announced(emptied, "run"):
        assert stands(connection, "run") == ("running", None)
        assert running_sync(connection) is not None
    lose_a_worker(emptied, "run")
    assert stands(connection, "run") == ("failed", DIED)
    assert running_sync(connection) is None
    # A step that was started instead of the one that died.
    with announced(emptied, "run"):
        begin_run(connection, "run", "initial_sync")
        assert stands(connection, "run") == ("running", None)
        assert running_sync(connection) is not None


def test_a_process_and_the_row_of_its_sync_are_known_at_the_same_moment_or_not_at_all(
    emptied: Database,
) -> None:
    """It may be killed at any moment. What died must have a row, to be read as failed."""

    def dies(of_the_announcement: Connection) -> None:
        assert query(emptied, "SELECT run FROM run_workers") == []
        raise RuntimeError

    def begins(of_the_announcement: Connection) -> None:
        assert query(emptied, "SELECT run FROM run_workers") == []
        begin_run(of_the_announcement, "run", "initial_sync")
        assert query(emptied, "SELECT run FROM run_workers") == [("run",)]

    with pytest.raises(RuntimeError), announced(emptied, "run", dies):
        raise AssertionError
    assert query(emptied, "SELECT run FROM run_workers") == []
    with announced(emptied, "run", begins):
        assert query(emptied, "SELECT status FROM sync_metadata") == [("running",)]


def asked_before(
    database: Database, question: str, meanwhile: Callable[[], None]
) -> list[tuple[object, ...]]:
    """What `question` finds if `meanwhile` happens after PostgreSQL has begun with it, and before
    it reads a row or a lock."""
    gate = 4_711
    with database.session(session=True) as keeper, ThreadPoolExecutor(1) as pool:
        with keeper.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (gate,))
        asked = pool.submit(
            query, database, f"{question} AND (SELECT pg_advisory_xact_lock({gate})) IS NOT NULL"
        )
        try:
            wait_until(
                lambda: query(
                    database, "SELECT 1 FROM pg_locks WHERE NOT granted AND objid = %s", gate
                )
            )
            meanwhile()
        finally:
            keeper.commit()
        return asked.result()


@pytest.mark.parametrize("began", ["1 s", "3 h"])
@pytest.mark.parametrize(
    "question",
    [
        "SELECT status, error FROM sync_metadata s WHERE run_id = 'run'",
        f"SELECT 'running', NULL FROM sync_runs s WHERE {AT_WORK}",
    ],
    ids=["what people see", "what is at work"],
)
def test_a_process_that_ends_while_somebody_asks_has_not_died(
    emptied: Database, connection: Connection, question: str, began: str
) -> None:
    """Another step may follow. Rows are read as they were when the question began, and locks as
    they are now."""
    begin_run(connection, "run", "initial_sync")
    long_ago(emptied, "started_at", began)
    with ExitStack() as process:
        process.enter_context(announced(emptied, "run"))
        assert asked_before(emptied, question, process.close) == [("running", None)]


def test_a_sync_that_ends_while_dead_ones_are_looked_for_keeps_its_success(
    emptied: Database, connection: Connection
) -> None:
    begin_run(connection, "run", "initial_sync")
    store(connection, "run")

    def end() -> None:
        end_run(connection, "run")
        process.close()

    with ExitStack() as process:
        process.enter_context(announced(emptied, "run"))
        assert asked_before(emptied, f"SELECT run_id FROM sync_runs s WHERE {LOST}", end) == []
    assert declare_lost_dead(connection) == []
    assert stands(connection, "run") == ("completed", None)


def test_a_dead_run_is_recorded_as_failed_and_an_earlier_reason_stays(
    emptied: Database, connection: Connection
) -> None:
    for run in ("dead", "told", "alive"):
        begin_run(connection, run, "initial_sync")
        if run != "alive":
            lose_a_worker(emptied, run)
    end_run(connection, "told", "The API answered 401.")
    with announced(emptied, "alive"):
        assert declare_lost_dead(connection) == ["dead"]
        found = query(emptied, "SELECT run_id, status, error FROM sync_runs ORDER BY id")
    assert found == [
        ("dead", "failed", DIED),
        ("told", "failed", "The API answered 401."),
        ("alive", "running", None),
    ]


@pytest.mark.parametrize(
    ("begun", "ago", "running", "status"),
    [
        (False, "50 s", True, "running"),
        # It may wait in a queue of Dagster's, which is asked by whoever wants to launch another.
        (False, "70 s", False, "running"),
        (False, "2 h", False, "failed"),
        # Between two steps, with a process each.
        (True, "4 min", True, "running"),
        (True, "6 min", False, "failed"),
    ],
)
def test_what_nobody_executes_is_believed_to_run_for_a_while_only(
    emptied: Database, connection: Connection, begun: bool, ago: str, running: bool, status: str
) -> None:
    (begin_run if begun else note_launch)(connection, "run", "initial_sync")
    long_ago(emptied, "launched_at", ago)
    if begun:
        long_ago(emptied, "started_at", ago)
    assert (running_sync(connection) is not None) is running
    error = None if status == "running" else NO_REASON if begun else NEVER_BEGAN
    assert stands(connection, "run") == (status, error)


def test_a_run_between_two_steps_lives_by_the_end_of_the_last_one(
    emptied: Database, connection: Connection
) -> None:
    begin_run(connection, "run", "initial_sync")
    long_ago(emptied, "started_at", "3 h")
    insert(emptied, "run_workers", [{"run": "run", "lock_key": 1, "ended_at": datetime.now(UTC)}])
    assert stands(connection, "run") == ("running", None)
    assert running_sync(connection) is not None


def test_of_several_that_run_the_one_at_work_is_told_and_a_refresh_last(
    emptied: Database, connection: Connection
) -> None:
    insert_sync(emptied, "refresh", "webhook_refresh", "running", ago=1)
    insert_sync(emptied, "waits", "incremental_sync", "launched", ago=2)
    insert_sync(emptied, "works", "initial_sync", "running", ago=30)
    assert getattr(running_sync(connection), "run_id", None) == "waits"
    insert(emptied, "sync_progress", [{"run": "works", "stage": "fetching", "pages": 1,
           "pages_expected": 2, "records": 1, "records_expected": 2}])  # fmt: skip
    assert getattr(running_sync(connection), "run_id", None) == "works"
    assert getattr(running_sync(connection, ["incremental_sync"]), "run_id", None) == "waits"


@pytest.mark.parametrize("text", ["a\0b", "half \ud800 a pair", "100 % '\\u0000' \\"])
def test_a_text_that_postgresql_cannot_hold_costs_no_sync_its_row(
    connection: Connection, text: str
) -> None:
    begin_run(connection, "run", "initial_sync")
    note_metadata(connection, "run", {"walk_notes": text})
    end_run(connection, "run", text)
    sync = find_sync(connection, "run")
    assert sync is not None
    assert sync.error == sync.metadata["walk_notes"]
    assert sync.error is not None
    assert sync.error[0] == text[0]


def test_the_last_syncs_are_the_newest_first(emptied: Database, connection: Connection) -> None:
    for n in range(5):
        insert_sync(emptied, f"run {n}", ago=1_000 - n)
    assert [s.run_id for s in latest_syncs(connection, 2)] == ["run 4", "run 3"]


def test_what_is_old_is_forgotten_but_for_the_last_of_each_kind_the_first_and_what_runs(
    emptied: Database, connection: Connection
) -> None:
    day = 86_400.0
    for n in range(6):
        insert_sync(emptied, f"full {n}", ago=(200 - n) * day)
    insert_sync(emptied, "bad", "incremental_sync", "failed", ago=100 * day)
    insert_sync(emptied, "new bad", "incremental_sync", "failed", ago=1 * day)
    insert_sync(emptied, "left", "incremental_sync", "running", ago=100 * day)
    insert_sync(emptied, "works", "incremental_sync", "running", ago=100 * day)
    begin_run(connection, "figures", "initial_sync")
    store(connection, "full 3")
    with announced(emptied, "works"):
        assert forget_runs(connection, days=90) == 5
    kept = {row[0] for row in query(emptied, "SELECT run_id FROM sync_runs")}
    assert kept == {"full 0", "full 4", "full 5", "new bad", "works", "figures"}
    assert query(emptied, "SELECT count(*) FROM sync_figures") == [(0,)]
    # Whatever Dagster's history has lost by housekeeping, this has, too.
    assert forget_runs(connection, days=90, deleted=["new bad", "full 5", "nobody's"]) == 1


def test_failures_in_a_row_are_counted_up_to_the_last_success(
    emptied: Database, connection: Connection
) -> None:
    for run, status, ago in (("a", "failed", 400), ("b", "completed", 300), ("c", "failed", 200),
                             ("d", "failed", 100), ("e", "running", 1)):  # fmt: skip
        insert_sync(emptied, run, "webhook_refresh", status, ago=ago, took=0)
    insert_sync(emptied, "other", "initial_sync", "completed", ago=5)
    assert [round(s, -1) for s in seconds_since_failures(connection, "webhook_refresh")] == [
        100,
        200,
    ]
    note_metadata(connection, "c", {"events_at_fault": True})
    assert len(seconds_since_failures(connection, "webhook_refresh")) == 1


def test_a_walk_of_a_version_that_keeps_no_rows_counts_for_what_it_brought(
    emptied: Database, connection: Connection
) -> None:
    """While two versions work side by side the older one notes its walks, and no syncs."""
    now = datetime.now(UTC)
    walk = {"kind": "full", "runs": ["older"], "started_at": now - timedelta(minutes=5)}
    insert(emptied, "walks", [walk | {"settled_at": now, "watermark": now}])
    assert has_full_sync(connection, OPPORTUNITIES)
    with announced(emptied, "older"):
        assert declare_lost_dead(connection) == []
    assert latest_syncs(connection) == []
