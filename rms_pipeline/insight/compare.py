"""Figures beside those of earlier, and the SQL that gives each.

A figure of earlier is what the mirror knew then: by the history, where that reaches. Where it does
not, what lies in the past by its dates is counted as it is known now, if the mirror reaches back so
far; of the rest it is said that nobody knows. Whatever is shown was counted by the SQL that is
shown beside it, so that an analyst can copy it.

What belongs here: points of earlier, and counting at them. What does not: which figures a page has
(`today`, `parties`), and how they look.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.days import FIRST, LAST
from rms_pipeline.mirror.reach import read_reach
from rms_pipeline.mirror.remembered import BEGAN
from rms_pipeline.mirror.statements import Connection, Cursor, one_row

Known = Literal["now", "then", "unknown"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Since when the history knows what was (`began`), and back to when opportunities are mirrored
    (`covered`): UTC, None where there is nothing yet."""

    began: datetime | None
    covered: datetime | None

    @property
    def missing(self) -> str:
        """What is said where the history does not reach."""
        return no_history(self.began)

    @property
    def covered_said(self) -> str:
        """The day from which on opportunities are mirrored."""
        return said(self.covered)

    def knows(self, at: datetime) -> bool:
        """Whether it is known what the mirror held at `at`."""
        return self.began is not None and at >= self.began


@dataclass(frozen=True, slots=True)
class Question:
    """A figure: how many, and what they are worth or another number.

    `sql` is one SELECT of those two, from `{source}`: the table, or the table as it was. Without a
    place for that it asks of what never changes, such as the log of changes. `of_dates`: it is
    about what starts or ends at some time, and says something of a past that no history knows.
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
    """A time that figures are held against. `at` (UTC) is the moment as of which it is asked,
    `values` what the questions then ask about, which begins at `first` (UTC)."""

    id: str
    title: str
    at: datetime
    first: datetime
    values: Mapping[str, Any]
    # About the days of now, as they were known earlier: what is known now says nothing of that.
    same_days: bool = False


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure at a point: `count` and `value` are None where it is not known, and `value` where
    there is none. `known` tells whether it is as known "now" or "then"; `note` says in words what
    is to be known about that, '' for nothing. `sql` gives the same, '' where it is not known."""

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
    """A figure now, and at each point of earlier. `explained` says in words how it is counted.
    `is_percent`: its values are per cents, and no money."""

    id: str
    title: str
    explained: str
    is_percent: bool
    now: Measure
    before: list[Measure]


def read_memory(connection: Connection) -> Memory:
    """What is known of earlier. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT value::timestamptz FROM mirror_state WHERE name = %s",
            (BEGAN + OPPORTUNITIES.mark,),
        )
        row = cursor.fetchone()
    connection.commit()
    covered = read_reach(connection, OPPORTUNITIES).reaches_back_to
    return Memory(row[0] if row else None, covered)


def compare(
    connection: Connection, questions: Sequence[Question], now: Point, before: Sequence[Point]
) -> list[Figure]:
    """Each of `questions` now and at the points `before`. Commits."""
    memory = read_memory(connection)
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
    unknown = unknown_before(point.id, point.title, point.at, memory.began)
    if not question.of_dates or point.same_days:
        return unknown
    if memory.covered is None or memory.covered > point.first:
        note = f"{missing}, and nothing older than {said(memory.covered)} is mirrored"
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
    """What has to precede SQL where our tables are not where everybody looks."""
    cursor.execute("SELECT quote_ident(current_schema())")
    (name,) = one_row(cursor)
    return "" if name == "public" else f"SET search_path TO {name};\n"


def unknown_before(point: str, title: str, at: datetime, began: datetime | None) -> Measure:
    """A figure of before the history `began`."""
    return Measure(point, title, at, None, None, "unknown", no_history(began), "")


def no_history(began: datetime | None) -> str:
    """ "no history before 3 March 2026": days are those of UTC."""
    return f"no history before {said(began)}" if began else "no history yet"


def said(moment: datetime | None) -> str:
    """3 March 2026"""
    if moment is None:
        return "now"
    day = moment.astimezone(UTC)
    return f"{day.day} {day:%B %Y}"


def shifted(moment: datetime, time_zone: str, *, days: int = 0, months: int = 0) -> datetime:
    """The same time of the company's clock so many days, or calendar months, earlier (UTC)."""
    local = moment.astimezone(ZoneInfo(time_zone)).replace(tzinfo=None)
    earlier = months_before(local.date(), months) - timedelta(days=days)
    earlier = min(max(earlier, FIRST), LAST)
    return (
        datetime.combine(earlier, local.time()).replace(tzinfo=ZoneInfo(time_zone)).astimezone(UTC)
    )


def months_before(day: date, months: int) -> date:
    """The same day so many months earlier, or the last of that month."""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    for last in (day.day, 30, 29, 28):
        try:
            return date(year, month + 1, min(day.day, last))
        except ValueError:
            continue
    raise ValueError(f"{day} has no month {months} before it")
