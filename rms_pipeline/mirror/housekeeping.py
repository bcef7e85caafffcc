"""Forgetting what is old. Only what nobody needs any more: no live row, no unsettled event."""

from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.mirror.progress import forget_old_progress


def purge(
    connection: Connection, *, faults_days: int, webhook_events_days: int, walks_days: int
) -> dict[str, int]:
    """Deletes rows older than so many days; how many, by table. Commits."""
    statements = {
        "sync_faults": (
            "DELETE FROM sync_faults WHERE seen_at < now() - make_interval(days => %s)",
            faults_days,
        ),
        "webhook_events": (
            "DELETE FROM webhook_events WHERE processed_at IS NOT NULL"
            " AND received_at < now() - make_interval(days => %s)",
            webhook_events_days,
        ),
        # The last ones stay whatever their age: checks and resumption read them.
        "walks": (
            "DELETE FROM walks WHERE started_at < now() - make_interval(days => %s)"
            " AND id NOT IN (SELECT id FROM walks WHERE kind = 'full' ORDER BY id DESC LIMIT 5)",
            walks_days,
        ),
    }
    gone = {}
    for table, (statement, days) in statements.items():
        with connection.cursor() as cursor:
            cursor.execute(statement, (days,))
            gone[table] = cursor.rowcount
        connection.commit()
    forget_old_progress(connection)
    return gone


def purge_reports(connection: Connection, *, days: int) -> int:
    """Deletes what refreshes reported to Dagster outside of any run, older than so many days; how
    many events. The newest of each kind stays for each asset. Commits.

    Dagster itself forgets events only with their run, and these have none.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM dagster.event_logs old WHERE run_id = ''"
            " AND dagster_event_type IN ('ASSET_MATERIALIZATION', 'ASSET_CHECK_EVALUATION')"
            " AND timestamp < now() AT TIME ZONE 'UTC' - make_interval(days => %(days)s)"
            " AND id <> ALL(SELECT max(id) FROM dagster.event_logs WHERE run_id = ''"
            " GROUP BY asset_key, dagster_event_type)",
            {"days": days},
        )
        gone = cursor.rowcount
        cursor.execute(
            "DELETE FROM dagster.asset_check_executions WHERE run_id = ''"
            " AND create_timestamp < now() AT TIME ZONE 'UTC' - make_interval(days => %(days)s)"
            " AND id <> ALL(SELECT max(id) FROM dagster.asset_check_executions WHERE run_id = ''"
            " GROUP BY asset_key, check_name)",
            {"days": days},
        )
    connection.commit()
    return gone


def runs_still_needed(connection: Connection) -> set[str]:
    """Runs that must stay whatever their age: they hold a watermark, or show the first sync."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM (SELECT id,"
            " row_number() OVER (PARTITION BY sync_type ORDER BY completed_at DESC) AS from_last,"
            " row_number() OVER (PARTITION BY sync_type ORDER BY completed_at) AS from_first"
            " FROM sync_metadata WHERE status = 'completed') placed"
            " WHERE from_last <= 2 OR from_first = 1"
        )
        found = {row[0] for row in cursor.fetchall()}
    connection.commit()
    return found
