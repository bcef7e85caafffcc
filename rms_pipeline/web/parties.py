"""Pages of customers, venues and owners: rankings, and one page for each."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic_core import to_jsonable_python

from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.insight.compare import read_memory
from rms_pipeline.insight.days import FIRST, LAST
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
from rms_pipeline.web.charts import month_columns
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.templating import is_fragment

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


def parties_routes(desk: Desk) -> APIRouter:
    """The routes below `/customers`, `/venues` and `/owners`, each with a JSON twin."""
    router = desk.page_router()
    for kind in KINDS.values():
        _add_ranking(router, desk, kind)
        _add_compared(router, desk, kind)
        _add_party(router, desk, kind)
    return router


def _with_members(desk: Desk) -> bool:
    return MEMBERS in desk.settings.collections


def _not_found(kind: Kind, id_: int) -> HTTPException:
    return HTTPException(404, f"No opportunity in the mirror has the {kind.single} {id_}.")


# The year of a page, this one if the address names none.
_Year = Annotated[int | None, Query(ge=_FIRST_YEAR, le=_LAST_YEAR)]


def _wanted_of_ranking(
    q: Annotated[str, Query(max_length=200)] = "",
    sort: Annotated[str, Query(max_length=30)] = "-value",
    page: Annotated[int, Query(ge=1, le=_MOST_PAGES)] = 1,
) -> dict[str, Any]:
    if sort not in _SORTS:
        raise HTTPException(
            422, f"sort is not one of {', '.join(RANKINGS)}, or one of these after a -."
        )
    return {"search": without_nul(q).strip(), "sort": sort, "page": page}


def _add_ranking(router: APIRouter, desk: Desk, kind: Kind) -> None:
    """All of them in an order, a page of them at a time."""
    Wanted = Annotated[dict[str, Any], Depends(_wanted_of_ranking)]  # noqa: N806

    def whole(connection: Connection, wanted: dict[str, Any]) -> dict[str, Any]:
        """The page with the number of all, for which every opportunity is read."""
        search, sort, offset = wanted["search"], wanted["sort"], _offset(wanted)
        count, found = rank(connection, kind, desk.today(), search=search, sort=sort, offset=offset)
        sql = ranking_sql(connection, kind, desk.today(), search=search, sort=sort, offset=offset)
        return {**wanted, "count": count, "ranked": found, "sql": sql}

    def ranking(wanted: Wanted) -> dict[str, Any]:
        with desk.reader.session() as connection:
            return whole(connection, wanted)

    def first_of_ranking(wanted: Wanted) -> dict[str, Any]:
        """The page, and no number of all if that would take long (`count` is None)."""
        with desk.reader.session() as connection:
            sort, offset = wanted["sort"], _offset(wanted)
            found = None
            if not wanted["search"]:
                found = rank_leading(connection, kind, desk.today(), sort=sort, offset=offset)
            if found is None:
                return whole(connection, wanted)
            sql = ranking_sql(connection, kind, desk.today(), sort=sort, offset=offset)
        return {**wanted, "count": None, "ranked": found, "sql": sql}

    @router.get(f"/{kind.name}")
    def show(
        told: Annotated[dict[str, Any], Depends(first_of_ranking)],
    ) -> Response:
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
            # Figures are looked at from the greatest down, names from A on, and of differences
            # those first that are to be seen to.
            next_sort=lambda key: _turned(key, told["sort"]),
            **told,
        )

    @router.get(f"/fragments/{kind.name}")
    def show_count(told: Annotated[dict[str, Any], Depends(ranking)]) -> Response:
        # Apart from the page, which need not wait until all of them have been read.
        pages = _pages(told["count"])
        return desk.render("party_count.html", kind=kind, pages=pages, **told)

    @router.get(f"/{kind.name}.json")
    def tell(told: Annotated[dict[str, Any], Depends(ranking)]) -> Response:
        return desk.twin(to_jsonable_python(told))


def _add_compared(router: APIRouter, desk: Desk, kind: Kind) -> None:
    """One of them beside earlier times, which its page asks for once it is shown."""

    def compared(id_: int, year: _Year = None) -> dict[str, Any]:
        day = desk.today()
        chosen = year or day.date.year
        with desk.reader.session() as connection:
            if not _is_key(id_) or not knows_party(
                connection, kind, id_, with_members=_with_members(desk)
            ):
                raise _not_found(kind, id_)
            figures = compare_party(connection, kind, id_, day, datetime.now(UTC), year=chosen)
            memory = read_memory(connection, desk.time_zone)
        return {"id": id_, "year": chosen, "figures": figures, "memory": memory}

    Told = Annotated[dict[str, Any], Depends(compared)]  # noqa: N806

    @router.get(f"/{kind.name}/{{id_}}/compared.json")
    def tell(told: Told) -> Response:
        del told["memory"]
        return desk.twin(to_jsonable_python(told))

    @router.get(f"/{kind.name}/{{id_}}/compared")
    def show(request: Request, told: Told) -> Response:
        name = "party_compared.html" if is_fragment(request) else "party_compared_page.html"
        return desk.render(name, here="customers", kind=kind, **told)


def _add_party(router: APIRouter, desk: Desk, kind: Kind) -> None:
    """One of them in a year."""

    def party(id_: int, year: _Year = None) -> Party:
        if not _is_key(id_):
            raise _not_found(kind, id_)
        day = desk.today()
        with desk.reader.session() as connection:
            found = read_party(
                connection,
                kind,
                id_,
                day,
                year=year or day.date.year,
                with_members=_with_members(desk),
            )
        if found is None:
            raise _not_found(kind, id_)
        return found

    Found = Annotated[Party, Depends(party)]  # noqa: N806

    @router.get(f"/{kind.name}/{{id_}}.json")
    def tell(found: Found) -> Response:
        return desk.twin(to_jsonable_python(found))

    @router.get(f"/{kind.name}/{{id_}}")
    def show(found: Found) -> Response:
        with desk.reader.session() as connection:
            memory = read_memory(connection, desk.time_zone)
        this_year = desk.today().date.year
        return desk.render(
            "party.html",
            here="customers",
            kind=kind,
            party=found,
            memory=memory,
            periods=periods_of_year(found.year, desk.time_zone),
            chart=month_columns(found.months),
            this_year=this_year,
            is_over=found.year < this_year,
            years=[y for y in (found.year - 1, found.year + 1) if _FIRST_YEAR <= y <= _LAST_YEAR],
            change_so_far=_change(found.so_far, found.year_before_so_far),
            changed=_change(found.confirmed, found.year_before),
            listed=_listed(kind, found),
            current_rms_url=f"{desk.current_rms}/members/{found.id}" if desk.current_rms else None,
        )


def _is_key(id_: int) -> bool:
    """Return whether PostgreSQL can look for it."""
    return abs(id_) < 2**63


def _offset(wanted: Mapping[str, Any]) -> int:
    return int(wanted["page"] - 1) * MOST_RANKED


def _pages(count: int | None) -> int | None:
    """None if it is not known how many there are."""
    return None if count is None else max(-(-count // MOST_RANKED), 1)


def _listed(kind: Kind, party: Party) -> str:
    """The list of all of theirs. By the id, because opportunities keep the name that was right when
    they were fetched, and another one may have the same name."""
    return f"/opportunities?{urlencode({f'{kind.single}_id': party.id})}"


def _turned(key: str, sort: str) -> str:
    first, other = (key, f"-{key}") if key in ("name", "trend") else (f"-{key}", key)
    return other if sort == first else first


def _change(now: Amount, before: Amount) -> float | None:
    """The difference in percent. None if there was nothing to compare with."""
    return float(100 * (now.value - before.value) / before.value) if before.value else None
