"""A page of a list: its rows, how many there are in all, and the addresses of the pages beside
it."""

from dataclasses import dataclass
from decimal import Decimal

import psycopg2
from fastapi import HTTPException

from rms_pipeline.insight.facets import MOST_COUNTED
from rms_pipeline.insight.list_search import last_changed
from rms_pipeline.mirror.browse import (
    Counted,
    Listed,
    Place,
    count_listed,
    list_counted,
    list_of,
    place_of,
)
from rms_pipeline.mirror.overview import add_up
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.web.list_address import Asked, looked_up, page_behind

PER_PAGE = 50
# The most that are counted if the words of each row have to be looked at, which takes longer.
_MOST_LOOKED_AT = 1_000


@dataclass(frozen=True, slots=True)
class Count:
    """How many opportunities a list has, and what they are worth with tax, as page `number` says
    it. They are counted up to `most`: one more than that means "more than `most`". `value` is None
    if it was not added up. Without `is_final`, the page is shown first and the rest is counted
    then."""

    number: int
    count: int
    value: Decimal | None
    most: int = MOST_COUNTED
    is_final: bool = True

    @property
    def is_counted(self) -> bool:
        return self.count <= self.most

    @property
    def pages(self) -> int | None:
        """How many pages there are, None if that is not known."""
        return max(-(-self.count // PER_PAGE), 1) if self.is_counted else None


@dataclass(frozen=True, slots=True)
class ListPage:
    """Page `number` of a list. `next` and `previous` are the queries of the addresses of the pages
    beside it, None at the ends."""

    number: int
    rows: list[Listed]
    found: Count
    next: str | None = None
    previous: str | None = None


def read_list_page(connection: Connection, wanted: Asked, *, is_whole: bool) -> ListPage:
    """The page that `wanted` asks for, `PER_PAGE` rows at most. Looks up what was typed. With
    `is_whole` all opportunities of the list are counted, which takes longer than the rows do where
    there are many. Raises HTTPException (422) if the place of the page does not fit the order.
    Commits."""
    if wanted.page == 1 and not is_whole and wanted.criteria.search:
        soon = last_changed(connection, wanted.criteria, PER_PAGE + 1)
        if soon is not None:
            rows = list_of(connection, soon)[:PER_PAGE]
            return ListPage(1, rows, _at_least(wanted, PER_PAGE), _next(connection, wanted, rows))
    wanted = looked_up(connection, wanted)
    # The first page begins where the list begins, whatever place the address names.
    place = wanted.place if wanted.page > 1 else None
    rows, counted = _read_rows(connection, wanted, place)
    is_back = place is not None and place.before
    more = len(rows) > PER_PAGE or is_back
    rows = (rows[1:] if len(rows) > PER_PAGE else rows) if is_back else rows[:PER_PAGE]
    if wanted.page == 1 and not more:
        # All of them are here: nobody has to count.
        found = Count(1, len(rows), worth(rows, wanted))
    elif is_whole:
        found = count_list(connection, wanted)
    else:
        found = _count_at_once(connection, wanted, counted, are_more=bool(rows))
    return ListPage(
        wanted.page,
        rows,
        found,
        _next(connection, wanted, rows) if more and rows else None,
        _previous(connection, wanted, rows),
    )


def _read_rows(
    connection: Connection, wanted: Asked, place: Place | None
) -> tuple[list[Listed], Counted | None]:
    """The rows of the page and one more if there is one, and what was counted on the way."""
    offset = (wanted.page - 1) * PER_PAGE if place is None else 0
    try:
        return list_counted(
            connection, wanted.criteria, limit=PER_PAGE + 1, offset=offset, place=place
        )
    except psycopg2.DataError:
        connection.rollback()
        raise HTTPException(
            422, "page does not fit this sort order. Start at the first page."
        ) from None


def _next(connection: Connection, wanted: Asked, rows: list[Listed]) -> str:
    behind = place_of(connection, wanted.criteria, rows[-1], before=False)
    return wanted.query(page=page_behind(wanted.page + 1, behind))


def _previous(connection: Connection, wanted: Asked, rows: list[Listed]) -> str | None:
    if wanted.page == 1:
        return None
    if wanted.page == 2 or not rows:
        return wanted.query()
    before = place_of(connection, wanted.criteria, rows[0], before=True)
    return wanted.query(page=page_behind(wanted.page - 1, before))


def count_list(connection: Connection, wanted: Asked) -> Count:
    """How many opportunities the list has, counted up to `MOST_COUNTED`, or up to fewer where the
    words of each row have to be looked at."""
    most = _MOST_LOOKED_AT if _looks_at_each(wanted) else MOST_COUNTED
    return Count(wanted.page, *count_listed(connection, wanted.criteria, most), most)


def _count_at_once(
    connection: Connection, wanted: Asked, counted: Counted | None, *, are_more: bool
) -> Count:
    """As far as it is counted soon, whatever the number of opportunities. `counted` is what was
    counted for the page. `are_more`: they are more than a page holds."""
    if counted is not None and counted.is_all:
        return Count(wanted.page, counted.number, counted.value)
    found = wanted.criteria.searched
    is_known = found is not None and bool(found.also) and not _looks_at_each(wanted)
    if not wanted.is_filtered or is_known or not are_more:
        return count_list(connection, wanted)
    return _at_least(wanted, PER_PAGE if counted is None else counted.number - 1)


def _at_least(wanted: Asked, most: int) -> Count:
    """More than `most`. The others are counted once the page is shown."""
    return Count(wanted.page, most + 1, None, most, is_final=False)


def _looks_at_each(wanted: Asked) -> bool:
    """Whether to count it is to look at the words of each row."""
    found = wanted.criteria.searched
    return found is not None and bool(found.also) and len(wanted.given) > 1


def worth(rows: list[Listed], wanted: Asked) -> Decimal | None:
    """What `rows`, all rows of a list, are worth with tax. None without a filter, and if no row has
    a value."""
    known = [row.total_value for row in rows if row.total_value is not None]
    return add_up(known) if known and wanted.is_filtered else None
