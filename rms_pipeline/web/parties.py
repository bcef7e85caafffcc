"""The page of one customer, venue or owner. All of them in an order are in `rankings`."""

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response
from pydantic_core import to_jsonable_python

from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.insight.compare import read_memory
from rms_pipeline.insight.parties import (
    KINDS,
    Amount,
    Kind,
    Party,
    compare_party,
    knows_party,
    periods_of_year,
    read_party,
)
from rms_pipeline.web.allowed_parameters import only
from rms_pipeline.web.charts import month_columns
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.parameter_values import Year, fits_bigint, years_beside
from rms_pipeline.web.templating import is_fragment


def parties_routes(desk: Desk) -> APIRouter:
    """The routes of one, such as `/customers/7`, each with a JSON twin."""
    router = desk.page_router()
    for kind in KINDS.values():
        _add_compared(router, desk, kind)
        _add_party(router, desk, kind)
    return router


def _with_members(desk: Desk) -> bool:
    return MEMBERS in desk.settings.collections


def _not_found(kind: Kind, id_: int) -> HTTPException:
    return HTTPException(404, f"No opportunity in the mirror has the {kind.single} {id_}.")


def _add_compared(router: APIRouter, desk: Desk, kind: Kind) -> None:
    """One of them beside earlier times, which its page asks for once it is shown."""

    def compared(id_: int, year: Year = None) -> dict[str, Any]:
        day = desk.today()
        chosen = year or day.date.year
        with desk.reader.session() as connection:
            if not fits_bigint(id_) or not knows_party(
                connection, kind, id_, with_members=_with_members(desk)
            ):
                raise _not_found(kind, id_)
            figures = compare_party(connection, kind, id_, day, datetime.now(UTC), year=chosen)
            memory = read_memory(connection, desk.time_zone)
        return {"id": id_, "year": chosen, "figures": figures, "memory": memory}

    Told = Annotated[dict[str, Any], Depends(compared)]  # noqa: N806

    @router.get(f"/{kind.name}/{{id_}}/compared.json", dependencies=[Depends(only("year"))])
    def tell(told: Told) -> Response:
        del told["memory"]
        return desk.twin(to_jsonable_python(told))

    @router.get(f"/{kind.name}/{{id_}}/compared")
    def show(request: Request, told: Told) -> Response:
        name = "party_compared.html" if is_fragment(request) else "party_compared_page.html"
        return desk.render(name, here="customers", kind=kind, **told)


def _add_party(router: APIRouter, desk: Desk, kind: Kind) -> None:
    """One of them in a year."""

    def party(id_: int, year: Year = None) -> Party:
        if not fits_bigint(id_):
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

    @router.get(f"/{kind.name}/{{id_}}.json", dependencies=[Depends(only("year"))])
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
            years=years_beside(found.year),
            change_so_far=_change(found.so_far, found.year_before_so_far),
            changed=_change(found.confirmed, found.year_before),
            listed=_listed(kind, found),
            current_rms_url=f"{desk.current_rms}/members/{found.id}" if desk.current_rms else None,
        )


def _listed(kind: Kind, party: Party) -> str:
    """The list of all of theirs. By the id, because opportunities keep the name that was right when
    they were fetched, and another one may have the same name."""
    return f"/opportunities?{urlencode({f'{kind.single}_id': party.id})}"


def _change(now: Amount, before: Amount) -> float | None:
    """The difference in percent. None if there was nothing to compare with."""
    return float(100 * (now.value - before.value) / before.value) if before.value else None
