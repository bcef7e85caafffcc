"""Today: the page for the person who runs the day of a hire company, on screen and on paper."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic_core import to_jsonable_python

from rms_pipeline.insight.compare import Figure, Memory, read_memory
from rms_pipeline.insight.days import Day
from rms_pipeline.insight.sense import SENSE_CHECKS, Doubts, are_many, doubts
from rms_pipeline.insight.today import (
    MOST_COUNTED,
    OUT,
    SOON_DAYS,
    Today,
    compare_today,
    read_today,
    working_day_before,
)
from rms_pipeline.mirror.changes import STATUS
from rms_pipeline.web.allowed_parameters import only
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.parameter_values import day_of, record_id
from rms_pipeline.web.templating import is_fragment

# The page has lists of these two, so their checks are not shown again.
_LISTED = ("late_back", "starts_soon_and_open")
# How many are counted before the page is shown. All are counted later, in the part that compares
# with earlier days.
_AT_ONCE = 1_000
_KEPT_SECONDS = 60.0
_CHECKED = [check for check in SENSE_CHECKS if check not in _LISTED]

# Reads the day out of an address.
_DayOf = Callable[[str], Day]


def today_routes(desk: Desk) -> APIRouter:
    """The routes of the page of a day. `day` is a date in the company's time zone."""

    def wanted(day: Annotated[str, Query(max_length=10)] = "") -> Day:
        return day_of(day, "day", desk.time_zone) or desk.today()

    router = desk.page_router()
    _add_day(router, desk, wanted)
    _add_compared(router, desk, wanted)
    _add_checks(router, desk)
    return router


def _store(store: Annotated[str, Query(max_length=20)] = "") -> int | None:
    return record_id(store, "store", "store")


_Store = Annotated[int | None, Depends(_store)]


def _add_day(router: APIRouter, desk: Desk, wanted: _DayOf) -> None:
    Wanted = Annotated[Day, Depends(wanted)]  # noqa: N806

    def read(day: Day, store: int | None, most: int = MOST_COUNTED) -> Today:
        with desk.reader.session() as connection:
            return read_today(connection, day, datetime.now(UTC), most, store)

    @router.get("/today")
    def show(day: Wanted, store: _Store) -> Response:
        now, current_day = datetime.now(UTC), desk.today().date
        with desk.reader.session() as connection:
            memory = read_memory(connection, day.time_zone)
        return desk.render(
            "today.html",
            here="today",
            today=read(day, store, _AT_ONCE),
            memory=memory,
            decisions_known=memory.knows(working_day_before(day).starts),
            until=now + timedelta(days=desk.settings.days_ahead),
            current_day=current_day,
            before=day.moved(-1),
            after=day.moved(1),
            soon_days=SOON_DAYS,
            lists=_lists(day, store),
            address=lambda day, store: _address(None if day == current_day else day, store),
        )

    @router.get("/today.json", dependencies=[Depends(only("day", "store"))])
    def tell(day: Wanted, store: _Store) -> Response:
        return desk.twin(to_jsonable_python(read(day, store)))


def _add_compared(router: APIRouter, desk: Desk, wanted: _DayOf) -> None:
    """The figures of the day beside those of earlier days. The page asks for them once it is shown,
    because they need the history."""
    Wanted = Annotated[Day, Depends(wanted)]  # noqa: N806

    def compared(day: Day) -> tuple[list[Figure], Memory]:
        with desk.reader.session() as connection:
            figures = compare_today(connection, day, datetime.now(UTC))
            return figures, read_memory(connection, day.time_zone)

    @router.get("/today/compared")
    def show(request: Request, day: Wanted) -> Response:
        name = "compared.html" if is_fragment(request) else "today_compared.html"
        figures, memory = compared(day)
        return desk.render(
            name,
            here="today",
            figures=figures,
            memory=memory,
            day=day,
            with_tiles=is_fragment(request),
        )

    @router.get("/today/compared.json", dependencies=[Depends(only("day"))])
    def tell(day: Wanted) -> Response:
        found = {"date": day.date, "time_zone": day.time_zone, "figures": compared(day)[0]}
        return desk.twin(to_jsonable_python(found))


def _add_checks(router: APIRouter, desk: Desk) -> None:
    """What makes no sense. The page asks for it once it is shown, because all rows are read."""

    def find_doubts() -> list[Doubts]:
        with desk.reader.session() as connection:
            return doubts(connection, _CHECKED)

    checks = _Kept(find_doubts)

    def check() -> list[Doubts]:
        with desk.reader.session() as connection:
            is_slow = are_many(connection)
        return checks.read() if is_slow else find_doubts()

    @router.get("/today/checks")
    def show(request: Request) -> Response:
        name = "checks.html" if is_fragment(request) else "today_checks.html"
        return desk.render(name, here="today", found=check())

    @router.get("/today/checks.json", dependencies=[Depends(only())])
    def tell() -> Response:
        return desk.twin({"checks": to_jsonable_python(check())})


class _Kept:
    """What takes seconds to find, kept for a minute. Those who ask meanwhile wait for one reading
    of all rows, in place of starting one each."""

    def __init__(self, find: Callable[[], list[Doubts]]) -> None:
        self._find, self._lock = find, threading.Lock()
        self._found: list[Doubts] = []
        self._until = 0.0

    def read(self) -> list[Doubts]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._found = self._find()
                self._until = time.monotonic() + _KEPT_SECONDS
            return self._found


def _address(day: date | None, store: int | None) -> str:
    query = urlencode({k: v for k, v in (("day", day), ("store", store)) if v is not None})
    return f"/today{f'?{query}' if query else ''}"


def _lists(day: Day, store: int | None) -> dict[str, str]:
    """Queries of lists that match those of the day, or hold what these have no room for."""
    soon = (day.moved(SOON_DAYS - 1) or day).date
    queries = {
        **{name: {name: f"{day.date}..{day.date}"} for name in ("out", "back", "onhire")},
        "open": {"out": f"{day.date}..{soon}"},
    }
    of_store = {} if store is None else {"store": str(store)}
    lists = {
        name: urlencode(
            {
                "status": "is:undecided" if name == "open" else "is:confirmed",
                **of_store,
                **query,
            }
        )
        for name, query in queries.items()
    }
    # A list filters by days and not by times, so it holds those that were due by yesterday.
    yesterday = (day.moved(-1) or day).date
    late = {"status": OUT, **of_store, "back": f"..{yesterday}", "sort": "back"}
    lists["late"] = urlencode(late)
    since = working_day_before(day).date
    lists["decided"] = urlencode({"day": f"{since}..{day.date}", "field": STATUS})
    lists["changed"] = urlencode({"day": f"{since}..{day.date}"})
    return lists
