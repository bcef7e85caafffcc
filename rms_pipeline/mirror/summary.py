"""`status_counts`, `week_counts` and `daily_status_counts`: the summaries that people look at
first, kept ready."""

from typing import TYPE_CHECKING

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.remembered import BEGAN, follow_phases
from rms_pipeline.mirror.remembered import NO_STATUS as NO_STATUS
from rms_pipeline.mirror.statements import Connection, Cursor

if TYPE_CHECKING:
    import pandas as pd


def count_rows(connection: Connection, collection: Collection) -> int:
    """Live rows of `collection`."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {collection.name}")
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def refresh_status_counts(database: Database, time_zone: str) -> "pd.DataFrame":
    """Recounts `opportunities` by status, and by the week they start in (weeks of `time_zone`, from
    Monday), in one reading and one transaction, so the counts add up at `as_of`.

    Notes the counts of today, and those of days that have ended since. All days are counted anew
    when the time zone is another one, or a status has another phase.

    Returns a frame with one row a status, most frequent first: `opportunity_status` (text),
    `opportunities` (int), `charge_total`, `total_value` (Decimal, the account's currency).
    """
    # Half of what the web service would import before its first answer.
    import pandas as pd

    with database.session() as connection, connection.cursor() as cursor:
        # One summary at a time, or two would insert the same status.
        cursor.execute("LOCK TABLE status_counts IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute("DELETE FROM status_counts")
        cursor.execute(
            "WITH grouped AS MATERIALIZED ("
            " SELECT coalesce(opportunity_status, %(none)s) AS status,"
            " date_trunc('week', starts_at AT TIME ZONE %(zone)s)::date AS week,"
            " count(*) AS n, coalesce(sum(charge_total), 0) AS charge,"
            " coalesce(sum(total_value), 0) AS value FROM opportunities GROUP BY 1, 2),"
            # Only what differs is written: this runs after every webhook.
            " gone AS (DELETE FROM week_counts w WHERE NOT EXISTS (SELECT FROM grouped g"
            " WHERE g.week = w.week AND g.status = w.opportunity_status)),"
            " weeks AS (INSERT INTO week_counts AS w"
            " SELECT week, status, n, charge, value FROM grouped WHERE week IS NOT NULL"
            " ON CONFLICT (week, opportunity_status) DO UPDATE SET"
            " opportunities = excluded.opportunities, charge_total = excluded.charge_total,"
            " total_value = excluded.total_value"
            " WHERE (w.opportunities, w.charge_total, w.total_value) IS DISTINCT FROM"
            " (excluded.opportunities, excluded.charge_total, excluded.total_value))"
            " INSERT INTO status_counts"
            " SELECT status, sum(n)::bigint, sum(charge), sum(value), now()"
            " FROM grouped GROUP BY 1"
            " RETURNING opportunity_status, opportunities, charge_total, total_value",
            {"none": NO_STATUS, "zone": time_zone},
        )
        counted = cursor.fetchall()
        _keep_days(cursor, time_zone)
        connection.commit()
        follow_phases(connection, OPPORTUNITIES)
        frame = pd.DataFrame(
            counted,
            columns=["opportunity_status", "opportunities", "charge_total", "total_value"],
        )
    return frame.sort_values(
        ["opportunities", "opportunity_status"], ascending=[False, True], ignore_index=True
    )


def _keep_days(cursor: Cursor, time_zone: str) -> None:
    """Brings `daily_status_counts` up to the counts of now: each day that ended as the history
    knows its end, today as `status_counts` has it."""
    cursor.execute(
        "INSERT INTO mirror_state (name, value) VALUES ('time_zone', %(zone)s)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        " WHERE mirror_state.value <> excluded.value",
        {"zone": time_zone},
    )
    cursor.execute(
        "INSERT INTO mirror_state (name, value) SELECT 'days_counted_by', concat(%(zone)s::text,"
        " ' ', md5(string_agg(name || ' ' || phase, chr(10) ORDER BY name COLLATE \"C\")))"
        " FROM statuses ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        " WHERE mirror_state.value <> excluded.value RETURNING value",
        {"zone": time_zone},
    )
    if cursor.rowcount:
        cursor.execute("DELETE FROM daily_status_counts")
    cursor.execute(
        "SELECT greatest((began.value::timestamptz AT TIME ZONE %(zone)s)::date,"
        " (SELECT max(day) FROM daily_status_counts)), (now() AT TIME ZONE %(zone)s)::date"
        " FROM mirror_state began WHERE began.name = %(began)s",
        {"zone": time_zone, "began": BEGAN + OPPORTUNITIES.mark},
    )
    first, today = cursor.fetchone() or (None, None)
    if first is not None and first < today:
        values = {"zone": time_zone, "first": first, "today": today, "none": NO_STATUS}
        cursor.execute("DELETE FROM daily_status_counts WHERE day >= %(first)s", values)
        cursor.execute(_ENDED_DAYS, values)
    # Only what differs is written: this runs after every webhook.
    cursor.execute(
        "DELETE FROM daily_status_counts d WHERE day = (now() AT TIME ZONE %(zone)s)::date"
        " AND NOT EXISTS (SELECT FROM status_counts s"
        " WHERE s.opportunity_status = d.opportunity_status)",
        {"zone": time_zone},
    )
    cursor.execute(
        "INSERT INTO daily_status_counts AS d SELECT (now() AT TIME ZONE %(zone)s)::date,"
        " c.opportunity_status, coalesce(s.phase, 'open'), opportunities, charge_total, total_value"
        " FROM status_counts c LEFT JOIN statuses s ON s.name = c.opportunity_status"
        " ON CONFLICT (day, opportunity_status) DO UPDATE SET phase = excluded.phase,"
        " opportunities = excluded.opportunities, charge_total = excluded.charge_total,"
        " total_value = excluded.total_value"
        " WHERE (d.opportunities, d.charge_total, d.total_value) IS DISTINCT FROM"
        " (excluded.opportunities, excluded.charge_total, excluded.total_value)",
        {"zone": time_zone},
    )


# Each version counts from the day it began on to the day before the one that it ended on, so one
# reading of the history adds up however many days: what came and what went, day by day.
_ENDED_DAYS = """
    INSERT INTO daily_status_counts
    WITH versions AS (
        SELECT coalesce(opportunity_status, %(none)s) AS status,
            coalesce(charge_total, 0) AS charge, coalesce(total_value, 0) AS value,
             (valid_from AT TIME ZONE %(zone)s)::date AS since,
            coalesce((valid_to AT TIME ZONE %(zone)s)::date, 'infinity') AS until
        FROM opportunity_history WHERE NOT deleted
    ), moves AS (
        SELECT greatest(since, %(first)s) AS day, status, 1 AS n, charge, value FROM versions
        WHERE since < %(today)s AND until > %(first)s AND until > since
        UNION ALL
        SELECT until, status, -1, -charge, -value FROM versions
        WHERE until < %(today)s AND until > %(first)s AND until > since
    ), moved AS (
        SELECT day, status, sum(n) AS n, sum(charge) AS charge, sum(value) AS value
        FROM moves GROUP BY 1, 2
    ), days AS (
        SELECT day::date, status FROM generate_series(%(first)s::timestamp,
            %(today)s::timestamp - interval '1 day', interval '1 day') AS day,
            (SELECT DISTINCT status FROM moved) known
    ), counted AS (
        SELECT day, status, sum(n) OVER so_far AS n, sum(charge) OVER so_far AS charge,
            sum(value) OVER so_far AS value
        FROM days LEFT JOIN moved USING (day, status)
        WINDOW so_far AS (PARTITION BY status ORDER BY day)
    )
    SELECT day, status, coalesce(s.phase, 'open'), n, charge, value
    FROM counted LEFT JOIN statuses s ON s.name = status WHERE n > 0
"""
