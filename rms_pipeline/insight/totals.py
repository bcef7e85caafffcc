"""The totals of the mirror compared with earlier ones, which come from the stored daily counts."""

from collections.abc import Sequence
from datetime import date

from rms_pipeline.insight.compare import Figure, Known, Measure, schema_first, unknown_before
from rms_pipeline.insight.days import Day
from rms_pipeline.mirror.outcomes import CONFIRMED, LOST, Phase
from rms_pipeline.mirror.statements import Connection, Cursor, one_row

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
_SUMS = "SELECT coalesce(sum(c.opportunities), 0), coalesce(sum(c.total_value), 0)"


def compare_totals(connection: Connection, today: Day) -> list[Figure]:
    """The totals now, and at the end of the same weekday one week and 52 weeks before. Commits."""
    with connection.cursor() as cursor:
        first_line = schema_first(cursor)
        cursor.execute("SELECT min(day) FROM daily_status_counts")
        (began,) = one_row(cursor)
        figures = []
        for id_, title, explained, phase in _TOTALS:
            now = f"{_SUMS}\nFROM status_counts c"
            if phase is not None:
                now += f"\nJOIN statuses s ON s.name = c.opportunity_status AND s.phase = '{phase}'"
            figures.append(
                Figure(
                    id_,
                    title,
                    explained,
                    False,
                    _counted(cursor, first_line, now, "now", "Now", today),
                    [
                        _earlier(cursor, first_line, began, phase, name, said, then)
                        for name, said, days in _POINTS
                        if (then := today.moved(-days)) is not None
                    ],
                )
            )
    connection.commit()
    return figures


def _earlier(
    cursor: Cursor,
    first_line: str,
    began: date | None,
    phase: Phase | None,
    point: str,
    title: str,
    day: Day,
) -> Measure:
    if began is None or day.date < began:
        start = None if began is None else Day(began, day.time_zone).starts
        return unknown_before(point, title, day.ends, start)
    sql = f"{_SUMS}\nFROM daily_status_counts c\nWHERE c.day = '{day.date}'"
    if phase is not None:
        sql += f" AND c.phase = '{phase}'"
    return _counted(cursor, first_line, sql, point, title, day)


def _counted(
    cursor: Cursor, first_line: str, sql: str, point: str, title: str, day: Day
) -> Measure:
    cursor.execute(sql)
    count, value = one_row(cursor)
    known: Known = "now" if point == "now" else "then"
    return Measure(point, title, day.ends, int(count), value, known, "", f"{first_line}{sql};")
