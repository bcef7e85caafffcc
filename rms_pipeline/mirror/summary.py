"""`status_counts`, `week_counts` and `daily_status_counts`: the summaries that people look at
first, kept ready."""

from typing import TYPE_CHECKING

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.remembered import BEGAN, follow_phases
from rms_pipeline.mirror.remembered import NO_STATUS as NO_STATUS
from rms_pipeline.mirror.statements import Connection, Cursor, described, one_row

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

    Notes the counts of today, and those of days that have ended since. When the time zone is
    another one, all days are counted anew that the history reaches; when a status has another
    phase, all days tell that one.

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
            # What the history has forgotten cannot be counted again: those days stay. The day on
            # which it began may be another in this time zone.
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
    # Of a clock that was ahead.
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
