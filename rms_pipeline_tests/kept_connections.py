"""Reused connections, for tests that look at rows and not at connections.

A new connection costs the server a process that reads its catalogs before the first answer: a
quarter of the time of a test of syncs. The program makes a new connection for each piece of work,
so none of its work relies on an earlier state. A reused connection is like a new one: its settings,
locks, temporary tables and so on are reset. A connection that was left in an unusual mode, or that
the server has ended, is not reused.

The folders and modules in `LOOK_AT_ROWS` (`conftest.py`) use this, except modules that are marked
`new_connections`. Those test connections, or their initial state: session locks, roles, limits,
settings of the database.
"""

import contextlib
import os
import select
import threading
from collections import defaultdict
from collections.abc import Iterator

import psycopg2
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from rms_pipeline.mirror.database import _HAS_LZ4, Database, _committed, session_settings
from rms_pipeline.mirror.statements import Connection
from rms_pipeline_tests.servers import NEW_NAMES

_spare: defaultdict[tuple[str, str], list[Connection]] = defaultdict(list)
_of_parents: list[Connection] = []
_lock = threading.Lock()
# All for one database at a time, for threads of the same test.
_MOST = 3
_session = Database.session


_AS_NEW = (
    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; CLOSE ALL; DISCARD TEMP;"
    " SELECT pg_advisory_unlock_all(); SET statement_timeout = 0; SELECT set_config(n, v, false)"
    " FROM unnest(%s::text[], %s::text[]) AS s (n, v) WHERE current_setting(n, true) <> v"
)


@contextlib.contextmanager
def kept_connections() -> Iterator[None]:
    """Inside this context, `Database.session` reuses a connection that another block has left."""
    with pytest.MonkeyPatch.context() as changes:
        changes.setattr(Database, "session", _kept_session)
        try:
            yield
        finally:
            close_kept("")


def close_kept(name: str) -> None:
    """Close the connections to databases whose URL contains `name`."""
    with _lock:
        for url, schema in list(_spare):
            if name in url:
                for connection in _spare.pop((url, schema)):
                    connection.close()


@contextlib.contextmanager
def _kept_session(self: Database, *, session: bool = False) -> Iterator[Connection]:
    url = self.url.get_secret_value()
    # No connection may stay open to a template. A connection for a session's state is not shared.
    if session or self.session_url != self.url or f"/{NEW_NAMES}" not in url:
        with _session(self, session=session) as connection:
            yield connection
        return
    connection = _spare_one(url, self.schema) or self.connect()
    is_well = False
    try:
        with _committed(connection):
            yield connection
        is_well = True
    finally:
        is_well = is_well and _made_as_new(connection, url, self.schema)
        with _lock:
            spare = _spare[url, self.schema]
            if is_well and len(spare) < _MOST:
                spare.append(connection)
            else:
                connection.close()


def _spare_one(url: str, schema: str) -> Connection | None:
    """Return a connection that nobody uses and that the server has not ended, or None."""
    with _lock:
        spare = _spare[url, schema]
        while spare:
            connection = spare.pop()
            # If nothing was asked, the only thing to read is the end of the connection.
            if not select.select([connection], [], [], 0)[0]:
                return connection
            connection.close()
    return None


def _made_as_new(connection: Connection, url: str, schema: str) -> bool:
    """Return whether the connection could be made as new."""
    if (
        connection.closed
        or connection.autocommit
        or connection.readonly
        or connection.deferrable
        or connection.notifies
        or connection.info.transaction_status != TRANSACTION_STATUS_IDLE
    ):
        return False
    settings = session_settings(schema)
    if _HAS_LZ4.get(url):
        settings["default_toast_compression"] = "lz4"
    try:
        with connection.cursor() as cursor:
            cursor.execute(_AS_NEW, (list(settings), list(settings.values())))
        connection.commit()
    except psycopg2.Error:
        return False
    return True


def _forget() -> None:
    """Forget all connections in a forked process. Closing them would end those of its parent."""
    for spare in _spare.values():
        _of_parents.extend(spare)
    _spare.clear()


os.register_at_fork(after_in_child=_forget)
