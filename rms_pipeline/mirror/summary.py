"""The stored summaries that people look at first.

They are `status_counts`, `week_counts` and `daily_status_counts`.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.promoted import follow_zone
from rms_pipeline.mirror.proofs import number_if_nobody_writes
from rms_pipeline.mirror.record_history import BEGAN, follow_phases
from rms_pipeline.mirror.record_history import NO_STATUS as NO_STATUS
from rms_pipeline.mirror.statements import Connection, Cursor, described, in_the_future, one_row

# Remembers of which content the statuses were last counted.
_COUNTED_OF = "statuses_counted_of"
# When the transaction of another session began. It is NULL if another role began it.
_BEGAN = "a.xact_start"
# Remembers the first day that has to be counted again although it has ended.
_OPEN_DAY = "days_counted_while_written"


class StatusCount(NamedTuple):
    """How many opportunities have a status, and their charges in the account's currency."""

    opportunity_status: str
    opportunities: int
    charge_total: Decimal
    total_value: Decimal


def count_rows(connection: Connection, collection: Collection) -> int:
    """Return the number of live rows of `collection`."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {collection.name}")
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def refresh_status_counts(
    database: Database, time_zone: str, *, only_if_changed: bool = False
) -> list[StatusCount]:
    """Recount `opportunities` by status, and by the week in which they start.

    Weeks are those of `time_zone`, from Monday. Everything is read once in one transaction, so the
    counts agree at `as_of`. It also stores the counts of today and of days that have ended since.
    If the time zone has changed, all days of the history are counted again, and dates are read from
    times again. If a status has another
    phase, all days get that phase.

    Counting reads every row. With `only_if_changed` it is left out if the mirror has written no row
    since they were last counted; then `as_of` alone moves on.

    Returns the counts of all statuses, the most frequent first.
    """
    with database.session() as connection, connection.cursor() as cursor:
        # Noted before the count. What is written meanwhile may be in the count, but it raises the
        # number, so the next time counts it for certain.
        content, at = _content(cursor, time_zone)
        connection.commit()
        # One summary at a time. Otherwise two would insert the same status.
        cursor.execute("LOCK TABLE status_counts IN SHARE ROW EXCLUSIVE MODE")
        if only_if_changed and content is not None and _counted_of(cursor) == content:
            # Another summary may have counted something newer since.
            cursor.execute(
                f"UPDATE status_counts SET as_of = CASE WHEN {in_the_future('as_of')} THEN %(at)s"
                " ELSE greatest(as_of, %(at)s) END",
                {"at": at},
            )
            cursor.execute(
                "SELECT opportunity_status, opportunities, charge_total, total_value"
                " FROM status_counts"
            )
        else:
            _note_counted_of(cursor, content)
            cursor.execute("DELETE FROM status_counts")
            cursor.execute(
                described("count_statuses"),
                {"none": NO_STATUS, "zone": time_zone},
            )
        counted = [StatusCount(*row) for row in cursor.fetchall()]
        _keep_days(cursor, time_zone)
        connection.commit()
        follow_phases(connection, OPPORTUNITIES)
        follow_zone(connection, OPPORTUNITIES)
    return sorted(counted, key=lambda c: (-c.opportunities, c.opportunity_status))


def _content(cursor: Cursor, time_zone: str) -> tuple[str | None, datetime]:
    """Return what a count of the rows as they are now is of, and now.

    It is None if somebody is writing rows, because such a count may or may not include those.
    """
    number = number_if_nobody_writes(cursor, OPPORTUNITIES)
    cursor.execute("SELECT clock_timestamp()")
    (at,) = one_row(cursor)
    # Weeks are those of a time zone. Another mapping may read another status out of a record.
    known = None if number is None else f"{number} {OPPORTUNITIES.version} {time_zone}"
    return known, at


def _counted_of(cursor: Cursor) -> str | None:
    cursor.execute("SELECT value FROM mirror_state WHERE name = %s", (_COUNTED_OF,))
    row = cursor.fetchone()
    return None if row is None else row[0]


def _note_counted_of(cursor: Cursor, content: str | None) -> None:
    if content is None:
        cursor.execute("DELETE FROM mirror_state WHERE name = %s", (_COUNTED_OF,))
        return
    cursor.execute(
        "INSERT INTO mirror_state (name, value) VALUES (%s, %s)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (_COUNTED_OF, content),
    )


def _note_open_day(cursor: Cursor, days: dict[str, Any]) -> None:
    """Note `first` as a day to count again, if a writer may still end versions before `today`.

    What it writes is not visible yet. Call it before the count, so that whoever begins in between
    writes of today.
    """
    cursor.execute("DELETE FROM mirror_state WHERE name = %s", (_OPEN_DAY,))
    cursor.execute(
        "INSERT INTO mirror_state (name, value) SELECT %(name)s, %(first)s::date::text"
        " WHERE EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
        f" WHERE l.relation = '{OPPORTUNITIES.versions}'::regclass AND l.database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND l.mode IN ('RowShareLock', 'RowExclusiveLock') AND l.pid <> pg_backend_pid()"
        f" AND {_BEGAN} < %(today)s::timestamp AT TIME ZONE %(zone)s)",
        {**days, "name": _OPEN_DAY},
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
        f"SELECT greatest({began.format(zone='zone')}, least("
        " coalesce((SELECT max(day) FROM daily_status_counts), '-infinity'),"
        " (SELECT value::date FROM mirror_state WHERE name = %(open)s))),"
        " (now() AT TIME ZONE %(zone)s)::date FROM mirror_state WHERE name = %(began)s",
        {**values, "open": _OPEN_DAY},
    )
    first, today = cursor.fetchone() or (None, None)
    if first is not None and first < today:
        days = {"zone": time_zone, "first": first, "today": today, "none": NO_STATUS}
        _note_open_day(cursor, days)
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
