"""Connections to the mirror's database, and the conditions that it has to meet."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg2
from psycopg2.errors import InvalidParameterValue
from psycopg2.extensions import (
    TRANSACTION_STATUS_IDLE,
    new_array_type,
    new_type,
    parse_dsn,
    register_type,
)
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from rms_pipeline.mirror.postgres_errors import READ_ONLY, explain, no_connection, reason
from rms_pipeline.mirror.postgres_errors import DatabaseError as DatabaseError
from rms_pipeline.mirror.statements import Connection, Cursor, one_row

OLDEST_SERVER = 14_00_00
# How long to wait for another session's lock. The error then names that process.
LOCK_WAIT = "60s"
# The schema if no other is set.
PUBLIC = "public"


def dagster_schema(schema: str) -> str:
    """Return the schema for the tables of the Dagster that belongs to the mirror in `schema`.

    Each mirror has its own. Otherwise the daemon of one would launch and delete the runs of
    another.
    """
    return "dagster" if schema == PUBLIC else f"dagster_{schema}"


def session_settings(schema: str) -> dict[str, str]:
    """Return the settings that our SQL and the reading of its answers rely on.

    They replace the defaults of server, database and role, also for Dagster's storage. Names
    without a schema are in `schema`.
    """
    return {
        "search_path": schema,
        "TimeZone": "UTC",
        "DateStyle": "ISO, MDY",
        "IntervalStyle": "postgres",
        "bytea_output": "hex",
        "extra_float_digits": "1",
        "standard_conforming_strings": "on",
        # Names of types and columns are compared with unquoted text.
        "quote_all_identifiers": "off",
        "transform_null_equals": "off",
        "array_nulls": "on",
        # Compiling takes longer than running. One check took two seconds of each sync.
        "jit": "off",
        # Otherwise a search would find only a part of the rows.
        "gin_fuzzy_search_limit": "0",
        "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "off",
        "default_transaction_deferrable": "off",
        "statement_timeout": "0",
        "transaction_timeout": "0",
        "lock_timeout": LOCK_WAIT,
        "idle_session_timeout": "0",
        "idle_in_transaction_session_timeout": "15min",
        # A policy that would hide rows raises an error instead. A mirror of some rows would look
        # complete.
        "row_security": "off",
        # Otherwise the trigger that wakes the fast lane would not fire, and neither would people's
        # own.
        "session_replication_role": "origin",
        # An acknowledged webhook survives a crash of the server.
        "synchronous_commit": "local",
    }


# Settings that this server does not have are skipped, and those that are right already: some may be
# set by administrators only. If the server waits for more than its own disk at a commit, that
# stays.
_SET = (
    "SELECT set_config(n, v, {}) FROM unnest(%s::text[], %s::text[]) AS s (n, v)"
    " WHERE current_setting(n, true) <> v"
    " AND (n <> 'synchronous_commit' OR current_setting(n) = 'off')"
)
# Columns name no compression method, because a server that restores them may lack lz4.
_LOOK = (
    "SELECT pg_backend_pid(), (SELECT set_config(name, 'lz4', false) FROM pg_settings"
    " WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals))"
)
# Looking this up takes as long as connecting. So it is done once for each server, by URL.
_HAS_LZ4: dict[str, bool] = {}
_KNOWN = {
    True: "SELECT pg_backend_pid(), set_config('default_toast_compression', 'lz4', false)",
    False: "SELECT pg_backend_pid(), NULL",
}


# A number of more digits than Python accepts is read as text, as PostgreSQL writes it. Reading the
# row then does not fail because somebody pasted such a number.
_MOST_DIGITS = 4_000
_read_json = json.JSONDecoder(parse_int=lambda n: int(n) if len(n) <= _MOST_DIGITS else n).decode
_JSON = new_type(
    (114, 3802), "JSON", lambda text, _: None if text is None else _read_json(str(text))
)
_JSON_ARRAY = new_array_type((199, 3807), "JSON[]", _JSON)

# A pooler in statement mode writes its reason only into its own log.
ENDED_AT_ONCE = (
    "PostgreSQL accepted the connection and ended it in its first transaction. Try again. If it "
    "happens again, a pooler in statement mode may be in between: set POSTGRES_URL to the same "
    "database's direct address (often the same host with port 5432)."
)


class _Connection(Connection):
    """psycopg2's connection, which repeats its settings in each transaction if necessary.

    Behind a transaction pooler, settings may be lost or reach other clients. So each transaction
    sets `each_transaction` again.
    """

    each_transaction: dict[str, str] | None = None
    leads_through_pooler = False
    schema = PUBLIC

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        if self.each_transaction is not None:
            kwargs.setdefault("cursor_factory", _Cursor)
        return super().cursor(*args, **kwargs)


class _Cursor(Cursor):
    def execute(self, query: Any, vars: Any = None) -> None:
        self._begin()
        super().execute(query, vars)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        self._begin()
        super().copy_expert(sql, file, size)

    def _begin(self) -> None:
        connection = self.connection
        assert isinstance(connection, _Connection)
        settings = connection.each_transaction
        idle = connection.info.transaction_status == TRANSACTION_STATUS_IDLE
        if settings is not None and idle and not connection.autocommit:
            with Connection.cursor(connection) as cursor:
                cursor.execute(_SET.format("true"), (list(settings), list(settings.values())))


@dataclass(frozen=True, slots=True)
class Database:
    """Where the mirror lives.

    `url` is for work, `session_url` for what a pooler would break. `schema` is that of our tables:
    at most 40 lower-case letters, digits and underscores.
    """

    url: SecretStr
    session_url: SecretStr
    schema: str = PUBLIC

    @property
    def schema_in_sql(self) -> str:
        """The name of `schema` as statements have to write it. It may be a reserved word."""
        return self.schema if self.schema == PUBLIC else f'"{self.schema}"'

    @property
    def dagster_schema(self) -> str:
        """Where the tables of the Dagster of this mirror live."""
        return dagster_schema(self.schema)

    def connect(self, *, session: bool = False) -> Connection:
        """Return a new connection with all settings that our SQL relies on.

        Set `session` for what belongs to a session (locks, notifications). Raises DatabaseError.
        """
        url = (self.session_url if session else self.url).get_secret_value()
        looked = _HAS_LZ4.get(url)
        connection = _open(url)
        if connection.get_parameter_status("standard_conforming_strings") == "off":
            # The first connection fixes how psycopg2 quotes.
            connection.close()
            connection = _open(url, "-c standard_conforming_strings=on")
        try:
            _demand_server(connection)
            settings = session_settings(self.schema)
            # In one statement, so that no timeout in a transaction can end it before it is set.
            connection.autocommit = True
            with connection.cursor() as cursor:
                # The first setting alone, because it might end the others.
                cursor.execute(
                    f"SET statement_timeout = 0; {_SET.format('false')};"
                    f" {_LOOK if looked is None else _KNOWN[looked]}",
                    (list(settings), list(settings.values())),
                )
                server_process, lz4 = one_row(cursor)
            if lz4:
                settings["default_toast_compression"] = lz4
            connection.autocommit = False
            # As part of each BEGIN, so that they also apply behind a pooler.
            connection.set_session("READ COMMITTED", readonly=False, deferrable=False)
            # A pooler reports an invented process id to its clients.
            connection.leads_through_pooler = server_process != connection.info.backend_pid
            if connection.leads_through_pooler:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT")
                connection.commit()
            _HAS_LZ4[url] = bool(lz4)
        except psycopg2.Error as error:
            ended = bool(connection.closed)
            connection.close()
            if isinstance(error, InvalidParameterValue) and _HAS_LZ4.pop(url, False):
                # Another server has taken its place.
                return self.connect(session=session)
            if ended and error.pgcode is None:
                raise DatabaseError(ENDED_AT_ONCE) from None
            raise explain(error) or DatabaseError(
                "PostgreSQL refused a setting that this program needs in its connections: "
                f"{reason(error)}. Look at the settings of the database and of the role in "
                "POSTGRES_URL (\\drds in psql)."
            ) from None
        except DatabaseError:
            connection.close()
            raise
        register_type(_JSON, connection)
        register_type(_JSON_ARRAY, connection)
        connection.schema = self.schema
        if not session and (connection.leads_through_pooler or self.session_url != self.url):
            connection.each_transaction = settings
        return connection

    def session_options(self, schema: str, connection: Connection) -> dict[str, str]:
        """Return the part of `session_settings` that connections of other programs to the server
        of `connection` may start with.
        """
        settings = session_settings(schema)
        # Only administrators may set it, and it is about triggers, which only our own tables have.
        del settings["session_replication_role"]
        # An administrator may have decided that Dagster's history can be lost in a crash.
        del settings["synchronous_commit"]
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT n FROM unnest(%s::text[]) AS n WHERE current_setting(n, true) IS NOT NULL",
                (list(settings),),
            )
            return {name: settings[name] for (name,) in cursor.fetchall()}

    @contextmanager
    def session(self, *, session: bool = False) -> Iterator[Connection]:
        """A connection that commits at the end, rolls back on an error, and is then closed."""
        connection = self.connect(session=session)
        try:
            with _committed(connection):
                yield connection
        finally:
            connection.close()

    @contextmanager
    def with_one_connection(self) -> Iterator["Database"]:
        """This database for one thread: sessions that follow each other share a connection.

        A session within another one, and one that asks for `session=True`, gets a connection of its
        own. So does the next one after the server ended it.
        """
        again = _WithOneConnection(self.url, self.session_url, self.schema)
        try:
            yield again
        finally:
            for connection in again.kept:
                connection.close()

    def engine(self) -> Engine:
        """SQLAlchemy's view of the same connections, for Alembic and pandas."""
        return create_engine("postgresql+psycopg2://", creator=self.connect, poolclass=NullPool)

    def clock(self) -> Callable[[], datetime]:
        """Return a clock: the database's time (UTC), advanced by this process's monotonic clock.

        All processes stamp what they fetch by one clock. A wall clock that is set back during a run
        changes no order.
        """
        with self.session() as connection:
            return clock_of(connection)


@dataclass(frozen=True, slots=True)
class _WithOneConnection(Database):
    """As `Database.with_one_connection` says. `kept` is the connection while no session has it."""

    kept: list[Connection] = field(default_factory=list, repr=False, compare=False)

    @contextmanager
    def session(self, *, session: bool = False) -> Iterator[Connection]:
        if session:
            with Database.session(self, session=True) as own:
                yield own
            return
        connection = self.kept.pop() if self.kept else self.connect()
        try:
            with _committed(connection):
                yield connection
        finally:
            if self.kept or connection.closed:
                connection.close()
            else:
                self.kept.append(connection)


@contextmanager
def _committed(connection: Connection) -> Iterator[None]:
    """Commits at the end, and rolls back on an error, which is explained if we can."""
    try:
        yield
        connection.commit()
    except BaseException as error:
        if not connection.closed:
            connection.rollback()
        if isinstance(error, psycopg2.Error) and (told := explain(error, connection)):
            raise told from error
        raise


def leads_through_pooler(connection: Connection) -> bool:
    """Return whether any kind of pooler answers for the server."""
    return isinstance(connection, _Connection) and connection.leads_through_pooler


def dagster_schema_beside(connection: Connection) -> str:
    """Return `dagster_schema` of the mirror that a connection of `Database` leads to."""
    return dagster_schema(connection.schema if isinstance(connection, _Connection) else PUBLIC)


def _open(url: str, options: str = "") -> _Connection:
    try:
        own = parse_dsn(url).get("options", "")
        return psycopg2.connect(
            url,
            options=f"{own} {options}".strip(),
            connection_factory=_Connection,
            application_name="rms_pipeline",
            client_encoding="UTF8",
            connect_timeout=10,
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
        )
    except psycopg2.ProgrammingError:
        # The message quotes what it cannot read, and that may be the password.
        raise DatabaseError(
            "libpq cannot parse POSTGRES_URL (or POSTGRES_URL_NON_POOLING). The form is "
            "postgresql://user:password@host:5432/database?sslmode=require."
        ) from None
    except psycopg2.Error as error:
        raise DatabaseError(no_connection(error)) from None


def _demand_server(connection: Connection) -> None:
    """Raise DatabaseError unless the server and the database can hold a mirror."""
    if connection.server_version < OLDEST_SERVER:
        version = connection.server_version // 10_000
        raise DatabaseError(f"PostgreSQL {version} is too old: 14 or later is needed.")
    encoding = connection.get_parameter_status("server_encoding")
    if encoding not in {None, "UTF8"}:
        raise DatabaseError(
            f"The database is encoded in {encoding}, which cannot hold what people type into "
            "Current RMS. Create another, and name it in POSTGRES_URL: CREATE DATABASE <name> "
            "ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0;"
        )
    if connection.get_parameter_status("in_hot_standby") == "on":
        raise DatabaseError(READ_ONLY)


def clock_of(connection: Connection) -> Callable[[], datetime]:
    """Return `Database.clock` of an open connection. Commits.

    A long-lived process should take a new one now and then: monotonic clocks drift, and they stop
    while a machine sleeps.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row = one_row(cursor)
    connection.commit()
    start, tick = row[0], time.monotonic()
    return lambda: start + timedelta(seconds=time.monotonic() - tick)


def lock_key(name: str, schema: str = PUBLIC) -> int:
    """Return the advisory lock (a signed 64-bit number) for `name` of the mirror in `schema`.

    Advisory locks belong to a database. Mirrors in other schemas of it use the same names.
    """
    whole = name if schema == PUBLIC else f"{schema} {name}"
    digest = hashlib.blake2b(f"rms_pipeline {whole}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


@contextmanager
def advisory_lock(
    database: Database, name: str | int, *, on_wait: Callable[[], None] | None = None
) -> Iterator[Connection]:
    """Hold the lock `name` (or the lock with that key). It is released when the process ends in any
    way.

    `on_wait` is called once if another process holds it.
    """
    key = name if isinstance(name, int) else lock_key(name, database.schema)
    connection = database.connect(session=True)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            # The walk that is waited for may take an hour.
            cursor.execute("SET lock_timeout = 0")
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (key,))
            row = cursor.fetchone()
            if row is not None and not row[0]:
                if on_wait:
                    on_wait()
                cursor.execute("SELECT pg_advisory_lock(%s)", (key,))
        yield connection
    finally:
        connection.close()


@contextmanager
def lock_if_free(database: Database, name: str) -> Iterator[bool]:
    """Hold the lock `name` unless another process does. Yields whether it is held here."""
    connection = database.connect(session=True)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            key = lock_key(name, database.schema)
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (key,))
            row = cursor.fetchone()
        yield bool(row and row[0])
    finally:
        connection.close()


def is_locked(database: Database, name: str) -> bool:
    """Return whether a living process holds the lock `name`."""
    key = lock_key(name, database.schema) & 0xFFFF_FFFF_FFFF_FFFF
    with database.session(session=True) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND classid::bigint = %s AND objid::bigint = %s AND objsubid = 1)",
            (key >> 32, key & 0xFFFF_FFFF),
        )
        row = cursor.fetchone()
    return bool(row and row[0])
