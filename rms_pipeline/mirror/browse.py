"""Finding opportunities: the lists, the single opportunity and the CSV of the dashboard."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.outcomes import OUTCOMES
from rms_pipeline.mirror.summary import NO_STATUS

_BIGINT_MAX = 2**63 - 1
# What a list may be sorted by. Absent values come last either way.
SORTS = {
    "name": "name",
    "status": "opportunity_status",
    "customer": "organisation_name",
    "owner": "owner_name",
    "starts": "starts_at",
    "ends": "ends_at",
    "value": "total_value",
    "updated": "updated_at_rms",
}
_LISTED = (
    "id, data ->> 'number', name, opportunity_status, starts_at, ends_at, organisation_name,"
    " venue_name, owner_name, charge_total, total_value, updated_at_rms"
)
_NUMBER = "left(data ->> 'number', 100)"
_WIDEST_NUMBER = 12
# Not the record itself, which psycopg2 would read as JSON: its numbers may be such that Python
# refuses them, and would be rounded if it did not.
_COLUMNS = ", ".join(c.name for c in OPPORTUNITIES.table if c.kind not in ("jsonb", "tstzrange"))
_FOUND = (
    "data ->> 'number' AS number, data ->> 'reference' AS reference,"
    " data ->> 'state_name' AS state, coalesce(data, '{}')::text AS record"
)
_TABLES = {
    "opportunities": "NULL AS deleted_at, NULL AS deleted_because",
    "deleted_opportunities": "deleted_at, deleted_because",
}


@dataclass(frozen=True, slots=True)
class Criteria:
    """What to list. Dates (of `time_zone`) are those the hire starts on, both ends included.

    `search` finds an id, the beginning of a number (or, in digits, all of it but leading zeros), or
    part of a name or customer; `customer` part of a customer's name; `status` and `owner` are
    exact, `NO_STATUS` being the absent one, and a key of `OUTCOMES` several. `sort` is a key
    of `SORTS`, with a leading `-` for descending.
    """

    search: str = ""
    status: str = ""
    customer: str = ""
    owner: str = ""
    starts_from: date | None = None
    starts_to: date | None = None
    sort: str = "-updated"
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Listed:
    """An opportunity as a line of a list. Times are UTC, money in the account's currency."""

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


def count_listed(connection: Connection, criteria: Criteria) -> tuple[int, Decimal | None]:
    """How many opportunities meet `criteria`, and what they are worth with tax, None where nothing
    says so, or for all opportunities: that is known already, and here would cost reading each."""
    where, values = _where(criteria)
    worth = "NULL::numeric" if where == "true" else "sum(total_value)"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*), {worth} FROM opportunities WHERE {where}", values)
        row = cursor.fetchone()
    connection.commit()
    return (int(row[0]), row[1]) if row else (0, None)


def list_opportunities(
    connection: Connection, criteria: Criteria, *, limit: int, offset: int = 0
) -> list[Listed]:
    """One page of those that meet `criteria`."""
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
            "SELECT owner_name FROM opportunities WHERE owner_name IS NOT NULL"
            " GROUP BY 1 ORDER BY 1 LIMIT %s",
            (most,),
        )
        names = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return names


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
    column = SORTS.get(criteria.sort.removeprefix("-"), SORTS["updated"])
    direction = "DESC" if criteria.sort.startswith("-") else "ASC"
    return f"{column} {direction} NULLS LAST, id DESC"


def _where(criteria: Criteria) -> tuple[str, dict[str, Any]]:
    """The condition, every value of it a parameter."""
    conditions = ["true"]
    values: dict[str, Any] = {}
    if criteria.search:
        found = ["name ILIKE %(part)s", "organisation_name ILIKE %(part)s"]
        # A subquery of its own, or every record would be unpacked for its number.
        found.append(f"id IN (SELECT id FROM opportunities WHERE {_NUMBER} LIKE %(start)s)")
        if padded := _padded(criteria.search):
            found.append(f"id IN (SELECT id FROM opportunities WHERE {_NUMBER} = ANY(%(padded)s))")
            values["padded"] = padded
        if re.fullmatch(r"-?[0-9]{1,100}", criteria.search):
            number = int(criteria.search)
            if abs(number) <= _BIGINT_MAX:
                found.append("id = %(id)s")
                values["id"] = number
        literal = _literal(criteria.search)
        values |= {"part": f"%{literal}%", "start": f"{literal}%"}
        conditions.append(f"({' OR '.join(found)})")
    if criteria.status == NO_STATUS:
        # Nobody can be kept from calling a status that.
        conditions.append("(opportunity_status IS NULL OR opportunity_status = %(status)s)")
        values["status"] = NO_STATUS
    elif outcome := OUTCOMES.get(criteria.status):
        conditions.append(outcome.condition)
    elif criteria.status:
        conditions.append("opportunity_status = %(status)s")
        values["status"] = criteria.status
    if criteria.customer:
        conditions.append("organisation_name ILIKE %(customer)s")
        values["customer"] = f"%{_literal(criteria.customer)}%"
    if criteria.owner:
        conditions.append("owner_name = %(owner)s")
        values["owner"] = criteria.owner
    values["zone"] = criteria.time_zone
    if criteria.starts_from is not None:
        conditions.append("starts_at >= %(from)s::timestamp AT TIME ZONE %(zone)s")
        values["from"] = criteria.starts_from
    if criteria.starts_to is not None:
        conditions.append("starts_at < (%(to)s::date + 1)::timestamp AT TIME ZONE %(zone)s")
        values["to"] = criteria.starts_to
    # PostgreSQL has no NUL.
    texts = {k: v.replace("\x00", "\ufffd") for k, v in values.items() if isinstance(v, str)}
    return " AND ".join(conditions), values | texts


def _padded(search: str) -> list[str]:
    """Digits as numbers that Current RMS pads with zeros, in every usual width."""
    if not re.fullmatch(r"[0-9]+", search):
        return []
    return [search.zfill(width) for width in range(len(search) + 1, _WIDEST_NUMBER + 1)]


def _literal(text: str) -> str:
    """`text` as part of a LIKE pattern, meaning nothing but itself."""
    for special in "\\%_":
        text = text.replace(special, f"\\{special}")
    return text
