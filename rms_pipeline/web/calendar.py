"""The calendar: months, weeks and an agenda, with the filters of the list."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from pydantic_core import to_jsonable_python

from rms_pipeline.insight.calendar import (
    MOST_BARS,
    Bar,
    By,
    Piece,
    as_record,
    events_of_days,
    lay_out,
    read_bars,
)
from rms_pipeline.insight.compare import read_memory
from rms_pipeline.insight.days import FIRST, LAST, Day
from rms_pipeline.mirror.browse import owners, statuses
from rms_pipeline.mirror.criteria import NOBODY
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.mirror.statuses import OUTCOMES
from rms_pipeline.web.allowed_parameters import OF_A_LIST, only
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.forms import with_chosen
from rms_pipeline.web.list_address import Asked, asked, has_leftovers, looked_up, party_names
from rms_pipeline.web.locales import first_weekday
from rms_pipeline.web.parameter_values import day_of
from rms_pipeline.web.templating import is_fragment

View = Literal["month", "week", "agenda"]
VIEWS: tuple[View, ...] = get_args(View)
_AGENDA_DAYS = 14
# The page has at most this many of the pieces that do not fit on the screen. The print shows them.
_MOST_ON_PAPER = 300
# The most lines that an agenda shows for a day: of what starts or ends on it, and of what goes on.
_MOST_OF_A_DAY, _MOST_BETWEEN = 100, 50
# Nobody can tell more colours apart.
_MOST_IN_LEGEND = 12
# How many pieces fit into a day. The others are shown as a number, which leads to the day's agenda.
_LANES: dict[View, int] = {"month": 6, "week": 40, "agenda": 0}
_ONE_DAY = timedelta(days=1)
# A view adds days before and after the chosen one. They must lie within what can be shown.
_MARGIN = timedelta(days=100)


@dataclass(frozen=True, slots=True)
class Shown:
    """What an address of the calendar asks for: the days from `first` to `last`, around `day`."""

    asked: Asked
    view: View
    by: By
    day: date
    first: date
    last: date
    today: date

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1

    def address(self, query: str | None = None, **changes: Any) -> str:
        """The address with these parameters changed and the filters of `query`. Defaults are left
        out, so a link to today always means today."""
        values = {"view": self.view, "by": self.by, "day": self.day} | changes
        plain = {"view": "month", "by": "hire", "day": self.today}
        own = urlencode({k: v for k, v in values.items() if v != plain[k]})
        filters = self.asked.query(sort=None, column=None) if query is None else query
        said = "&".join(part for part in (filters, own) if part)
        return f"/calendar{f'?{said}' if said else ''}"

    def listed(self, first: date, last: date | None = None) -> str:
        """The address of the list of what is out on these days."""
        days = str(first) if last is None else f"{first}..{last}"
        status = self.asked.criteria.status or "is:open"
        query = self.asked.query(onhire=days, status=status, sort=None, column=None)
        return f"/opportunities?{query}"

    def moved(self, steps: int) -> date | None:
        """The day of the view that is `steps` later. None if it cannot be shown."""
        if self.view == "month":
            months = self.day.year * 12 + self.day.month - 1 + steps
            other = date(months // 12, months % 12 + 1, 1)
        else:
            other = self.day + steps * (_ONE_DAY * (7 if self.view == "week" else _AGENDA_DAYS))
        return other if FIRST + _MARGIN <= other <= LAST - _MARGIN else None


@dataclass(frozen=True, slots=True)
class Week:
    """A row of days, with the pieces that fit, and how many more each day has. `rest` are the
    pieces that do not fit. On paper they are listed below, but for those that are `left_out`."""

    days: list[date]
    pieces: list[Piece]
    rest: list[Piece]
    left_out: int
    more: dict[date, int]
    counts: dict[date, int]


def calendar_routes(desk: Desk) -> APIRouter:
    """The routes of the calendar and its JSON twin."""
    router = desk.page_router()
    zone = desk.time_zone

    def shown_by(request: Request) -> Shown:
        return _shown(request, zone)

    Wanted = Annotated[Shown, Depends(shown_by)]  # noqa: N806

    def read(connection: Connection, wanted: Shown) -> tuple[list[Bar], bool]:
        first, last = Day(wanted.first, zone), Day(wanted.last, zone)
        criteria = looked_up(connection, wanted.asked).criteria
        return read_bars(connection, criteria, first, last, wanted.by)

    @router.get("/calendar")
    def show(request: Request, wanted: Wanted) -> Response:
        if not is_fragment(request) and has_leftovers(request):
            return RedirectResponse(wanted.address(), 303)
        with desk.reader.session() as connection:
            bars, is_all = read(connection, wanted)
            people = owners(connection)
            known = statuses(connection)
            memory = read_memory(connection, desk.time_zone)
            names = party_names(connection, wanted.asked)
        chips = list(wanted.asked.chips(desk.clock, names))
        return desk.render(
            "calendar.html",
            here="calendar",
            wanted=wanted,
            criteria=wanted.asked.criteria,
            bars=bars,
            memory=memory,
            begins=Day(wanted.first, zone).starts,
            ends=Day(wanted.last, zone).ends,
            until=datetime.now(UTC) + timedelta(days=desk.settings.days_ahead),
            is_all=is_all,
            most=MOST_BARS,
            weeks=[] if wanted.view == "agenda" else _weeks(bars, wanted, zone),
            legend=_legend(bars, wanted),
            agenda=events_of_days(bars, wanted.first, wanted.days, zone)
            if wanted.view == "agenda"
            else [],
            views=VIEWS,
            outcomes=OUTCOMES,
            statuses=with_chosen(known, wanted.asked.text("status"), *OUTCOMES),
            owners=with_chosen(people, wanted.asked.text("owner"), NOBODY),
            nobody=NOBODY,
            chips=[(chip, wanted.address(chip.without)) for chip in chips],
            most_of_a_day=_MOST_OF_A_DAY,
            most_between=_MOST_BETWEEN,
            listed=wanted.listed,
            subscribed_as=", ".join(chip.value for chip in chips)[:100] or "Hires",
        )

    @router.get(
        "/calendar.json", dependencies=[Depends(only(*OF_A_LIST, "view", "by", "day", fields=True))]
    )
    def tell(wanted: Wanted) -> Response:
        with desk.reader.session() as connection:
            bars, is_all = read(connection, wanted)
        return desk.twin(
            {
                "first": str(wanted.first),
                "last": str(wanted.last),
                "isComplete": is_all,
                "bars": to_jsonable_python([as_record(bar) for bar in bars]),
            }
        )

    return router


def _shown(request: Request, zone: str) -> Shown:
    """Raises HTTPException (422) that names the parameter and says what is valid."""
    wanted = asked(request, zone)
    view = request.query_params.get("view", "") or "month"
    by = request.query_params.get("by", "") or "hire"
    if view not in VIEWS:
        raise HTTPException(422, f"view is not one of {', '.join(VIEWS)}.")
    if by not in get_args(By):
        raise HTTPException(422, f"by is not one of {', '.join(get_args(By))}.")
    today = Day.of(datetime.now(UTC), zone).date
    chosen = day_of(request.query_params.get("day", "")[:10], "day", zone)
    day = chosen.date if chosen else today
    if not FIRST + _MARGIN <= day <= LAST - _MARGIN:
        raise HTTPException(422, f"day is not a day from {FIRST + _MARGIN} to {LAST - _MARGIN}.")
    if view == "agenda":
        first, last = day, day + _ONE_DAY * (_AGENDA_DAYS - 1)
    elif view == "week":
        first = day - _ONE_DAY * _days_into_week(day)
        last = first + _ONE_DAY * 6
    else:
        first = day.replace(day=1)
        next_month = (first + _ONE_DAY * 31).replace(day=1)
        last = next_month - _ONE_DAY
        first -= _ONE_DAY * _days_into_week(first)
        last += _ONE_DAY * (6 - _days_into_week(last))
    # `view` and `by` were checked above, but mypy does not know that.
    return Shown(wanted, view, by, day, first, last, today)  # type: ignore[arg-type]


def _days_into_week(day: date) -> int:
    """How many days of its week lie before `day`. Readers begin their weeks on different days."""
    return (day.weekday() - first_weekday()) % 7


def _legend(bars: list[Bar], wanted: Shown) -> tuple[list[tuple[str | None, str]], int]:
    """The statuses of `bars`, the most frequent first, each with the address of the calendar with
    only these ("" for no status, which no filter finds), and how many statuses there are more."""
    counts = Counter(bar.status for bar in bars)
    found = sorted(counts, key=lambda status: (-counts[status], status or ""))
    kept = found[:_MOST_IN_LEGEND]
    return [
        (status, wanted.address(wanted.asked.query(status=status, sort=None, column=None)))
        if status
        else (None, "")
        for status in kept
    ], len(found) - len(kept)


def _weeks(bars: list[Bar], wanted: Shown, zone: str) -> list[Week]:
    weeks = []
    room = _MOST_ON_PAPER
    for start in range(0, wanted.days, 7):
        first = wanted.first + _ONE_DAY * start
        days = [first + _ONE_DAY * n for n in range(7)]
        pieces = lay_out(bars, first, 7, zone)
        counts: Counter[date] = Counter()
        more: Counter[date] = Counter()
        for piece in pieces:
            for day in days[piece.column : piece.column + piece.span]:
                counts[day] += 1
                more[day] += piece.lane >= _LANES[wanted.view]
        kept = [piece for piece in pieces if piece.lane < _LANES[wanted.view]]
        rest = [piece for piece in pieces if piece.lane >= _LANES[wanted.view]]
        printed, left = rest[:room], len(rest[room:])
        room -= len(printed)
        weeks.append(Week(days, kept, printed, left, dict(more), dict(counts)))
    return weeks
