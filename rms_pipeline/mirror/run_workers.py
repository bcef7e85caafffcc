"""Which processes execute which runs, and whether they still live.

A process that executes a run announces itself in `run_workers` and holds a PostgreSQL advisory
lock of its own until it is done. The lock falls when the process does, on whatever host and however
it ends: a surer sign than any heartbeat or process id. A run of which nothing was announced is
somebody else's, and is never judged here.
"""

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta

import psycopg2

from rms_pipeline.mirror.database import Database, DatabaseError, advisory_lock, lock_key
from rms_pipeline.mirror.postgres_errors import postgres_error_in
from rms_pipeline.mirror.statements import Connection

# A lock counts as held in this database only: another mirror on the same server has locks as well.
HELD_KEYS = (
    "SELECT (l.classid::bigint << 32) | l.objid::bigint FROM pg_locks l"
    " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
HELD = f"w.lock_key IN ({HELD_KEYS})"


@contextlib.contextmanager
def announced(database: Database, run: str) -> Iterator[None]:
    """This process executes `run`, or a step of it, while inside.

    A run may have several workers, one after the other or at a time: each step of an executor that
    starts a process a step is one. A worker that is new puts those of the run aside that are lost,
    for whoever started it knew of them: a run that is resumed lives. Raises DatabaseError.
    """
    key = lock_key(f"run worker {uuid.uuid4()}")
    # A session lock: behind a transaction pooler it would be held by nobody in particular.
    with advisory_lock(database, key) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE run_workers w SET ended_at = clock_timestamp()"
                f" WHERE run = %s AND ended_at IS NULL AND NOT {HELD}",
                (run,),
            )
            cursor.execute("INSERT INTO run_workers (run, lock_key) VALUES (%s, %s)", (run, key))
        try:
            yield
        except Exception as error:
            # What PostgreSQL refuses Dagster could not write down either: whoever looks next finds
            # the worker lost, and ends the run.
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
    """Those of `runs` with a worker that ended without a word: its process is dead. Commits.

    Only those that were first found so `for_longer_than` ago: an executor that lost one of its
    processes may be about to deal with it.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE run_workers w SET lost_at = clock_timestamp()"
            f" WHERE run = ANY(%s) AND ended_at IS NULL AND lost_at IS NULL AND NOT {HELD}",
            (list(runs),),
        )
        cursor.execute(
            "SELECT DISTINCT run FROM run_workers w WHERE run = ANY(%s)"
            " AND ended_at IS NULL AND lost_at <= clock_timestamp() - %s"
            f" AND NOT {HELD}",
            (list(runs), for_longer_than),
        )
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def living_runs(connection: Connection, runs: Sequence[str]) -> set[str]:
    """Those of `runs` that a living process executes right now. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT run FROM run_workers w WHERE run = ANY(%s)"
            f" AND ended_at IS NULL AND {HELD}",
            (list(runs),),
        )
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def announced_runs(connection: Connection) -> set[str]:
    """Every run that a process announced to this mirror, ended or not. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT run FROM run_workers")
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def forget_workers(connection: Connection, *, days: int) -> int:
    """Deletes announcements older than `days` of which nobody holds the lock; how many. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM run_workers w"
            f" WHERE announced_at < now() - make_interval(days => %s) AND NOT {HELD}",
            (days,),
        )
        gone = cursor.rowcount
    connection.commit()
    return gone


def _note_end(database: Database, connection: Connection, key: int) -> None:
    """While the lock is still held. From another connection where that one is lost: the process
    lived until here, and its run must not count as dead."""
    statement = "UPDATE run_workers SET ended_at = clock_timestamp() WHERE lock_key = %s"
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, (key,))
    except psycopg2.Error:
        # Without a database nobody can be told; the run itself then fails for the same reason.
        with (
            contextlib.suppress(psycopg2.Error, DatabaseError),
            database.session() as other,
            other.cursor() as cursor,
        ):
            cursor.execute(statement, (key,))


def worker_sessions(connection: Connection, run: str) -> list[str]:
    """The sessions of PostgreSQL that execute `run`, and from where they are connected. Commits."""
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
