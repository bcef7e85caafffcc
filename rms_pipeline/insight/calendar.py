"""A calendar of hires: bars that show what is out on which days.

A bar is a whole hire, or one stage of the work on the equipment (prepare, load, ...). Lost
opportunities are left out unless the filters ask for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Literal

from rms_pipeline.insight.days import Day
from rms_pipeline.mirror.criteria import ONE_DATE, Criteria, condition
from rms_pipeline.mirror.statements import Connection

# At most so many bars are read. A person who has more can filter.
MOST_BARS = 2_000
By = Literal["hire", "stages"]
STAGES = (*("prep", "load", "deliver", "setup", "show", "takedown", "collect", "unload", "deprep"),)
# A stage lies within the hire or near it: equipment is prepared some days before, and put back some
# days after. So the index on hires finds those of a month.
_NEAR = timedelta(days=14)
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Bar:
    """A hire or a `stage` of it. Times are UTC. `ends` is None if it is open-ended. It was
    `entered` and last `edited` in Current RMS."""

    id: int
    number: str | None
    name: str
    status: str | None
    customer: str | None
    venue: str | None
    owner: str | None
    starts: datetime
    ends: datetime | None
    stage: str | None = None
    entered: datetime | None = None
    edited: datetime | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of `bar` in one row of days. It begins in `column` (0 is the first day), has `span`
    days, and is in `lane` (0 is the top one). `begins` and `ends` say whether the bar begins and
    ends in this row."""

    bar: Bar
    column: int
    span: int
    lane: int
    begins: bool
    ends: bool


def read_bars(
    connection: Connection,
    criteria: Criteria,
    first: Day,
    last: Day,
    by: By = "hire",
    most: int = MOST_BARS,
) -> tuple[list[Bar], bool]:
    """The bars that overlap the days from `first` to `last`, in the order of their start, and
    whether these are all. If there are more than `most`, any `most` of them are returned. Lost
    opportunities are left out unless `criteria` name a status. Commits."""
    if not criteria.status:
        criteria = replace(criteria, status="is:open")
    where, values = condition(criteria)
    values |= {
        "range_first": first.starts,
        "range_after": last.ends,
        "near_first": first.starts - _NEAR,
        "near_after": last.ends + _NEAR,
        "most": most + 1,
    }
    with connection.cursor() as cursor:
        # The hires of some weeks are few and lie together. To read them all takes less time than to
        # read all of a large index first, say of a status, for those that are in both.
        cursor.execute("SET LOCAL random_page_cost = 1.1")
        cursor.execute((_HIRES if by == "hire" else _STAGES).format(where=where), values)
        bars = [Bar(*row) for row in cursor.fetchall()]
    connection.commit()
    return bars[:most], len(bars) <= most


_TIMES = "created_at_rms, updated_at_rms"
_NAMED = "id, number, name, opportunity_status, organisation_name, venue_name, owner_name"
# What has one date alone, or an end before its start, has no hire. It is shown on the day that it
# has, or nobody would miss it.
# Which of too many are found is left to the index: to sort all of them would take a time that grows
# with the mirror.
_HIRES = f"""
    SELECT * FROM (
    SELECT {_NAMED}, lower(hire) AS begins, upper(hire), NULL, {_TIMES} FROM opportunities
    WHERE {{where}} AND hire && tstzrange(%(range_first)s, %(range_after)s)
    UNION ALL
    SELECT {_NAMED}, {ONE_DATE}, {ONE_DATE}, NULL, {_TIMES} FROM opportunities
    WHERE {{where}} AND hire IS NULL
    AND {ONE_DATE} >= %(range_first)s AND {ONE_DATE} < %(range_after)s
    LIMIT %(most)s) found ORDER BY begins, id
"""
_EACH_STAGE = ", ".join(
    # One whose start nobody entered is shown where it ends.
    f"('{stage}', {number}, coalesce({stage}_starts_at, {stage}_ends_at), {stage}_ends_at)"
    for number, stage in enumerate(STAGES)
)
_STAGES = f"""
    SELECT {_NAMED}, stage_starts, stage_ends, stage, {_TIMES} FROM (
    SELECT {_NAMED}, {_TIMES}, stage_starts,
        greatest(stage_starts, coalesce(stage_until, stage_starts)) AS stage_ends, stage, position
    FROM (
        SELECT * FROM opportunities
        WHERE {{where}} AND hire && tstzrange(%(near_first)s, %(near_after)s)
        UNION ALL
        SELECT * FROM opportunities
        WHERE {{where}} AND hire IS NULL
        AND {ONE_DATE} >= %(near_first)s AND {ONE_DATE} < %(near_after)s
    ) opportunities CROSS JOIN LATERAL
        (VALUES {_EACH_STAGE}) AS s (stage, position, stage_starts, stage_until)
    WHERE stage_starts < %(range_after)s
    AND greatest(stage_starts, coalesce(stage_until, stage_starts)) >= %(range_first)s
    LIMIT %(most)s) found ORDER BY stage_starts, position, id
"""


def days_of_bar(bar: Bar, time_zone: str) -> tuple[date, date | None]:
    """The first and the last day in the company's time zone. The last is None if there is no end. A
    hire that ends at midnight ends on the day before."""
    first = Day.near(bar.starts, time_zone).date
    if bar.ends is None:
        return first, None
    last = Day.near(bar.ends, time_zone)
    is_midnight = last.starts == bar.ends and bar.ends > bar.starts
    return first, max(last.date - _ONE_DAY, first) if is_midnight else last.date


def lay_out(bars: Sequence[Bar], first: date, days: int, time_zone: str) -> list[Piece]:
    """The pieces of `bars` in the row of `days` from `first` on. Each piece gets the top lane that
    is free. Earlier bars come first; of bars that begin on the same day, the longest comes
    first."""
    last = first + _ONE_DAY * (days - 1)
    found: list[tuple[int, int, Bar, bool, bool]] = []
    for bar in bars:
        begins, ends = days_of_bar(bar, time_zone)
        if begins > last or (ends is not None and ends < first):
            continue
        start = max((begins - first).days, 0)
        end = days - 1 if ends is None else min((ends - first).days, days - 1)
        found.append((start, end, bar, begins >= first, ends is not None and ends <= last))
    found.sort(key=lambda f: (f[0], f[0] - f[1], f[2].starts, f[2].id))
    free: list[int] = []
    pieces = []
    for start, end, bar, is_begun, is_ended in found:
        lane = next((n for n, column in enumerate(free) if column <= start), len(free))
        free[lane : lane + 1] = [end + 1]
        pieces.append(Piece(bar, start, end - start + 1, lane, is_begun, is_ended))
    return pieces


def events_of_days(
    bars: Sequence[Bar], first: date, days: int, time_zone: str
) -> list[tuple[date, list[tuple[str, Bar]]]]:
    """The events of each day: (`starts`, bar) and (`ends`, bar) in the order of time, then (`goes
    on`, bar) for bars in between. A day without events has an empty list."""
    result = []
    for number in range(days):
        day = first + _ONE_DAY * number
        moving: list[tuple[datetime, str, Bar]] = []
        between: list[tuple[str, Bar]] = []
        for bar in bars:
            begins, ends = days_of_bar(bar, time_zone)
            if begins == day:
                moving.append((bar.starts, "starts", bar))
            if ends == day and bar.ends is not None and bar.ends > bar.starts:
                moving.append((bar.ends, "ends", bar))
            if begins < day and (ends is None or ends > day):
                between.append(("goes on", bar))
        moving.sort(key=lambda m: (m[0], m[1] == "starts", m[2].id))
        result.append((day, [(what, bar) for _, what, bar in moving] + between))
    return result


def as_record(bar: Bar) -> dict[str, Any]:
    """`bar` as a JSON object."""
    return {
        **{name: getattr(bar, name) for name in ("id", "number", "name", "status", "customer")},
        **{name: getattr(bar, name) for name in ("venue", "owner", "stage")},
        "startsAt": bar.starts,
        "endsAt": bar.ends,
    }
