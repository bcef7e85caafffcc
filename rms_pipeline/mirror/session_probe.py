"""Tests whether a connection keeps its session's state from one transaction to the next.

A transaction pooler gives each transaction to any free server process. Session locks then belong to
no particular client, and notifications reach nobody. There is no error.
"""

import secrets
import select
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass

from rms_pipeline.mirror.database import Database, DatabaseError, leads_through_pooler
from rms_pipeline.mirror.statements import Connection, one_row

# Each takes a server process away from a pooler, so that the tested connection gets another one.
_OTHERS = 3
_ARRIVES_WITHIN_SECONDS = 3.0
_HELD = (
    "SELECT pg_backend_pid(), EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory'"
    " AND pid = pg_backend_pid() AND classid = 0 AND objid::bigint = %s AND objsubid = 1)"
)


@dataclass(frozen=True, slots=True)
class SessionProbe:
    """What was found.

    `keeps_locks`: a session lock outlives its transaction, and stays with the connection.
    `keeps_listening`: a notification reaches its listener. `same_database`: the connections for
    work and for sessions lead to one database.
    """

    keeps_locks: bool
    keeps_listening: bool
    same_database: bool


def probe_session(database: Database) -> SessionProbe:
    """Test the session connections of `database`. It takes at most a few seconds.

    Raises DatabaseError.
    """
    with ExitStack() as stack:
        probed, *others = (
            stack.enter_context(closing(database.connect(session=True))) for _ in range(1 + _OTHERS)
        )
        working = stack.enter_context(closing(database.connect()))
        return SessionProbe(
            keeps_locks=_keeps_locks(probed, others),
            keeps_listening=_keeps_listening(probed, others[0]),
            same_database=_identity(probed) == _identity(working),
        )


def demand_sessions(database: Database, in_between: bool | None = None) -> None:
    """Raise DatabaseError if sessions lead through a transaction pooler. Tested once in a process.

    The locks of syncs and migrations would then belong to no particular process. `in_between` is
    `leads_through_pooler` of a session's connection, if that is known.
    """
    url = database.session_url.get_secret_value()
    if url in _KEEP_SESSIONS:
        return
    if in_between is None:
        with database.session(session=True) as connection:
            in_between = leads_through_pooler(connection)
    if in_between and not probe_session(database).keeps_locks:
        raise DatabaseError(
            "A transaction pooler is between this program and PostgreSQL, and locks do not work "
            "through it. Set POSTGRES_URL_NON_POOLING to the same database's direct address "
            "(often the same host with port 5432)."
        )
    _KEEP_SESSIONS.add(url)


_KEEP_SESSIONS: set[str] = set()


def _keeps_locks(probed: Connection, others: list[Connection]) -> bool:
    key = secrets.randbits(31)
    with probed.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid() FROM pg_advisory_lock(%s)", (key,))
        first = cursor.fetchone()
    probed.commit()
    assert first is not None
    # The others stay in their transactions until one has the first process. If the pooler has no
    # more processes, asking for another one could wait for ever.
    kept = False
    asked = []
    for connection in (*others, probed):
        asked.append(connection)
        with connection.cursor() as cursor:
            cursor.execute(_HELD, (key,))
            process, held = one_row(cursor)
            if held:
                kept = connection is probed
                cursor.execute("SELECT pg_advisory_unlock(%s)", (key,))
        if held or process == first[0]:
            break
    for connection in asked:
        connection.commit()
    return kept


def _keeps_listening(probed: Connection, other: Connection) -> bool:
    channel = f"rms_pipeline_probe_{secrets.token_hex(8)}"
    with probed.cursor() as cursor:
        cursor.execute(f"LISTEN {channel}")
    probed.commit()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, '')", (channel,))
    other.commit()
    deadline = time.monotonic() + _ARRIVES_WITHIN_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        select.select([probed], [], [], left)
        probed.poll()
        if any(notice.channel == channel for notice in probed.notifies):
            return True
    return False


def _identity(connection: Connection) -> tuple[object, ...] | None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT oid, datname, pg_postmaster_start_time() FROM pg_database"
            " WHERE datname = current_database()"
        )
        row: tuple[object, ...] | None = cursor.fetchone()
    connection.commit()
    return row
