"""Runs of syncs, as rows of our own: what was launched, what is at work, how each ended.

What belongs here: writing the rows, and which of them are at work. What does not: reading them for
people, who read the view `sync_metadata` (`history`), and who executes a run (`run_workers`).

A run has its row when we launch it, or when its first step begins. Whoever declares a run dead
writes it here; where nobody did yet, the lock of its process tells.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.mirror.postgres_errors import delete_sparing
from rms_pipeline.mirror.run_workers import HELD
from rms_pipeline.mirror.statements import Connection, one_row

INITIAL, INCREMENTAL = "initial_sync", "incremental_sync"
RECONCILIATION, WEBHOOK_REFRESH = "reconciliation", "webhook_refresh"
SYNC_TYPES = (INITIAL, INCREMENTAL, RECONCILIATION, WEBHOOK_REFRESH)

DIED = (
    "The process that ran this sync died (killed, out of memory, or the machine went down). "
    "The data that it stored is intact. The next sync completes the work."
)
TERMINATED = (
    "Somebody terminated this run in Dagster's UI, or ended its process. The data that "
    "it stored is intact. To complete it, run the sync again."
)
NEVER_BEGAN = (
    "This sync was launched but did not begin. Look at its run in Dagster's UI for the "
    "reason, if Dagster still has the run. Then run the sync again."
)
NO_REASON = "This sync failed and recorded no reason. Look at its run in Dagster's UI."

# Of the row `s` of sync_runs; the view joins the same.
_LIVES = (
    f"EXISTS (SELECT FROM run_workers w WHERE w.run = s.run_id AND w.ended_at IS NULL AND {HELD})"
)
_LOST = (
    "EXISTS (SELECT FROM run_workers w WHERE w.run = s.run_id AND w.ended_at IS NULL"
    f" AND NOT {HELD})"
)
# An executor that starts a process a step has none in between.
BETWEEN_STEPS = "5 minutes"
_LAST_SEEN = (
    "greatest(s.started_at, (SELECT max(w.ended_at) FROM run_workers w WHERE w.run = s.run_id))"
)
# Whoever was to start it has done so by then, unless it waits in Dagster's queue.
_STARTS_WITHIN = "60 seconds"
# The condition of being at work, or about to begin.
AT_WORK = (
    f"s.ended_at IS NULL AND ({_LIVES} OR NOT {_LOST} AND CASE WHEN s.started_at IS NULL"
    f" THEN s.launched_at > clock_timestamp() - interval '{_STARTS_WITHIN}'"
    f" ELSE {_LAST_SEEN} > clock_timestamp() - interval '{BETWEEN_STEPS}' END)"
)


def note_launch(connection: Connection, run: str, sync_type: str) -> int:
    """That `run` was launched and is about to begin, unless it has; the id of its row. Commits."""
    return _note(
        connection,
        "INSERT INTO sync_runs AS s (run_id, sync_type, status) VALUES (%(run)s, %(type)s,"
        # The row that is there already is what RETURNING gives.
        " 'launched') ON CONFLICT (run_id) DO UPDATE SET sync_type = s.sync_type RETURNING id",
        run,
        sync_type,
    )


def begin_run(connection: Connection, run: str, sync_type: str) -> int:
    """That a process executes `run`, or a step of it; the id of its row. Commits.

    A run that was taken for dead, and was resumed, is at work again.
    """
    return _note(
        connection,
        "INSERT INTO sync_runs AS s (run_id, sync_type, status, started_at)"
        " VALUES (%(run)s, %(type)s, 'running', clock_timestamp())"
        " ON CONFLICT (run_id) DO UPDATE SET status = 'running', ended_at = NULL, error = NULL,"
        " started_at = coalesce(s.started_at, excluded.started_at) RETURNING id",
        run,
        sync_type,
    )


def note_metadata(connection: Connection, run: str, metadata: Mapping[str, Any]) -> None:
    """Adds figures to the record of `run`: numbers, texts and booleans by name. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE sync_runs SET metadata = metadata || %s WHERE run_id = %s",
            (_json(metadata), run),
        )
    connection.commit()


def note_figures(
    connection: Connection,
    run: str,
    collection: str,
    *,
    synced: int,
    failed: int,
    metadata: Mapping[str, Any],
) -> None:
    """That `run` has brought `collection` up to date: `synced` records of those it read are in the
    table, `failed` could not be stored. Commits.

    The figures of all its collections add up in its row. Of the first collection, which always is
    mirrored, `metadata` is told as it is, of any other under that collection's name.
    """
    told = metadata if collection == COLLECTIONS[0].name else {collection: dict(metadata)}
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO sync_figures (sync, collection, records_synced, records_failed)"
            " SELECT id, %s, %s, %s FROM sync_runs WHERE run_id = %s"
            " ON CONFLICT (sync, collection) DO UPDATE SET"
            " records_synced = excluded.records_synced, records_failed = excluded.records_failed",
            (collection, synced, failed, run),
        )
        cursor.execute(
            "UPDATE sync_runs s SET metadata = metadata || %s,"
            " (records_synced, records_failed) = (SELECT sum(f.records_synced),"
            " sum(f.records_failed) FROM sync_figures f WHERE f.sync = s.id) WHERE run_id = %s",
            (_json(told), run),
        )
    connection.commit()


def end_run(connection: Connection, run: str, error: str | None = None) -> None:
    """That `run` came to its end: it failed for the reason `error`, or it is complete as soon as
    the figures of a collection are there. Until then its next step is awaited. Commits."""
    with connection.cursor() as cursor:
        if error is None:
            cursor.execute(
                "UPDATE sync_runs s SET status = 'completed', ended_at = clock_timestamp(),"
                " error = NULL WHERE run_id = %s AND status <> 'failed'"
                " AND EXISTS (SELECT FROM sync_figures f WHERE f.sync = s.id)",
                (run,),
            )
        else:
            cursor.execute(
                "UPDATE sync_runs SET status = 'failed', ended_at = clock_timestamp(), error = %s"
                " WHERE run_id = %s",
                (_storable(error), run),
            )
    connection.commit()


def declare_dead(connection: Connection, runs: Sequence[str]) -> None:
    """That the processes of `runs` died. What one of them had noted itself stays. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE sync_runs SET status = 'failed', ended_at = clock_timestamp(), error = %s"
            " WHERE run_id = ANY(%s) AND status <> 'failed'",
            (DIED, list(runs)),
        )
    connection.commit()


def declare_lost_dead(connection: Connection) -> list[str]:
    """`declare_dead` for every open run that lost a process; their ids. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT run_id FROM sync_runs s WHERE ended_at IS NULL AND {_LOST}")
        lost = [row[0] for row in cursor.fetchall()]
    declare_dead(connection, lost)
    return lost


def runs_at_work(connection: Connection, types: Sequence[str]) -> set[str]:
    """Which of `types` have a run that is at work, or was launched just now. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT sync_type FROM sync_runs s WHERE sync_type = ANY(%s) AND {AT_WORK}",
            (list(types),),
        )
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def all_runs(connection: Connection) -> set[str]:
    """The run of every sync that is remembered. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT run_id FROM sync_runs")
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def runs_to_keep(connection: Connection) -> set[str]:
    """Runs that stay whatever their age: of each type the last two that completed, and the first.
    Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT run_id FROM (SELECT run_id,"
            " row_number() OVER (PARTITION BY sync_type ORDER BY ended_at DESC) AS from_last,"
            " row_number() OVER (PARTITION BY sync_type ORDER BY ended_at) AS from_first"
            " FROM sync_runs WHERE status = 'completed') placed"
            " WHERE from_last <= 2 OR from_first = 1"
        )
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def forget_runs(connection: Connection, *, days: int, deleted: Sequence[str] = ()) -> int:
    """Deletes rows of syncs launched more than `days` ago, and of the runs that were just `deleted`
    from Dagster's history, but for `runs_to_keep` and what is not known to have ended; how many.
    Commits."""
    keep = runs_to_keep(connection)
    # Not those that tables of people's own refer to.
    gone, _ = delete_sparing(
        connection,
        "sync_runs",
        "id IN (SELECT s.id FROM sync_runs s WHERE run_id <> ALL(%(keep)s)"
        " AND (run_id = ANY(%(deleted)s) OR launched_at < now() - make_interval(days => %(days)s))"
        f" AND NOT ({AT_WORK}))",
        {"keep": list(keep), "deleted": list(deleted), "days": days},
    )
    return gone


def seconds_since_failures(connection: Connection, sync_type: str, most: int = 8) -> list[float]:
    """How many seconds ago the last runs of `sync_type` ended, newest first, as far as they failed
    in a row (at most `most`) and not over single records (`events_at_fault`). Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT status = 'failed' AND NOT coalesce((metadata ->> 'events_at_fault')::boolean,"
            " false), extract(epoch FROM clock_timestamp() - ended_at)::float8 FROM sync_runs"
            " WHERE sync_type = %s AND ended_at IS NOT NULL ORDER BY launched_at DESC LIMIT %s",
            (sync_type, most),
        )
        rows = cursor.fetchall()
    connection.commit()
    failed: list[float] = []
    for counts, ago in rows:
        if not counts:
            break
        failed.append(ago)
    return failed


def _note(connection: Connection, statement: str, run: str, sync_type: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(statement, {"run": run, "type": sync_type})
        row = one_row(cursor)
    connection.commit()
    return int(row[0])


def _json(metadata: Mapping[str, Any]) -> str:
    return json.dumps(_storable(dict(metadata)))


def _storable(value: Any) -> Any:
    """`value` without what PostgreSQL keeps in no text: NUL, half a surrogate pair."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_storable(name): _storable(of) for name, of in value.items()}
    return value
