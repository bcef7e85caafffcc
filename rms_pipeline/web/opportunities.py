"""Lists of opportunities, the counts of their choices, and their downloads."""

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.facets import MOST_COUNTED, read_facets
from rms_pipeline.insight.find import find_names
from rms_pipeline.insight.health import Mirrored, read_mirrored
from rms_pipeline.insight.periods import PERIODS
from rms_pipeline.insight.saved_views import saved_views
from rms_pipeline.mirror.browse import (
    list_opportunities,
    names_of,
    owners,
    statuses,
)
from rms_pipeline.mirror.criteria import NOBODY
from rms_pipeline.mirror.promoted import Promoted, promoted_fields
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.statuses import OUTCOMES
from rms_pipeline.web.allowed_parameters import OF_A_LIST, only
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.downloads import Download, as_csv
from rms_pipeline.web.forms import with_chosen
from rms_pipeline.web.list_address import (
    COLUMNS,
    CUSTOM,
    FIELD,
    MOST_FIELDS,
    PARAMETERS,
    PERIOD_FILTERS,
    Asked,
    asked,
    describe_parameters,
    has_leftovers,
    looked_up,
    party_names,
    with_known_fields,
)
from rms_pipeline.web.list_pages import count_list, read_list_page, worth
from rms_pipeline.web.refusals import REFUSALS
from rms_pipeline.web.saved_views import why_not_shown
from rms_pipeline.web.templating import is_fragment
from rms_pipeline.web.visited import visited_before
from rms_pipeline.web.workbooks import XLSX, as_xlsx

_OWNERS_SECONDS = 60.0
# How many venues are offered while a person types one.
_MOST_OFFERED = 20
_STATES = ("Enquiry", "Draft", "Quotation", "Order")
_FACET_TITLES = {
    "status": "Status",
    "state": "State",
    "owner": "Owner",
    "customer_id": "Customer",
    "venue": "Venue",
    "store": "Store",
    "tag": "Tags",
}


# What a request asks for, as a dependency of its route.
_WantedOf = Callable[[Request], Asked]


class OpportunityList(BaseModel):
    """A page of a list. `count` is the number of all, or more if `countIsLeast`. `totalValue` is
    their value with tax, null if it was not added up. `next` and `previous` are the addresses of
    the pages beside this one, null at the ends. `mirrored` says of what they are: "all"
    opportunities after the first full sync, before it only a "part", or "nothing". Money is in the
    account's currency, as decimal strings. Times are UTC."""

    success: bool
    mirrored: Mirrored
    count: int
    countIsLeast: bool
    totalValue: Decimal | None
    page: int
    next: str | None
    previous: str | None
    opportunities: list[dict[str, Any]]


class _Owners:
    """The owners of opportunities. They are few and stay, so they are not read for each page."""

    def __init__(self) -> None:
        self._read: tuple[float, list[str]] = (0.0, [])

    def names(self, connection: Connection) -> list[str]:
        if time.monotonic() > self._read[0]:
            # Assigned in one step, because several threads read it.
            self._read = (time.monotonic() + _OWNERS_SECONDS, owners(connection))
        return self._read[1]


# Programs are told of parameters that no list has.
_Checked = Annotated[None, Depends(only(*OF_A_LIST, fields=True))]


def opportunities_routes(desk: Desk) -> APIRouter:
    """The routes of lists."""

    def asked_of(request: Request) -> Asked:
        """What was typed is not looked up."""
        wanted = asked(request, desk.time_zone)
        if not any(name.startswith(FIELD) for name in wanted.given):
            return wanted
        with desk.reader.session() as connection:
            return with_known_fields(connection, wanted)

    def wanted_of(request: Request) -> Asked:
        wanted = asked(request, desk.time_zone)
        has_fields = any(name.startswith(FIELD) for name in wanted.given)
        if not has_fields and not wanted.criteria.search and not wanted.criteria.customer:
            return wanted
        with desk.reader.session() as connection:
            return looked_up(connection, wanted)

    router = APIRouter()
    _add_pages(router, desk, wanted_of, asked_of)
    _add_what_follows(router, desk, wanted_of)
    _add_for_programs(router, desk, wanted_of, asked_of)
    _add_downloads(router, desk, wanted_of)
    return router


def _add_pages(
    router: APIRouter,
    desk: Desk,
    wanted_of: _WantedOf,
    asked_of: _WantedOf,
) -> None:
    """The list and its print."""
    Wanted = Annotated[Asked, Depends(wanted_of)]  # noqa: N806
    NotLookedUp = Annotated[Asked, Depends(asked_of)]  # noqa: N806
    known_owners = _Owners()

    @router.get("/opportunities", **desk.for_people)
    def show_list(request: Request, wanted: NotLookedUp) -> Response:
        if not is_fragment(request) and has_leftovers(request):
            return RedirectResponse(_address(wanted.query(page=_page_text(request))), 303)
        with desk.reader.session() as connection:
            views = saved_views(connection, OPPORTUNITIES)
            default = next((view for view in views if view.is_default), None)
            if default is not None and not request.query_params and not is_fragment(request):
                is_shown = not why_not_shown(connection, default.query, desk.time_zone)
                return RedirectResponse(
                    _address(default.query) if is_shown else f"/views/{default.id}", 303
                )
            page = read_list_page(connection, wanted, is_whole=False)
            known = statuses(connection)
            people = known_owners.names(connection)
            visited = names_of(connection, visited_before(request))
            names = party_names(connection, wanted)
            promoted = _promoted(connection)
        status = wanted.criteria.status
        return desk.render(
            "opportunities.html",
            here="opportunities",
            asked=wanted,
            criteria=wanted.criteria,
            page=page,
            found=page.found,
            outcomes=OUTCOMES,
            statuses=with_chosen(known, status, *OUTCOMES),
            states=with_chosen(list(_STATES), wanted.criteria.state),
            owners=with_chosen(people, wanted.criteria.owner, NOBODY),
            nobody=NOBODY,
            columns=COLUMNS,
            field_filters={f"{FIELD}{each.key}": each.key for each in promoted[:MOST_FIELDS]},
            periods={word: title for word, (title, _) in PERIODS.items()},
            period_filters={name: PARAMETERS[name].title for name in PERIOD_FILTERS},
            custom=CUSTOM,
            chips=list(wanted.chips(desk.clock, names)),
            views=views,
            all_of_them="sort=-updated" if default else "",
            here_now=wanted.query(),
            visited=visited,
        )

    @router.get("/print/opportunities", **desk.for_people)
    def print_list(wanted: Wanted) -> Response:
        with desk.reader.session() as connection:
            rows = list_opportunities(connection, wanted.criteria, limit=MOST_COUNTED + 1)
            names = party_names(connection, wanted)
        return desk.render(
            "opportunity_print.html",
            here="opportunities",
            asked=wanted,
            criteria=wanted.criteria,
            columns=COLUMNS,
            rows=rows[:MOST_COUNTED],
            is_cut=len(rows) > MOST_COUNTED,
            value=worth(rows, wanted) if len(rows) <= MOST_COUNTED else None,
            chips=list(wanted.chips(desk.clock, names)),
            now=datetime.now(UTC),
        )


def _add_what_follows(router: APIRouter, desk: Desk, wanted_of: _WantedOf) -> None:
    """What the page of a list asks for once it is shown: venues to choose from, and counts."""
    Wanted = Annotated[Asked, Depends(wanted_of)]  # noqa: N806

    @router.get("/fragments/venues", **desk.for_people)
    def offer_venues(venue: Annotated[str, Query(max_length=500)] = "") -> Response:
        with desk.reader.session() as connection:
            found = find_names(connection, venue, most=_MOST_OFFERED, kind="venue")
        return desk.render("venues_offered.html", names=dict.fromkeys(f.name for f in found))

    @router.get("/fragments/count", **desk.for_people)
    def show_count(wanted: Wanted) -> Response:
        # Apart from the list, which need not wait until all of it has been counted.
        with desk.reader.session() as connection:
            found = count_list(connection, wanted)
        return desk.render("count.html", found=found)

    @router.get("/fragments/facets", **desk.for_people)
    def show_facets(wanted: Wanted) -> Response:
        with desk.reader.session() as connection:
            facets = read_facets(connection, wanted.criteria)
        return desk.render(
            "facets.html",
            # The counts are shown beside the list, so their links are relative to it.
            list_at="",
            facets=facets,
            titles=_FACET_TITLES,
            asked=wanted,
            most_counted=MOST_COUNTED,
        )

    @router.get("/counts/opportunities", **desk.for_people)
    def show_counts(wanted: Wanted) -> Response:
        # The same as a page of its own, for browsers that run no scripts.
        with desk.reader.session() as connection:
            facets = read_facets(connection, wanted.criteria)
            names = party_names(connection, wanted)
        return desk.render(
            "facets_page.html",
            here="opportunities",
            list_at="/opportunities",
            facets=facets,
            titles=_FACET_TITLES,
            asked=wanted,
            most_counted=MOST_COUNTED,
            chips=list(wanted.chips(desk.clock, names)),
        )


def _add_for_programs(
    router: APIRouter,
    desk: Desk,
    wanted_of: _WantedOf,
    asked_of: _WantedOf,
) -> None:
    """The list and its counts as JSON."""
    Wanted = Annotated[Asked, Depends(wanted_of)]  # noqa: N806
    NotLookedUp = Annotated[Asked, Depends(asked_of)]  # noqa: N806

    def told_list(wanted: Asked, place: str) -> JSONResponse:
        with desk.reader.session() as connection:
            page = read_list_page(connection, wanted, is_whole=True)
            mirrored = read_mirrored(connection)
        told = OpportunityList(
            success=True,
            mirrored=mirrored,
            count=min(page.found.count, page.found.most),
            countIsLeast=not page.found.is_counted,
            totalValue=page.found.value,
            page=page.number,
            next=page.next and f"{place}?{page.next}",
            previous=None
            if page.previous is None
            else place + (f"?{page.previous}" if page.previous else ""),
            opportunities=[asdict(row) for row in page.rows],
        )
        return JSONResponse(to_jsonable_python(told))

    @router.get(
        "/api/opportunities",
        summary="A list of opportunities",
        tags=["opportunities"],
        **desk.for_programs,
        responses={**REFUSALS, 200: {"model": OpportunityList}},
        openapi_extra={"parameters": describe_parameters()},
    )
    def tell_list(_: _Checked, wanted: NotLookedUp) -> JSONResponse:
        """The page of the list with the same address, 50 rows at a time."""
        return told_list(wanted, "/api/opportunities")

    @router.get("/opportunities.json", **desk.for_people)
    def tell_page(_: _Checked, wanted: NotLookedUp) -> JSONResponse:
        return told_list(wanted, "/opportunities.json")

    @router.get(
        "/api/opportunities/facets",
        summary="What the opportunities of a list have in common, counted",
        tags=["opportunities"],
        **desk.for_programs,
        responses=REFUSALS,
        openapi_extra={"parameters": describe_parameters()},
    )
    def tell_facets(_: _Checked, wanted: Wanted) -> JSONResponse:
        """The most frequent choices of each kind. Each kind is counted without its own filter."""
        with desk.reader.session() as connection:
            facets = read_facets(connection, wanted.criteria)
        return desk.twin({"facets": [asdict(facet) for facet in facets]})


def _add_downloads(
    router: APIRouter,
    desk: Desk,
    wanted_of: _WantedOf,
) -> None:
    """The whole list as a file."""
    Wanted = Annotated[Asked, Depends(wanted_of)]  # noqa: N806

    @router.get("/opportunities.csv", **desk.for_people)
    def download(_: _Checked, wanted: Wanted) -> Response:
        lines = as_csv(desk.reader, wanted)
        # Before anything is sent, so that an outage can still be answered as one.
        return Download(next(lines), lines, "text/csv; charset=utf-8", "opportunities.csv")

    @router.get("/opportunities.xlsx", **desk.for_people)
    def download_workbook(_: _Checked, wanted: Wanted) -> Response:
        with desk.reader.session() as connection:
            names = party_names(connection, wanted)
        told = [
            ("Account", desk.account),
            ("As of", desk.clock.full(datetime.now(UTC))),
            ("Times are in", desk.time_zone),
            ("Money is in", desk.settings.currency or "the account's currency"),
            *((chip.name, chip.value) for chip in wanted.chips(desk.clock, names)),
        ]
        parts = as_xlsx(desk.reader, wanted, told, desk.settings.currency)
        return Download(next(parts), parts, XLSX, "opportunities.xlsx")


def _promoted(connection: Connection) -> list[Promoted]:
    with connection.cursor() as cursor:
        found = promoted_fields(cursor, OPPORTUNITIES)
    connection.commit()
    return found


def _address(query: str) -> str:
    return f"/opportunities?{query}" if query else "/opportunities?sort=-updated"


def _page_text(request: Request) -> str:
    return request.query_params.get("page", "")
