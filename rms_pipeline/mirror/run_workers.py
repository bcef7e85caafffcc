"""Which processes execute which runs, and whether they still live.

A process that executes a run announces itself in `run_workers` and holds a PostgreSQL advisory lock
of its own until it is done. The lock is released when the process ends, on any host and in any way.
That is more reliable than a heartbeat or a process id. A run without an announcement belongs to
somebody else, and is never judged here.
"""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import psycopg2

from rms_pipeline.mirror.database import Database, DatabaseError, advisory_lock, lock_key
from rms_pipeline.mirror.postgres_errors import postgres_error_in
from rms_pipeline.mirror.statements import Connection, one_row
from rms_pipeline.mirror.walks import AGES_FROM

# Only locks in this database count, because another mirror on the same server has locks too.
HELD_KEYS = (
    "SELECT (l.classid::bigint << 32) | l.objid::bigint FROM pg_locks l"
    " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
HELD = f"w.lock_key IN ({HELD_KEYS})"
# A new process for a run announces itself by then. On Celery it may wait for a worker first.
EXPECTED_WITHIN = timedelta(minutes=5)


@contextlib.contextmanager
def announced(
    database: Database, run: str, opens: Callable[[Connection], object] | None = None
) -> Iterator[None]:
    """This process executes `run`, or a step of it, inside the context.

    `opens` writes the row of a sync (`mirror.sync_runs`), in the transaction of the announcement.
    So no process can die after the one and before the other, and leave a dead run without a row.

    A run may have several workers, one after the other or at a time: an executor that starts a
    process for each step has one for each step. A new worker clears the lost workers of its run,
    because its starter knew of them: a resumed run lives. Raises DatabaseError.
    """
    key = lock_key(f"run worker {uuid.uuid4()}")
    # A session lock. Behind a transaction pooler it would belong to no particular process.
    with advisory_lock(database, key) as connection:
        # One transaction. If a process died after the first of several, no worker of the run would
        # be lost, and the run would stay open for ever.
        connection.autocommit = False
        with connection.cursor() as cursor:
            cursor.execute(
                "WITH lost AS (UPDATE run_workers w SET ended_at = clock_timestamp()"
                f" WHERE run = %s AND ended_at IS NULL AND NOT {HELD})"
                " INSERT INTO run_workers (run, lock_key) VALUES (%s, %s)",
                (run, run, key),
            )
        if opens is not None:
            opens(connection)
        connection.commit()
        connection.autocommit = True
        try:
            yield
        except Exception as error:
            # If PostgreSQL refuses this, Dagster could not write the end either. The next check
            # then finds the worker lost, and ends the run.
            if postgres_error_in(error) is None:
                _note_end(database, connection, key)
            raise
        except BaseException:
            _note_end(database, connection, key)
            raise
        _note_end(database, connection, key)


def lost_runs(
    connection: Connection, runs: Sequence[str], *, for_longer_than: timedelta = timedelta(0)
) -> set[str]:
    """Return those of `runs` with a worker whose process died without ending its work. Commits.

    Only those that were first found dead `for_longer_than` ago: an executor that lost one of its
    processes may be about to handle it.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE run_workers w SET lost_at = clock_timestamp()"
            f" WHERE run = ANY(%s) AND ended_at IS NULL AND lost_at IS NULL AND NOT {HELD}",
            (list(runs),),
        )
        cursor.execute(
            "SELECT DISTINCT run FROM run_workers w WHERE run = ANY(%s)"
            " AND ended_at IS NULL"
            # `expect_worker` notes a later time than now. A still later one is that of a clock
            # that was ahead.
            " AND (lost_at <= clock_timestamp() - %s OR lost_at > clock_timestamp() + %s)"
            f" AND NOT {HELD}",
            (list(runs), for_longer_than, EXPECTED_WITHIN),
        )
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def living_runs(connection: Connection, runs: Sequence[str]) -> set[str]:
    """Return those of `runs` that a living process executes now. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT run FROM run_workers w WHERE run = ANY(%s)"
            f" AND ended_at IS NULL AND {HELD}",
            (list(runs),),
        )
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def was_seen(connection: Connection, run: str, *, within: timedelta) -> bool:
    """Return whether a process executes `run`, or did so `within` this time. Commits.

    A process that has died without ending its work counts: `lost_runs` judges it.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM run_workers WHERE run = %s AND (ended_at IS NULL"
            " OR ended_at BETWEEN clock_timestamp() - %s AND clock_timestamp()))",
            (run, within),
        )
        row = one_row(cursor)
    connection.commit()
    return bool(row[0])


def expect_worker(connection: Connection, run: str, *, is_ours: bool = False) -> None:
    """Note that a new process is started for `run`, whose processes are dead. Commits.

    The run is not lost until `EXPECTED_WITHIN` has passed without an announcement. A run that no
    process has ever announced to this mirror is another mirror's, unless `is_ours`.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH lost AS (UPDATE run_workers w SET ended_at = clock_timestamp()"
            f" WHERE run = %(run)s AND ended_at IS NULL AND NOT {HELD})"
            " INSERT INTO run_workers (run, lock_key, lost_at)"
            " SELECT %(run)s, %(key)s, clock_timestamp() + %(within)s"
            " WHERE %(is_ours)s OR EXISTS (SELECT FROM run_workers WHERE run = %(run)s)",
            {
                "run": run,
                # Nobody ever holds this lock.
                "key": lock_key(f"run worker {uuid.uuid4()}"),
                "within": EXPECTED_WITHIN,
                "is_ours": is_ours,
            },
        )
    connection.commit()


def announced_runs(connection: Connection) -> set[str]:
    """Return every run that a process announced to this mirror, ended or not. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT run FROM run_workers")
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def latest_announced(connection: Connection, most: int) -> list[str]:
    """Return the runs that were last announced to this mirror, at most `most`. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT run FROM run_workers GROUP BY run ORDER BY max(announced_at) DESC LIMIT %s",
            (most,),
        )
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found


def forget_workers(connection: Connection, *, days: int) -> int:
    """Delete announcements older than `days` whose lock nobody holds. Returns how many. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM run_workers w"
            f" WHERE announced_at < {AGES_FROM} - make_interval(days => %s) AND NOT {HELD}",
            (days,),
        )
        gone = cursor.rowcount
    connection.commit()
    return gone


def _note_end(database: Database, connection: Connection, key: int) -> None:
    """Note the end while the lock is still held.

    If its connection is lost, another one is used: the process lived until here, so its run must
    not count as dead.
    """
    statement = "UPDATE run_workers SET ended_at = clock_timestamp() WHERE lock_key = %s"
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, (key,))
    except psycopg2.Error:
        # Without a database nothing can be noted. The run itself then fails for the same reason.
        with (
            contextlib.suppress(psycopg2.Error, DatabaseError),
            database.session() as other,
            other.cursor() as cursor,
        ):
            cursor.execute(statement, (key,))


def worker_sessions(connection: Connection, run: str) -> list[str]:
    """Return the PostgreSQL sessions that execute `run`, and where they are connected from.
    Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT format('session %%s from %%s', a.pid, coalesce(host(a.client_addr),"
            " 'this machine')) FROM run_workers w JOIN pg_locks l ON l.locktype = 'advisory'"
            " AND l.granted AND l.objsubid = 1"
            " AND (l.classid::bigint << 32) | l.objid::bigint = w.lock_key"
            " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " JOIN pg_stat_activity a ON a.pid = l.pid WHERE w.run = %s ORDER BY a.pid",
            (run,),
        )
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found
