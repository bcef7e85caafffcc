"""Pages of customers, venues and owners: rankings, and one page for each."""

from collections.abc import Mapping
from dataclasses import dataclass
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
        of = _Of(kind, pages, reader, current)
        _add_ranking(router, of)
        _add_compared(router, of)
        _add_party(router, of)
    return router


@dataclass(frozen=True, slots=True)
class _Of:
    """What the pages of one kind have in common."""

    kind: Kind
    pages: Pages
    reader: Reader
    current: Settings

    @property
    def with_members(self) -> bool:
        return MEMBERS in self.current.collections

    def today(self) -> Day:
        return Day.of(datetime.now(UTC), self.current.time_zone)

    def remembered(self) -> Memory:
        with self.reader.session() as connection:
            return read_memory(connection, self.current.time_zone)

    def not_found(self, id_: int) -> HTTPException:
        return HTTPException(404, f"No opportunity in the mirror has the {self.kind.single} {id_}.")


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


def _add_ranking(router: APIRouter, of: _Of) -> None:
    """All of them in an order, a page of them at a time."""
    kind = of.kind
    Wanted = Annotated[dict[str, Any], Depends(_wanted_of_ranking)]  # noqa: N806

    def whole(connection: Connection, wanted: dict[str, Any]) -> dict[str, Any]:
        """The page with the number of all, for which every opportunity is read."""
        search, sort, offset = wanted["search"], wanted["sort"], _offset(wanted)
        count, found = rank(connection, kind, of.today(), search=search, sort=sort, offset=offset)
        sql = ranking_sql(connection, kind, of.today(), search=search, sort=sort, offset=offset)
        return {**wanted, "count": count, "ranked": found, "sql": sql}

    def ranking(wanted: Wanted) -> dict[str, Any]:
        with of.reader.session() as connection:
            return whole(connection, wanted)

    def first_of_ranking(wanted: Wanted) -> dict[str, Any]:
        """The page, and no number of all if that would take long (`count` is None)."""
        with of.reader.session() as connection:
            sort, offset = wanted["sort"], _offset(wanted)
            found = None
            if not wanted["search"]:
                found = rank_leading(connection, kind, of.today(), sort=sort, offset=offset)
            if found is None:
                return whole(connection, wanted)
            sql = ranking_sql(connection, kind, of.today(), sort=sort, offset=offset)
        return {**wanted, "count": None, "ranked": found, "sql": sql}

    @router.get(f"/{kind.name}")
    def show(
        told: Annotated[dict[str, Any], Depends(first_of_ranking)],
        memory: Annotated[Memory, Depends(of.remembered)],
    ) -> Response:
        def query(**changes: Any) -> str:
            wanted = {"q": told["search"], "sort": told["sort"]} | changes
            defaults = {"q": "", "sort": "-value", "page": 1}
            text = urlencode({k: v for k, v in wanted.items() if v != defaults[k]})
            return f"/{kind.name}{f'?{text}' if text else ''}"

        return of.pages.render(
            "parties.html",
            here="customers",
            kind=kind,
            kinds=KINDS.values(),
            headings=_HEADINGS,
            memory=memory,
            periods=periods_of_ranking(of.today()),
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
        return of.pages.render("party_count.html", kind=kind, pages=pages, **told)

    @router.get(f"/{kind.name}.json")
    def tell(told: Annotated[dict[str, Any], Depends(ranking)]) -> Response:
        return of.reader.twin(to_jsonable_python(told))


def _add_compared(router: APIRouter, of: _Of) -> None:
    """One of them beside earlier times, which its page asks for once it is shown."""
    kind = of.kind

    def compared(id_: int, year: _Year = None) -> dict[str, Any]:
        day = of.today()
        chosen = year or day.date.year
        with of.reader.session() as connection:
            if not _is_key(id_) or not knows_party(
                connection, kind, id_, with_members=of.with_members
            ):
                raise of.not_found(id_)
            figures = compare_party(connection, kind, id_, day, datetime.now(UTC), year=chosen)
            memory = read_memory(connection, of.current.time_zone)
        return {"id": id_, "year": chosen, "figures": figures, "memory": memory}

    Told = Annotated[dict[str, Any], Depends(compared)]  # noqa: N806

    @router.get(f"/{kind.name}/{{id_}}/compared.json")
    def tell(told: Told) -> Response:
        del told["memory"]
        return of.reader.twin(to_jsonable_python(told))

    @router.get(f"/{kind.name}/{{id_}}/compared")
    def show(request: Request, told: Told) -> Response:
        name = "party_compared.html" if is_fragment(request) else "party_compared_page.html"
        return of.pages.render(name, here="customers", kind=kind, **told)


def _add_party(router: APIRouter, of: _Of) -> None:
    """One of them in a year."""
    kind, current = of.kind, of.current

    def party(id_: int, year: _Year = None) -> Party:
        if not _is_key(id_):
            raise of.not_found(id_)
        day = of.today()
        with of.reader.session() as connection:
            found = read_party(
                connection,
                kind,
                id_,
                day,
                year=year or day.date.year,
                with_members=of.with_members,
            )
        if found is None:
            raise of.not_found(id_)
        return found

    Found = Annotated[Party, Depends(party)]  # noqa: N806

    @router.get(f"/{kind.name}/{{id_}}.json")
    def tell(found: Found) -> Response:
        return of.reader.twin(to_jsonable_python(found))

    @router.get(f"/{kind.name}/{{id_}}")
    def show(found: Found, memory: Annotated[Memory, Depends(of.remembered)]) -> Response:
        this_year = of.today().date.year
        host = None if current.uses_sandbox else f"{current.subdomain}.current-rms.com"
        return of.pages.render(
            "party.html",
            here="customers",
            kind=kind,
            party=found,
            memory=memory,
            periods=periods_of_year(found.year, current.time_zone),
            chart=month_columns(found.months),
            this_year=this_year,
            is_over=found.year < this_year,
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
