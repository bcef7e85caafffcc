"""Rows locked by other sessions: which rows, which process holds the lock, and a bounded wait.

Another session may have left a transaction open. A write of a few rows waits one second for its
lock, and then reports the process that has to end its transaction.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import psycopg2
from psycopg2.errors import LockNotAvailable

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.mirror.statements import Connection

T = TypeVar("T")
# Longer than the merge of a page holds its rows.
WAIT_SECONDS = 1.0


def write_what_is_free(
    database: Database,
    connection: Connection,
    collection: Collection,
    ids: Sequence[int],
    write: Callable[[Sequence[int]], T],
) -> tuple[list[T], dict[int, str]]:
    """Call `write` with the rows of `ids`: once with all unlocked rows, and singly with locked
    ones.

    `write` gets the ids. It starts in a transaction that waits for no lock longer than
    WAIT_SECONDS, and commits. Returns what `write` returned, and for each id that could not be
    written the session that holds its row lock.
    """
    done: list[T] = []
    held: dict[int, str] = {}
    deadline = WAIT_SECONDS
    if not ids:
        return done, held
    tables = (collection.versions, collection.name)
    try:
        locked = _locked(connection, tables, ids)
    except LockNotAvailable:
        connection.rollback()
        # The whole table is locked, or something that is not visible as a row lock.
        return _halving(database, connection, tables, ids, write, deadline)
    free = [i for i in ids if i not in locked]
    if free:
        written, waits = _halving(database, connection, tables, free, write, deadline)
        done += written
        held |= waits
    for id_ in sorted(locked):
        written, waits = _halving(database, connection, tables, [id_], write, deadline)
        done += written
        held |= waits
        if waits:
            # This wait used up the time. The next locked row must not wait as long again.
            deadline = 0.05
    return done, held


def _halving(
    database: Database,
    connection: Connection,
    tables: Sequence[str],
    ids: Sequence[int],
    write: Callable[[Sequence[int]], T],
    seconds: float,
) -> tuple[list[T], dict[int, str]]:
    with _watching(database, connection, seconds) as holder:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = %s", (f"{int(seconds * 1000)}ms",))
            return [write(ids)], {}
        except LockNotAvailable:
            connection.rollback()
    reason = (
        f"The row is locked by {holder()}. The refresh is tried again until that transaction ends."
    )
    if len(ids) == 1 or _is_table_locked(connection, tables):
        return [], dict.fromkeys(ids, reason)
    half = len(ids) // 2
    done, held = _halving(database, connection, tables, ids[:half], write, seconds)
    rest, more = _halving(database, connection, tables, ids[half:], write, seconds)
    return done + rest, held | more


def _locked(connection: Connection, tables: Sequence[str], ids: Sequence[int]) -> set[int]:
    """Return those of `ids` whose row another session locks now.

    Ends the transaction and its own locks.
    """
    found: set[int] = set()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '50ms'")
        for table in tables:
            cursor.execute(f"SELECT id FROM {table} WHERE id = ANY(%s)", (list(ids),))
            there = {row[0] for row in cursor.fetchall()}
            cursor.execute(
                f"SELECT id FROM {table} WHERE id = ANY(%s) FOR UPDATE SKIP LOCKED", (list(ids),)
            )
            found |= there - {row[0] for row in cursor.fetchall()}
    connection.rollback()
    return found


def _is_table_locked(connection: Connection, tables: Sequence[str]) -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '50ms'")
            cursor.execute(f"LOCK TABLE {', '.join(tables)} IN ROW EXCLUSIVE MODE")
    except LockNotAvailable:
        return True
    finally:
        connection.rollback()
    return False


@contextmanager
def _watching(
    database: Database, connection: Connection, seconds: float
) -> Iterator[Callable[[], str]]:
    """Find the process that blocks `connection`, after most of `seconds`. The yielded call names
    it.
    """
    pid = connection.info.backend_pid
    found: list[str] = []

    def look() -> None:
        try:
            with database.session() as other, other.cursor() as cursor:
                cursor.execute(
                    "SELECT pid, usename, application_name, state, round(extract(epoch FROM"
                    " clock_timestamp() - xact_start)) FROM pg_stat_activity"
                    " WHERE pid = ANY(pg_blocking_pids(%s)) ORDER BY xact_start LIMIT 3",
                    (pid,),
                )
                for process, user, program, state, age in cursor.fetchall():
                    of = f" ({program})" if program else ""
                    since = "" if age is None else f", its transaction open for {age:.0f} s"
                    found.append(
                        f"PostgreSQL's process {process} of user {user or 'unknown'}{of}, "
                        f"{state or 'at work'}{since}"
                    )
        except (psycopg2.Error, DatabaseError):
            # The name of the process is only extra information.
            pass

    timer = threading.Timer(seconds * 0.6, look)
    timer.daemon = True
    timer.start()

    def holder() -> str:
        timer.join()
        return " and ".join(found) or "another transaction"

    try:
        yield holder
    finally:
        timer.cancel()
