"""Rows put straight into the tables, for tests of what reads them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def asking(database: Database) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """As `query` of this database, in one transaction, which commits at the end."""
    with database.session() as connection, connection.cursor() as cursor:

        def ask(statement: str, *values: Any) -> list[tuple[Any, ...]]:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

        yield ask


def query(database: Database, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """What `statement` finds, if it is one that finds something. Commits."""
    with asking(database) as ask:
        return ask(statement, *values)


def insert_proof(database: Database, **columns: Any) -> None:
    """A proof that showed 5,012 of 5,012 now, but for `columns`."""
    now = datetime.now(UTC)
    proof = {"collection": "opportunities", "run": "full", "scan": 1, "as_of": now, "content": 1}
    proof |= {"window_start": now - timedelta(days=30), "window_end": now + timedelta(days=365)}
    proof |= {"counted": 5_012, "mirrored": 5_012, "shown": True, "closed_at": now}
    insert(database, "proofs", [proof | columns])


def insert_sync(
    database: Database,
    run: str,
    sync_type: str = "initial_sync",
    status: str = "completed",
    *,
    ago: float = 0.0,
    took: float = 10.0,
    in_dagster: bool = True,
    **columns: Any,
) -> None:
    """A sync that began `ago` seconds ago, and ended after `took` more unless it goes on; so in
    Dagster's history, too, where that is here and the run is to be `in_dagster`."""
    began = datetime.now(UTC) - timedelta(seconds=ago)
    ended = began + timedelta(seconds=took) if status in ("completed", "failed") else None
    row = {"run_id": run, "sync_type": sync_type, "status": status, "launched_at": began}
    row |= {"started_at": None if status == "launched" else began, "ended_at": ended}
    insert(database, "sync_runs", [row | columns])
    if in_dagster and query(database, "SELECT to_regclass('dagster.runs') IS NOT NULL") == [
        (True,)
    ]:
        insert_dagsters_run(database, run, sync_type, status, began, ended)


DAGSTERS_WORDS = {
    "launched": "QUEUED",
    "running": "STARTED",
    "completed": "SUCCESS",
    "failed": "FAILURE",
}


def insert_dagsters_run(
    database: Database,
    run: str,
    job: str,
    status: str,
    began: datetime,
    ended: datetime | None,
    body: str = "{}",
) -> None:
    """A row of Dagster's runs; `status` in Dagster's words or in ours."""
    row: dict[str, Any] = {"run_id": run, "pipeline_name": job, "run_body": body}
    row |= {"status": DAGSTERS_WORDS.get(status, status)}
    row |= {"start_time": None if status == "launched" else began.timestamp()}
    row |= {"end_time": ended.timestamp() if ended else None}
    naive = began.astimezone(UTC).replace(tzinfo=None)
    row |= {"create_timestamp": naive, "update_timestamp": naive}
    insert(database, "dagster.runs", [row])
