"""Connections that are used again, for tests that look at rows and not at connections.

A new one costs the server a process, and the catalogs that this reads before its first answer: a
quarter of what a test of syncs took. The program makes a new one for each piece of work, so none of
its work relies on finding one as it left it. One that is used again is as a new one: its settings,
locks, temporary tables and the like are put back. One that was left in another mode than a new one
has, or that the server has ended, is not used again.

The folders and modules in `LOOK_AT_ROWS` (`conftest.py`) have that, but for modules that are marked
`new_connections`. Those look at connections, or at what one finds as it begins: locks of sessions,
roles, limits, settings of the database.
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

from rms_pipeline.mirror.database import _HAS_LZ4, Database, session_settings
from rms_pipeline.mirror.postgres_errors import explain
from rms_pipeline.mirror.statements import Connection
from rms_pipeline_tests.servers import NEW_NAMES

_spare: defaultdict[tuple[str, str], list[Connection]] = defaultdict(list)
_of_parents: list[Connection] = []
_lock = threading.Lock()
# Of one database at a time: threads of the same test.
_MOST = 3
_session = Database.session


_AS_NEW = (
    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; CLOSE ALL; DISCARD TEMP;"
    " SELECT pg_advisory_unlock_all(); SET statement_timeout = 0; SELECT set_config(n, v, false)"
    " FROM unnest(%s::text[], %s::text[]) AS s (n, v) WHERE current_setting(n, true) <> v"
)


@contextlib.contextmanager
def kept_connections() -> Iterator[None]:
    """Meanwhile `Database.session` takes one that another block has left, where there is one."""
    with pytest.MonkeyPatch.context() as changes:
        changes.setattr(Database, "session", _kept_session)
        try:
            yield
        finally:
            close_kept("")


def close_kept(name: str) -> None:
    """Those to databases whose URL has `name` in it."""
    with _lock:
        for url, schema in list(_spare):
            if name in url:
                for connection in _spare.pop((url, schema)):
                    connection.close()


@contextlib.contextmanager
def _kept_session(self: Database, *, session: bool = False) -> Iterator[Connection]:
    url = self.url.get_secret_value()
    # Nothing may stay connected to a template. One for a session's sake is not shared.
    if session or self.session_url != self.url or f"/{NEW_NAMES}" not in url:
        with _session(self, session=session) as connection:
            yield connection
        return
    connection = _spare_one(url, self.schema) or self.connect()
    is_well = False
    try:
        yield connection
        connection.commit()
        is_well = True
    except BaseException as error:
        if not connection.closed:
            connection.rollback()
        if isinstance(error, psycopg2.Error) and (told := explain(error, connection)):
            raise told from error
        raise
    finally:
        is_well = is_well and _made_as_new(connection, url, self.schema)
        with _lock:
            spare = _spare[url, self.schema]
            if is_well and len(spare) < _MOST:
                spare.append(connection)
            else:
                connection.close()


def _spare_one(url: str, schema: str) -> Connection | None:
    """One that nobody uses, and that the server has not ended meanwhile."""
    with _lock:
        spare = _spare[url, schema]
        while spare:
            connection = spare.pop()
            # Where nothing was asked, what can be read is the end.
            if not select.select([connection], [], [], 0)[0]:
                return connection
            connection.close()
    return None


def _made_as_new(connection: Connection, url: str, schema: str) -> bool:
    """Whether it could be."""
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
    """In a fork: to close them would end its parent's."""
    for spare in _spare.values():
        _of_parents.extend(spare)
    _spare.clear()


os.register_at_fork(after_in_child=_forget)
