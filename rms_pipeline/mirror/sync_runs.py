"""Runs of syncs as rows of our own: what was launched, what is at work, and how each ended.

This module writes the rows, and knows which are at work. People read them through the view
`sync_metadata`. Which process executes a run is in `run_workers`.

A run gets its row when we launch it, or when its first step begins. A process that finds a run dead
writes that here. If nobody did yet, the lock of its process shows it.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.mirror.postgres_errors import delete_sparing
from rms_pipeline.mirror.run_workers import HELD
from rms_pipeline.mirror.statements import Connection, in_the_future, one_row
from rms_pipeline.mirror.walks import AGES_FROM

INITIAL, INCREMENTAL = "initial_sync", "incremental_sync"
RECONCILIATION, WEBHOOK_REFRESH = "reconciliation", "webhook_refresh"
SYNC_TYPES = (INITIAL, INCREMENTAL, RECONCILIATION, WEBHOOK_REFRESH)
FULL_SYNCS = (INITIAL, RECONCILIATION)

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

# About the row `s` of sync_runs. The view joins the same.
_LIVES = (
    f"EXISTS (SELECT FROM run_workers w WHERE w.run = s.run_id AND w.ended_at IS NULL AND {HELD})"
)
# A process may end between reading its row and reading its lock, so its row is read once more.
LOST = (
    "EXISTS (SELECT FROM run_workers w WHERE w.run = s.run_id AND w.ended_at IS NULL AND"
    f" CASE WHEN {HELD} THEN false ELSE rms_worker_ended(w.lock_key) IS NULL END)"
)
# An executor that starts a process for each step has no process in between.
BETWEEN_STEPS = "5 minutes"
_LAST_SEEN = (
    "greatest(s.started_at, (SELECT max(coalesce(w.ended_at, rms_worker_ended(w.lock_key)))"
    " FROM run_workers w WHERE w.run = s.run_id))"
)
# By then a launched run has started, unless it waits in Dagster's queue.
_STARTS_WITHIN = "60 seconds"
# The condition for a run that is at work or about to begin.
AT_WORK = (
    f"s.ended_at IS NULL AND ({_LIVES} OR NOT {LOST} AND CASE WHEN s.started_at IS NULL"
    f" THEN s.launched_at > clock_timestamp() - interval '{_STARTS_WITHIN}'"
    f" AND NOT {in_the_future('s.launched_at')}"
    f" ELSE {_LAST_SEEN} > clock_timestamp() - interval '{BETWEEN_STEPS}'"
    f" AND NOT {in_the_future(_LAST_SEEN)} END)"
)


def note_launch(connection: Connection, run: str, sync_type: str) -> int:
    """Note that `run` was launched, unless it has begun already. Returns the id of its row.
    Commits.
    """
    return _note(
        connection,
        "SELECT id FROM sync_runs WHERE run_id = %(run)s",
        "INSERT INTO sync_runs AS s (run_id, sync_type, status) VALUES (%(run)s, %(type)s,"
        # RETURNING then gives the existing row.
        " 'launched') ON CONFLICT (run_id) DO UPDATE SET sync_type = s.sync_type RETURNING id",
        run,
        sync_type,
    )


def begin_run(connection: Connection, run: str, sync_type: str) -> int:
    """Note that a process executes `run` or a step of it. Returns the id of its row. Commits.

    A run that was found dead and then resumed is at work again.
    """
    return _note(
        connection,
        "UPDATE sync_runs SET status = 'running', ended_at = NULL, error = NULL,"
        " started_at = coalesce(started_at, clock_timestamp()) WHERE run_id = %(run)s"
        " RETURNING id",
        "INSERT INTO sync_runs AS s (run_id, sync_type, status, started_at)"
        " VALUES (%(run)s, %(type)s, 'running', clock_timestamp())"
        " ON CONFLICT (run_id) DO UPDATE SET status = 'running', ended_at = NULL, error = NULL,"
        " started_at = coalesce(s.started_at, excluded.started_at) RETURNING id",
        run,
        sync_type,
    )


def note_failure(
    connection: Connection,
    run: str,
    sync_type: str,
    error: str,
    *,
    launched_at: datetime,
    ended_at: datetime,
) -> None:
    """Note that `run` failed before its first step, if it has no row yet. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO sync_runs (run_id, sync_type, status, launched_at, ended_at, error)"
            " SELECT %(run)s, %(type)s, 'failed', %(launched)s, %(ended)s, %(error)s"
            # An INSERT that finds a row takes a number, too.
            " WHERE NOT EXISTS (SELECT FROM sync_runs WHERE run_id = %(run)s)"
            " ON CONFLICT (run_id) DO NOTHING",
            {
                "run": run,
                "type": sync_type,
                "launched": launched_at,
                "ended": ended_at,
                "error": _storable(error),
            },
        )
    connection.commit()


def launched_runs(
    connection: Connection, *, for_longer_than: timedelta = timedelta(0), most: int = 20
) -> list[str]:
    """Return runs that were launched and have neither begun nor ended, newest first, at most
    `most`. Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT run_id FROM sync_runs WHERE started_at IS NULL AND ended_at IS NULL"
            " AND launched_at <= clock_timestamp() - %s ORDER BY launched_at DESC LIMIT %s",
            (for_longer_than, most),
        )
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found


def has_begun(connection: Connection, run: str) -> bool:
    """Return whether the first step of `run` has begun. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM sync_runs WHERE run_id = %s AND started_at IS NOT NULL)",
            (run,),
        )
        row = one_row(cursor)
    connection.commit()
    return bool(row[0])


def note_metadata(connection: Connection, run: str, metadata: Mapping[str, Any]) -> None:
    """Add figures to the record of `run`: numbers, texts and booleans by name. Commits."""
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
    """Note that `run` has brought `collection` up to date. Commits.

    `synced` of the records that it read are in the table, `failed` could not be stored. The row of
    the run has the sum over all its collections. `metadata` of the first collection, which is
    always mirrored, is stored as it is. Any other is stored under its collection's name.
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


def stored_collections(connection: Connection, run: str) -> set[str]:
    """Return the collections that `run` has brought up to date (`note_figures`). Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT f.collection FROM sync_figures f JOIN sync_runs s ON s.id = f.sync"
            " WHERE s.run_id = %s",
            (run,),
        )
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def end_run(
    connection: Connection, run: str, error: str | None = None, *, is_over: bool = False
) -> None:
    """Note the end of `run`. Commits.

    It failed if there is an `error`. Otherwise it is complete if all its steps are over. A caller
    that does not know that gives no `is_over`. Then it is complete as soon as a collection's
    figures are stored, and until then its next step is expected.
    """
    with connection.cursor() as cursor:
        if error is None:
            cursor.execute(
                "UPDATE sync_runs s SET status = 'completed', ended_at = clock_timestamp(),"
                " error = NULL WHERE run_id = %s AND status <> 'failed'"
                " AND (%s OR EXISTS (SELECT FROM sync_figures f WHERE f.sync = s.id))",
                (run, is_over),
            )
        else:
            cursor.execute(
                "UPDATE sync_runs SET status = 'failed', ended_at = clock_timestamp(), error = %s"
                " WHERE run_id = %s",
                (_storable(error), run),
            )
    connection.commit()


def declare_dead(connection: Connection, runs: Sequence[str]) -> None:
    """Note that the processes of `runs` died. What a run has noted itself stays. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE sync_runs SET status = 'failed', ended_at = clock_timestamp(), error = %s"
            " WHERE run_id = ANY(%s) AND status <> 'failed'",
            (DIED, list(runs)),
        )
    connection.commit()


def declare_lost_dead(connection: Connection) -> list[str]:
    """Call `declare_dead` for every open run that lost a process. Returns their ids. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT run_id FROM sync_runs s WHERE ended_at IS NULL AND {LOST}")
        lost = [row[0] for row in cursor.fetchall()]
    declare_dead(connection, lost)
    return lost


def runs_at_work(connection: Connection, types: Sequence[str]) -> set[str]:
    """Return which of `types` have a run that is at work, or was launched just now. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT sync_type FROM sync_runs s WHERE sync_type = ANY(%s) AND {AT_WORK}",
            (list(types),),
        )
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def all_runs(connection: Connection) -> set[str]:
    """Return the run of every sync that is remembered. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT run_id FROM sync_runs")
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def known_runs(connection: Connection, runs: Sequence[str]) -> set[str]:
    """Return those of `runs` that have a row. Commits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT run_id FROM sync_runs WHERE run_id = ANY(%s)", (list(runs),))
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found


def runs_to_keep(connection: Connection) -> set[str]:
    """Return runs that stay at any age: of each type the last two that completed, and the first.

    Commits.
    """
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
    """Delete rows of old syncs. Returns how many. Commits.

    Old are those launched more than `days` ago, and those of the runs just `deleted` from Dagster's
    history. `runs_to_keep`, and runs that may not have ended, stay.
    """
    keep = runs_to_keep(connection)
    # Rows that people's own tables refer to stay.
    gone, _ = delete_sparing(
        connection,
        "sync_runs",
        "id IN (SELECT s.id FROM sync_runs s WHERE run_id <> ALL(%(keep)s)"
        " AND (run_id = ANY(%(deleted)s)"
        f" OR launched_at < {AGES_FROM} - make_interval(days => %(days)s))"
        f" AND NOT ({AT_WORK}))",
        {"keep": list(keep), "deleted": list(deleted), "days": days},
    )
    return gone


def seconds_since_failures(connection: Connection, sync_type: str, most: int = 8) -> list[float]:
    """Return how many seconds ago the last failures in a row of `sync_type` ended, newest first.

    At most `most`. Failures that were caused by single records (`events_at_fault`) do not count.
    Nor do those of a clock that was ahead, for which nobody may wait.
    Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT status = 'failed' AND NOT coalesce((metadata ->> 'events_at_fault')::boolean,"
            " false), extract(epoch FROM clock_timestamp() - ended_at)::float8 FROM sync_runs"
            f" WHERE sync_type = %s AND ended_at IS NOT NULL AND NOT {in_the_future('ended_at')}"
            " ORDER BY launched_at DESC LIMIT %s",
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


def _note(connection: Connection, known: str, new: str, run: str, sync_type: str) -> int:
    """Execute `known`, and if the run has no row yet `new`. An INSERT takes a number
    even if it then finds a row, and some executors start a process for each step of a run.
    """
    values = {"run": run, "type": sync_type}
    with connection.cursor() as cursor:
        cursor.execute(known, values)
        row = cursor.fetchone()
        if row is None:
            cursor.execute(new, values)
            row = one_row(cursor)
    connection.commit()
    return int(row[0])


def _json(metadata: Mapping[str, Any]) -> str:
    return json.dumps(_storable(dict(metadata)))


def _storable(value: Any) -> Any:
    """Return `value` without what no text in PostgreSQL can hold: NUL, half a surrogate pair."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_storable(name): _storable(of) for name, of in value.items()}
    return value
