"""Connections for reading only: pooled, read-only, and with a time limit for each query."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from sqlalchemy import create_engine

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.pooled import demand_living_connections
from rms_pipeline.mirror.statements import Connection

_CONNECTIONS = 4
_SECONDS = 15
# Only an upgrade locks a table against readers for longer than this.
_SECONDS_FOR_A_LOCK = 3


class Reader:
    """A few connections that pages share, because a new one for each request would take longer than
    the request."""

    def __init__(self, database: Database) -> None:
        def connect() -> Connection:
            # Not through a pooler, which would give these settings to other users of the
            # connection.
            connection = database.connect(session=True)
            connection.set_session(readonly=True)
            with connection.cursor() as cursor:
                cursor.execute(f"SET statement_timeout = '{_SECONDS}s'")
                cursor.execute(f"SET lock_timeout = '{_SECONDS_FOR_A_LOCK}s'")
            connection.commit()
            return connection

        self._engine = create_engine(
            "postgresql+psycopg2://",
            creator=connect,
            pool_size=_CONNECTIONS,
            max_overflow=_CONNECTIONS,
            pool_timeout=10,
        )
        demand_living_connections(self._engine)

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """A connection in UTC. Raises psycopg2.Error, DatabaseError or SQLAlchemyError."""
        borrowed = self._engine.raw_connection()
        try:
            yield cast(Connection, borrowed.driver_connection)
        finally:
            borrowed.close()

    def close(self) -> None:
        self._engine.dispose()
