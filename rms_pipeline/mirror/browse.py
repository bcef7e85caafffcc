"""Finds opportunities for the dashboard: the lists, a single opportunity, and the CSV."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.criteria import COMES_BACK, GOES_OUT, INDEXED, Searched, limits_on
from rms_pipeline.mirror.criteria import Criteria as Criteria
from rms_pipeline.mirror.criteria import condition as _where
from rms_pipeline.mirror.statements import Connection, Cursor, one_row

__all__ = ["ORDERS", "SORTS", "Counted", "Criteria", "Found", "Listed", "Place", "_where"]

_BIGINT_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a list: `expression`. An index has the same expression with the ids.

    Absent values come last in either direction. Rows of equal value come newest first in the
    direction that people usually want. The other direction is the exact reverse, so that one index
    serves both.
    """

    expression: str
    kind: Literal["text", "timestamptz", "numeric"]
    falls: bool = False

    def ids(self, falling: bool) -> bool:
        """Return whether ids fall in this direction."""
        return falling if self.kind != "text" else not falling


def _text(column: str) -> Order:
    return Order(INDEXED.format(column=column), "text")


# What a list may be sorted by.
SORTS = {
    "name": _text("name"),
    "status": Order("opportunity_status", "text"),
    "customer": _text("organisation_name"),
    "owner": _text("owner_name"),
    "starts": Order("starts_at", "timestamptz"),
    "ends": Order("ends_at", "timestamptz"),
    "value": Order("total_value", "numeric", falls=True),
    "updated": Order("updated_at_rms", "timestamptz", falls=True),
}
ORDERS = SORTS | {
    "out": Order(GOES_OUT, "timestamptz"),
    "back": Order(COMES_BACK, "timestamptz"),
    "venue": _text("venue_name"),
    "created": Order("created_at_rms", "timestamptz", falls=True),
    "confirmed": Order("confirmed_at", "timestamptz", falls=True),
}
_LISTED = (
    "id, number, name, opportunity_status, starts_at, ends_at, organisation_name,"
    " venue_name, owner_name, charge_total, total_value, updated_at_rms, state_name,"
    f" organisation_id, {GOES_OUT}, CASE WHEN open_ended_rental IS NOT TRUE THEN {COMES_BACK} END,"
    " confirmed_at, created_at_rms, tags, profit, reference,"
    " coalesce(open_ended_rental, false)"
)
# The columns without the record itself. psycopg2 would decode it as JSON, and Python would refuse
# or round some of its numbers.
_COLUMNS = ", ".join(c.name for c in OPPORTUNITIES.table if c.kind not in ("jsonb", "tstzrange"))
_OWNER = INDEXED.format(column="owner_name")
_FOUND = (
    "data ->> 'number' AS number, data ->> 'reference' AS reference,"
    " data ->> 'state_name' AS state, coalesce(data, '{}')::text AS record"
)
_TABLES = {
    "opportunities": "NULL AS deleted_at, NULL AS deleted_because",
    "deleted_opportunities": "deleted_at, deleted_because",
}


@dataclass(frozen=True, slots=True)
class Listed:
    """An opportunity as a line of a list. Times are UTC, money is in the account's currency.

    Attributes that only some lists show come last. They do not count when two lines are compared.
    """

    id: int
    number: str | None
    name: str
    status: str | None
    starts_at: datetime | None
    ends_at: datetime | None
    customer: str | None
    venue: str | None
    owner: str | None
    charge_total: Decimal | None
    total_value: Decimal | None
    updated_at: datetime | None
    state: str | None = field(default=None, compare=False)
    customer_id: int | None = field(default=None, compare=False)
    goes_out: datetime | None = field(default=None, compare=False)
    comes_back: datetime | None = field(default=None, compare=False)
    confirmed_at: datetime | None = field(default=None, compare=False)
    created_at: datetime | None = field(default=None, compare=False)
    tags: Sequence[str] | None = field(default=None, compare=False)
    profit: Decimal | None = field(default=None, compare=False)
    reference: str | None = field(default=None, compare=False)
    open_ended: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a sorted list: after the row of this value and id, or before it if `before`.

    `value` is None for a row without a value. Otherwise it is a text as PostgreSQL writes it.
    """

    value: str | None
    id: int
    before: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """One opportunity, live or deleted.

    It has the columns by name, what only the record has (`state` is Enquiry, Quotation or Order),
    and the record as JSON text with every digit.
    """

    columns: dict[str, Any]
    number: str | None
    reference: str | None
    state: str | None
    record: str
    deleted_at: datetime | None
    deleted_because: str | None


@dataclass(frozen=True, slots=True)
class Counted:
    """How many meet the criteria, and their value with tax, None if no row has one. Unless they are
    counted to the end (`is_all`), there are at least so many, and the value is None.
    """

    number: int
    value: Decimal | None
    is_all: bool


def count_listed(
    connection: Connection, criteria: Criteria, most: int | None = None
) -> tuple[int, Decimal | None]:
    """Return how many opportunities meet `criteria`, and their value with tax.

    The value is None if no row has one. It is also None for a list of all opportunities, because
    the value is known elsewhere and would cost reading every row here. Counting ends at `most` + 1.
    The value is then None too.
    """
    found = criteria.searched
    if most is not None and found is not None and found.also and most <= len(found.ids):
        alone = replace(criteria, search="", searched=None, sort="", time_zone="")
        if alone == Criteria(sort="", time_zone=""):
            return most + 1, None
        # Often enough of the newest that hold the words meet the other criteria.
        of_newest = _count(connection, replace(criteria, searched=Searched(found.ids)), most)
        if of_newest[0] > most:
            return of_newest
    return _count(connection, criteria, most)


def _count(
    connection: Connection, criteria: Criteria, most: int | None
) -> tuple[int, Decimal | None]:
    where, values = _where(criteria, of_all=True)
    worth = "NULL::numeric" if where == "true" else "sum(total_value)"
    with connection.cursor() as cursor:
        if most is not None:
            # For so few rows, reading one by one is faster than collecting their places first.
            cursor.execute("SET LOCAL random_page_cost = 1.1")
        cursor.execute(
            f"SELECT count(*), {worth} FROM (SELECT total_value FROM opportunities WHERE {where}"
            " LIMIT %(most)s) found",
            values | {"most": None if most is None else most + 1},
        )
        count, value = one_row(cursor)
    connection.commit()
    return count, None if most is not None and count > most else value


def list_opportunities(
    connection: Connection,
    criteria: Criteria,
    *,
    limit: int,
    offset: int = 0,
    place: Place | None = None,
) -> list[Listed]:
    """Return one page of the rows that meet `criteria`: from `offset` on, or the nearest to
    `place`. Commits.
    """
    return list_counted(connection, criteria, limit=limit, offset=offset, place=place)[0]


def list_counted(
    connection: Connection,
    criteria: Criteria,
    *,
    limit: int,
    offset: int = 0,
    place: Place | None = None,
) -> tuple[list[Listed], Counted | None]:
    """Return the same page as `list_opportunities`, and what was counted on the way to it, if
    anything was. Commits.
    """
    order, falling = _sorted(criteria)
    is_back = place is not None and place.before
    part = _Part(criteria, order, falling != is_back, place, limit, offset)
    with connection.cursor() as cursor:
        ids, counted = _page(cursor, part)
    found = list_of(connection, ids)
    return (found[::-1] if is_back else found), counted


def list_of(connection: Connection, ids: Sequence[int]) -> list[Listed]:
    """Return the opportunities with these ids that exist, in this order. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {_LISTED} FROM opportunities WHERE id = ANY(%s)", (list(ids),))
        rows = {row[0]: Listed(*row) for row in cursor.fetchall()}
    connection.commit()
    # The order is not evaluated again, so a row that changes meanwhile stays where it was found.
    return [rows[id_] for id_ in ids if id_ in rows]


def place_of(connection: Connection, criteria: Criteria, row: Listed, *, before: bool) -> Place:
    """Return the place of `row` in the list of `criteria`."""
    order, _ = _sorted(criteria)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT ({order.expression})::text FROM opportunities WHERE id = %s", (row.id,)
        )
        found = cursor.fetchone()
    return Place(found[0] if found else None, row.id, before)


def _sorted(criteria: Criteria) -> tuple[Order, bool]:
    order = ORDERS.get(criteria.sort.removeprefix("-"), ORDERS["updated"])
    return order, criteria.sort.startswith("-")


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of a page: `limit` of those after `place` in this direction, or from `offset` on."""

    criteria: Criteria
    order: Order
    falling: bool
    place: Place | None
    limit: int
    offset: int

    @property
    def values(self) -> dict[str, Any]:
        place = self.place
        known: dict[str, Any] = {"limit": self.limit, "offset": self.offset}
        return known if place is None else known | {"value": place.value, "id_of_place": place.id}

    @property
    def groups(self) -> list[str]:
        return _groups(self.order, self.falling, self.place)

    def sorted_by(self, column: str) -> str:
        """Return the whole order for ORDER BY, where `column` has the value of the order."""
        are_first = self.place is not None and self.place.before
        by, ids = _direction(self.falling), _direction(self.order.ids(self.falling))
        return f"{column} {by} NULLS {'FIRST' if are_first else 'LAST'}, id {ids}"


_ROWS_AT_A_TIME, _SECONDS_OF_A_FILE = 1_000, 120
# So many are sorted sooner than they are found along an order.
_MOST_SORTED = 1_000
# So many rows are looked at along an order before all that meet the criteria are sorted.
_MOST_LOOKED_AT = 10_000


def _page(cursor: Cursor, part: _Part) -> tuple[list[int], Counted | None]:
    """Return the ids of a page.

    PostgreSQL expects what meets the criteria to lie evenly along every order. What is on hire next
    month is the last of a million by the day on which it goes out. PostgreSQL would look for it
    from the first day on, and for what nobody has through all of them. So each way that is tried
    ends after so many rows, but for the last: to find all that meet the criteria, and sort them.
    """
    where, values = _where(part.criteria)
    searched = part.criteria.searched
    counted = None
    if where != "true" and (searched is None or not searched.also):
        # Where the words of each row are looked at, this would take longer than the page.
        counted, ids = _held(cursor, part, where, values, _MOST_SORTED)
        if not counted.is_all and _are_far_apart(cursor, part, where, values):
            more, ids = _held(cursor, part, where, values, _MOST_LOOKED_AT)
            counted = more if more.is_all else counted
        if counted.is_all:
            return ids, counted
    if part.offset:
        return (_direct if where == "true" else _of_all)(cursor, part), counted
    found: list[int] = []
    for group in part.groups:
        left = replace(part, limit=part.limit - len(found))
        if where == "true":
            found += _of_group(cursor, left, group)
        else:
            along, is_whole = _along_the_order(cursor, left, group)
            if not is_whole:
                return _of_all(cursor, part), counted
            found += along
        if len(found) >= part.limit:
            break
    return found, counted


def _held(
    cursor: Cursor, part: _Part, where: str, values: dict[str, Any], most: int
) -> tuple[Counted, list[int]]:
    """Count what meets the criteria. Return the ids of the page too, unless there are more than
    `most`.
    """
    behind = " OR ".join(
        f"({group})" for group in _groups(replace(part.order, expression="place_in_order"),
                                          part.falling, part.place)
    )  # fmt: skip
    # Reading one by one, as in `count_listed`.
    cursor.execute("SET LOCAL random_page_cost = 1.1")
    cursor.execute(
        # Without another column than the id, PostgreSQL would read an index that has ids, and in it
        # all that does not meet the criteria.
        "WITH held AS MATERIALIZED (SELECT id, total_value,"
        f" {part.order.expression} AS place_in_order FROM opportunities WHERE {where}"
        " LIMIT %(most)s + 1),"
        " counted AS MATERIALIZED (SELECT count(*) AS number, sum(total_value) AS worth FROM held)"
        " SELECT number, worth, CASE WHEN number <= %(most)s THEN ARRAY("
        f"SELECT id FROM held WHERE {behind if part.place else 'true'}"
        f" ORDER BY {part.sorted_by('place_in_order')} LIMIT %(limit)s OFFSET %(offset)s"
        ") END FROM counted",
        values | part.values | {"most": most},
    )
    number, worth, ids = one_row(cursor)
    cursor.execute("SET LOCAL random_page_cost TO DEFAULT")
    is_all = number <= most
    return Counted(number, worth if is_all else None, is_all), ids or []


def _are_far_apart(cursor: Cursor, part: _Part, where: str, values: dict[str, Any]) -> bool:
    """Return whether PostgreSQL expects so few to meet the criteria that a page of them is seldom
    found in `_MOST_LOOKED_AT` rows.
    """
    cursor.execute("SELECT reltuples FROM pg_class WHERE oid = 'opportunities'::regclass")
    (of_all,) = one_row(cursor)
    cursor.execute(f"EXPLAIN (FORMAT JSON) SELECT id FROM opportunities WHERE {where}", values)
    expected = one_row(cursor)[0][0]["Plan"]["Plan Rows"]
    if expected > _MOST_LOOKED_AT:
        return False
    return bool(part.limit * of_all > expected * _MOST_LOOKED_AT)


def _direct(cursor: Cursor, part: _Part) -> list[int]:
    """Return the ids of a page of all opportunities, as PostgreSQL finds them soonest."""
    cursor.execute(
        f"SELECT id FROM opportunities ORDER BY {part.sorted_by(part.order.expression)}"
        " LIMIT %(limit)s OFFSET %(offset)s",
        part.values,
    )
    return [row[0] for row in cursor.fetchall()]


def _of_group(cursor: Cursor, part: _Part, group: str) -> list[int]:
    """Return the ids of a group of all opportunities, in their order from where it begins."""
    cursor.execute(
        f"SELECT id FROM opportunities WHERE {group}"
        f" ORDER BY {_by(part, group)[1]} LIMIT %(limit)s",
        part.values,
    )
    return [row[0] for row in cursor.fetchall()]


def _along_the_order(cursor: Cursor, part: _Part, group: str) -> tuple[list[int], bool]:
    """Return the ids in a group that meet the criteria, out of its first `_MOST_LOOKED_AT` rows,
    and whether these are as many as wanted, or all.
    """
    where, values = _where(part.criteria)
    values |= part.values
    column, by = _by(part, group)
    is_absent = group.startswith(_absent(part.order))
    limits = limits_on(part.order.expression, part.criteria, is_absent=is_absent)
    among = f"{group} AND {limits}"
    customers, looked_at = part.criteria.customers, "opportunities"
    if customers is not None and customers.ids:
        # An index has the ids of customers. The rows of others are not read.
        looked_at = "looked_at"
        values["customer_ids"] = list(customers.ids)
        where = (
            "organisation_id = ANY(%(customer_ids)s::bigint[]) AND"
            f" (SELECT {where} FROM opportunities WHERE opportunities.id = looked_at.id)"
        )
    cursor.execute(
        f"SELECT id FROM (SELECT *, {column} AS place_in_order FROM opportunities WHERE {among}"
        f" ORDER BY {by} LIMIT {_MOST_LOOKED_AT}) {looked_at} WHERE {where}"
        f" ORDER BY {by.replace(column, 'place_in_order', 1)} LIMIT %(limit)s",
        values,
    )
    found = [row[0] for row in cursor.fetchall()]
    if len(found) >= part.limit:
        return found, True
    cursor.execute(
        "SELECT count(*) FROM (SELECT FROM opportunities"
        f" WHERE {among} ORDER BY {by} LIMIT {_MOST_LOOKED_AT}) looked_at",
        values,
    )
    return found, one_row(cursor)[0] < _MOST_LOOKED_AT


def _of_all(cursor: Cursor, part: _Part) -> list[int]:
    """Return the ids of the page out of all that meet the criteria, which are sorted."""
    where, values = _where(part.criteria, of_all=True)
    behind = " OR ".join(f"({group})" for group in part.groups) if part.place else "true"
    cursor.execute(
        # With the limit beside it, PostgreSQL would go along the order again.
        f"SELECT id FROM (SELECT id, {part.order.expression} AS place_in_order FROM opportunities"
        f" WHERE {where} AND ({behind}) OFFSET 0) held"
        f" ORDER BY {part.sorted_by('place_in_order')} LIMIT %(limit)s OFFSET %(offset)s",
        values | part.values,
    )
    return [row[0] for row in cursor.fetchall()]


def _by(part: _Part, group: str) -> tuple[str, str]:
    """Return the column by which a group is sorted, and its ORDER BY."""
    ids = _direction(part.order.ids(part.falling))
    if group.startswith(_absent(part.order)):
        # All of these are equal, and an index has the ids.
        return "id", f"id {ids}, id {ids}"
    column = part.order.expression
    return column, f"{column} {_direction(part.falling)}, id {ids}"


def _absent(order: Order) -> str:
    return f"{order.expression} IS NULL"


def _groups(order: Order, falling: bool, place: Place | None) -> list[str]:
    """Return conditions for what lies after `place` in this direction, in parts that follow each
    other.
    """
    column, down = order.expression, order.ids(falling)
    present, absent = f"{column} IS NOT NULL", _absent(order)
    if place is None:
        return [present, absent]
    goes, id_goes = ("<" if falling else ">"), ("<" if down else ">")
    if place.value is None:
        rest = f"{absent} AND id {id_goes} %(id_of_place)s"
        return [rest, present] if place.before else [rest]
    value = f"%(value)s::{order.kind}"
    if falling == down:
        behind = [f"({column}, id) {goes} ({value}, %(id_of_place)s)"]
    else:
        # First the other rows of the same value, which may be many, then what follows them. An
        # index finds the beginning of each.
        behind = [
            f"{column} = {value} AND id {id_goes} %(id_of_place)s",
            f"{column} {goes} {value}",
        ]
    return behind if place.before else [*behind, absent]


def _direction(falling: bool) -> str:
    return "DESC" if falling else "ASC"


def iterate_opportunities(
    connection: Connection, criteria: Criteria
) -> Generator[Listed, None, None]:
    """Yield all rows that meet `criteria` as they are at one moment, with a thousand in memory at
    a time. Commits, and leaves its own transaction open until the connection is given back.
    """
    where, values = _where(criteria, of_all=True)
    connection.commit()
    with connection.cursor() as rows, connection.cursor(name="opportunities") as ids:
        # Both questions are about the same moment.
        rows.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        # Nobody waits for a page here, and all of a list takes as long as it is.
        rows.execute(f"SET LOCAL statement_timeout = '{_SECONDS_OF_A_FILE}s'")
        # All of them are wanted, not the first ones soon.
        rows.execute("SET LOCAL cursor_tuple_fraction = 1")
        # Ids alone are sorted a hundred times sooner than rows whose records are unpacked.
        ids.execute(
            f"SELECT id FROM opportunities WHERE {where} ORDER BY {_order(criteria)}", values
        )
        while part := [row[0] for row in ids.fetchmany(_ROWS_AT_A_TIME)]:
            rows.execute(f"SELECT {_LISTED} FROM opportunities WHERE id = ANY(%s)", (part,))
            found = {row[0]: Listed(*row) for row in rows.fetchall()}
            yield from (found[id_] for id_ in part)


def owners(connection: Connection, most: int = 200) -> list[str]:
    """Return the names of colleagues who own opportunities."""
    with connection.cursor() as cursor:
        cursor.execute(
            # Go from one name to the next through the index: a million rows are then few steps. Of
            # names with the same first hundred letters, only the first is found.
            "WITH RECURSIVE each AS ("
            f" (SELECT {_OWNER} AS start, owner_name AS name FROM opportunities"
            f" WHERE owner_name IS NOT NULL ORDER BY {_OWNER} LIMIT 1)"
            f" UNION ALL SELECT further.* FROM each, LATERAL (SELECT {_OWNER}, owner_name"
            f" FROM opportunities WHERE {_OWNER} > each.start ORDER BY {_OWNER} LIMIT 1) further"
            ") SELECT name FROM each LIMIT %s",
            (most,),
        )
        names = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return names


def statuses(connection: Connection, most: int = 200) -> list[str]:
    """Return the names of the most frequent statuses."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT opportunity_status FROM status_counts ORDER BY opportunities DESC, 1 LIMIT %s",
            (most,),
        )
        found = sorted(row[0] for row in cursor.fetchall())
    connection.commit()
    return found


def names_of(connection: Connection, ids: Sequence[int]) -> list[tuple[int, str]]:
    """Return ids and names of those of `ids` that exist, in the same order. Commits."""
    if not ids:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, left(name, 200) FROM opportunities WHERE id = ANY(%s)", (list(ids),)
        )
        names = dict(cursor.fetchall())
    connection.commit()
    return [(id_, names[id_]) for id_ in ids if id_ in names]


def find_opportunity(connection: Connection, id_: int) -> Found | None:
    """Return the opportunity, or what it was before its deletion, or None if it was never here."""
    if abs(id_) > _BIGINT_MAX:
        return None
    with connection.cursor() as cursor:
        for table, deleted in _TABLES.items():
            cursor.execute(
                f"SELECT {_COLUMNS}, {_FOUND}, {deleted} FROM {table} WHERE id = %s", (id_,)
            )
            row = cursor.fetchone()
            if row is not None:
                break
        columns = dict(zip(_names(cursor), row, strict=True)) if row is not None else None
    connection.commit()
    if columns is None:
        return None
    apart = ("number", "reference", "state", "record", "deleted_at", "deleted_because")
    return Found(**{name: columns.pop(name) for name in apart}, columns=columns)


def _names(cursor: Cursor) -> list[str]:
    return [column.name for column in cursor.description or ()]


def _order(criteria: Criteria) -> str:
    order, falling = _sorted(criteria)
    ids = _direction(order.ids(falling))
    return f"{order.expression} {_direction(falling)} NULLS LAST, id {ids}"
