"""Won and lost opportunities by the month of the decision. The view `decisions` has the
decisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

from rms_pipeline.insight.compare import schema_first
from rms_pipeline.mirror.statements import Connection, Cursor, one_row

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
    is not known. `sql` is the statement for the months of both years, and
    for those: they have no month."""

    year: int
    owner_id: int | None
    owner: str | None
    months: list[MonthDecided]
    undated: Decided
    sql: str

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


_SUMS = "sum(won), sum(lost), sum(lost_orders), sum(won_charge_total), sum(lost_charge_total)"


def read_won_and_lost(connection: Connection, year: int, owner_id: int | None) -> WonAndLost:
    """The months of `year` and of the year before. Commits."""
    of_owner = "" if owner_id is None else f"\n  AND owner_id = {owner_id:d}"
    sql = (
        f"SELECT month, {_SUMS}\nFROM conversions\n"
        # Asked together: each question reads all opportunities.
        f"WHERE (month >= '{year - 1}-01-01' AND month < '{year + 1}-01-01' OR month IS NULL)"
        f"{of_owner}\n"
        "GROUP BY month ORDER BY month"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql)
        found: dict[date | None, Decided] = {
            month: _decided(row) for month, *row in cursor.fetchall()
        }
        owner = None
        if owner_id is not None:
            cursor.execute(
                "SELECT owner_name FROM opportunities WHERE owner_id = %s"
                " ORDER BY updated_at_rms DESC NULLS LAST LIMIT 1",
                (owner_id,),
            )
            owner = (cursor.fetchone() or (None,))[0]
        shown = f"{schema_first(cursor)}{sql};"
    connection.commit()
    nothing = Decided()
    undated = found.get(None, nothing)
    months = [
        MonthDecided(
            date(year, n, 1),
            found.get(date(year, n, 1), nothing),
            found.get(date(year - 1, n, 1), nothing),
        )
        for n in range(1, 13)
    ]
    return WonAndLost(year, owner_id, owner, months, undated, shown)


def _decided(row: Sequence[Any]) -> Decided:
    won, lost, lost_orders, won_value, lost_value = (value or Decimal(0) for value in row)
    return Decided(int(won), int(lost), int(lost_orders), won_value, lost_value)


def read_decisions(
    connection: Connection, month: date | None, outcome: Outcome | None, owner_id: int | None
) -> Decisions:
    """The decisions of `month`, the latest first. Commits."""
    where = "month IS NULL" if month is None else f"month = '{month}'"
    if outcome is not None:
        where += f"\n  AND outcome = '{outcome}'"
    if owner_id is not None:
        where += f"\n  AND owner_id = {owner_id:d}"
    sql = (
        "SELECT opportunity_id, number, name, organisation_name, owner_name, opportunity_status,\n"
        f"  outcome, decided_at, was_order, charge_total\nFROM decisions\nWHERE {where}\n"
        "ORDER BY decided_at DESC, opportunity_id DESC"
    )
    with connection.cursor() as cursor:
        count, value = _counted(cursor, where)
        cursor.execute(f"{sql} LIMIT {MOST_LISTED}")
        decisions = [Decision(*row) for row in cursor.fetchall()]
        shown = f"{schema_first(cursor)}{sql};"
    connection.commit()
    return Decisions(month, outcome, count, value, decisions, shown)


def _counted(cursor: Cursor, where: str) -> tuple[int, Decimal]:
    cursor.execute(f"SELECT count(*), coalesce(sum(charge_total), 0) FROM decisions WHERE {where}")
    count, value = one_row(cursor)
    return count, value
