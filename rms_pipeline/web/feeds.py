"""Calendars for programs: an iCalendar file (RFC 5545) at an address that contains its own key.

A feed has no money, no custom fields and no contact data. A person who finds the address sees what
is out, where and for which customer, and nothing more.
"""

import re
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic
from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response
from icalendar import Calendar, Event

from rms_pipeline.insight.calendar import Bar, read_bars
from rms_pipeline.insight.days import Day
from rms_pipeline.insight.feeds import (
    MOST_FEEDS,
    Feed,
    TooManyFeedsError,
    feeds,
    find_feed,
    make_feed,
    revoke_feed,
)
from rms_pipeline.mirror.criteria import without_nul
from rms_pipeline.mirror.statuses import CONFIRMED, LOST, Phase, read_phases
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.forms import read_form
from rms_pipeline.web.listing import asked_by, cleaned, looked_up
from rms_pipeline.web.refusals import Refusal, WrongParameter

DAYS_BACK, DAYS_AHEAD = 30, 365
MOST_EVENTS = 5_000
_LONGEST_NAME = 100
# Calendar programs ask every few minutes, and people have several of them.
_MOST_READS, _WITHIN_SECONDS = 30, 60.0
_REFRESH = timedelta(minutes=15)
_MEANS: dict[Phase, str] = {CONFIRMED: "CONFIRMED", LOST: "CANCELLED"}
# RFC 5545 has integers of 32 bits.
_LAST_REVISION = 2**31 - 1
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_GONE = "There is no calendar at this address. It may have been revoked. Ask for a new address."


class _Reads:
    """How often each feed was read lately. `clock` gives seconds. For use in one thread at a
    time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: dict[str, deque[float]] = {}

    def wait(self, secret: str) -> int:
        """Counts a read. Returns the whole seconds until the next read is answered, 0 if this one
        is."""
        now = self._clock()
        times = self._times.setdefault(secret, deque(maxlen=_MOST_READS))
        if len(times) == _MOST_READS and (left := times[0] + _WITHIN_SECONDS - now) > 0:
            return int(left) + 1
        times.append(now)
        return 0


def calendar_feed_routes(desk: Desk, clock: Callable[[], float] = monotonic) -> APIRouter:
    """The routes of feeds. All need a session, except the feed itself."""
    router = APIRouter(include_in_schema=False)
    reads = _Reads(clock)

    def page(request: Request, made: str | None = None) -> Response:
        with desk.reader.session() as connection:
            found = feeds(connection)
        address = None
        where = (desk.settings.public_url or str(request.base_url)).rstrip("/")
        if made is not None:
            address = f"{where}/calendar/feeds/{made}.ics"
        return desk.render(
            "feeds.html",
            here="calendar",
            feeds=found,
            address=address,
            # Phones and computers open this with their calendar, and ask whether to subscribe.
            subscribe=re.sub(r"^https?:", "webcal:", address) if address else None,
            is_only_here=urlsplit(where).hostname in _THIS_MACHINE,
            days=(DAYS_BACK, DAYS_AHEAD),
        )

    @router.get("/calendar/feeds", **desk.for_people)
    def show(request: Request) -> Response:
        return page(request)

    @router.post("/calendar/feeds", **desk.for_people)
    async def make(request: Request) -> Response:
        form = await read_form(request, "use fewer or shorter filters.")
        name = " ".join(without_nul(form.get("name", "")).split())
        if not 0 < len(name) <= _LONGEST_NAME:
            raise WrongParameter("name", "“Name”", f"has to have 1 to {_LONGEST_NAME} letters.")
        query = cleaned(without_nul(form.get("query", "")))

        def keep() -> str:
            with desk.database.session() as connection:
                # Here somebody can still mend it.
                looked_up(connection, asked_by(query, desk.time_zone))
                return make_feed(connection, name, query)

        try:
            secret = await run_in_threadpool(keep)
        except TooManyFeedsError:
            raise HTTPException(
                409,
                f"There are {MOST_FEEDS} calendar feeds. That is the most that is allowed. "
                "Revoke one that nobody reads.",
            ) from None
        # Not by a redirect, whose address would hold the secret.
        return await run_in_threadpool(page, request, secret)

    @router.post("/calendar/feeds/{id_}/revoke", **desk.for_people)
    def revoke(id_: int) -> Response:
        with desk.database.session() as connection:
            revoke_feed(connection, id_)
        return RedirectResponse("/calendar/feeds", 303)

    @router.get("/calendar/feeds/{secret}.ics")
    async def read(request: Request, secret: str) -> Response:
        def find() -> Feed | None:
            # PostgreSQL is not even asked for what no secret of ours looks like.
            if not 20 <= len(secret) <= 100 or not secret.isascii():
                return None
            with desk.database.session() as connection:
                return find_feed(connection, secret)

        feed = await run_in_threadpool(find)
        if feed is None:
            await desk.access.slow_down(request)
            raise HTTPException(404, _GONE)
        if seconds := reads.wait(secret):
            raise Refusal(
                429,
                "This calendar was read too often. Read it every few minutes at most.",
                headers={"Retry-After": str(seconds)},
            )
        text = await run_in_threadpool(written, feed)
        return Response(
            text,
            media_type="text/calendar; charset=utf-8",
            headers={"Content-Disposition": 'inline; filename="hires.ics"'},
        )

    def written(feed: Feed) -> bytes:
        now = datetime.now(UTC)
        today = Day.of(now, desk.time_zone)
        first, last = today.moved(-DAYS_BACK), today.moved(DAYS_AHEAD)
        with desk.reader.session() as connection:
            wanted = asked_by(feed.query, desk.time_zone, now)
            bars, is_all = read_bars(
                connection,
                looked_up(connection, wanted).criteria,
                first or today,
                last or today,
                most=MOST_EVENTS,
            )
            phases = read_phases(connection)
        calendar = Calendar()
        calendar.add("prodid", "-//rms_pipeline//calendar feed//EN")
        calendar.add("version", "2.0")
        calendar.add("method", "PUBLISH")
        for title in ("name", "x-wr-calname"):
            calendar.add(title, _plain(feed.name))
        # Events are in UTC, so that no program needs a VTIMEZONE. Some show this zone.
        calendar.add("x-wr-timezone", desk.time_zone)
        calendar.add("refresh-interval", _REFRESH, {"VALUE": "DURATION"})
        calendar.add("x-published-ttl", "PT15M")
        for bar in bars:
            calendar.add_component(_event(bar, phases, now, (last or today).ends))
        if not is_all:
            calendar.add_component(_not_all(today, now, desk.account))
        text: bytes = calendar.to_ical()
        return text

    def _event(bar: Bar, phases: dict[str, Phase], now: datetime, last: datetime) -> Event:
        event = Event()
        event.add("uid", f"opportunity-{bar.id}@{desk.account}.rms-pipeline")
        event.add("dtstamp", now)
        named = f"{bar.name} ({bar.customer})" if bar.customer else bar.name
        event.add("summary", _plain(named))
        if bar.edited:
            event.add("last-modified", bar.edited)
            event.add("sequence", _revision(bar))
        event.add("dtstart", bar.starts)
        if (ends := bar.ends or last) > bar.starts:
            # RFC 5545 allows no end that is not later. Without one, the event is a moment.
            event.add("dtend", ends)
        status = phases.get(bar.status or "")
        event.add("status", _MEANS.get(status, "TENTATIVE") if status else "TENTATIVE")
        # What is out for days is no reason to be busy.
        event.add("transp", "TRANSPARENT")
        if bar.venue:
            event.add("location", _plain(bar.venue))
        told = [f"Status: {bar.status or 'none'}"]
        told += [f"Number: {bar.number}"] if bar.number else []
        told += [f"Owner: {bar.owner}"] if bar.owner else []
        told += ["Open-ended: the end shown is the end of this calendar."] if not bar.ends else []
        event.add("description", _plain("\n".join(told)))
        if desk.settings.public_url:
            event.add("url", f"{desk.settings.public_url.rstrip('/')}/opportunities/{bar.id}")
        return event

    return router


def _revision(bar: Bar) -> int:
    """The number of the revision, which rises with each edit: the seconds since it was entered.
    Outlook and Exchange keep an event as it is unless this number rises."""
    if bar.edited is None or bar.entered is None:
        return 0
    seconds = int((bar.edited - bar.entered).total_seconds())
    return min(max(seconds, 0), _LAST_REVISION)


def _plain(text: str) -> str:
    """Without control characters, for which RFC 5545 has no room: calendar programs refuse all of a
    file that holds one."""
    return _CONTROL.sub("", text)


def _not_all(today: Day, now: datetime, account: str) -> Event:
    """The entry in a calendar that says that not all hires are in it."""
    event = Event()
    event.add("uid", f"not-all@{account}.rms-pipeline")
    event.add("dtstamp", now)
    event.add("summary", f"More than {MOST_EVENTS:,} hires: not all are in this calendar")
    event.add("description", "Create a calendar feed with a filter, and revoke this one.")
    event.add("dtstart", today.date)
    return event
