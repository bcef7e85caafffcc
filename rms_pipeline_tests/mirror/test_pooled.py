"""Pools of connections, over a real server."""

import select
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Engine, create_engine

from rms_pipeline.mirror import pooled
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.pooled import demand_living_connections
from rms_pipeline_tests.rows import query

pytestmark = pytest.mark.new_connections

Pool = tuple[Engine, list[str]]


@pytest.fixture(params=[False, True], ids=["in transactions", "by autocommit"])
def pool(migrated: Database, request: pytest.FixtureRequest) -> Iterator[Pool]:
    """A pool of one, and the statements that its connections executed once they were open."""
    asked: list[str] = []

    class Noting(psycopg2.extensions.cursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            asked.append(str(query))
            super().execute(query, vars)

    def connect() -> Any:
        connection = migrated.connect()
        connection.autocommit = request.param
        connection.cursor_factory = Noting
        return connection

    engine = create_engine("postgresql+psycopg2://", creator=connect, pool_size=1, max_overflow=0)
    demand_living_connections(engine)
    with engine.connect():
        """SQLAlchemy's own questions about the server."""
    asked.clear()
    yield engine, asked
    engine.dispose()


def process(engine: Engine) -> int:
    """The server's, of the connection that the pool gives."""
    with engine.connect() as connection:
        found: Any = connection.connection.dbapi_connection
        return int(found.info.backend_pid)


def test_a_connection_in_use_is_not_asked_whether_it_lives(pool: Pool) -> None:
    engine, asked = pool
    assert process(engine) == process(engine)
    assert asked == []


def test_one_that_the_server_ended_is_replaced_unnoticed(pool: Pool, migrated: Database) -> None:
    engine, _ = pool
    before = process(engine)
    query(migrated, f"SELECT pg_terminate_backend({before}, 10000)")
    assert process(engine) != before
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 7").scalar() == 7


def test_one_that_rested_long_is_asked_and_kept_when_it_answers(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, asked = pool
    before = process(engine)
    monkeypatch.setattr(pooled, "IDLE", -1.0)
    with engine.connect() as connection:
        found: Any = connection.connection.dbapi_connection
        assert found.info.backend_pid == before
        # No transaction was begun by that.
        assert found.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
    assert asked == ["SELECT 1"]


def test_one_on_which_the_server_only_said_something_is_kept(
    pool: Pool, migrated: Database
) -> None:
    engine, asked = pool
    before = process(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("LISTEN news")
        connection.commit()
        listening: Any = connection.connection.dbapi_connection
    query(migrated, "NOTIFY news")
    assert select.select([listening], [], [], 30)[0], "the server said nothing"
    assert process(engine) == before
    assert asked == ["LISTEN news", "SELECT 1"]
