"""Customers, venues or owners in an order, such as by their value in the last twelve months.

What counts as value is said in `parties`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from rms_pipeline.insight.compare import schema_first
from rms_pipeline.insight.days import Day, a_year_before
from rms_pipeline.insight.parties import Kind
from rms_pipeline.mirror.criteria import GOES_OUT, literally
from rms_pipeline.mirror.statements import Connection, Cursor, one_row

MOST_RANKED = 50
# In a larger account not all opportunities are read for a page of fifty, if fewer give the same
# rows.
MOST_READ_AT_ONCE = 50_000
# The orders that follow from opportunities that start at most two years ago.
_OF_TWO_YEARS = frozenset({"opportunities", "value", "value_before", "trend", "coming_value"})
_THIS_YEAR = "phase = 'confirmed' AND starts >= %(year_ago)s AND starts < %(now)s"
_YEAR_BEFORE = "phase = 'confirmed' AND starts >= %(two_years_ago)s AND starts < %(year_ago)s"
_VALUE = f"coalesce(sum(charge_total) FILTER (WHERE {_THIS_YEAR}), 0)"
_VALUE_BEFORE = f"coalesce(sum(charge_total) FILTER (WHERE {_YEAR_BEFORE}), 0)"
_FIGURES = (
    f"count(*) FILTER (WHERE {_THIS_YEAR}) AS opportunities,"
    f" count(*) FILTER (WHERE {_YEAR_BEFORE}) AS opportunities_before,"
    f" {_VALUE} AS value, {_VALUE_BEFORE} AS value_before,"
    " coalesce(sum(charge_total) FILTER (WHERE phase = 'confirmed' AND starts >= %(now)s), 0)"
    " AS coming_value,"
    " coalesce(sum(charge_total) FILTER (WHERE phase = 'open'), 0) AS open_value,"
    " max(starts) FILTER (WHERE phase = 'confirmed') AS last_start,"
    f" {_VALUE} - {_VALUE_BEFORE} AS trend"
)
# What a ranking may be sorted by; a leading `-` turns it round.
RANKINGS = {
    "name": "name",
    "opportunities": "opportunities",
    "value": "value",
    "before": "value_before",
    "trend": "trend",
    "coming": "coming_value",
    "open": "open_value",
}


@dataclass(frozen=True, slots=True)
class Ranked:
    """One row of a ranking. `value` and `opportunities` are of confirmed opportunities that started
    in the year up to the end of today, `value_before` and `opportunities_before` of the year before
    that. `coming_value` is of those that start later, `open_value` of those that are not decided.
    `id` is None if only a name is known."""

    id: int | None
    name: str | None
    opportunities: int
    opportunities_before: int
    value: Decimal
    value_before: Decimal
    trend: Decimal
    coming_value: Decimal
    open_value: Decimal
    last_start: datetime | None


@dataclass(frozen=True, slots=True)
class RankingQuery:
    """Which rows of a ranking: those of the end of the day `today`, sorted by `sort` (a key of
    `RANKINGS`, with a leading `-` for the reverse order), from `offset` on, of those whose name
    contains `search`."""

    kind: Kind
    today: Day
    sort: str = "-value"
    offset: int = 0
    search: str = ""

    @property
    def order(self) -> str:
        """The column that the ranking is sorted by."""
        return RANKINGS[self.sort.removeprefix("-")]

    @property
    def is_down(self) -> bool:
        return self.sort.startswith("-")

    @property
    def direction(self) -> str:
        return "DESC" if self.is_down else "ASC"


def rank(connection: Connection, wanted: RankingQuery) -> tuple[int, list[Ranked]]:
    """How many there are, and `MOST_RANKED` of them. Reads every opportunity. Commits."""
    with connection.cursor() as cursor:
        cursor.execute(_sql(cursor, wanted))
        rows = cursor.fetchall()
    connection.commit()
    return (rows[0][-1] if rows else 0), [_ranked(row) for row in rows]


def rank_leading(connection: Connection, wanted: RankingQuery) -> list[Ranked] | None:
    """The same rows as those of `rank`, without reading every opportunity. None if that is not
    possible: with a search; in an account of few opportunities, where nothing is gained; and for
    rows that other opportunities decide than those of the last two years and of the future.
    Commits."""
    if wanted.search or wanted.order not in _OF_TWO_YEARS:
        return None
    found = None
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(sum(opportunities), 0) FROM status_counts")
        if one_row(cursor)[0] > MOST_READ_AT_ONCE:
            found = _leading(cursor, wanted)
    connection.commit()
    return found


def _leading(cursor: Cursor, wanted: RankingQuery) -> list[Ranked] | None:
    kind, order = wanted.kind, wanted.order
    text = (
        f"SELECT id, key FROM (SELECT {kind.id_column} AS id, {kind.key} AS key, {_FIGURES}"
        f" FROM ({_charges(kind)} AND {GOES_OUT} >= %(two_years_ago)s) o GROUP BY 1, 2) recent"
        # Only parties with a value: all others come after these, so they are on later pages.
        f" WHERE {order} {'>' if wanted.is_down else '<'} 0"
        f" ORDER BY {order} {wanted.direction}, id, key"
        " LIMIT %(most)s OFFSET %(offset)s"
    )
    cursor.execute(text, _year_up_to(wanted.today) | {"most": MOST_RANKED, "offset": wanted.offset})
    keys = cursor.fetchall()
    if len(keys) < MOST_RANKED:
        return None
    # These keys are already those from the offset on.
    cursor.execute(_sql(cursor, replace(wanted, offset=0), keys))
    return [_ranked(row) for row in cursor.fetchall()]


def ranking_sql(connection: Connection, wanted: RankingQuery) -> str:
    """The SQL of `rank`, for copying. Commits."""
    with connection.cursor() as cursor:
        sql = f"{schema_first(cursor)}{_sql(cursor, wanted)};"
    connection.commit()
    return sql


def _charges(kind: Kind) -> str:
    """A SELECT of who it is, the charge, the start and the phase of all opportunities."""
    return (
        f"SELECT o.id AS opportunity_id, {kind.id_column}, {kind.name_column}, charge_total,"
        f" updated_at_rms, {GOES_OUT} AS starts, coalesce(s.phase, 'open') AS phase"
        " FROM opportunities o LEFT JOIN statuses s ON s.name = opportunity_status"
        f" WHERE ({kind.id_column} IS NOT NULL OR {kind.name_column} IS NOT NULL)"
    )


def _sql(
    cursor: Cursor,
    wanted: RankingQuery,
    keys: Sequence[tuple[int | None, str | None]] | None = None,
) -> str:
    """The SQL of a ranking. `keys` are the ids, or the names of those without one, to which it is
    restricted."""
    kind, order = wanted.kind, wanted.order
    values = {
        **_year_up_to(wanted.today),
        "search": f"%{literally(wanted.search)}%",
        "offset": wanted.offset,
        "most": MOST_RANKED,
        "ids": [id_ for id_, _ in keys or () if id_ is not None],
        "names": [name for id_, name in keys or () if id_ is None],
    }
    of_keys = (
        f" AND ({kind.id_column} = ANY(%(ids)s::bigint[])"
        f" OR {kind.id_column} IS NULL AND {kind.name_column} = ANY(%(names)s::text[]))"
        if values["names"]
        else f" AND {kind.id_column} = ANY(%(ids)s::bigint[])"
    )
    # Those that have 0 in this column are sorted by name.
    alike = "" if order == "name" else f" CASE WHEN {order} = 0 THEN name END, id,"
    # Most were never renamed, so their name needs no look-up. Otherwise the newest name counts, as
    # in the views of names.
    name = (
        "CASE WHEN m.name IS NOT NULL AND coalesce(m.updated_at_rms > changed, changed IS NULL)"
        " THEN m.name WHEN first_name = last_name THEN last_name ELSE (SELECT"
        f" o.{kind.name_column} FROM opportunities o WHERE o.{kind.id_column} = one.id"
        f" AND o.{kind.name_column} IS NOT NULL"
        " ORDER BY o.updated_at_rms DESC NULLS LAST, o.id DESC LIMIT 1) END"
    )
    text = (
        "SELECT id, name, opportunities, opportunities_before, value, value_before, trend,"
        " coming_value, open_value, last_start, count(*) OVER ()"
        f" FROM (SELECT one.*, {name} AS name FROM (SELECT {kind.id_column} AS id,"
        f" min({kind.name_column}) AS first_name, max({kind.name_column}) AS last_name,"
        f" max(updated_at_rms) FILTER (WHERE {kind.name_column} IS NOT NULL) AS changed, {_FIGURES}"
        f" FROM ({_charges(kind)}{of_keys if keys else ''}) o"
        f" GROUP BY {kind.id_column}, {kind.key}) one"
        " LEFT JOIN members m ON m.id = one.id AND m.name <> '') ranked"
        " WHERE coalesce(name, '') ILIKE %(search)s"
        f" ORDER BY {order} {wanted.direction} NULLS LAST,{alike} name, id"
        " LIMIT %(most)s OFFSET %(offset)s"
    )
    return cursor.mogrify(text, values).decode()


def _ranked(row: Sequence[Any]) -> Ranked:
    return Ranked(*row[:-1])


def periods_of_ranking(today: Day) -> dict[str, datetime]:
    """The periods that a ranking adds up, the earlier one first, with the time (UTC) at which each
    begins."""
    begin = _year_up_to(today)
    return {"the 12 months before": begin["two_years_ago"], "the last 12 months": begin["year_ago"]}


def _year_up_to(today: Day) -> dict[str, datetime]:
    year_ago = a_year_before(today.ends, today.time_zone)
    two_years_ago = a_year_before(year_ago.starts, today.time_zone)
    return {"now": today.ends, "year_ago": year_ago.starts, "two_years_ago": two_years_ago.starts}
