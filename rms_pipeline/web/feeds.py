"""Calendars for programs: an iCalendar file (RFC 5545) at an address that contains its own key.

A feed has no money, no custom fields and no contact data. A person who finds the address sees what
is out, where and for which customer, and nothing more.
"""

import re
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from rms_pipeline.insight.calendar import read_bars
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
from rms_pipeline.mirror.statuses import read_phases
from rms_pipeline.web.desk import Desk
from rms_pipeline.web.feed_files import FeedEvents, write_feed
from rms_pipeline.web.forms import read_form
from rms_pipeline.web.list_address import asked_by, cleaned, looked_up
from rms_pipeline.web.refusals import Refusal, WrongParameter

DAYS_BACK, DAYS_AHEAD = 30, 365
MOST_EVENTS = 5_000
_LONGEST_NAME = 100
# Calendar programs read every few minutes, and a person has several of them.
_MOST_READS, _WITHIN_SECONDS = 30, 60.0
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
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
        try:
            secret = await run_in_threadpool(_make, desk, name, query)
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
        feed = await run_in_threadpool(_find, desk, secret)
        if feed is None:
            await desk.access.slow_down(request)
            raise HTTPException(404, _GONE)
        if seconds := reads.wait(secret):
            raise Refusal(
                429,
                "This calendar was read too often. Read it every few minutes at most.",
                headers={"Retry-After": str(seconds)},
            )
        text = await run_in_threadpool(_written, desk, feed)
        return Response(
            text,
            media_type="text/calendar; charset=utf-8",
            headers={"Content-Disposition": 'inline; filename="hires.ics"'},
        )

    return router


def _make(desk: Desk, name: str, query: str) -> str:
    """Returns the secret of the new feed. Raises HTTPException (422) for a wrong filter, now that a
    person can correct it, and what `make_feed` raises."""
    with desk.database.session() as connection:
        looked_up(connection, asked_by(query, desk.time_zone))
        return make_feed(connection, name, query)


def _find(desk: Desk, secret: str) -> Feed | None:
    # None of our secrets looks like this, so PostgreSQL need not be asked.
    if not 20 <= len(secret) <= 100 or not secret.isascii():
        return None
    with desk.database.session() as connection:
        return find_feed(connection, secret)


def _written(desk: Desk, feed: Feed) -> bytes:
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
    events = FeedEvents(bars, phases, now, (last or today).ends)
    return write_feed(desk, feed.name, events, None if is_all else MOST_EVENTS)
