"""Customers, venues or owners in an order, a page of them at a time."""

from dataclasses import dataclass
from typing import Annotated, Any, TypedDict
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.responses import Response
from pydantic_core import to_jsonable_python

from rms_pipeline.insight.compare import read_memory
from rms_pipeline.insight.days import Day
from rms_pipeline.insight.parties import KINDS, Kind
from rms_pipeline.insight.rankings import (
    MOST_RANKED,
    RANKINGS,
    Ranked,
    RankingQuery,
    periods_of_ranking,
    rank,
    rank_leading,
    ranking_sql,
)
from rms_pipeline.mirror.criteria import without_nul
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.web.allowed_parameters import only
from rms_pipeline.web.desk import Desk

_MOST_PAGES = 10_000
_HEADINGS = (
    ("name", "Name"),
    ("value", "Last 12 months"),
    ("before", "12 months before"),
    ("trend", "Difference"),
    ("opportunities", "Confirmed"),
    ("coming", "Still to come"),
    ("open", "Not decided"),
)
_SORTS = {*RANKINGS, *(f"-{key}" for key in RANKINGS)}


class RankingPage(TypedDict):
    """A page of a ranking, and its SQL. `count` is the number of all, None if they were not
    counted."""

    search: str
    sort: str
    page: int
    count: int | None
    ranked: list[Ranked]
    sql: str


@dataclass(frozen=True, slots=True)
class _Wanted:
    search: str
    sort: str
    page: int

    def query(self, kind: Kind, today: Day) -> RankingQuery:
        return RankingQuery(kind, today, self.sort, (self.page - 1) * MOST_RANKED, self.search)


def rankings_routes(desk: Desk) -> APIRouter:
    """The routes `/customers`, `/venues` and `/owners`, each with a JSON twin."""
    router = desk.page_router()
    for kind in KINDS.values():
        _add_routes(router, desk, kind)
    return router


def _wanted_by(
    q: Annotated[str, Query(max_length=200)] = "",
    sort: Annotated[str, Query(max_length=30)] = "-value",
    page: Annotated[int, Query(ge=1, le=_MOST_PAGES)] = 1,
) -> _Wanted:
    if sort not in _SORTS:
        raise HTTPException(
            422, f"sort is not one of {', '.join(RANKINGS)}, or one of these after a -."
        )
    return _Wanted(without_nul(q).strip(), sort, page)


def _counted(connection: Connection, wanted: _Wanted, query: RankingQuery) -> RankingPage:
    count, found = rank(connection, query)
    return _page(connection, wanted, query, found, count)


def _at_once(connection: Connection, wanted: _Wanted, query: RankingQuery) -> RankingPage:
    found = rank_leading(connection, query)
    if found is None:
        return _counted(connection, wanted, query)
    return _page(connection, wanted, query, found, None)


def _page(
    connection: Connection,
    wanted: _Wanted,
    query: RankingQuery,
    found: list[Ranked],
    count: int | None,
) -> RankingPage:
    return {
        "search": wanted.search,
        "sort": wanted.sort,
        "page": wanted.page,
        "count": count,
        "ranked": found,
        "sql": ranking_sql(connection, query),
    }


def _add_routes(router: APIRouter, desk: Desk, kind: Kind) -> None:
    def counted(wanted: Annotated[_Wanted, Depends(_wanted_by)]) -> RankingPage:
        """The page with the number of all, for which every opportunity is read."""
        with desk.reader.session() as connection:
            return _counted(connection, wanted, wanted.query(kind, desk.today()))

    def at_once(wanted: Annotated[_Wanted, Depends(_wanted_by)]) -> RankingPage:
        """The page, without the number of all if that would take long."""
        with desk.reader.session() as connection:
            return _at_once(connection, wanted, wanted.query(kind, desk.today()))

    Counted = Annotated[RankingPage, Depends(counted)]  # noqa: N806
    AtOnce = Annotated[RankingPage, Depends(at_once)]  # noqa: N806

    @router.get(f"/{kind.name}")
    def show(told: AtOnce) -> Response:
        with desk.reader.session() as connection:
            memory = read_memory(connection, desk.time_zone)

        def query(**changes: Any) -> str:
            wanted = {"q": told["search"], "sort": told["sort"]} | changes
            defaults = {"q": "", "sort": "-value", "page": 1}
            text = urlencode({k: v for k, v in wanted.items() if v != defaults[k]})
            return f"/{kind.name}{f'?{text}' if text else ''}"

        return desk.render(
            "parties.html",
            here="customers",
            kind=kind,
            kinds=KINDS.values(),
            headings=_HEADINGS,
            memory=memory,
            periods=periods_of_ranking(desk.today()),
            pages=_pages(told["count"]),
            most=MOST_RANKED,
            query=query,
            # The first click sorts figures from the greatest down, names from A on, and differences
            # with the greatest loss first.
            next_sort=lambda key: _turned(key, told["sort"]),
            **told,
        )

    @router.get(f"/fragments/{kind.name}")
    def show_count(told: Counted) -> Response:
        # Apart from the page, which need not wait until all of them have been read.
        pages = _pages(told["count"])
        return desk.render("party_count.html", kind=kind, pages=pages, **told)

    @router.get(f"/{kind.name}.json", dependencies=[Depends(only("q", "sort", "page"))])
    def tell(told: Counted) -> Response:
        return desk.twin(to_jsonable_python(told))


def _pages(count: int | None) -> int | None:
    """None if it is not known how many there are."""
    return None if count is None else max(-(-count // MOST_RANKED), 1)


def _turned(key: str, sort: str) -> str:
    first, other = (key, f"-{key}") if key in ("name", "trend") else (f"-{key}", key)
    return other if sort == first else first
