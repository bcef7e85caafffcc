"""Figures compared with earlier ones, and the SQL of each figure.

An earlier figure is what the mirror knew at that time, read from the history. If the history does
not reach back that far, past dates are counted as they are known now, if the mirror has them.
Otherwise the figure is unknown, and the page says so. The SQL that is shown is the SQL that was
run, so an analyst can copy it.

What belongs here: earlier points in time, and counting at them. What does not: which figures a page
has (`today`, `parties`), and how they look.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.days import FIRST, LAST, Day
from rms_pipeline.mirror.mirrored_windows import read_reach
from rms_pipeline.mirror.record_history import BEGAN
from rms_pipeline.mirror.statements import Connection, Cursor, one_row

Known = Literal["now", "then", "unknown"]


@dataclass(frozen=True, slots=True)
class Memory:
    """`began` is the time from which the history is known. `covered` is the time back to which
    opportunities are mirrored. Both are UTC, and None if there is nothing yet. Texts name days of
    `time_zone`."""

    began: datetime | None
    covered: datetime | None
    time_zone: str

    @property
    def missing(self) -> str:
        """The text that is shown if the history does not reach back far enough."""
        return no_history(self.began, self.time_zone)

    @property
    def covered_said(self) -> str:
        """The day back to which opportunities are mirrored, as text."""
        return said(self.covered, self.time_zone)

    def lacking(self, periods: Mapping[str, datetime]) -> list[str]:
        """The names of those `periods` of which something is not mirrored. Each has the time (UTC)
        at which it begins."""
        return [n for n, begins in periods.items() if not self.covered or begins < self.covered]

    def knows(self, at: datetime) -> bool:
        """Whether the history says what the mirror held at `at`."""
        return self.began is not None and at >= self.began


@dataclass(frozen=True, slots=True)
class Question:
    """A figure: a count, and a value or another number.

    `sql` is one SELECT of these two from `{source}`, which is the table now or as it was at an
    earlier time. SQL without `{source}` reads what never changes, such as the log of changes.
    `of_dates` says that the figure is about starts or ends. Such a figure can be counted for a past
    time without a history.
    """

    id: str
    title: str
    explained: str
    sql: str
    of_dates: bool = True
    is_percent: bool = False

    @property
    def is_of_rows(self) -> bool:
        return "{source}" in self.sql


@dataclass(frozen=True, slots=True)
class Point:
    """A time with which figures are compared. `at` (UTC) is the time of the history that is read.
    `values` are the parameters of the questions, which ask about a period that begins at `first`
    (UTC)."""

    id: str
    title: str
    at: datetime
    first: datetime
    values: Mapping[str, Any]
    # About the days of now, as they were known earlier: what is known now says nothing of that.
    same_days: bool = False


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure at one point. `count` is None if it is unknown. `value` is None if it is unknown or
    does not exist. `known` says whether it is as known "now" or "then". `note` explains that, '' if
    there is nothing to explain. `sql` is the statement, '' if the figure is unknown."""

    point: str
    title: str
    at: datetime
    count: int | None
    value: Decimal | None
    known: Known
    note: str
    sql: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure now, and at each earlier point. `explained` says how it is counted. `is_percent`
    says that its values are percentages and not money."""

    id: str
    title: str
    explained: str
    is_percent: bool
    now: Measure
    before: list[Measure]


def read_memory(connection: Connection, time_zone: str) -> Memory:
    """Reads since when the history and the mirror of a company in `time_zone` know something.
    Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT value::timestamptz FROM mirror_state WHERE name = %s",
            (BEGAN + OPPORTUNITIES.mark,),
        )
        row = cursor.fetchone()
    connection.commit()
    covered = read_reach(connection, OPPORTUNITIES).reaches_back_to
    return Memory(row[0] if row else None, covered, time_zone)


def compare(
    connection: Connection,
    questions: Sequence[Question],
    now: Point,
    before: Sequence[Point],
    time_zone: str,
) -> list[Figure]:
    """Counts each of `questions` now and at the points `before`. Texts name days of `time_zone`.
    Commits."""
    memory = read_memory(connection, time_zone)
    with connection.cursor() as cursor:
        schema = schema_first(cursor)
        figures = []
        for question in questions:
            figures.append(
                Figure(
                    question.id,
                    question.title,
                    question.explained,
                    question.is_percent,
                    _measured(cursor, schema, question, now, "opportunities", "now", ""),
                    [_earlier(cursor, schema, memory, question, point) for point in before],
                )
            )
    connection.commit()
    return figures


def _earlier(
    cursor: Cursor, schema: str, memory: Memory, question: Question, point: Point
) -> Measure:
    if memory.knows(point.at):
        source = _as_of(cursor, point.at) if question.is_of_rows else ""
        return _measured(cursor, schema, question, point, source, "then", "")
    missing = memory.missing
    unknown = unknown_before(point.id, point.title, point.at, missing)
    if not question.of_dates or point.same_days:
        return unknown
    if memory.covered is None or memory.covered > point.first:
        note = f"{missing}, and the mirror has nothing older than {memory.covered_said}"
        return replace(unknown, note=note if memory.covered else missing)
    return _measured(
        cursor, schema, question, point, "opportunities", "now", f"as known now: {missing}"
    )


def _measured(
    cursor: Cursor,
    schema: str,
    question: Question,
    point: Point,
    source: str,
    known: Known,
    note: str,
) -> Measure:
    # Only names of ours and times stand in `source`; per cents in it would be taken for values.
    text = question.sql.replace("{source}", source.replace("%", "%%"))
    sql = cursor.mogrify(text, dict(point.values)).decode().strip()
    # Without values psycopg2 leaves per cents as they are.
    cursor.execute(sql)
    count, value = one_row(cursor)
    return Measure(
        point.id, point.title, point.at, count or 0, value, known, note, f"{schema}{sql};"
    )


def _as_of(cursor: Cursor, at: datetime) -> str:
    return f"opportunities_as_of({cursor.mogrify('%s', (at,)).decode()})"


def schema_first(cursor: Cursor) -> str:
    """The statement that has to precede SQL if our tables are not in `public`, else ''."""
    cursor.execute("SELECT quote_ident(current_schema())")
    (name,) = one_row(cursor)
    return "" if name == "public" else f"SET search_path TO {name};\n"


def unknown_before(point: str, title: str, at: datetime, note: str) -> Measure:
    """A figure that is unknown, for example because its time is before the history began. `note`
    says why."""
    return Measure(point, title, at, None, None, "unknown", note, "")


def no_history(began: datetime | None, time_zone: str) -> str:
    """ "no history before 3 March 2026". The day is that of `time_zone`."""
    return f"no history before {said(began, time_zone)}" if began else "no history yet"


def said(moment: datetime | None, time_zone: str) -> str:
    """The day of `moment` in `time_zone`: 3 March 2026"""
    if moment is None:
        return "now"
    day = Day.near(moment, time_zone).date
    return f"{day.day} {day:%B %Y}"


def shifted(moment: datetime, time_zone: str, *, days: int = 0, months: int = 0) -> datetime:
    """The same time of day in the company's time zone, that many days or calendar months earlier
    (UTC)."""
    local = moment.astimezone(ZoneInfo(time_zone)).replace(tzinfo=None)
    earlier = months_before(local.date(), months) - timedelta(days=days)
    earlier = min(max(earlier, FIRST), LAST)
    return (
        datetime.combine(earlier, local.time()).replace(tzinfo=ZoneInfo(time_zone)).astimezone(UTC)
    )


def months_before(day: date, months: int) -> date:
    """The same day that many months earlier, or the last day of that month."""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    for last in (day.day, 30, 29, 28):
        try:
            return date(year, month + 1, min(day.day, last))
        except ValueError:
            continue
    raise ValueError(f"{day} has no month {months} before it")
