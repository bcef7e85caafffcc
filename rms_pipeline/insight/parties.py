"""One customer, venue or owner: its value by month, what comes next, and its contacts. All of
them in an order are in `rankings`.

The value is the charge before tax of confirmed opportunities, in the account's currency. It counts
when the equipment leaves: at the start of the delivery, else of the hire. Months and years are in
the company's time zone. The view `customer_value` counts in the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from rms_pipeline.insight.compare import (
    Figure,
    Point,
    Question,
    compare,
    shifted,
)
from rms_pipeline.insight.days import FIRST, LAST, Day, a_year_before
from rms_pipeline.insight.names import CUSTOMER, OWNER, VENUE, newest_names
from rms_pipeline.mirror.criteria import GOES_OUT
from rms_pipeline.mirror.statements import Connection, Cursor, one_row
from rms_pipeline.mirror.statuses import OUTCOMES

MOST_JOBS = 8
_CONFIRMED = OUTCOMES["is:confirmed"].condition
_UNDECIDED = OUTCOMES["is:undecided"].condition
_LOST = OUTCOMES["is:closed"].condition
# An enquiry or a draft was never offered, so it cannot have been lost.
_WAS_OFFERED = "coalesce(state_name, '') NOT IN ('Enquiry', 'Draft')"
_WAS_ORDERED = "(state_name = 'Order' OR ordered_at IS NOT NULL)"


@dataclass(frozen=True, slots=True)
class Kind:
    """Customers, venues or owners, with the columns of `opportunities` that identify them."""

    name: str
    single: str
    id_column: str
    name_column: str

    @property
    def key(self) -> str:
        """SQL of the key: the name if there is no id, else NULL."""
        return f"CASE WHEN {self.id_column} IS NULL THEN {self.name_column} END"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("customers", "customer", *CUSTOMER),
        Kind("venues", "venue", *VENUE),
        Kind("owners", "owner", *OWNER),
    )
}


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of opportunities, and their charges before tax."""

    opportunities: int = 0
    value: Decimal = Decimal(0)

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.opportunities + other.opportunities, self.value + other.value)


@dataclass(frozen=True, slots=True)
class Month:
    """One month (its first day is `month`): what is confirmed, what is not decided, and what was
    confirmed in the same month of the year before."""

    month: date
    confirmed: Amount
    undecided: Amount
    year_before: Amount


@dataclass(frozen=True, slots=True)
class PartyJob:
    """An opportunity of a customer, venue or owner. Times are UTC. Money is before tax."""

    id: int
    number: str | None
    name: str
    status: str | None
    starts: datetime | None
    created: datetime | None
    charge_total: Decimal | None


@dataclass(frozen=True, slots=True)
class Contact:
    """Contact data from the table `members`: e-mail addresses and telephone numbers as typed."""

    id: int
    name: str | None
    emails: list[str]
    phones: list[str]


@dataclass(frozen=True, slots=True)
class Party:
    """One customer, venue or owner in the `year`.

    `so_far` and `year_before_so_far` are confirmed opportunities that started by the end of today
    and of the same day a year before. For a past year they are those of the whole year. `won` and
    `lost` are quotations and orders that start in the year. `lost_orders` are the lost ones that
    had been orders. `total` is the sum of all confirmed charges of the year, of everybody.
    `next_jobs` and `last_jobs` are confirmed. `open_jobs` are not decided, the oldest first.
    `contacts` is None if members are not mirrored.
    """

    kind: str
    id: int
    name: str | None
    year: int
    months: list[Month]
    confirmed: Amount
    year_before: Amount
    so_far: Amount
    year_before_so_far: Amount
    won: Amount
    lost: Amount
    lost_orders: Amount
    total: Decimal
    open_count: int
    open_value: Decimal
    next_jobs: list[PartyJob]
    last_jobs: list[PartyJob]
    open_jobs: list[PartyJob]
    member: Contact | None
    contacts: list[Contact] | None

    @property
    def share(self) -> float | None:
        """The share in the value of all, in percent. None if that is zero."""
        return float(100 * self.confirmed.value / self.total) if self.total else None

    @property
    def percent_won(self) -> float | None:
        """The share of won in all decided, in percent. None if nothing was decided."""
        decided = self.won.opportunities + self.lost.opportunities
        return 100 * self.won.opportunities / decided if decided else None


def read_party(
    connection: Connection,
    kind: Kind,
    id_: int,
    today: Day,
    *,
    year: int,
    with_members: bool,
) -> Party | None:
    """The customer, venue or owner with this id in the calendar `year`. None if no opportunity
    names it. Commits."""
    with connection.cursor() as cursor:
        party = _read_party(cursor, kind, id_, today, year, with_members)
    connection.commit()
    return party


def knows_party(connection: Connection, kind: Kind, id_: int, *, with_members: bool) -> bool:
    """Return whether `read_party` finds this customer, venue or owner. Commits."""
    with connection.cursor() as cursor:
        found = _is_named(cursor, kind, id_) or (
            with_members and _contacts(cursor, id_)[0] is not None
        )
    connection.commit()
    return found


def _is_named(cursor: Cursor, kind: Kind, id_: int) -> bool:
    cursor.execute(f"SELECT FROM opportunities WHERE {kind.id_column} = %s LIMIT 1", (id_,))
    return cursor.fetchone() is not None


def _read_party(
    cursor: Cursor, kind: Kind, id_: int, today: Day, year: int, with_members: bool
) -> Party | None:
    mine = f"{kind.id_column} = %(id)s"
    first, after = _new_year(year, today.time_zone), _new_year(year + 1, today.time_zone)
    values: dict[str, Any] = {
        "id": id_,
        "zone": today.time_zone,
        "before": _new_year(year - 1, today.time_zone).starts,
        "first": first.starts,
        "after": after.starts,
        "now": today.ends,
    }
    name = newest_names(cursor, (kind.id_column, kind.name_column), [id_]).get(id_)
    member, contacts = _contacts(cursor, id_) if with_members else (None, None)
    if name is None and member is None and not _is_named(cursor, kind, id_):
        return None
    # For the current year, what has started by now is compared with the same days of the year
    # before.
    so_far = min(max(today.ends, first.starts), after.starts)
    values |= {"so_far": so_far, "so_far_before": a_year_before(so_far, today.time_zone).starts}
    found = _groups(cursor, mine, values)
    this_year = [g for g in found if g.month.year == year]
    year_before = [g for g in found if g.month.year == year - 1]
    theirs = _theirs(cursor, mine, values)
    lost = [g for g in this_year if g.phase == "lost"]
    return Party(
        kind=kind.single,
        id=id_,
        name=name or (member.name if member else None),
        year=year,
        months=[
            Month(
                date(year, n, 1),
                _sum(this_year, "confirmed", month=n),
                _sum(this_year, "open", month=n),
                _sum(year_before, "confirmed", month=n),
            )
            for n in range(1, 13)
        ],
        confirmed=_sum(this_year, "confirmed"),
        year_before=_sum(year_before, "confirmed"),
        so_far=_sum([g for g in this_year if g.is_so_far], "confirmed"),
        year_before_so_far=_sum([g for g in year_before if g.is_so_far], "confirmed"),
        won=_sum(this_year, "confirmed"),
        lost=_sum([g for g in lost if g.was_offered], "lost"),
        lost_orders=_sum([g for g in lost if g.was_ordered], "lost"),
        total=_total_of_year(cursor, values),
        open_count=theirs.open_count,
        open_value=theirs.open_value,
        next_jobs=_jobs(cursor, theirs.next),
        last_jobs=_jobs(cursor, theirs.last),
        open_jobs=_jobs(cursor, theirs.oldest_open),
        member=member,
        contacts=contacts,
    )


def _total_of_year(cursor: Cursor, values: Mapping[str, Any]) -> Decimal:
    """The value of all confirmed hires of the year, whosever they are."""
    cursor.execute(
        f"SELECT coalesce(sum(charge_total), 0) FROM opportunities WHERE {_CONFIRMED}"
        f" AND {GOES_OUT} >= %(first)s AND {GOES_OUT} < %(after)s",
        values,
    )
    total: Decimal = one_row(cursor)[0]
    return total


@dataclass(frozen=True, slots=True)
class _Theirs:
    """How many opportunities are undecided, their value, and the ids of the first ones of each
    kind."""

    open_count: int
    open_value: Decimal
    oldest_open: list[int]
    next: list[int]
    last: list[int]


def _theirs(cursor: Cursor, mine: str, values: Mapping[str, Any]) -> _Theirs:
    def first(where: str, order: str) -> str:
        return f"ARRAY(SELECT id FROM theirs WHERE {where} ORDER BY {order} LIMIT {MOST_JOBS})"

    cursor.execute(
        # All of theirs are read once. With a query for each list, PostgreSQL would read the index
        # of the order to its end if they have few.
        "WITH theirs AS MATERIALIZED (SELECT id, created_at_rms, charge_total,"
        f" {GOES_OUT} AS goes_out, {_UNDECIDED} AS is_undecided, {_CONFIRMED} AS is_confirmed"
        f" FROM opportunities WHERE {mine})"
        " SELECT count(*) FILTER (WHERE is_undecided),"
        " coalesce(sum(charge_total) FILTER (WHERE is_undecided), 0),"
        f" {first('is_undecided', 'created_at_rms NULLS LAST, id')},"
        f" {first('is_confirmed AND goes_out >= %(now)s', 'goes_out, id')},"
        f" {first('is_confirmed AND goes_out < %(now)s', 'goes_out DESC, id DESC')} FROM theirs",
        values,
    )
    return _Theirs(*one_row(cursor))


def compare_party(
    connection: Connection, kind: Kind, id_: int, today: Day, now: datetime, *, year: int
) -> list[Figure]:
    """The figures of the calendar `year` now and as they were known a month before `now`, and those
    of the year before as they were known a year before `now`. Commits."""
    zone = today.time_zone

    def values(of: int) -> dict[str, Any]:
        return {
            "first": _new_year(of, zone).starts,
            "after": _new_year(of + 1, zone).starts,
        }

    def point(name: str, title: str, of: int, months: int) -> Point:
        at = shifted(now, zone, months=months) if months else now
        first = _new_year(of, zone).starts
        return Point(name, title, at, first, values(of), same_days=of == year)

    return compare(
        connection,
        _questions(kind, id_),
        point("now", "Now", year, 0),
        [
            point("month_before", f"{year}, a month before", year, 1),
            point("year_before", f"{year - 1}, a year before", year - 1, 12),
        ],
        zone,
    )


def _questions(kind: Kind, id_: int) -> list[Question]:
    mine = f"{kind.id_column} = {id_:d}"
    in_year = f"{GOES_OUT} >= %(first)s AND {GOES_OUT} < %(after)s"
    whose = f"of this {kind.single}"
    offered_and_lost = f"({_LOST} AND {_WAS_OFFERED})"

    def sums(where: str) -> str:
        return f"SELECT count(*), coalesce(sum(charge_total), 0)\nFROM {{source}}\nWHERE {where}"

    return [
        Question(
            "confirmed",
            "Confirmed",
            f"Confirmed opportunities {whose} whose delivery starts in the year. Without a "
            "delivery, "
            "the start of the hire counts. Charges are without tax.",
            sums(f"{mine}\n  AND {_CONFIRMED}\n  AND {in_year}"),
        ),
        Question(
            "won",
            "Won of what was decided",
            "How many were decided, and how many per cent of them are confirmed. Decided are "
            "confirmed "
            "opportunities, lost quotations and lost orders.",
            "SELECT count(*), 100.0 * count(*) FILTER (WHERE NOT lost) / nullif(count(*), 0)\n"
            f"FROM (SELECT {offered_and_lost} AS lost FROM {{source}}\n"
            f"  WHERE {mine}\n  AND ({_CONFIRMED}\n    OR {offered_and_lost})\n"
            f"  AND {in_year}) decided",
            is_percent=True,
        ),
        Question(
            "lost_orders",
            "Cancelled or lost orders",
            "Lost opportunities that had been orders.",
            sums(f"{mine}\n  AND {_LOST} AND {_WAS_ORDERED}\n  AND {in_year}"),
        ),
        Question(
            "share",
            "Share of all that is confirmed",
            f"How many of all confirmed opportunities are {whose}, and their share of all charges "
            "in "
            "per cent.",
            f"SELECT count(*) FILTER (WHERE {mine}),\n"
            f"  100 * coalesce(sum(charge_total) FILTER (WHERE {mine}), 0)"
            " / nullif(sum(charge_total), 0)\n"
            f"FROM {{source}}\nWHERE {_CONFIRMED}\n  AND {in_year}",
            is_percent=True,
        ),
        Question(
            "not_decided",
            "Not decided, any year",
            f"Opportunities {whose} that are neither confirmed nor lost, whenever they start.",
            sums(f"{mine}\n  AND {_UNDECIDED}"),
            of_dates=False,
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Group:
    month: date
    phase: str
    is_so_far: bool
    was_offered: bool
    was_ordered: bool | None
    amount: Amount


def _groups(cursor: Cursor, mine: str, values: Mapping[str, Any]) -> list[_Group]:
    """The hires of the year and of the one before, by what the figures tell apart."""
    cursor.execute(
        "SELECT date_trunc('month', starts AT TIME ZONE %(zone)s)::date AS month,"
        " coalesce(s.phase, 'open'),"
        " starts < CASE WHEN starts < %(first)s THEN %(so_far_before)s ELSE %(so_far)s END,"
        f" {_WAS_OFFERED}, {_WAS_ORDERED}, count(*), coalesce(sum(charge_total), 0)"
        f" FROM (SELECT *, {GOES_OUT} AS starts FROM opportunities) o"
        " LEFT JOIN statuses s ON s.name = o.opportunity_status"
        f" WHERE {mine} AND {GOES_OUT} >= %(before)s AND {GOES_OUT} < %(after)s"
        " GROUP BY 1, 2, 3, 4, 5",
        values,
    )
    return [
        _Group(month, phase, is_so_far, was_offered, was_ordered, Amount(count, value))
        for month, phase, is_so_far, was_offered, was_ordered, count, value in cursor.fetchall()
    ]


def _sum(groups: Sequence[_Group], phase: str, month: int | None = None) -> Amount:
    amounts = (g.amount for g in groups if g.phase == phase and month in (None, g.month.month))
    return sum(amounts, Amount())


def _jobs(cursor: Cursor, ids: Sequence[int]) -> list[PartyJob]:
    """The opportunities with these ids, in the same order."""
    cursor.execute(
        f"SELECT id, number, name, opportunity_status, {GOES_OUT}, created_at_rms, charge_total"
        " FROM opportunities WHERE id = ANY(%(ids)s::bigint[])"
        " ORDER BY array_position(%(ids)s::bigint[], id)",
        {"ids": list(ids)},
    )
    return [PartyJob(*row) for row in cursor.fetchall()]


def _contacts(cursor: Cursor, id_: int) -> tuple[Contact | None, list[Contact]]:
    """The member itself, and the members that Current RMS lists as belonging to it."""
    cursor.execute(
        "SELECT id, name, emails, phones, data -> 'child_members' FROM members WHERE id = %s",
        (id_,),
    )
    row = cursor.fetchone()
    if row is None:
        return None, []
    related = [r.get("related_id") for r in row[4] or [] if isinstance(r, dict)]
    # An id that fits no bigint cannot be a member's.
    ids = [n for n in related if isinstance(n, int) and 0 < n < 2**63]
    cursor.execute(
        "SELECT id, name, emails, phones FROM members WHERE id = ANY(%s::bigint[])"
        " AND membership_type = 'Contact' AND active IS NOT FALSE ORDER BY name, id LIMIT 20",
        (ids,),
    )
    return _contact(*row[:4]), [_contact(*each) for each in cursor.fetchall()]


def _contact(id_: int, name: str | None, emails: Any, phones: Any) -> Contact:
    return Contact(id_, name, _typed(emails, "address"), _typed(phones, "number"))


def _typed(entries: Any, key: str) -> list[str]:
    if not isinstance(entries, list):
        return []
    found = (e.get(key) for e in entries if isinstance(e, dict))
    return [str(text).strip() for text in found if text and str(text).strip()]


def periods_of_year(year: int, time_zone: str) -> dict[str, datetime]:
    """The calendar year before, and `year`, with the time (UTC) at which each begins."""
    return {str(y): _new_year(y, time_zone).starts for y in (year - 1, year)}


def _new_year(year: int, time_zone: str) -> Day:
    return Day(min(max(date(year, 1, 1), FIRST), LAST), time_zone)
