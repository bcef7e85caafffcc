"""Trouble with the database at one chosen statement of an operation, in this process.

A statement is anything that our connections send: an execution, a COPY, a commit. They are counted
over all connections and threads of the operation.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import pytest

from rms_pipeline.mirror import database as mirror_database
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.statements import Connection, Cursor

# What PostgreSQL says, by its code. Each is said instead of carrying the statement out.
SAID = {
    "the disk is full": "53100",
    "the server has no memory left": "53200",
    "a replica took over": "25006",
    "a lock takes too long": "55P03",
    "a transaction cannot be serialised": "40001",
    "a deadlock": "40P01",
    "somebody cancels the statement": "57014",
    "the server has an error of its own": "XX000",
}
CUT = "the connection is cut"
DEAD = "the process dies"
UNHEARD = "the connection is cut as the commit is acknowledged"
TROUBLES = (CUT, DEAD, UNHEARD, *SAID)


@dataclass
class Trouble:
    """At statement number `at`, counted from 1, `kind` happens. `met` says where it did."""

    database: Database
    kind: str
    at: int
    count: int = 0
    met: str = ""
    _dead: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def before(self, connection: Connection, statement: str) -> None:
        """Called before each statement. Raises what psycopg2 would raise, or lets it pass."""
        with self._lock:
            if self._dead:
                raise psycopg2.OperationalError("this process is dead")
            if self.kind == UNHEARD and statement != "COMMIT":
                return
            self.count += 1
            if self.count != self.at:
                return
            self.met = " ".join(statement.split())[:120]
            self._dead = self.kind == DEAD
        if self._dead:
            raise psycopg2.OperationalError("this process is dead")
        if self.kind in (CUT, UNHEARD):
            if self.kind == UNHEARD:
                Connection.commit(connection)
            self._cut(connection)
        else:
            if statement == "COMMIT":
                # What a commit meets ends the transaction.
                Connection.rollback(connection)
            with contextlib.closing(Connection.cursor(connection)) as saying:
                saying.execute(
                    f"DO $$ BEGIN RAISE EXCEPTION '{self.kind}'"
                    f" USING ERRCODE = '{SAID[self.kind]}'; END $$"
                )

    def connecting(self) -> None:
        if self._dead:
            raise mirror_database.DatabaseError("this process is dead")

    def _cut(self, connection: Connection) -> None:
        other = psycopg2.connect(self.database.url.get_secret_value())
        other.autocommit = True
        with contextlib.closing(other), other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))


def troubled(trouble: Trouble) -> contextlib.AbstractContextManager[Trouble]:
    """Inside, all connections of the product go through `trouble`."""

    class Troubled(mirror_database._Connection):
        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            kwargs["cursor_factory"] = Asking
            return super().cursor(*args, **kwargs)

        def commit(self) -> None:
            trouble.before(self, "COMMIT")
            super().commit()

    class Asking(Cursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            trouble.before(self.connection, str(query))
            super().execute(query, vars)

        def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
            trouble.before(self.connection, str(sql))
            super().copy_expert(sql, file, size)

    @contextlib.contextmanager
    def inside() -> Iterator[Trouble]:
        opened = mirror_database._open

        def open_(url: str, options: str = "") -> Any:
            trouble.connecting()
            return opened(url, options)

        with pytest.MonkeyPatch.context() as changes:
            changes.setattr(mirror_database, "_Connection", Troubled)
            changes.setattr(mirror_database, "_open", open_)
            yield trouble

    return inside()
