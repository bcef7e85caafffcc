"""Connections that are used again, for tests that look at rows and not at connections.

A new one costs the server a process, and the catalogs that this reads before its first answer: a
quarter of what a test of syncs took. The program makes a new one for each piece of work, so none of
its work relies on finding one as it left it; and one that it left in another mode than a new one
has is not used again.
"""

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator

import psycopg2
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.postgres_errors import explain
from rms_pipeline.mirror.statements import Connection
from rms_pipeline_tests.servers import NEW_NAMES

_spare: defaultdict[tuple[str, str], list[Connection]] = defaultdict(list)
_lock = threading.Lock()
# Of one database at a time: threads of the same test.
_MOST = 3
_session = Database.session


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
    with _lock:
        spare = _spare[url, self.schema]
        kept = spare.pop() if spare else None
    connection = kept or self.connect()
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
        with _lock:
            spare = _spare[url, self.schema]
            if is_well and len(spare) < _MOST and _is_as_new(connection):
                spare.append(connection)
            else:
                connection.close()


def _is_as_new(connection: Connection) -> bool:
    return not (
        connection.closed
        or connection.autocommit
        or connection.readonly
        or connection.deferrable
        or connection.notifies
        or connection.info.transaction_status != TRANSACTION_STATUS_IDLE
    )
