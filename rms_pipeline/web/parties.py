"""Pages of customers, venues and owners: rankings, and one page for each."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic_core import to_jsonable_python

from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.insight.compare import Memory, read_memory
from rms_pipeline.insight.days import FIRST, LAST, Day
from rms_pipeline.insight.parties import (
    KINDS,
    MOST_RANKED,
    RANKINGS,
    Amount,
    Kind,
    Party,
    compare_party,
    knows_party,
    periods_of_ranking,
    periods_of_year,
    rank,
    rank_leading,
    ranking_sql,
    read_party,
)
from rms_pipeline.mirror.criteria import without_nul
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.settings import Settings
from rms_pipeline.web.access import Access
from rms_pipeline.web.charts import month_columns
from rms_pipeline.web.reading import Reader
from rms_pipeline.web.templating import Pages, is_fragment

_FIRST_YEAR, _LAST_YEAR = FIRST.year + 1, LAST.year - 1
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


def parties(pages: Pages, reader: Reader, current: Settings, access: Access) -> APIRouter:
    """The routes below `/customers`, `/venues` and `/owners`, each with a JSON twin."""
    router = APIRouter(dependencies=[Depends(access.page)], include_in_schema=False)
    for kind in KINDS.values():
        _add(router, kind, pages, reader, current)
    return router


def _add(router: APIRouter, kind: Kind, pages: Pages, reader: Reader, current: Settings) -> None:
    def today() -> Day:
        return Day.of(datetime.now(UTC), current.time_zone)

    def not_found(id_: int) -> HTTPException:
        return HTTPException(404, f"No opportunity in the mirror has the {kind.single} {id_}.")

    def remembered() -> Memory:
        with reader.session() as connection:
            return read_memory(connection, current.time_zone)

    def asked_for(
        q: Annotated[str, Query(max_length=200)] = "",
        sort: Annotated[str, Query(max_length=30)] = "-value",
        page: Annotated[int, Query(ge=1, le=_MOST_PAGES)] = 1,
    ) -> dict[str, Any]:
        if sort not in _SORTS:
            raise HTTPException(
                422, f"sort is not one of {', '.join(RANKINGS)}, or one of these after a -."
            )
        return {"search": without_nul(q).strip(), "sort": sort, "page": page}

    def whole(connection: Connection, wanted: dict[str, Any]) -> dict[str, Any]:
        """The page with the number of all, for which every opportunity is read."""
        search, sort, offset = wanted["search"], wanted["sort"], _offset(wanted)
        count, found = rank(connection, kind, today(), search=search, sort=sort, offset=offset)
        sql = ranking_sql(connection, kind, today(), search=search, sort=sort, offset=offset)
        return {**wanted, "count": count, "ranked": found, "sql": sql}

    def ranking(wanted: Annotated[dict[str, Any], Depends(asked_for)]) -> dict[str, Any]:
        with reader.session() as connection:
            return whole(connection, wanted)

    def first_of_ranking(wanted: Annotated[dict[str, Any], Depends(asked_for)]) -> dict[str, Any]:
        """The page, and no number of all if that would take long (`count` is None)."""
        with reader.session() as connection:
            sort, offset = wanted["sort"], _offset(wanted)
            found = None
            if not wanted["search"]:
                found = rank_leading(connection, kind, today(), sort=sort, offset=offset)
            if found is None:
                return whole(connection, wanted)
            sql = ranking_sql(connection, kind, today(), sort=sort, offset=offset)
        return {**wanted, "count": None, "ranked": found, "sql": sql}

    def party(
        id_: int,
        year: Annotated[int | None, Query(ge=_FIRST_YEAR, le=_LAST_YEAR)] = None,
    ) -> Party:
        day = today()
        with reader.session() as connection:
            found = (
                read_party(
                    connection,
                    kind,
                    id_,
                    day,
                    year=year or day.date.year,
                    with_members=MEMBERS in current.collections,
                )
                if _is_key(id_)
                else None
            )
        if found is None:
            raise not_found(id_)
        return found

    @router.get(f"/{kind.name}")
    def show_ranking(
        told: Annotated[dict[str, Any], Depends(first_of_ranking)],
        memory: Annotated[Memory, Depends(remembered)],
    ) -> Response:
        def query(**changes: Any) -> str:
            wanted = {"q": told["search"], "sort": told["sort"]} | changes
            defaults = {"q": "", "sort": "-value", "page": 1}
            text = urlencode({k: v for k, v in wanted.items() if v != defaults[k]})
            return f"/{kind.name}{f'?{text}' if text else ''}"

        return pages.render(
            "parties.html",
            here="customers",
            kind=kind,
            kinds=KINDS.values(),
            headings=_HEADINGS,
            memory=memory,
            periods=periods_of_ranking(today()),
            pages=_pages(told["count"]),
            most=MOST_RANKED,
            query=query,
            # Figures are looked at from the greatest down, names from A on, and of differences
            # those first that are to be seen to.
            next_sort=lambda key: _turned(key, told["sort"]),
            **told,
        )

    @router.get(f"/fragments/{kind.name}")
    def show_count(told: Annotated[dict[str, Any], Depends(ranking)]) -> Response:
        # Apart from the page, which need not wait until all of them have been read.
        return pages.render("party_count.html", kind=kind, pages=_pages(told["count"]), **told)

    @router.get(f"/{kind.name}.json")
    def tell_ranking(told: Annotated[dict[str, Any], Depends(ranking)]) -> Response:
        return reader.twin(to_jsonable_python(told))

    def compared(
        id_: int,
        year: Annotated[int | None, Query(ge=_FIRST_YEAR, le=_LAST_YEAR)] = None,
    ) -> dict[str, Any]:
        day = today()
        with reader.session() as connection:
            if not _is_key(id_) or not knows_party(
                connection, kind, id_, with_members=MEMBERS in current.collections
            ):
                raise not_found(id_)
            figures = compare_party(
                connection, kind, id_, day, datetime.now(UTC), year=year or day.date.year
            )
            memory = read_memory(connection, current.time_zone)
        return {"id": id_, "year": year or day.date.year, "figures": figures, "memory": memory}

    @router.get(f"/{kind.name}/{{id_}}/compared.json")
    def tell_compared(told: Annotated[dict[str, Any], Depends(compared)]) -> Response:
        del told["memory"]
        return reader.twin(to_jsonable_python(told))

    @router.get(f"/{kind.name}/{{id_}}/compared")
    def show_compared(
        request: Request, told: Annotated[dict[str, Any], Depends(compared)]
    ) -> Response:
        # Apart from the page, which need not wait for the history.
        name = "party_compared.html" if is_fragment(request) else "party_compared_page.html"
        return pages.render(name, here="customers", kind=kind, **told)

    @router.get(f"/{kind.name}/{{id_}}.json")
    def tell(found: Annotated[Party, Depends(party)]) -> Response:
        return reader.twin(to_jsonable_python(found))

    @router.get(f"/{kind.name}/{{id_}}")
    def show(
        found: Annotated[Party, Depends(party)], memory: Annotated[Memory, Depends(remembered)]
    ) -> Response:
        day = today()
        host = None if current.uses_sandbox else f"{current.subdomain}.current-rms.com"
        return pages.render(
            "party.html",
            here="customers",
            kind=kind,
            party=found,
            memory=memory,
            periods=periods_of_year(found.year, current.time_zone),
            chart=month_columns(found.months),
            this_year=day.date.year,
            is_over=found.year < day.date.year,
            years=[y for y in (found.year - 1, found.year + 1) if _FIRST_YEAR <= y <= _LAST_YEAR],
            change_so_far=_change(found.so_far, found.year_before_so_far),
            changed=_change(found.confirmed, found.year_before),
            listed=_listed(kind, found),
            current_rms_url=f"https://{host}/members/{found.id}" if host else None,
        )


def _is_key(id_: int) -> bool:
    """Return whether PostgreSQL can look for it."""
    return abs(id_) < 2**63


def _offset(wanted: Mapping[str, Any]) -> int:
    return int(wanted["page"] - 1) * MOST_RANKED


def _pages(count: int | None) -> int | None:
    """None if it is not known how many there are."""
    return None if count is None else max(-(-count // MOST_RANKED), 1)


def _listed(kind: Kind, party: Party) -> str | None:
    """The list of all of theirs: words of a name would find others, too."""
    if kind.single == "customer":
        return f"/opportunities?{urlencode({'customer_id': party.id})}"
    return f"/opportunities?{urlencode({kind.single: party.name})}" if party.name else None


def _turned(key: str, sort: str) -> str:
    first, other = (key, f"-{key}") if key in ("name", "trend") else (f"-{key}", key)
    return other if sort == first else first


def _change(now: Amount, before: Amount) -> float | None:
    """The difference in percent. None if there was nothing to compare with."""
    return float(100 * (now.value - before.value) / before.value) if before.value else None
