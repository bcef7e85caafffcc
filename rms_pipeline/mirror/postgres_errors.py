"""Explains PostgreSQL's errors in words that a person can act on.

This module decides which errors are about one row and which about the whole server, works around
such a row, and finds who holds a lock. What happens to the row or the sync is decided elsewhere.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import psycopg2

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.errors import RmsPipelineError, in_one_line
from rms_pipeline.mirror.statements import Connection

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class DatabaseError(RmsPipelineError):
    """PostgreSQL cannot be used as it is. The text says what to change."""


class OutdatedError(DatabaseError):
    """A newer version of this program keeps this mirror. The text says to use that version."""


class LockedError(DatabaseError):
    """Another session holds a lock for longer than the wait allows. The text names the process."""


# SQLSTATE classes of errors that a single row can cause: its values (22, 54), a constraint (23), a
# trigger that refuses it (09, 27, 38, 39, P0) or a view's condition (44).
_ABOUT_A_ROW = frozenset({"09", "22", "23", "27", "38", "39", "44", "54", "P0"})
# Classes that PostgreSQL itself uses for anything else. A trigger may raise a class of its own.
_ABOUT_MORE = frozenset(
    (
        *("00", "01", "02", "03", "08", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "24", "25"),
        *("26", "28", "2B", "2D", "2F", "34", "3B", "3D", "3F", "40", "42", "53", "55", "57", "58"),
        *("72", "F0", "HV", "XX"),
    )
)
# Of these, the errors that affect a connection whatever it does.
_ABOUT_ALL = frozenset({"08", "25", "40", "53", "57", "58", "XX"})
_LOCK_NOT_AVAILABLE = "55P03"

_HOLDER = """
SELECT a.pid, a.usename, nullif(a.application_name, ''), a.state,
    to_char(a.query_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'), held.tables
FROM pg_stat_activity a
JOIN (
    SELECT l.pid,
        -- A session that locks a whole table is named before one that locks some of its rows.
        max(array_position(ARRAY['AccessShareLock', 'RowShareLock', 'ShareUpdateExclusiveLock',
            'RowExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
            'AccessExclusiveLock'], l.mode)) AS strength,
        string_agg(DISTINCT c.relname::text, ', ' ORDER BY c.relname::text) AS tables
    FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
    WHERE l.granted AND l.locktype = 'relation' AND c.relkind IN ('r', 'p')
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND c.relnamespace = to_regnamespace(quote_ident(current_schema()))
    GROUP BY l.pid
) held ON held.pid = a.pid
WHERE a.pid <> pg_backend_pid()
ORDER BY held.strength DESC, a.xact_start
LIMIT 1
"""


def is_about_a_row(error: psycopg2.Error) -> bool:
    """Return whether one row is to blame: its values, a constraint, or a trigger that refuses it.

    The row can then be left out. An error in the code of a trigger counts as well.
    """
    code = error.pgcode
    if code is None:
        return False
    if code[:2] in _ABOUT_A_ROW or code[:2] not in _ABOUT_MORE:
        return True
    if code[:2] in _ABOUT_ALL or code == _LOCK_NOT_AVAILABLE:
        return False
    # None of our statements runs inside a function, and the server may use any language. The row
    # that a COPY has reached is context as well.
    context = (error.diag.context or "").splitlines()
    return any(line and "COPY" not in line for line in context)


def postgres_error_in(error: BaseException | None) -> psycopg2.Error | None:
    """Return PostgreSQL's error if `error` is one or was caused by one (SQLAlchemy wraps it)."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, psycopg2.Error):
            return error
        error = getattr(error, "orig", None) or error.__cause__ or error.__context__
    return None


def reason(error: psycopg2.Error) -> str:
    """Return the first line of PostgreSQL's message with its detail, cut to 500 characters."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    detail = error.diag.message_detail
    return (f"{said} ({' '.join(detail.split())})" if detail else said)[:500]


def what_depends(error: psycopg2.errors.DependentObjectsStillExist) -> str:
    """Return what is built on the object that cannot be dropped, as sentences."""
    lines = (error.diag.message_detail or "PostgreSQL does not say what").splitlines()
    return " ".join(f"{line.strip().rstrip('.')}." for line in lines if line.strip())


def out_of_deadlocks(connection: Connection, write: Callable[[], Result]) -> Result:
    """Return what `write` returns. `write` is one transaction, and runs again after a deadlock.

    Our own transactions lock in one order. Together with people's own triggers, constraints or
    statements, they may still end in a deadlock. PostgreSQL then ends one of the two. Raises the
    last DeadlockDetected (psycopg2) after five attempts.
    """
    return again_after_deadlocks(write, connection.rollback)


def again_after_deadlocks(
    work: Callable[[], Result], undo: Callable[[], None] = lambda: None
) -> Result:
    """Return what `work` returns. It runs again, after `undo`, if PostgreSQL ended it in a
    deadlock. Raises its last error after five attempts.
    """
    for _ in range(4):
        try:
            return work()
        except Exception as error:
            found = postgres_error_in(error)
            if not isinstance(found, psycopg2.errors.DeadlockDetected):
                raise
            undo()
            logger.warning(
                "PostgreSQL ended a write in a deadlock; trying again: %s", reason(found)
            )
    return work()


def sparing(
    connection: Connection, ids: Sequence[int], work: Callable[[list[int]], None]
) -> dict[int, str]:
    """Do `work`, which commits, with all `ids`. Returns the refused ids, each with the reason.

    If PostgreSQL refuses a row, `work` runs with ever smaller parts of `ids`, so that no row
    affects another.
    """
    try:
        out_of_deadlocks(connection, lambda: work(list(ids)))
    except psycopg2.Error as error:
        connection.rollback()
        if not is_about_a_row(error):
            raise
        if len(ids) == 1:
            return {ids[0]: reason(error)}
        half = len(ids) // 2
        refused = sparing(connection, ids[:half], work)
        return refused | sparing(connection, ids[half:], work)
    return {}


def delete_sparing(
    connection: Connection,
    table: str,
    where: str,
    values: Sequence[Any] | Mapping[str, Any],
    *,
    by: str = "id",
) -> tuple[int, int]:
    """Delete the rows of `table` that fit `where`, and commit.

    If people's own tables refer to some rows, or a trigger keeps them, all rows with the same `by`
    stay until the next time. Returns how many rows were deleted, and for how many `by` they stay.
    """
    gone = 0
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table} WHERE {where}", values)
            gone = cursor.rowcount
        connection.commit()
        return gone, 0
    except psycopg2.Error as error:
        connection.rollback()
        if not is_about_a_row(error):
            raise
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT {by} FROM {table} WHERE {where} ORDER BY 1", values)
        ids = [row[0] for row in cursor.fetchall()]
    connection.commit()
    gone = 0

    def delete(some: list[int]) -> None:
        nonlocal gone
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table} WHERE {by} = ANY(%s)", (some,))
            deleted = cursor.rowcount
        connection.commit()
        gone += deleted

    kept = sparing(connection, ids, delete) if ids else {}
    if kept:
        logger.warning("%d rows of %s stay: %s", len(kept), table, next(iter(kept.values())))
    return gone, len(kept)


def lock_holder(connection: Connection) -> str | None:
    """Return the process that most likely holds the lock that was waited for, or None if it is
    free.

    Call it after the wait, on the connection that waited, once that is rolled back.
    """
    with connection.cursor() as cursor:
        cursor.execute(_HOLDER)
        row = cursor.fetchone()
    connection.rollback()
    if row is None:
        return None
    pid, user, application, state, since, tables = row
    told = [f"user {user}" if user else "", application or "", f"on {tables}"]
    if since:
        told.append(f"{state or 'active'}, its last query began {since}")
    return f"process {pid} ({', '.join(t for t in told if t)})"


def explain(error: psycopg2.Error, connection: Connection | None = None) -> DatabaseError | None:
    """Return the error in words if a person can act on it, or None.

    `connection` is the one on which it happened, rolled back.
    """
    said = in_one_line(error)
    if isinstance(error, psycopg2.errors.LockNotAvailable):
        holder = None
        if connection is not None and not connection.closed:
            holder = lock_holder(connection)
        return LockedError(
            "This program waited too long for a lock in the database"
            + (f": {holder} holds it" if holder else "")
            + (
                ". Wait until that session ends, or end it with pg_terminate_backend. Then try "
                "again. Stored data is intact."
            )
        )
    if error.pgcode is None and re.search(_ALL_IN_USE, said):
        # Dagster's storage connects by itself, and meets this error.
        return DatabaseError(no_connection(error))
    if isinstance(error, psycopg2.errors.DiskFull):
        return DatabaseError(
            f"PostgreSQL's disk is full ({said}). Free some disk space, then try again. Stored "
            "data and fetched pages are intact."
        )
    if isinstance(error, psycopg2.errors.ReadOnlySqlTransaction) or "during recovery" in said:
        return DatabaseError(READ_ONLY)
    if "row-level security" in said and error.pgcode in {"42501", "0A000"}:
        return DatabaseError(
            f"A policy of row-level security hides rows from the user of POSTGRES_URL ({said}), "
            "so the mirror would not be complete. As its owner: ALTER TABLE <table> NO FORCE ROW "
            "LEVEL SECURITY; or as an administrator: ALTER ROLE <user> BYPASSRLS;"
        )
    if error.pgcode == "55000" and "replica identity" in said:
        return DatabaseError(
            f"A publication includes a table that has no replica identity ({reason(error)}). As "
            "the table's owner: ALTER TABLE <table> REPLICA IDENTITY FULL; or remove it from the "
            "publication."
        )
    if (
        isinstance(error, psycopg2.errors.UniqueViolation)
        and "(id)=" in (error.diag.message_detail or "")
        # Current RMS numbers their rows.
        and error.diag.table_name not in {name for c in COLLECTIONS for name in (c.name, c.deleted)}
    ):
        return DatabaseError(
            f"The next number of {error.diag.table_name} is taken by a row ({reason(error)}). Rows "
            "were copied without their sequences, as logical replication does. Run `rms-pipeline "
            "migrate`, which corrects this."
        )
    if isinstance(error, psycopg2.errors.InsufficientPrivilege):
        return DatabaseError(
            "The user of POSTGRES_URL lacks a privilege that this program needs "
            f"({reason(error)}). `rms-pipeline doctor` names the missing GRANT in its line "
            "`rights`."
        )
    return None


READ_ONLY = (
    "The server of POSTGRES_URL is read-only, because it is a replica or in recovery. "
    "Set POSTGRES_URL to the primary server (with several hosts: "
    "target_session_attrs=read-write)."
)

_LIBPQ_ADVISES = re.compile(r" Either provide the file.*? certificate verification\.?")
_LIBPQ_ASKS = re.compile(r" Is the server running [^?]*\?")
_ALL_IN_USE = "remaining connection slots|too many (connections|clients)"
# What servers and libpq say when they refuse a connection, and what to do. The first match counts.
_REMEDIES = (
    (
        r'database "(?P<name>[^"]*)" does not exist',
        "Create it, as an administrator of the server: CREATE DATABASE {name}; or name another one "
        "in POSTGRES_URL.",
    ),
    (
        r'role "(?P<name>[^"]*)" does not exist',
        "Create it, as an administrator of the server: CREATE ROLE {name} LOGIN PASSWORD '...'; or "
        "name another user in POSTGRES_URL.",
    ),
    (
        "password authentication failed|no password supplied",
        "Check the user and the password in POSTGRES_URL (special characters are percent-encoded: "
        "@ is %40), and that the password has not expired (\\du in psql).",
    ),
    (
        r'role "(?P<name>[^"]*)" is not permitted to log in',
        "As an administrator of the server: ALTER ROLE {name} LOGIN;",
    ),
    (
        r'database "(?P<name>[^"]*)" is not currently accepting connections',
        "As an administrator of the server: ALTER DATABASE {name} ALLOW_CONNECTIONS true;",
    ),
    (
        "no pg_hba.conf entry",
        "The server refuses this user from this machine, or refuses connections without TLS. Add "
        "?sslmode=require to POSTGRES_URL, or ask the administrator to allow the user in "
        "pg_hba.conf.",
    ),
    (
        "could not translate host name|Name or service not known",
        "Check the host in POSTGRES_URL.",
    ),
    (
        r'too many connections for role "(?P<raw>[^"]*)"',
        "The role has reached its connection limit. As an administrator of the server: ALTER ROLE"
        ' "{raw}" CONNECTION LIMIT -1;',
    ),
    (
        r'too many connections for database "(?P<raw>[^"]*)"',
        "The database has reached its connection limit. As an administrator of the server: "
        'ALTER DATABASE "{raw}" CONNECTION LIMIT -1;',
    ),
    (
        _ALL_IN_USE,
        "All connections of the server are in use. Close those that are not needed, or raise "
        "max_connections.",
    ),
    (
        "permission denied for database",
        "As an administrator of the database: GRANT CONNECT ON DATABASE <database> TO <user>;",
    ),
    (
        "unsupported startup parameter",
        "A pooler is in between that refuses the settings with which Dagster connects. Set "
        "POSTGRES_URL_NON_POOLING to the same database's direct address (often the same host with "
        "port 5432).",
    ),
    (
        "server does not support SSL",
        "Remove sslmode from POSTGRES_URL, or switch on TLS at the server.",
    ),
    (
        "root certificate file|certificate verify failed",
        "Add sslrootcert=... to POSTGRES_URL: the path of the certificate of the authority that "
        "signed the server's (hosts offer it for download), or `system` if that is a public one.",
    ),
    (
        "does not match host name",
        "Write the host into POSTGRES_URL as the server's certificate names it.",
    ),
    (
        "configuration parameter|invalid value for parameter",
        "Correct `options` in POSTGRES_URL.",
    ),
    (
        r"invalid [\w ]*value",
        "Correct this parameter at the end of POSTGRES_URL.",
    ),
    (
        "timeout expired|timed out",
        "Check the host and the port in POSTGRES_URL, and that no firewall is in between.",
    ),
    (
        r'"(localhost|127\.0\.0\.1|::1)".* Connection refused',
        "Check that the server is up, and the port in POSTGRES_URL. In a container this address "
        "is the container itself: write the server's own name.",
    ),
    ("starting up|shutting down|recovery mode", "Wait a moment, and try again."),
)


def no_connection(error: BaseException | None) -> str:
    """Return why the connection was refused, and what to do about it."""
    # Without TLS libpq tries again, and may hear the same.
    lines = dict.fromkeys(" ".join(line.split()) for line in str(error).splitlines())
    # libpq asks whether the server runs. The advice says what to do about that. It also advises not
    # to check certificates.
    said = _LIBPQ_ADVISES.sub("", _LIBPQ_ASKS.sub("", " ".join(filter(None, lines))))
    advice = (
        "Check POSTGRES_URL. Check that the server is up and accepts connections from this machine."
    )
    for pattern, remedy in _REMEDIES:
        if found := re.search(pattern, said):
            named = found.groupdict()
            advice = remedy.format(**named | {"name": _quoted(named.get("name", ""))})
            break
    return f"Cannot connect to PostgreSQL: {said.rstrip('.')}. {advice}"


def _quoted(name: str) -> str:
    """Return `name` as a statement has to write it."""
    if re.fullmatch("[a-z_][a-z0-9_]*", name):
        return name
    return '"' + name.replace('"', '""') + '"'
