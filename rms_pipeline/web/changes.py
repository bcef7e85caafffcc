"""Changes: who changed what, when, from what to what."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from rms_pipeline.insight.periods import PERIODS, days_of, weekend_of
from rms_pipeline.mirror.criteria import Days, without_nul
from rms_pipeline.web.allowed_parameters import only
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.formatting import Clock
from rms_pipeline.web.forms import amount, with_chosen
from rms_pipeline.web.list_address import CUSTOM, custom_period, has_leftovers
from rms_pipeline.web.parameter_values import fits_bigint
from rms_pipeline.web.refusals import WrongParameter
from rms_pipeline.web.templating import is_fragment
from rms_pipeline.web.values import Shown, field_title, line_title, shown_change

_Text = Annotated[str, Query(max_length=500)]
_MOST = Decimal(10) ** 15
# Only past periods: changes lie in the past.
_PERIODS = (
    *("today", "yesterday", "working-day", "last-7", "last-30", "this-month", "last-month"),
)
# What the fields of the page are called.
_LABELS = {"least": "“Charge by at least”", "days": "“Dates by days, at least”"}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the address asks for. `day` is the period as it is written there, so that links to a
    relative one stay relative."""

    day: str
    wanted: Wanted

    @property
    def is_filtered(self) -> bool:
        return bool(self.day) or self.wanted != Wanted(time_zone=self.wanted.time_zone)


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


def changes_routes(desk: Desk) -> APIRouter:
    """The routes of changes. `day` is a period, as in lists, in the company's time zone. `after` is
    a position from an earlier answer."""
    router = desk.page_router()

    def wanted(
        request: Request,
        day: Annotated[str, Query(max_length=30)] = "",
        who: _Text = "",
        field: _Text = "",
        least: Annotated[str, Query(max_length=30)] = "",
        days: Annotated[str, Query(max_length=30)] = "",
    ) -> Chosen:
        whole = _number(days, "days")
        period = custom_period(request, "day") if day == CUSTOM else without_nul(day).strip()
        wanted = Wanted(
            when=_period(period, desk.time_zone),
            time_zone=desk.time_zone,
            who=without_nul(who),
            field=without_nul(field),
            least=_number(least, "least"),
            days=None if whole is None else int(whole),
        )
        return Chosen(period, wanted)

    def place(after: Annotated[str, Query(max_length=60)] = "") -> Place | None:
        return _place(after)

    @router.get("/changes")
    def show(
        request: Request,
        chosen: Annotated[Chosen, Depends(wanted)],
        after: Annotated[Place | None, Depends(place)],
    ) -> Response:
        if not is_fragment(request) and has_leftovers(request):
            query = _query(chosen, after)
            return RedirectResponse(f"/changes{f'?{query}' if query else ''}", 303)
        with desk.reader.session() as connection:
            found = list_changes(connection, chosen.wanted, after=after)
            people, fields = known_people(connection), known_fields(connection)
        return desk.render(
            "changes.html",
            here="changes",
            wanted=chosen.wanted,
            period=chosen.day,
            periods={
                word: PERIODS[word][0]
                for word in with_chosen(list(_PERIODS), chosen.day)
                if word in PERIODS
            },
            custom=CUSTOM,
            days=by_day(found.lines, desk.clock),
            people=with_chosen(people, chosen.wanted.who, NOBODY),
            fields=sorted(
                ((f, field_title(f)) for f in with_chosen(fields, chosen.wanted.field, EVERY)),
                key=lambda pair: pair[1].lower(),
            ),
            nobody=NOBODY,
            every=EVERY,
            is_filtered=chosen.is_filtered,
            is_first=after is None,
            first=_query(chosen),
            older=_query(chosen, found.next) if found.next else None,
            today=desk.today(),
            on_day=lambda day: _query(replace(chosen, day=str(day))),
        )

    takes = only("day", "day_from", "day_to", "who", "field", "least", "days", "after")

    @router.get("/changes.json", dependencies=[Depends(takes)])
    def tell(
        chosen: Annotated[Chosen, Depends(wanted)], after: Annotated[Place | None, Depends(place)]
    ) -> Response:
        with desk.reader.session() as connection:
            found = list_changes(connection, chosen.wanted, after=after)
        return desk.twin(told(found, chosen))

    return router


def by_day(lines: Sequence[ChangeLine], clock: Clock) -> list[EditsOfDay]:
    """`lines`, newest first, grouped by edit."""
    days = []
    for day, of_day in groupby(lines, key=lambda line: clock.day_of(line.at)):
        # In any order of their ids, those of one merge stand together.
        merges = groupby(of_day, key=lambda x: (x.opportunity_id, x.at, x.seen_at))
        edits = [edit for _, each in merges for edit in _by_person(list(each))]
        days.append(EditsOfDay(day, [_edit(edit, clock) for edit in edits]))
    return days


def _by_person(lines: Sequence[ChangeLine]) -> list[list[ChangeLine]]:
    """`lines` of one merge, by who changed them. Renames stand last."""
    found: dict[tuple[bool, str | None], list[ChangeLine]] = {}
    for line in lines:
        found.setdefault((line.is_rename, line.changed_by), []).append(line)
    return [found[key] for key in sorted(found, key=lambda key: key[0])]


def _edit(lines: Sequence[ChangeLine], clock: Clock) -> Edit:
    read = [
        (line_title(x), x, shown_change(x.field, x.old_value, x.new_value, clock))
        for x in reversed(lines)
    ]
    return Edit(lines[0], read)


def told(found: Changes, chosen: Chosen) -> dict[str, Any]:
    """`found` as JSON. `next` is the address of the next page, null at the end."""
    older = f"/changes.json?{_query(chosen, found.next)}" if found.next else None
    return {"changes": to_jsonable_python(found.lines), "next": older}


def _query(chosen: Chosen, after: Place | None = None) -> str:
    wanted = chosen.wanted
    values = {
        "day": chosen.day,
        "who": wanted.who,
        "field": wanted.field,
        "least": wanted.least,
        "days": wanted.days,
        "after": after and f"{after.at.isoformat()}.{after.id}",
    }
    return urlencode({k: v for k, v in values.items() if v not in (None, "")})


def _period(text: str, time_zone: str) -> Days:
    if not text:
        return Days()
    today = Day.of(datetime.now(UTC), time_zone).date
    try:
        return days_of(text, today, weekend_of(time_zone))
    except ValueError as error:
        raise WrongParameter("day", "“Day”", f"{error}.") from None


def _place(text: str) -> Place | None:
    if not text:
        return None
    at, _, id_ = text.rpartition(".")
    try:
        found = Place(datetime.fromisoformat(at), int(id_))
        if found.at.tzinfo is None or not fits_bigint(found.id):
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
