"""The stored summaries that people look at first.

They are `status_counts`, `week_counts` and `daily_status_counts`.
"""

from typing import TYPE_CHECKING

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.record_history import BEGAN, follow_phases
from rms_pipeline.mirror.record_history import NO_STATUS as NO_STATUS
from rms_pipeline.mirror.statements import Connection, Cursor, described, one_row

if TYPE_CHECKING:
    import pandas as pd


def count_rows(connection: Connection, collection: Collection) -> int:
    """Return the number of live rows of `collection`."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {collection.name}")
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def refresh_status_counts(database: Database, time_zone: str) -> "pd.DataFrame":
    """Recount `opportunities` by status, and by the week in which they start.

    Weeks are those of `time_zone`, from Monday. Everything is read once in one transaction, so the
    counts agree at `as_of`. It also stores the counts of today and of days that have ended since.
    If the time zone has changed, all days of the history are counted again. If a status has another
    phase, all days get that phase.

    Returns a frame with one row for each status, the most frequent first: `opportunity_status`
    (text), `opportunities` (int), `charge_total`, `total_value` (Decimal, the account's currency).
    """
    # Imported here, because it is half of what the web service would import before its first
    # answer.
    import pandas as pd

    with database.session() as connection, connection.cursor() as cursor:
        # One summary at a time. Otherwise two would insert the same status.
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
    """Bring `daily_status_counts` up to now.

    A day that ended gets the counts of its end from the history. Today gets those of
    `status_counts`.
    """
    cursor.execute(
        "INSERT INTO mirror_state (name, value) VALUES ('time_zone', %(zone)s)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        " WHERE mirror_state.value <> excluded.value",
        {"zone": time_zone},
    )
    began = (
        "(SELECT (value::timestamptz AT TIME ZONE %({zone})s)::date FROM mirror_state"
        " WHERE name = %(began)s)"
    )
    values = {"zone": time_zone, "began": BEGAN + OPPORTUNITIES.mark}
    cursor.execute(
        "SELECT (SELECT value FROM mirror_state WHERE name = 'days_counted_by'),"
        " concat(%(zone)s::text, ' ', md5(string_agg(name || ' ' || phase, chr(10)"
        ' ORDER BY name COLLATE "C"))) FROM statuses',
        values,
    )
    counted_by, wanted = one_row(cursor)
    if counted_by != wanted:
        before = (counted_by or time_zone).partition(" ")[0]
        if counted_by is None or before != time_zone:
            # What was deleted from the history cannot be counted again, so those days stay. The day
            # on which the history began may be another one in this time zone.
            first = f"least({began.format(zone='zone')}, {began.format(zone='before')})"
            cursor.execute(
                f"DELETE FROM daily_status_counts WHERE (day >= {first}) IS NOT FALSE",
                {**values, "before": before},
            )
        cursor.execute(
            "UPDATE daily_status_counts d SET phase = n.phase FROM (SELECT c.opportunity_status,"
            " coalesce(s.phase, 'open') AS phase FROM (SELECT DISTINCT opportunity_status"
            " FROM daily_status_counts) c LEFT JOIN statuses s ON s.name = c.opportunity_status) n"
            " WHERE d.opportunity_status = n.opportunity_status AND d.phase <> n.phase"
        )
        cursor.execute(
            "INSERT INTO mirror_state (name, value) VALUES ('days_counted_by', %s)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (wanted,),
        )
    # Rows of a clock that was ahead.
    cursor.execute(
        "DELETE FROM daily_status_counts WHERE day > (now() AT TIME ZONE %(zone)s)::date", values
    )
    cursor.execute(
        f"SELECT greatest({began.format(zone='zone')}, (SELECT max(day) FROM daily_status_counts)),"
        " (now() AT TIME ZONE %(zone)s)::date FROM mirror_state WHERE name = %(began)s",
        values,
    )
    first, today = cursor.fetchone() or (None, None)
    if first is not None and first < today:
        days = {"zone": time_zone, "first": first, "today": today, "none": NO_STATUS}
        cursor.execute("DELETE FROM daily_status_counts WHERE day >= %(first)s", days)
        cursor.execute(described("count_ended_days"), days)
    # Only what differs is written, because this runs after every webhook.
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
