"""Deletes old records that are not needed any more. It never deletes a live row or a waiting
event.
"""

from datetime import datetime

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.mirror.database import dagster_schema_beside
from rms_pipeline.mirror.parts import forget_lists_of_gone
from rms_pipeline.mirror.postgres_errors import delete_sparing
from rms_pipeline.mirror.progress import forget_old_progress
from rms_pipeline.mirror.statements import Connection, one_row
from rms_pipeline.mirror.sync_metadata_view import has_dagsters_tables
from rms_pipeline.mirror.walks import AGES_FROM
from rms_pipeline.mirror.words import forget_names


def purge(
    connection: Connection, *, faults_days: int, webhook_events_days: int, walks_days: int
) -> dict[str, int]:
    """Delete rows older than so many days. Returns how many, by table. Commits.

    Rows that other tables refer to stay. They are counted under the table's name with `_kept`.
    """
    old = {
        "sync_faults": (f"seen_at < {AGES_FROM} - make_interval(days => %s)", faults_days),
        "webhook_events": (
            f"processed_at IS NOT NULL AND received_at < {AGES_FROM} - make_interval(days => %s)",
            webhook_events_days,
        ),
        # The last ones stay at any age, because checks and continued syncs read them.
        "walks": (
            f"started_at < {AGES_FROM} - make_interval(days => %s)"
            " AND id NOT IN (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY collection"
            " ORDER BY id DESC) AS from_last FROM walks WHERE kind = 'full') placed"
            " WHERE from_last <= 5)",
            walks_days,
        ),
        # The newest one stays at any age, because it is the present knowledge.
        "proofs": (
            f"as_of < {AGES_FROM} - make_interval(days => %s)"
            " AND id <> ALL (SELECT max(id) FROM proofs WHERE closed_at IS NOT NULL"
            " GROUP BY collection)",
            walks_days,
        ),
    }
    gone = {}
    for table, (condition, days) in old.items():
        gone[table], kept = delete_sparing(connection, table, condition, (days,))
        if kept:
            gone[f"{table}_kept"] = kept
    forget_old_progress(connection)
    gone["part_lists"] = 0
    for collection in COLLECTIONS:
        forget_names(connection, collection)
        if collection.parts is not None:
            gone["part_lists"] += forget_lists_of_gone(connection, collection, days=walks_days)
    return gone


def oldest_to_keep(connection: Connection, *, days: int) -> datetime:
    """Return the time (UTC) that was so many `days` ago, by the clocks that `purge` goes by.
    Commits.
    """
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {AGES_FROM} - make_interval(days => %s)", (days,))
        found: datetime = one_row(cursor)[0]
    connection.commit()
    return found


def purge_events(connection: Connection, *, reports_days: int, runs_days: int) -> int:
    """Delete Dagster's records that belong to no run, which Dagster itself never deletes. Commits.

    Returns the number of rows. Does nothing if Dagster keeps its history elsewhere.

    These records are reports of refreshes outside any run, older than `reports_days` (the newest of
    each kind stays for each asset), and results of checks in runs deleted after `runs_days`.
    """
    if not has_dagsters_tables(connection):
        return 0
    dagster = dagster_schema_beside(connection)
    # Dagster's times have no time zone. They are UTC.
    old = f"< {AGES_FROM} AT TIME ZONE 'UTC' - make_interval(days => %(days)s)"
    statements = (
        (
            f"WITH old AS (DELETE FROM {dagster}.event_logs WHERE run_id = ''"
            " AND dagster_event_type IN ('ASSET_MATERIALIZATION', 'ASSET_OBSERVATION',"
            " 'ASSET_CHECK_EVALUATION')"
            f" AND timestamp {old}"
            f" AND id <> ALL(SELECT max(id) FROM {dagster}.event_logs WHERE run_id = ''"
            " GROUP BY asset_key, dagster_event_type) RETURNING id),"
            f" tags AS (DELETE FROM {dagster}.asset_event_tags"
            " WHERE event_id IN (SELECT id FROM old)) SELECT count(*) FROM old",
            reports_days,
        ),
        (
            f"WITH old AS (DELETE FROM {dagster}.asset_check_executions WHERE run_id = ''"
            f" AND create_timestamp {old}"
            f" AND id <> ALL(SELECT max(id) FROM {dagster}.asset_check_executions WHERE run_id = ''"
            " GROUP BY asset_key, check_name) RETURNING id) SELECT count(*) FROM old",
            reports_days,
        ),
        (
            f"WITH old AS (DELETE FROM {dagster}.asset_check_executions c WHERE run_id <> ''"
            f" AND create_timestamp {old} AND NOT EXISTS"
            f" (SELECT FROM {dagster}.runs r WHERE r.run_id = c.run_id) RETURNING id)"
            " SELECT count(*) FROM old",
            runs_days,
        ),
    )
    gone = 0
    for statement, days in statements:
        with connection.cursor() as cursor:
            cursor.execute(statement, {"days": days})
            row = cursor.fetchone()
        connection.commit()
        gone += row[0] if row else 0
    return gone
