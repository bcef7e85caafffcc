"""Puts rows directly into the tables, for tests of what reads them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg2.extras import Json, execute_values

from rms_pipeline.mirror.database import Database


def insert(database: Database, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert `rows`, given by column. A missing column gets its default."""
    with database.session() as connection, connection.cursor() as cursor:
        for row in rows:
            columns = ", ".join(row)
            values = [Json(v) if isinstance(v, dict) else v for v in row.values()]
            execute_values(cursor, f"INSERT INTO {table} ({columns}) VALUES %s", [values])


def insert_opportunities(database: Database, *rows: Mapping[str, Any]) -> None:
    """Insert opportunities with ids from 1 on and names that follow from the ids, unless a row has
    its own. Their number and reference are those of `data`, if it has them.
    """
    named = (
        {"id": i, "name": f"Opportunity {row.get('id', i)}", **_mapped(row.get("data")), **row}
        for i, row in enumerate(rows, 1)
    )
    insert(database, "opportunities", named)


def _mapped(data: object) -> dict[str, str]:
    record = data if isinstance(data, Mapping) else {}
    return {name: str(record[name]) for name in ("number", "reference") if name in record}


@contextmanager
def asking(database: Database) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Like `query` for this database, in one transaction that commits at the end."""
    with database.session() as connection, connection.cursor() as cursor:

        def ask(statement: str, *values: Any) -> list[tuple[Any, ...]]:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

        yield ask


def query(database: Database, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return the rows of `statement`, if it returns any. Commits."""
    with asking(database) as ask:
        return ask(statement, *values)


def insert_proof(database: Database, **columns: Any) -> None:
    """Insert a proof that showed 5,012 of 5,012 now, changed by `columns`."""
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
    """Insert a sync that began `ago` seconds ago and ended after `took` seconds, unless it still
    runs.

    If Dagster's history is in this database and `in_dagster` is true, the run is inserted there
    too.
    """
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
    """Insert a row of Dagster's runs. `status` is in Dagster's words or in ours."""
    row: dict[str, Any] = {"run_id": run, "pipeline_name": job, "run_body": body}
    row |= {"status": DAGSTERS_WORDS.get(status, status)}
    row |= {"start_time": None if status == "launched" else began.timestamp()}
    row |= {"end_time": ended.timestamp() if ended else None}
    naive = began.astimezone(UTC).replace(tzinfo=None)
    row |= {"create_timestamp": naive, "update_timestamp": naive}
    insert(database, "dagster.runs", [row])
