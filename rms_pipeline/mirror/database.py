"""Connections to the mirror's database, and what has to hold before it is used."""

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from rms_pipeline.errors import RmsPipelineError

OLDEST_SERVER = 14_00_00


class DatabaseError(RmsPipelineError):
    """PostgreSQL cannot be used as it is; the text says what to change."""


@dataclass(frozen=True, slots=True)
class Database:
    """Where the mirror lives: `url` for work, `session_url` for what a pooler would break, and the
    `schema` of our tables, a name that needs no quotes."""

    url: SecretStr
    session_url: SecretStr
    schema: str = "public"

    def connect(self, *, session: bool = False) -> Connection:
        """A new connection in UTC. `session` for session locks. Raises DatabaseError."""
        url = (self.session_url if session else self.url).get_secret_value()
        try:
            connection = psycopg2.connect(
                url,
                application_name="rms_pipeline",
                connect_timeout=10,
                keepalives_idle=30,
                keepalives_interval=10,
                keepalives_count=3,
            )
        except psycopg2.ProgrammingError:
            # It quotes what it cannot read, which may be the password.
            raise DatabaseError(
                "POSTGRES_URL (or POSTGRES_URL_NON_POOLING) cannot be read by libpq. "
                "Compare it with postgresql://user:password@host:5432/database?sslmode=require."
            ) from None
        except psycopg2.Error as error:
            raise DatabaseError(_no_connection(" ".join(str(error).split()))) from None
        if connection.server_version < OLDEST_SERVER:
            version = connection.server_version // 10_000
            connection.close()
            raise DatabaseError(f"PostgreSQL {version} is too old: 14 or later is needed.")
        with connection.cursor() as cursor:
            cursor.execute(f"SET TIME ZONE 'UTC'; SET search_path = {self.schema}")
        connection.commit()
        return connection

    @contextmanager
    def session(self, *, session: bool = False) -> Iterator[Connection]:
        """A connection that commits at the end, rolls back on an error, and is closed."""
        connection = self.connect(session=session)
        try:
            yield connection
            connection.commit()
        except BaseException:
            if not connection.closed:
                connection.rollback()
            raise
        finally:
            connection.close()

    def engine(self) -> Engine:
        """SQLAlchemy's view of the same connections, for Alembic and pandas."""
        return create_engine("postgresql+psycopg2://", creator=self.connect, poolclass=NullPool)

    def clock(self) -> Callable[[], datetime]:
        """The database's time (UTC), advanced by this process's monotonic clock.

        All processes stamp what they fetch by one clock, and a wall clock set back during a run
        reorders nothing.
        """
        with self.session() as connection:
            return clock_of(connection)


# What servers and libpq say when they let nobody in, and what to do about it. The first that fits.
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
        "@ is %40).",
    ),
    (
        "no pg_hba.conf entry",
        "The server does not let this user in from this machine, or not without TLS: add "
        "?sslmode=require to POSTGRES_URL, or have its administrator allow it in pg_hba.conf.",
    ),
    (
        "could not translate host name|Name or service not known",
        "Check the host in POSTGRES_URL.",
    ),
    (
        "remaining connection slots|too many (connections|clients)",
        "All connections of the server are in use: end what needs none, or raise max_connections.",
    ),
    (
        "permission denied for database",
        "As an administrator of the database: GRANT CONNECT ON DATABASE <database> TO <user>;",
    ),
    ("server does not support SSL", "Take sslmode out of POSTGRES_URL, or have TLS switched on."),
    ("starting up|shutting down|recovery mode", "Wait a moment, and try again."),
)


def _no_connection(said: str) -> str:
    advice = "Check POSTGRES_URL, and that the server is up and lets this machine in."
    for pattern, remedy in _REMEDIES:
        if found := re.search(pattern, said):
            advice = remedy.format(**found.groupdict())
            break
    return f"No connection to PostgreSQL: {said.rstrip('.')}. {advice}"


def clock_of(connection: Connection) -> Callable[[], datetime]:
    """`Database.clock`, by a connection that is open already. Commits.

    A process that lives long takes a new one now and then: monotonic clocks drift, and stand still
    while a machine sleeps.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row = cursor.fetchone()
    connection.commit()
    assert row is not None
    start, tick = row[0], time.monotonic()
    return lambda: start + timedelta(seconds=time.monotonic() - tick)


def lock_key(name: str) -> int:
    """The advisory lock (a signed 64-bit number) that stands for `name`."""
    digest = hashlib.blake2b(f"rms_pipeline {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


@contextmanager
def advisory_lock(
    database: Database, name: str | int, *, on_wait: Callable[[], None] | None = None
) -> Iterator[Connection]:
    """Holds the lock `name` (or of that key) while inside; it falls with the process, however that
    ends.

    `on_wait` is called once when another process holds it.
    """
    key = name if isinstance(name, int) else lock_key(name)
    connection = database.connect(session=True)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            # Limits of a server, or of the role, that end a wait for a walk which takes an hour, or
            # a session that holds the lock and has nothing else to say: the lock would fall.
            cursor.execute(
                "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0"
            )
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (key,))
            row = cursor.fetchone()
            if row is not None and not row[0]:
                if on_wait:
                    on_wait()
                cursor.execute("SELECT pg_advisory_lock(%s)", (key,))
        yield connection
    finally:
        connection.close()


def is_locked(database: Database, name: str) -> bool:
    """Whether a living process holds the lock `name`."""
    key = lock_key(name) & 0xFFFF_FFFF_FFFF_FFFF
    with database.session(session=True) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND classid::bigint = %s AND objid::bigint = %s AND objsubid = 1)",
            (key >> 32, key & 0xFFFF_FFFF),
        )
        row = cursor.fetchone()
    return bool(row and row[0])
