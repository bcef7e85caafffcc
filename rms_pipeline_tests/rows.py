"""Rows put straight into the tables, for tests of what reads them."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg2.extras import Json, execute_values

from rms_pipeline.mirror.database import Database


def insert(database: Database, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """`rows` by column; one that lacks a column has its default."""
    with database.session() as connection, connection.cursor() as cursor:
        for row in rows:
            columns = ", ".join(row)
            values = [Json(v) if isinstance(v, dict) else v for v in row.values()]
            execute_values(cursor, f"INSERT INTO {table} ({columns}) VALUES %s", [values])


def insert_opportunities(database: Database, *rows: Mapping[str, Any]) -> None:
    """Opportunities with ids from 1 on, named after them, where a row names none."""
    named = (
        {"id": i, "name": f"Opportunity {row.get('id', i)}", **row} for i, row in enumerate(rows, 1)
    )
    insert(database, "opportunities", named)


def query(database: Database, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """What `statement` finds, if it is one that finds something. Commits."""
    with database.session() as connection, connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def insert_proof(database: Database, **columns: Any) -> None:
    """A proof that showed 5,012 of 5,012 now, but for `columns`."""
    now = datetime.now(UTC)
    proof = {"collection": "opportunities", "run": "full", "scan": 1, "as_of": now, "content": 1}
    proof |= {"window_start": now - timedelta(days=30), "window_end": now + timedelta(days=365)}
    proof |= {"counted": 5_012, "mirrored": 5_012, "shown": True, "closed_at": now}
    insert(database, "proofs", [proof | columns])
