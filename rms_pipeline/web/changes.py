"""Changes: who changed what, when, from what to what."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import groupby
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic_core import to_jsonable_python

from rms_pipeline.insight.changes import (
    EVERY,
    NOBODY,
    ChangeLine,
    Changes,
    Place,
    Wanted,
    known_fields,
    known_people,
    list_changes,
)
from rms_pipeline.insight.days import Day
from rms_pipeline.mirror.criteria import without_nul
from rms_pipeline.settings import Settings
from rms_pipeline.web.access import Access
from rms_pipeline.web.formatting import Clock
from rms_pipeline.web.forms import amount, with_chosen
from rms_pipeline.web.listing import has_leftovers
from rms_pipeline.web.reading import Reader
from rms_pipeline.web.refusals import WrongParameter
from rms_pipeline.web.templating import Pages, is_fragment
from rms_pipeline.web.today import day_of
from rms_pipeline.web.values import Shown, field_title, shown_change

_Text = Annotated[str, Query(max_length=500)]
_MOST = Decimal(10) ** 15
# What the fields of the page are called.
_LABELS = {"least": "“Charge by at least”", "days": "“Dates by days, at least”"}


@dataclass(frozen=True, slots=True)
class Edit:
    """Fields of one opportunity that were changed together: the first row, and each field as
    text."""

    first: ChangeLine
    fields: list[tuple[str, ChangeLine, Shown]]


@dataclass(frozen=True, slots=True)
class EditsOfDay:
    """The changes on one day of the company, newest first."""

    date: date
    edits: list[Edit]


def changes(pages: Pages, reader: Reader, current: Settings, access: Access) -> APIRouter:
    """The routes of changes. `day` is a date in the company's time zone. `after` is a position from
    an earlier answer."""
    router = APIRouter(dependencies=[Depends(access.page)], include_in_schema=False)

    def wanted(
        day: Annotated[str, Query(max_length=10)] = "",
        who: _Text = "",
        field: _Text = "",
        least: Annotated[str, Query(max_length=30)] = "",
        days: Annotated[str, Query(max_length=30)] = "",
    ) -> Wanted:
        whole = _number(days, "days")
        return Wanted(
            day=day_of(day, "day", current.time_zone, "“Day”"),
            who=without_nul(who),
            field=without_nul(field),
            least=_number(least, "least"),
            days=None if whole is None else int(whole),
        )

    def place(after: Annotated[str, Query(max_length=60)] = "") -> Place | None:
        return _place(after)

    @router.get("/changes")
    def show(
        request: Request,
        chosen: Annotated[Wanted, Depends(wanted)],
        after: Annotated[Place | None, Depends(place)],
    ) -> Response:
        if not is_fragment(request) and has_leftovers(request):
            query = _query(chosen, after)
            return RedirectResponse(f"/changes{f'?{query}' if query else ''}", 303)
        with reader.session() as connection:
            found = list_changes(connection, chosen, after=after)
            people, fields = known_people(connection), known_fields(connection)
        return pages.render(
            "changes.html",
            here="changes",
            wanted=chosen,
            days=by_day(found.lines, pages.clock),
            people=with_chosen(people, chosen.who, NOBODY),
            fields=sorted(
                ((f, field_title(f)) for f in with_chosen(fields, chosen.field, EVERY)),
                key=lambda pair: pair[1].lower(),
            ),
            nobody=NOBODY,
            every=EVERY,
            is_filtered=chosen != Wanted(),
            is_first=after is None,
            first=_query(chosen),
            older=_query(chosen, found.next) if found.next else None,
            today=Day.of(datetime.now(UTC), current.time_zone),
            on_day=lambda day: _query(chosen, day=day),
        )

    @router.get("/changes.json")
    def tell(
        chosen: Annotated[Wanted, Depends(wanted)], after: Annotated[Place | None, Depends(place)]
    ) -> Response:
        with reader.session() as connection:
            found = list_changes(connection, chosen, after=after)
        return reader.twin(told(found, chosen))

    return router


def by_day(lines: Sequence[ChangeLine], clock: Clock) -> list[EditsOfDay]:
    """`lines`, newest first, grouped by edit."""
    days = []
    for day, of_day in groupby(lines, key=lambda line: Day.of(line.at, clock.name).date):
        # In any order of their ids, those of one merge stand together.
        edits = groupby(of_day, key=lambda x: (x.opportunity_id, x.at, x.seen_at, x.changed_by))
        days.append(EditsOfDay(day, [_edit(list(each), clock) for _, each in edits]))
    return days


def _edit(lines: Sequence[ChangeLine], clock: Clock) -> Edit:
    read = [
        (field_title(x.field), x, shown_change(x.field, x.old_value, x.new_value, clock))
        for x in reversed(lines)
    ]
    return Edit(lines[0], read)


def told(found: Changes, chosen: Wanted) -> dict[str, Any]:
    """`found` as JSON. `next` is the address of the next page, null at the end."""
    older = f"/changes.json?{_query(chosen, found.next)}" if found.next else None
    return {"changes": to_jsonable_python(found.lines), "next": older}


def _query(wanted: Wanted, after: Place | None = None, day: date | None = None) -> str:
    values = {
        "day": day or (wanted.day and wanted.day.date),
        "who": wanted.who,
        "field": wanted.field,
        "least": wanted.least,
        "days": wanted.days,
        "after": after and f"{after.at.isoformat()}.{after.id}",
    }
    return urlencode({k: v for k, v in values.items() if v not in (None, "")})


def _place(text: str) -> Place | None:
    if not text:
        return None
    at, _, id_ = text.rpartition(".")
    try:
        found = Place(datetime.fromisoformat(at), int(id_))
        if found.at.tzinfo is None or abs(found.id) >= 2**63:
            raise ValueError
    except ValueError:
        raise HTTPException(
            422,
            "after does not name a place in the list. Start at the first page, and follow its "
            "links.",
        ) from None
    return found


def _number(text: str, name: str) -> Decimal | None:
    if not text.strip():
        return None
    try:
        number = amount(text)
        if not 0 <= number <= _MOST:
            raise ValueError
    except ValueError:
        raise WrongParameter(name, _LABELS[name], "is not a number like 1000.") from None
    return number
