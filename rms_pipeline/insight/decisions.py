"""Won and lost opportunities by the month of the decision. The view `decisions` has the
decisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from rms_pipeline.insight.compare import schema_first
from rms_pipeline.insight.names import OWNER, newest_names
from rms_pipeline.mirror.statements import Connection, Cursor, one_row
from rms_pipeline.mirror.statuses import OUTCOMES

Outcome = Literal["won", "lost"]
MOST_LISTED = 500


@dataclass(frozen=True, slots=True)
class Decided:
    """How many were won and lost, and their charges before tax. `lost_orders` counts the lost ones
    that had been orders."""

    won: int = 0
    lost: int = 0
    lost_orders: int = 0
    won_value: Decimal = Decimal(0)
    lost_value: Decimal = Decimal(0)

    @property
    def percent_won(self) -> float | None:
        """The share of won in all decided, in percent. None if nothing was decided."""
        decided = self.won + self.lost
        return 100 * self.won / decided if decided else None

    def __add__(self, other: "Decided") -> "Decided":
        return Decided(
            self.won + other.won,
            self.lost + other.lost,
            self.lost_orders + other.lost_orders,
            self.won_value + other.won_value,
            self.lost_value + other.lost_value,
        )


@dataclass(frozen=True, slots=True)
class MonthDecided:
    """A month (its first day), and the same month of the year before."""

    month: date
    decided: Decided
    year_before: Decided


@dataclass(frozen=True, slots=True)
class WonAndLost:
    """The twelve months of `year`, for all owners or for one. `undated` counts decisions whose day
    is not known. `sql` is the statement for the months of both years, `undated_sql` the one for
    decisions without a day."""

    year: int
    owner_id: int | None
    owner: str | None
    months: list[MonthDecided]
    undated: Decided
    sql: str
    undated_sql: str

    @property
    def total(self) -> Decided:
        return sum((m.decided for m in self.months), Decided())

    @property
    def total_before(self) -> Decided:
        return sum((m.year_before for m in self.months), Decided())


@dataclass(frozen=True, slots=True)
class Decision:
    """One decided opportunity. Money is before tax. `at` is UTC, and None if it is not known."""

    id: int
    number: str | None
    name: str
    customer: str | None
    owner: str | None
    status: str | None
    outcome: Outcome
    at: datetime | None
    was_order: bool
    charge_total: Decimal | None


@dataclass(frozen=True, slots=True)
class Decisions:
    """The decisions of one month (None: the day is not known) and outcome (None: both). At most
    `MOST_LISTED` are listed. `count` counts all, and `sql` lists all."""

    month: date | None
    outcome: Outcome | None
    count: int
    value: Decimal
    decisions: list[Decision]
    sql: str


_SUMS = """count(*) FILTER (WHERE outcome = 'won') AS won,
  count(*) FILTER (WHERE outcome = 'lost') AS lost,
  count(*) FILTER (WHERE outcome = 'lost' AND was_order) AS lost_orders,
  coalesce(sum(charge_total) FILTER (WHERE outcome = 'won'), 0) AS won_charge_total,
  coalesce(sum(charge_total) FILTER (WHERE outcome = 'lost'), 0) AS lost_charge_total"""
_IS_LOST = OUTCOMES["is:closed"].condition


def read_won_and_lost(connection: Connection, year: int, owner_id: int | None) -> WonAndLost:
    """The months of `year` and of the year before. Commits."""
    of_owner = "" if owner_id is None else f"\n  AND owner_id = {owner_id:d}"
    first, after = date(year - 1, 1, 1), date(year + 1, 1, 1)
    sql = (
        f"SELECT month, {_SUMS}\nFROM decisions\n"
        f"WHERE month >= '{first}' AND month < '{after}'{of_owner}\n"
        f"  AND {_may_be_decided(first, after)}\nGROUP BY month ORDER BY month"
    )
    undated_sql = f"SELECT {_SUMS}\nFROM (\n{_EACH_UNDATED}\n) undated"
    undated_sql += "" if owner_id is None else f"\nWHERE owner_id = {owner_id:d}"
    with connection.cursor() as cursor:
        cursor.execute(sql)
        found: dict[date, Decided] = {month: _decided(row) for month, *row in cursor.fetchall()}
        cursor.execute(undated_sql)
        undated = _decided(one_row(cursor))
        owner = None
        if owner_id is not None:
            owner = newest_names(cursor, OWNER, [owner_id]).get(owner_id)
        schema = schema_first(cursor)
    connection.commit()
    nothing = Decided()
    months = [
        MonthDecided(
            date(year, n, 1),
            found.get(date(year, n, 1), nothing),
            found.get(date(year - 1, n, 1), nothing),
        )
        for n in range(1, 13)
    ]
    return WonAndLost(
        year, owner_id, owner, months, undated, f"{schema}{sql};", f"{schema}{undated_sql};"
    )


# The decisions without a day: what the view calls won, read from an index that has these alone, and
# the lost ones of the view.
_EACH_UNDATED = f"""  SELECT id AS opportunity_id, 'won' AS outcome, false AS was_order, owner_id,
    charge_total
  FROM opportunities
  WHERE ordered_at IS NULL AND confirmed_at IS NULL
    AND (state_name = 'Order' OR opportunity_status = 'Completed'
      OR {OUTCOMES["is:confirmed"].condition})
    AND NOT {_IS_LOST}
  UNION ALL SELECT opportunity_id, outcome, was_order, owner_id, charge_total
  FROM decisions
  WHERE month IS NULL AND outcome = 'lost'
    AND opportunity_id IN (SELECT id FROM opportunities WHERE updated_at_rms IS NULL)"""
# That the time of a decision may be missing, by indexes alone, too.
_UNDATED = f"""opportunity_id IN (
    SELECT id FROM opportunities WHERE ordered_at IS NULL AND confirmed_at IS NULL
      AND (state_name = 'Order' OR opportunity_status = 'Completed'
        OR {OUTCOMES["is:confirmed"].condition})
    UNION ALL SELECT id FROM opportunities WHERE updated_at_rms IS NULL)"""


def _may_be_decided(first: date, after: date) -> str:
    """That an opportunity has a time in its columns or its changes which may be that of a decision
    in these days: by indexes, where the view alone would read all opportunities.

    A day is added on both sides, whatever the time zone.
    """
    since, until = (first - timedelta(days=1), after + timedelta(days=1))

    def between(moment: str) -> str:
        return f"{moment} >= '{since} 00:00Z' AND {moment} < '{until} 00:00Z'"

    return (
        "opportunity_id IN (\n"
        f"    SELECT id FROM opportunities WHERE {between('ordered_at')}\n"
        f"    UNION SELECT id FROM opportunities WHERE {between('confirmed_at')}\n"
        f"    UNION SELECT id FROM opportunities WHERE {between('updated_at_rms')}\n"
        f"      AND {_IS_LOST}\n"
        "    UNION SELECT opportunity_id FROM opportunity_changes\n"
        f"      WHERE field = 'opportunity_status'\n"
        f"      AND {between('coalesce(changed_at, seen_at)')})"
    )


def _decided(row: Sequence[Any]) -> Decided:
    won, lost, lost_orders, won_value, lost_value = (value or Decimal(0) for value in row)
    return Decided(int(won), int(lost), int(lost_orders), won_value, lost_value)


def read_decisions(
    connection: Connection, month: date | None, outcome: Outcome | None, owner_id: int | None
) -> Decisions:
    """The decisions of `month`, the latest first. Commits."""
    chosen = f"\n  AND outcome = '{outcome}'" if outcome is not None else ""
    chosen += f"\n  AND owner_id = {owner_id:d}" if owner_id is not None else ""
    if month is None:
        where = f"month IS NULL\n  AND {_UNDATED}{chosen}"
        # These may be a tenth of all: indexes count them, and find those to be listed.
        counted = f"(\n{_EACH_UNDATED}\n) undated WHERE true{chosen}"
        listed = (
            f"month IS NULL{chosen}\n  AND opportunity_id = ANY(ARRAY(SELECT opportunity_id FROM"
            f" {counted} ORDER BY opportunity_id DESC LIMIT {MOST_LISTED}))"
        )
    else:
        after = date(month.year + month.month // 12, month.month % 12 + 1, 1)
        where = f"month = '{month}'\n  AND {_may_be_decided(month, after)}{chosen}"
        counted, listed = f"decisions WHERE {where}", where
    with connection.cursor() as cursor:
        count, value = _counted(cursor, counted)
        cursor.execute(f"{_each(listed)} LIMIT {MOST_LISTED}")
        decisions = [Decision(*row) for row in cursor.fetchall()]
        shown = f"{schema_first(cursor)}{_each(where)};"
    connection.commit()
    return Decisions(month, outcome, count, value, decisions, shown)


def _each(where: str) -> str:
    return (
        "SELECT opportunity_id, number, name, organisation_name, owner_name, opportunity_status,\n"
        f"  outcome, decided_at, was_order, charge_total\nFROM decisions\nWHERE {where}\n"
        "ORDER BY decided_at DESC, opportunity_id DESC"
    )


def _counted(cursor: Cursor, decided: str) -> tuple[int, Decimal]:
    cursor.execute(f"SELECT count(*), coalesce(sum(charge_total), 0) FROM {decided}")
    count, value = one_row(cursor)
    return count, value
