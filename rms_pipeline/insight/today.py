"""One day of a hire company: what goes out, comes back, is out, and was decided.

Equipment goes out at the start of the delivery, else of the hire. It comes back at the end of the
collection, else of the hire. The table `statuses` says what is confirmed and what is lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from rms_pipeline.insight.changes import CHARGE, as_number
from rms_pipeline.insight.compare import Figure, Point, Question, compare, shifted
from rms_pipeline.insight.days import FIRST, Day
from rms_pipeline.insight.periods import weekend_of
from rms_pipeline.mirror.changes import STATUS
from rms_pipeline.mirror.criteria import COMES_BACK, GOES_OUT, is_out
from rms_pipeline.mirror.overview import add_up
from rms_pipeline.mirror.statements import Connection, Cursor, one_row
from rms_pipeline.mirror.statuses import CONFIRMED, LOST, OUTCOMES, Phase

# As many jobs are listed of each kind; and so many are counted, at most, unless one says so.
MOST_LISTED, MOST_COUNTED = 100, 10_000
SOON_DAYS = 7
_MOST_CHANGES = 10
# Of so many jobs of each kind the stores are looked for.
_MOST_LOOKED_AT = 1_000
# The one status in which Current RMS says that equipment has been booked out.
OUT = "Active"
_CONFIRMED, _OPEN = OUTCOMES["is:confirmed"].condition, OUTCOMES["is:undecided"].condition
_WHEN = "coalesce(c.changed_at, c.seen_at)"


@dataclass(frozen=True, slots=True)
class Job:
    """An opportunity of the day. Times are UTC. `comes_back` is None if the hire is open-ended or
    the time is not known. Money is in the account's currency, with tax. Its equipment leaves from
    the store `store_id`."""

    id: int
    number: str | None
    name: str
    status: str | None
    customer: str | None
    venue: str | None
    owner: str | None
    goes_out: datetime | None
    comes_back: datetime | None
    open_ended: bool
    total_value: Decimal | None
    customer_id: int | None
    store_id: int | None


@dataclass(frozen=True, slots=True)
class Jobs:
    """The first `MOST_LISTED` opportunities. `count` counts all of them if `is_counted`, else only
    the counted ones. `total_value` is the value of the counted ones, with tax."""

    count: int
    total_value: Decimal | None
    jobs: list[Job]
    is_counted: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """A confirmed, lost or deleted opportunity. `before` is its status before, None if it was
    entered with this status. `after` is None if it was deleted. `by` is None if the person is not
    known."""

    id: int
    number: str | None
    name: str
    customer: str | None
    total_value: Decimal | None
    before: str | None
    after: str | None
    at: datetime
    by: str | None


@dataclass(frozen=True, slots=True)
class Revaluation:
    """The charge without tax of an opportunity before and after all changes of the period. `by` are
    the people who are known to have changed it."""

    id: int
    number: str | None
    name: str
    customer: str | None
    before: Decimal
    after: Decimal
    by: list[str]

    @property
    def difference(self) -> Decimal:
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class Today:
    """The day `date`, from `starts` to `ends` (UTC), as the mirror knows it now. Decisions and
    changes are those since the working day before, which began at `since`: those of a weekend are
    found on the Monday. `confirmed` and `lost` have the newest `MOST_LISTED` decisions, and
    their counts all of them. `late_back` is None unless the day is today. `stores` are the ids of
    the stores from which confirmed jobs of the day leave. With a `store`, all jobs are of this one,
    and decisions and changes are of all."""

    date: date
    time_zone: str
    starts: datetime
    ends: datetime
    since: datetime
    is_today: bool
    goes_out: Jobs
    comes_back: Jobs
    on_hire: Jobs
    late_back: Jobs | None
    not_confirmed: Jobs
    confirmed: list[Decision]
    confirmed_count: int
    lost: list[Decision]
    lost_count: int
    biggest_changes: list[Revaluation]
    store: int | None
    stores: list[int]


def read_today(
    connection: Connection,
    day: Day,
    now: datetime,
    most: int = MOST_COUNTED,
    store: int | None = None,
) -> Today:
    """The state of `day` at `now`, of one `store` if it is given. Jobs of each kind are counted to
    `most`. Commits."""
    is_today = day.starts <= now < day.ends
    values = _values_of(day, now) | {"most": most, "store": store}
    with connection.cursor() as cursor:
        confirmed = _confirmed(cursor, values)
        lost, lost_count = _lost(cursor, values)
        found = Today(
            date=day.date,
            time_zone=day.time_zone,
            starts=day.starts,
            ends=day.ends,
            since=values["since"],
            is_today=is_today,
            goes_out=_jobs(cursor, _LEAVING, GOES_OUT, values),
            comes_back=_jobs(cursor, _RETURNING, COMES_BACK, values),
            on_hire=_jobs(cursor, _ON_HIRE, COMES_BACK, values),
            late_back=_jobs(cursor, _LATE_BACK, COMES_BACK, values) if is_today else None,
            not_confirmed=_jobs(cursor, _NOT_CONFIRMED, GOES_OUT, values),
            confirmed=_newest_first(confirmed),
            confirmed_count=len(confirmed),
            lost=_newest_first(lost),
            lost_count=lost_count,
            biggest_changes=_biggest_changes(cursor, values),
            store=store,
            stores=_stores(cursor, values),
        )
    connection.commit()
    return found


def compare_today(connection: Connection, day: Day, now: datetime) -> list[Figure]:
    """The figures of `day`, and those of the same weekday one week and 52 weeks before, as they
    were known at the same time of that day. Commits."""

    def point(id_: str, title: str, days: int) -> Point | None:
        then = day.moved(-days)
        if then is None:
            return None
        at = shifted(now, day.time_zone, days=days)
        return Point(id_, title, at, then.starts, _values_of(then, at))

    points = [
        point("week_before", "The week before", 7),
        point("year_before", "The year before", 364),
    ]
    present = Point("now", "Now", now, day.starts, _values_of(day, now))
    is_today = day.starts <= now < day.ends
    questions = [q for q in QUESTIONS if is_today or q.id != "late_back"]
    return compare(connection, questions, present, [p for p in points if p], day.time_zone)


def working_day_before(day: Day) -> Day:
    """The last day before `day` that is no weekend in the company's country."""
    before = weekend_of(day.time_zone).working_day_before(day.date)
    return Day(max(before, FIRST), day.time_zone)


def _values_of(day: Day, now: datetime) -> dict[str, Any]:
    before, soon = working_day_before(day), day.moved(SOON_DAYS)
    return {
        "starts": day.starts,
        "ends": day.ends,
        "since": before.starts,
        # For a day that goes on, decisions are compared up to the same time of day.
        "until": min(max(now, before.starts), day.ends),
        "soon": soon.starts if soon else day.starts + timedelta(days=SOON_DAYS),
        "now": now,
    }


_LEAVING = f"{GOES_OUT} >= %(starts)s AND {GOES_OUT} < %(ends)s AND {_CONFIRMED}"
_RETURNING = (
    f"{COMES_BACK} >= %(starts)s AND {COMES_BACK} < %(ends)s AND open_ended_rental IS NOT TRUE"
    f" AND {_CONFIRMED}"
)
_ON_HIRE = f"{is_out('%(starts)s', '%(ends)s')} AND {_CONFIRMED}"
_LATE_BACK = (
    f"opportunity_status = '{OUT}' AND {COMES_BACK} < %(now)s AND open_ended_rental IS NOT TRUE"
)
_NOT_CONFIRMED = f"{GOES_OUT} >= %(starts)s AND {GOES_OUT} < %(soon)s AND {_OPEN}"


def _stores(cursor: Cursor, values: Mapping[str, Any]) -> list[int]:
    found = " UNION ALL ".join(
        f"(SELECT store_id FROM opportunities WHERE {where} LIMIT {_MOST_LOOKED_AT})"
        for where in (_LEAVING, _RETURNING, _ON_HIRE)
    )
    cursor.execute(
        f"SELECT DISTINCT store_id FROM ({found}) s WHERE store_id IS NOT NULL"
        f" ORDER BY 1 LIMIT {MOST_LISTED}",
        values,
    )
    return [row[0] for row in cursor.fetchall()]


def _jobs(cursor: Cursor, where: str, order: str, values: Mapping[str, Any]) -> Jobs:
    if values["store"] is not None:
        where += " AND store_id = %(store)s"
    cursor.execute(
        "SELECT id, number, name, opportunity_status, organisation_name, venue_name, owner_name,"
        f" {GOES_OUT}, CASE WHEN open_ended_rental IS NOT TRUE THEN {COMES_BACK} END,"
        " coalesce(open_ended_rental, false), total_value, organisation_id, store_id"
        " FROM opportunities"
        f" WHERE {where} ORDER BY {order} NULLS LAST, id LIMIT {MOST_LISTED}",
        values,
    )
    jobs = [Job(*row) for row in cursor.fetchall()]
    if len(jobs) < MOST_LISTED:
        known = [job.total_value for job in jobs if job.total_value is not None]
        return Jobs(len(jobs), add_up(known) if known else None, jobs, True)
    cursor.execute(
        "SELECT count(*), sum(total_value) FROM (SELECT total_value FROM opportunities"
        f" WHERE {where} LIMIT %(most)s) counted",
        values,
    )
    count, value = one_row(cursor)
    return Jobs(count, value, jobs, count < values["most"])


def _rows(where: str) -> str:
    return f"SELECT count(*), sum(total_value)\nFROM {{source}}\nWHERE {where}"


def _came_into(phase: Phase) -> str:
    return (
        "SELECT DISTINCT c.opportunity_id AS id\n  FROM opportunity_changes c\n"
        "  LEFT JOIN statuses was ON was.name = c.old_value\n"
        "  LEFT JOIN statuses became ON became.name = c.new_value\n"
        f"  WHERE c.field = '{STATUS}'\n"
        f"    AND {_WHEN} >= %(since)s AND {_WHEN} < %(until)s\n"
        f"    AND coalesce(became.phase, 'open') = '{phase}'\n"
        f"    AND coalesce(was.phase, 'open') <> '{phase}'"
    )


# With which status it was entered: that which its oldest change ended, else the one it has.
_ENTERED = (
    "LEFT JOIN LATERAL (SELECT coalesce(c.old_value, '') AS status FROM opportunity_changes c\n"
    f"    WHERE c.opportunity_id = o.id AND c.field = '{STATUS}'\n"
    "    ORDER BY c.id LIMIT 1) entered ON true"
)
_WAS_CONFIRMED = (
    "EXISTS (SELECT FROM statuses s WHERE s.phase = 'confirmed'\n"
    "      AND s.name = coalesce(entered.status, o.opportunity_status))"
)

# The figures of a day. What is decided is counted in the log of changes, which nobody rewrites.
QUESTIONS = (
    Question(
        "goes_out",
        "Goes out",
        "Confirmed opportunities whose delivery starts on the day. Without a delivery, the start of"
        " the hire counts.",
        _rows(_LEAVING),
    ),
    Question(
        "comes_back",
        "Comes back",
        "Confirmed opportunities whose collection ends on the day. Without a collection, the end of"
        " the hire counts. Open-ended hires have no such day.",
        _rows(_RETURNING),
    ),
    Question(
        "on_hire",
        "On hire",
        "Confirmed opportunities that are out at any time of the day. One with a single date is out"
        " on that day. One that ends before it starts is out on the day on which it starts.",
        _rows(_ON_HIRE),
    ),
    Question(
        "late_back",
        "Late back",
        "Opportunities in the status Active whose collection has ended. Without a collection, the"
        " end of the hire counts.",
        _rows(_LATE_BACK),
        of_dates=False,
    ),
    Question(
        "not_confirmed",
        "Not confirmed",
        f"Opportunities that start within {SOON_DAYS} days, with that day, and are neither "
        "confirmed"
        " nor lost.",
        _rows(_NOT_CONFIRMED),
        of_dates=False,
    ),
    Question(
        "confirmed",
        "Confirmed",
        "Opportunities that were confirmed on this day or since the working day before, or entered"
        " as confirmed.",
        "SELECT count(*), NULL::numeric\nFROM (\n  " + _came_into(CONFIRMED) + "\n  UNION\n"
        f"  SELECT o.id FROM opportunities o\n  {_ENTERED}\n"
        "  WHERE o.confirmed_at >= %(since)s AND o.confirmed_at < %(until)s\n"
        f"    AND {_WAS_CONFIRMED}\n) decided",
        of_dates=False,
    ),
    Question(
        "lost",
        "Lost",
        "Opportunities that were lost on this day or since the working day before, or were deleted"
        " and not lost.",
        "SELECT count(*), NULL::numeric\nFROM (\n  " + _came_into(LOST) + "\n  UNION\n"
        "  SELECT o.id FROM deleted_opportunities o\n"
        "  WHERE o.deleted_at >= %(since)s AND o.deleted_at < %(until)s\n"
        f"    AND NOT ({OUTCOMES['is:closed'].condition})\n) decided",
        of_dates=False,
    ),
)

# Of decisions: a deleted record is shown with its last known values.
_NAMED = (
    "coalesce(o.number, d.number), coalesce(o.name, d.name, 'Opportunity ' || c.opportunity_id),"
    " coalesce(o.organisation_name, d.organisation_name)"
)
_RECORDS = (
    "LEFT JOIN opportunities o ON o.id = c.opportunity_id"
    " LEFT JOIN deleted_opportunities d ON d.id = c.opportunity_id"
)


def _decided(cursor: Cursor, phase: Phase, values: Mapping[str, Any]) -> list[Decision]:
    """Opportunities whose status changed into `phase` from another phase, each with its last such
    change."""
    cursor.execute(
        f"SELECT DISTINCT ON (c.opportunity_id) c.opportunity_id, {_NAMED},"
        f" coalesce(o.total_value, d.total_value), c.old_value, c.new_value, {_WHEN},"
        f" c.changed_by FROM opportunity_changes c {_RECORDS}"
        " LEFT JOIN statuses was ON was.name = c.old_value"
        " LEFT JOIN statuses became ON became.name = c.new_value"
        f" WHERE c.field = '{STATUS}' AND {_WHEN} >= %(since)s AND {_WHEN} < %(ends)s"
        " AND coalesce(became.phase, 'open') = %(phase)s"
        " AND coalesce(was.phase, 'open') <> %(phase)s ORDER BY c.opportunity_id, c.id DESC",
        {**values, "phase": phase},
    )
    return [Decision(*row) for row in cursor.fetchall()]


def _confirmed(cursor: Cursor, values: Mapping[str, Any]) -> list[Decision]:
    # One that became open and was confirmed again has one line: the last time.
    found = (*_entered_confirmed(cursor, values), *_decided(cursor, CONFIRMED, values))
    return list({decision.id: decision for decision in found}.values())


def _entered_confirmed(cursor: Cursor, values: Mapping[str, Any]) -> list[Decision]:
    """Opportunities that were already confirmed when they were first seen, whatever happened
    later."""
    cursor.execute(
        "SELECT o.id, o.number, o.name, o.organisation_name, o.total_value, NULL,"
        " coalesce(entered.status, o.opportunity_status), o.confirmed_at,"
        " (SELECT min(e.member_name) FROM webhook_events e"
        " WHERE e.opportunity_id = o.id AND lower(e.action_type COLLATE \"C\") = 'create'"
        f" HAVING count(DISTINCT e.member_name) = 1) FROM opportunities o {_ENTERED}"
        " WHERE o.confirmed_at >= %(since)s AND o.confirmed_at < %(ends)s"
        f" AND {_WAS_CONFIRMED}",
        values,
    )
    return [Decision(*row) for row in cursor.fetchall()]


def _lost(cursor: Cursor, values: Mapping[str, Any]) -> tuple[list[Decision], int]:
    """What was lost, with the newest of what was deleted, and the number of all of it. What was
    lost, taken up again and deleted is there once, as deleted."""
    lost = _decided(cursor, LOST, values)
    deleted, deleted_count = _deleted(cursor, values)
    cursor.execute(
        f"SELECT o.id FROM {_GONE} AND o.id = ANY(%(lost)s::bigint[])",
        {**values, "lost": [decision.id for decision in lost]},
    )
    twice = {row[0] for row in cursor.fetchall()}
    lost = [decision for decision in lost if decision.id not in twice]
    return lost + deleted, len(lost) + deleted_count


# What Current RMS no longer has since then, unless it was lost before.
_GONE = (
    "deleted_opportunities o WHERE o.deleted_at >= %(since)s AND o.deleted_at < %(ends)s"
    f" AND NOT ({OUTCOMES['is:closed'].condition})"
)


def _deleted(cursor: Cursor, values: Mapping[str, Any]) -> tuple[list[Decision], int]:
    """The newest `MOST_LISTED` opportunities that Current RMS no longer has, unless they were lost
    before, and the number of all of them."""
    cursor.execute(
        "SELECT o.id, o.number, o.name, o.organisation_name, o.total_value, o.opportunity_status,"
        " NULL, o.deleted_at, (SELECT min(e.member_name) FROM webhook_events e"
        " WHERE e.opportunity_id = o.id AND lower(e.action_type COLLATE \"C\") = 'destroy'"
        " HAVING count(DISTINCT e.member_name) = 1), count(*) OVER ()"
        f" FROM {_GONE} ORDER BY o.deleted_at DESC LIMIT {MOST_LISTED}",
        values,
    )
    rows = cursor.fetchall()
    return [Decision(*row[:-1]) for row in rows], rows[0][-1] if rows else 0


def _newest_first(decisions: list[Decision]) -> list[Decision]:
    return sorted(decisions, key=lambda d: (d.at, d.id), reverse=True)[:MOST_LISTED]


def _biggest_changes(cursor: Cursor, values: Mapping[str, Any]) -> list[Revaluation]:
    cursor.execute(
        f"SELECT c.opportunity_id, {_NAMED}, {as_number('c.before')}, {as_number('c.after')}, c.by"
        " FROM (SELECT c.opportunity_id, (array_agg(c.old_value ORDER BY c.id))[1] AS before,"
        " (array_agg(c.new_value ORDER BY c.id DESC))[1] AS after,"
        " coalesce(array_agg(DISTINCT c.changed_by) FILTER (WHERE c.changed_by IS NOT NULL), '{}')"
        " AS by FROM opportunity_changes c"
        f" WHERE c.field = '{CHARGE}' AND {_WHEN} >= %(since)s AND {_WHEN} < %(ends)s"
        f" GROUP BY 1) c {_RECORDS}"
        f" WHERE {as_number('c.after')} <> {as_number('c.before')}"
        f" ORDER BY abs({as_number('c.after')} - {as_number('c.before')}) DESC,"
        f" c.opportunity_id DESC LIMIT {_MOST_CHANGES}",
        values,
    )
    return [Revaluation(*row) for row in cursor.fetchall()]
