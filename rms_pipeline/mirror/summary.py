"""`status_counts`, `week_counts` and `daily_status_counts`: the summaries that people look at
first, kept ready."""

from typing import TYPE_CHECKING

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.remembered import BEGAN, follow_phases
from rms_pipeline.mirror.remembered import NO_STATUS as NO_STATUS
from rms_pipeline.mirror.statements import Connection, Cursor, described

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
            described("count_statuses"),
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
        cursor.execute(described("count_ended_days"), values)
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
