"""Won and lost: the months of a year, and the opportunities behind each number."""

import re
from datetime import date
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException
from fastapi.responses import Response
from pydantic_core import to_jsonable_python

from rms_pipeline.insight.compare import Memory, read_memory
from rms_pipeline.insight.decisions import (
    Decisions,
    Outcome,
    WonAndLost,
    read_decisions,
    read_won_and_lost,
)
from rms_pipeline.insight.parties import periods_of_year
from rms_pipeline.web.allowed_parameters import only
from rms_pipeline.web.charts import decision_columns
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.parameter_values import FIRST_YEAR, LAST_YEAR, Id, Year, years_beside

# In place of a month if the time of the decision is not known.
UNDATED = "undated"


def decisions_routes(desk: Desk) -> APIRouter:
    """The routes below `/won-and-lost`, each with a JSON twin."""
    router = desk.page_router("/won-and-lost")

    def this_year() -> int:
        return desk.today().date.year

    def by_month(
        year: Year = None,
        owner: Id = None,
    ) -> tuple[WonAndLost, Memory]:
        with desk.reader.session() as connection:
            found = read_won_and_lost(connection, year or this_year(), owner)
            return found, read_memory(connection, desk.time_zone)

    def of_month(month: str, outcome: Outcome | None = None, owner: Id = None) -> Decisions:
        with desk.reader.session() as connection:
            return read_decisions(connection, _month(month), outcome, owner)

    @router.get("")
    def show(told: Annotated[tuple[WonAndLost, Memory], Depends(by_month)]) -> Response:
        found, memory = told

        def query(year: int) -> str:
            wanted = {"year": year if year != this_year() else None, "owner": found.owner_id}
            text = urlencode({k: v for k, v in wanted.items() if v is not None})
            return f"/won-and-lost{f'?{text}' if text else ''}"

        def listed(month: date | None, outcome: Outcome) -> str:
            wanted = {"outcome": outcome, "owner": found.owner_id}
            text = urlencode({k: v for k, v in wanted.items() if v is not None})
            return f"/won-and-lost/{f'{month:%Y-%m}' if month else UNDATED}?{text}"

        return desk.render(
            "won_and_lost.html",
            here="customers",
            found=found,
            memory=memory,
            chart=decision_columns(found.months, found.owner_id),
            years=years_beside(found.year),
            query=query,
            listed=listed,
            # A decision is known only if its opportunity is mirrored. Those of hires that ended
            # long before are not.
            periods=periods_of_year(found.year, desk.time_zone),
        )

    @router.get(".json", dependencies=[Depends(only("year", "owner"))])
    def tell(told: Annotated[tuple[WonAndLost, Memory], Depends(by_month)]) -> Response:
        found, _ = told
        return desk.twin(
            {
                **to_jsonable_python(found),
                "total": to_jsonable_python(found.total),
                "total_before": to_jsonable_python(found.total_before),
            }
        )

    @router.get("/{month}.json", dependencies=[Depends(only("outcome", "owner"))])
    def tell_month(found: Annotated[Decisions, Depends(of_month)]) -> Response:
        return desk.twin(to_jsonable_python(found))

    @router.get("/{month}")
    def show_month(found: Annotated[Decisions, Depends(of_month)], owner: Id = None) -> Response:
        titles: dict[str | None, str] = {"won": "Won", "lost": "Lost", None: "Won and lost"}
        back: dict[str, Any] = {"owner": owner, "year": found.month.year if found.month else None}
        text = urlencode({k: v for k, v in back.items() if v is not None})
        return desk.render(
            "decisions.html",
            here="customers",
            found=found,
            title=titles[found.outcome],
            back=f"/won-and-lost{f'?{text}' if text else ''}",
        )

    return router


def _month(text: str) -> date | None:
    if text == UNDATED:
        return None
    found = re.fullmatch(r"([0-9]{4})-([0-9]{2})", text)
    try:
        if found is None:
            raise ValueError
        month = date(int(found[1]), int(found[2]), 1)
    except ValueError:
        raise HTTPException(
            404, f"{text[:20]!r} is not a month like 2026-05, and not {UNDATED}."
        ) from None
    if not FIRST_YEAR <= month.year <= LAST_YEAR:
        raise HTTPException(404, f"There are no months before {FIRST_YEAR} or so far ahead.")
    return month
