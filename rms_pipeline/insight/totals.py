"""The totals of the mirror compared with earlier ones, which come from the stored daily counts."""

from collections.abc import Sequence
from datetime import datetime

from rms_pipeline.insight.compare import (
    Figure,
    Known,
    Measure,
    Point,
    Question,
    compare,
    no_history,
    said,
    schema_first,
    shifted,
    unknown_before,
)
from rms_pipeline.insight.days import Day
from rms_pipeline.mirror.overview import WEBHOOK_DAYS, WEEKS
from rms_pipeline.mirror.queued_events import RECORD
from rms_pipeline.mirror.statements import Connection, Cursor, one_row
from rms_pipeline.mirror.statuses import CONFIRMED, LOST, OUTCOMES, Phase

_POINTS = (("week_before", "Week before", 7), ("year_before", "Year before", 364))
_TOTALS: Sequence[tuple[str, str, str, Phase | None]] = (
    ("all", "Opportunities", "All opportunities of the mirror, and their value with tax.", None),
    (
        "confirmed",
        "Confirmed value",
        "Opportunities whose status has the phase confirmed, and their value with tax.",
        CONFIRMED,
    ),
    (
        "lost",
        "Cancelled, lost or dead",
        "Opportunities whose status has the phase lost, and their value with tax.",
        LOST,
    ),
)
_STARTS = "starts_at >= %(first)s AND starts_at < %(after)s"
_WEEKS = tuple(
    Question(
        f"weeks_{id_}",
        f"{title}, {WEEKS} weeks",
        f"{title}, and starts within {WEEKS} weeks from the Monday of this week on, with tax.",
        "SELECT count(*), sum(total_value)\nFROM {source}\n"
        f"WHERE {_STARTS}\n  AND {OUTCOMES[outcome].condition}",
        of_dates=of_dates,
    )
    for id_, title, outcome, of_dates in (
        ("confirmed", "Confirmed", "is:confirmed", True),
        ("undecided", "Undecided", "is:undecided", False),
    )
)
_SUMS = "SELECT coalesce(sum(c.opportunities), 0), coalesce(sum(c.total_value), 0)"


def compare_totals(connection: Connection, today: Day) -> list[Figure]:
    """Now, and as they were at the end of the same weekday a week and 52 weeks before. Commits."""
    with connection.cursor() as cursor:
        days = _Days(cursor, today)
        figures = []
        for id_, title, explained, phase in _TOTALS:
            now, then = _SUMS + "\nFROM status_counts c", ""
            if phase is not None:
                now += f"\nJOIN statuses s ON s.name = c.opportunity_status AND s.phase = '{phase}'"
                then = f" AND c.phase = '{phase}'"
            figures.append(days.figure(id_, title, explained, now, then))
    connection.commit()
    return figures


def compare_statuses(connection: Connection, today: Day, statuses: Sequence[str]) -> list[Figure]:
    """Each of `statuses` now, and at the end of the same days of earlier. Commits."""
    explained = "Those in this status, with what they are worth with tax."
    with connection.cursor() as cursor:
        days = _Days(cursor, today)
        figures = []
        for name in statuses:
            named = cursor.mogrify("c.opportunity_status = %s", (name,)).decode()
            now = f"{_SUMS}\nFROM status_counts c\nWHERE {named}"
            figures.append(days.figure(f"status:{name}", name, explained, now, f" AND {named}"))
    connection.commit()
    return figures


def compare_weeks(connection: Connection, today: Day, now: datetime) -> list[Figure]:
    """What starts in the weeks that the dashboard shows, and what did in as many weeks from the
    same weekday of earlier on, each as it was known at the same time of that day. Commits."""

    def point(id_: str, title: str, days: int) -> Point | None:
        monday = today.moved(-days - today.date.weekday())
        after = None if monday is None else monday.moved(7 * WEEKS)
        if monday is None or after is None:
            return None
        values = {"first": monday.starts, "after": after.starts}
        return Point(id_, title, shifted(now, today.time_zone, days=days), monday.starts, values)

    present = point("now", "Now", 0)
    if present is None:
        return []
    before = [found for each in _POINTS if (found := point(*each)) is not None]
    return compare(connection, _WEEKS, present, before, today.time_zone)


def compare_webhooks(connection: Connection, today: Day, now: datetime) -> Figure:
    """The webhooks of the last seven days up to `now`, and of the seven days before up to the same
    time of day. Commits."""
    explained = (
        f"Webhooks about records that arrived on the last {WEBHOOK_DAYS} days, today included, in "
        "the company's time zone. The days before end at the same time of day, so that both are "
        "equally long."
    )
    with connection.cursor() as cursor:
        first_line = schema_first(cursor)
        cursor.execute("SELECT min(received_at) FROM webhook_events")
        (began,) = one_row(cursor)

        def measured(point: str, title: str, days: int) -> Measure:
            first = today.moved(-days - WEBHOOK_DAYS + 1)
            at = shifted(now, today.time_zone, days=days)
            if first is None or (days and (began is None or began >= first.ends)):
                since = f" before {said(began, today.time_zone)}" if began else ""
                return unknown_before(point, title, at, f"no webhooks{since}")
            sql = cursor.mogrify(
                f"SELECT count(*)\nFROM webhook_events e\nWHERE {RECORD} IS NOT NULL\n"
                "  AND received_at >= %s AND received_at <= %s",
                (first.starts, at),
            ).decode()
            cursor.execute(sql)
            (count,) = one_row(cursor)
            known: Known = "then" if days else "now"
            return Measure(point, title, at, count, None, known, "", f"{first_line}{sql};")

        figure = Figure(
            "webhooks",
            f"Webhooks, {WEBHOOK_DAYS} days",
            explained,
            False,
            measured("now", "Now", 0),
            [measured("week_before", f"{WEBHOOK_DAYS} days before", WEBHOOK_DAYS)],
        )
    connection.commit()
    return figure


class _Days:
    """The counts that are kept for each day, up to `today`."""

    def __init__(self, cursor: Cursor, today: Day) -> None:
        self._cursor, self._today, self._first_line = cursor, today, schema_first(cursor)
        cursor.execute("SELECT min(day) FROM daily_status_counts")
        (self._began,) = one_row(cursor)

    def figure(self, id_: str, title: str, explained: str, now: str, then: str) -> Figure:
        """The SQL `now` counts it, and `then` is the condition of it among the counts of a day."""
        present = _counted(self._cursor, self._first_line, now, "now", "Now", self._today)
        before = [
            self._earlier(then, point, said, day)
            for point, said, days in _POINTS
            if (day := self._today.moved(-days)) is not None
        ]
        return Figure(id_, title, explained, False, present, before)

    def _earlier(self, then: str, point: str, title: str, day: Day) -> Measure:
        if self._began is None or day.date < self._began:
            start = None if self._began is None else Day(self._began, day.time_zone).starts
            return unknown_before(point, title, day.ends, no_history(start, day.time_zone))
        sql = f"{_SUMS}\nFROM daily_status_counts c\nWHERE c.day = '{day.date}'{then}"
        return _counted(self._cursor, self._first_line, sql, point, title, day)


def _counted(
    cursor: Cursor, first_line: str, sql: str, point: str, title: str, day: Day
) -> Measure:
    cursor.execute(sql)
    count, value = one_row(cursor)
    known: Known = "now" if point == "now" else "then"
    return Measure(point, title, day.ends, int(count), value, known, "", f"{first_line}{sql};")
