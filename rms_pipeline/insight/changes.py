"""Who changed what, when, from what to what: the rows of `opportunity_changes`, newest first.

The time of a row is that of the change in Current RMS, if Current RMS sends it. Otherwise it is the
time at which the mirror noticed it. Some columns always change together. One of them stands for all
(`ECHOES`), unless all columns are asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.days import FIRST, LAST, Day
from rms_pipeline.mirror.criteria import Days
from rms_pipeline.mirror.statements import Connection

MOST = 100
# In place of a person: changes of which nobody knows whose they are.
NOBODY = "is:unknown"
# In place of a field: each column of its own.
EVERY = "is:every"
# Columns that say again what another one says, or follow from it.
ECHOES = (
    *("name", "organisation_id", "owner_id", "venue_id", "total_value", "tax_total"),
    *("charge_excluding_tax_total", "charge_including_tax_total"),
)
_KINDS = {column.name: column.kind for column in OPPORTUNITIES.columns}
NUMBERS = tuple(name for name, kind in _KINDS.items() if kind == "numeric")
TIMES = tuple(name for name, kind in _KINDS.items() if kind == "timestamptz")
CHARGE = "charge_total"
_WHEN = "coalesce(c.changed_at, c.seen_at)"
# People write lines of their own: what is no number, or no time, has no size.
_TIME = r"^[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]+)?[+-]"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The changes to list. All conditions apply. `when` are days in `time_zone`. `who` is a
    person's name or `NOBODY`. `field` is a column, `custom_fields.` and a key, or `EVERY`. `least`
    is the smallest change of a number: of `field`, or else of the charge without tax. `days` is the
    smallest number of days that a date moved."""

    when: Days = field(default_factory=Days)
    time_zone: str = "UTC"
    who: str = ""
    field: str = ""
    least: Decimal | None = None
    days: int | None = None


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in the list: after the change `id` of the time `at`."""

    at: datetime
    id: int


@dataclass(frozen=True, slots=True)
class ChangeLine:
    """One changed field of one opportunity. `at` is `changed_at`, the time of the edit in Current
    RMS, else `seen_at`, the time at which the mirror noticed it. Both are UTC. `changed_by` is None
    if the person is not known. `seen_by` is the run that noticed the change. `is_rename`: the same
    customer, venue or owner has another name."""

    id: int
    opportunity_id: int
    name: str | None
    number: str | None
    customer: str | None
    field: str
    old_value: str | None
    new_value: str | None
    at: datetime
    changed_at: datetime | None
    changed_by: str | None
    seen_at: datetime
    seen_by: str | None
    is_rename: bool

    @property
    def place(self) -> Place:
        return Place(self.at, self.id)


@dataclass(frozen=True, slots=True)
class Changes:
    """Some changes, newest first. `next` is the position of the next page, None at the end."""

    lines: list[ChangeLine]
    next: Place | None


def list_changes(
    connection: Connection, wanted: Wanted, *, after: Place | None = None, most: int = MOST
) -> Changes:
    """The first `most` changes that match `wanted`, or those after the position `after`.
    Commits."""
    where, values = _where(wanted)
    if after is not None:
        where.append(f"({_WHEN}, c.id) < (%(after_at)s, %(after_id)s)")
        values |= {"after_at": after.at, "after_id": after.id}
    lines = _lines(connection, where, {**values, "most": most + 1})
    more = len(lines) > most
    lines = lines[:most]
    return Changes(lines, lines[-1].place if more else None)


def changes_of_one(connection: Connection, opportunity: int, most: int) -> list[ChangeLine]:
    """The changes of one opportunity, newest first, with every column. Commits."""
    where = ["c.opportunity_id = %(opportunity)s"]
    return _lines(connection, where, {"opportunity": opportunity, "most": most})


# A name changed, and not the id beside it. An empty name is no other one.
_RENAMED = (
    "c.old_value <> '' AND c.new_value <> '' AND CASE c.field"
    + "".join(
        f" WHEN '{name}' THEN NOT EXISTS (SELECT FROM opportunity_changes i"
        f" WHERE i.opportunity_id = c.opportunity_id AND i.seen_at = c.seen_at"
        f" AND i.field = '{id_}')"
        for name, id_ in OPPORTUNITIES.names.values()
    )
    + " END"
)


def _lines(
    connection: Connection, where: Sequence[str], values: Mapping[str, Any]
) -> list[ChangeLine]:
    with connection.cursor() as cursor:
        cursor.execute(
            # Which lines first; only theirs are the opportunities that are looked up.
            "SELECT c.id, c.opportunity_id, coalesce(o.name, d.name), coalesce(o.number, d.number),"
            " coalesce(o.organisation_name, d.organisation_name), c.field, c.old_value,"
            f" c.new_value, {_WHEN}, c.changed_at, c.changed_by, c.seen_at, c.seen_by,"
            f" coalesce({_RENAMED}, false)"
            f" FROM (SELECT * FROM opportunity_changes c WHERE {' AND '.join(where)}"
            f" ORDER BY {_WHEN} DESC, c.id DESC LIMIT %(most)s) c"
            " LEFT JOIN opportunities o ON o.id = c.opportunity_id"
            " LEFT JOIN deleted_opportunities d ON d.id = c.opportunity_id"
            f" ORDER BY {_WHEN} DESC, c.id DESC",
            values,
        )
        found = [ChangeLine(*row) for row in cursor.fetchall()]
    connection.commit()
    return found


def known_people(connection: Connection, most: int = 200) -> list[str]:
    """The names of all people who changed something, in alphabetical order. Commits."""
    return _distinct(connection, "changed_by", most)


def known_fields(connection: Connection, most: int = 500) -> list[str]:
    """The names of all fields that have changed, in alphabetical order. Commits."""
    return _distinct(connection, "field", most)


def _distinct(connection: Connection, column: str, most: int) -> list[str]:
    """The distinct values of a column. Each step finds the next value in the column's index, so the
    number of rows does not matter."""
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH RECURSIVE known (value) AS ("
            f"(SELECT min({column}) FROM opportunity_changes) UNION ALL"
            f" SELECT (SELECT min({column}) FROM opportunity_changes WHERE {column} > value)"
            " FROM known WHERE value IS NOT NULL)"
            " SELECT value FROM known WHERE value IS NOT NULL LIMIT %s",
            (most,),
        )
        found = [row[0] for row in cursor.fetchall()]
    connection.commit()
    return found


def as_number(value: str) -> str:
    """SQL: the text `value` as a number, or 0 if it is not a number."""
    return f"CASE WHEN {value} ~ '^-?[0-9]+(\\.[0-9]+)?$' THEN {value}::numeric ELSE 0 END"


def _where(wanted: Wanted) -> tuple[list[str], dict[str, Any]]:
    where, values = ["true"], dict[str, Any]()
    if wanted.when.first is not None:
        where.append(f"{_WHEN} >= %(starts)s")
        values["starts"] = _day(wanted.when.first, wanted.time_zone).starts
    if wanted.when.last is not None:
        where.append(f"{_WHEN} < %(ends)s")
        values["ends"] = _day(wanted.when.last, wanted.time_zone).ends
    if wanted.who == NOBODY:
        where.append("c.changed_by IS NULL")
    elif wanted.who:
        where.append("c.changed_by = %(who)s")
        values["who"] = wanted.who
    if wanted.field and wanted.field != EVERY:
        where.append("c.field = %(field)s")
        values["field"] = wanted.field
    elif wanted.field != EVERY:
        where.append("c.field <> ALL(%(echoes)s)")
        values["echoes"] = list(ECHOES)
    sizes = []
    chosen = wanted.field if wanted.field in _KINDS else ""
    if wanted.least is not None:
        numbers = _chosen(chosen, NUMBERS, (CHARGE,))
        sizes.append(
            "CASE WHEN c.field = ANY(%(numbers)s) THEN"
            f" abs({as_number('c.new_value')} - {as_number('c.old_value')}) >= %(least)s END"
        )
        values |= {"numbers": numbers, "least": wanted.least}
    if wanted.days is not None:
        times = _chosen(chosen, TIMES, TIMES)
        sizes.append(
            "CASE WHEN c.field = ANY(%(times)s) AND c.new_value ~ %(time)s"
            " AND c.old_value ~ %(time)s THEN abs(extract(epoch FROM"
            " c.new_value::timestamptz - c.old_value::timestamptz)) >= %(seconds)s END"
        )
        values |= {"times": times, "seconds": wanted.days * 86_400, "time": _TIME}
    if sizes:
        # So that an index leads to the few fields that have a size.
        where.append("c.field = ANY(%(sized)s)")
        values["sized"] = [*values.get("numbers", ()), *values.get("times", ())]
        where.append(f"({' OR '.join(sizes)})")
    return where, values


def _day(day: date, time_zone: str) -> Day:
    return Day(min(max(day, FIRST), LAST), time_zone)


def _chosen(field: str, kind: Sequence[str], otherwise: Sequence[str]) -> list[str]:
    """The fields to which the size applies: the chosen field, if it has sizes."""
    if not field:
        return list(otherwise)
    return [field] if field in kind else []
