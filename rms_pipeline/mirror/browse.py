"""Finding opportunities: the lists, the single opportunity and the CSV of the dashboard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.criteria import COMES_BACK, GOES_OUT, INDEXED
from rms_pipeline.mirror.criteria import Criteria as Criteria
from rms_pipeline.mirror.criteria import condition as _where
from rms_pipeline.mirror.statements import Connection, Cursor

__all__ = ["ORDERS", "SORTS", "Criteria", "Found", "Listed", "Place", "_where"]

_BIGINT_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Order:
    """What a list is sorted by: `expression`, of which an index holds as much with the ids. Absent
    values come last either way.

    Of one value the newest comes first in the direction that people want first; the other one is
    its reverse, so that the one index serves both.
    """

    expression: str
    kind: Literal["text", "timestamptz", "numeric"]
    falls: bool = False

    def ids(self, falling: bool) -> bool:
        """Whether ids fall where values fall, or do not."""
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
    "id, data ->> 'number', name, opportunity_status, starts_at, ends_at, organisation_name,"
    " venue_name, owner_name, charge_total, total_value, updated_at_rms, state_name,"
    f" organisation_id, {GOES_OUT}, CASE WHEN open_ended_rental IS NOT TRUE THEN {COMES_BACK} END,"
    " confirmed_at, created_at_rms, tags, profit, data ->> 'reference'"
)
# Not the record itself, which psycopg2 would read as JSON: its numbers may be such that Python
# refuses them, and would be rounded if it did not.
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
    """An opportunity as a line of a list. Times are UTC, money in the account's currency.

    What only some lists show comes last, and is no part of what makes two lines the same.
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


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a sorted list: behind (or, `before`, in front of) the row of this value and id.
    `value` is None for a row that has none, and else as PostgreSQL writes it."""

    value: str | None
    id: int
    before: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """One opportunity, live or deleted: its columns by name, what only the record has (`state` is
    Enquiry, Quotation or Order), and the record as text of JSON, with every digit."""

    columns: dict[str, Any]
    number: str | None
    reference: str | None
    state: str | None
    record: str
    deleted_at: datetime | None
    deleted_because: str | None


def count_listed(
    connection: Connection, criteria: Criteria, most: int | None = None
) -> tuple[int, Decimal | None]:
    """How many opportunities meet `criteria`, and what they are worth with tax, None where nothing
    says so, or for all opportunities: that is known already, and here would cost reading each.

    Counting ends at `most` + 1, and then nothing is known of their worth.
    """
    found = criteria.searched
    if most is not None and found is not None and found.also and most <= len(found.ids):
        alone = replace(criteria, search="", searched=None, sort="", time_zone="")
        if alone == Criteria(sort="", time_zone=""):
            return most + 1, None
    where, values = _where(criteria)
    worth = "NULL::numeric" if where == "true" else "sum(total_value)"
    with connection.cursor() as cursor:
        if most is not None:
            # So few are read one by one sooner than their places are all noted first.
            cursor.execute("SET LOCAL random_page_cost = 1.1")
        cursor.execute(
            f"SELECT count(*), {worth} FROM (SELECT total_value FROM opportunities WHERE {where}"
            " LIMIT %(most)s) found",
            values | {"most": None if most is None else most + 1},
        )
        row = cursor.fetchone()
    connection.commit()
    count, value = (int(row[0]), row[1]) if row else (0, None)
    return count, None if most is not None and count > most else value


def list_opportunities(
    connection: Connection,
    criteria: Criteria,
    *,
    limit: int,
    offset: int = 0,
    place: Place | None = None,
) -> list[Listed]:
    """One page of those that meet `criteria`: from the `offset` on, or the nearest to `place`."""
    order, falling = _sorted(criteria)
    if place is not None and place.before:
        return _page(connection, criteria, order, not falling, limit, place)[::-1]
    if offset == 0:
        return _page(connection, criteria, order, falling, limit, place)
    where, values = _where(criteria)
    with connection.cursor() as cursor:
        cursor.execute(
            # Which rows first, by narrow columns; only those few records are then unpacked.
            f"SELECT {_LISTED} FROM opportunities JOIN (SELECT id AS found FROM opportunities"
            f" WHERE {where} ORDER BY {_order(criteria)} LIMIT %(limit)s OFFSET %(offset)s) page"
            f" ON id = found ORDER BY {_order(criteria)}",
            values | {"limit": limit, "offset": offset},
        )
        rows = [Listed(*row) for row in cursor.fetchall()]
    connection.commit()
    return rows


def place_of(connection: Connection, criteria: Criteria, row: Listed, *, before: bool) -> Place:
    """The place of `row` in the list of `criteria`."""
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


def _page(
    connection: Connection,
    criteria: Criteria,
    order: Order,
    falling: bool,
    limit: int,
    place: Place | None,
) -> list[Listed]:
    """The next `limit` rows behind `place` in this direction.

    Those with a value and those without are asked for one after the other: so each question is one
    that an index answers from where it stands.
    """
    where, values = _where(criteria)
    column = order.expression
    by = f"{_direction(falling)}, id {_direction(order.ids(falling))}"
    if place is not None:
        values |= {"value": place.value, "id_of_place": place.id}
    ids: list[int] = []
    with connection.cursor() as cursor:
        for group in _groups(order, falling, place):
            cursor.execute(
                f"SELECT id FROM opportunities WHERE {where} AND {group}"
                f" ORDER BY {column} {by} LIMIT %(limit)s",
                values | {"limit": limit - len(ids)},
            )
            ids += [row[0] for row in cursor.fetchall()]
            if len(ids) >= limit:
                break
        cursor.execute(f"SELECT {_LISTED} FROM opportunities WHERE id = ANY(%s)", (ids,))
        rows = {row[0]: Listed(*row) for row in cursor.fetchall()}
    connection.commit()
    # Not asked for again by the order: what is changed meanwhile stays where it was found.
    return [rows[id_] for id_ in ids if id_ in rows]


def _groups(order: Order, falling: bool, place: Place | None) -> list[str]:
    """What lies behind `place` in this direction, in parts that come one after the other."""
    column, down = order.expression, order.ids(falling)
    present, absent = f"{column} IS NOT NULL", f"{column} IS NULL"
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
        # The rest of those that are alike, which may be many, and then what follows them: an index
        # finds the beginning of each.
        behind = [
            f"{column} = {value} AND id {id_goes} %(id_of_place)s",
            f"{column} {goes} {value}",
        ]
    return behind if place.before else [*behind, absent]


def _direction(falling: bool) -> str:
    return "DESC" if falling else "ASC"


def iterate_opportunities(connection: Connection, criteria: Criteria) -> Iterator[Listed]:
    """All that meet `criteria`, a thousand in memory at a time."""
    where, values = _where(criteria)
    with connection.cursor(name="opportunities") as cursor:
        cursor.itersize = 1_000
        cursor.execute(
            f"SELECT {_LISTED} FROM opportunities WHERE {where} ORDER BY {_order(criteria)}", values
        )
        for row in cursor:
            yield Listed(*row)


def owners(connection: Connection, most: int = 200) -> list[str]:
    """Names of colleagues that opportunities belong to."""
    with connection.cursor() as cursor:
        cursor.execute(
            # From one name to the next through the index, so that a million rows are few steps.
            # Of those that begin with the same hundred letters only the first is found.
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
    """Those that most opportunities have, by name."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT opportunity_status FROM status_counts ORDER BY opportunities DESC, 1 LIMIT %s",
            (most,),
        )
        found = sorted(row[0] for row in cursor.fetchall())
    connection.commit()
    return found


def names_of(connection: Connection, ids: Sequence[int]) -> list[tuple[int, str]]:
    """What those of `ids` that are there are called, in that order. Commits."""
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
    """The opportunity, or what it was before it was deleted; None when it was never here."""
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
