"""The iCalendar file (RFC 5545) of a calendar feed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from icalendar import Calendar, Event

from rms_pipeline.insight.calendar import Bar
from rms_pipeline.insight.days import Day
from rms_pipeline.mirror.statuses import CONFIRMED, LOST, Phase
from rms_pipeline.web.desk import Desk

_REFRESH = timedelta(minutes=15)
_MEANS: dict[Phase, str] = {CONFIRMED: "CONFIRMED", LOST: "CANCELLED"}
# RFC 5545 has integers of 32 bits.
_LAST_REVISION = 2**31 - 1
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class FeedEvents:
    """The hires of a feed as they are `now`. `phases` are those of the statuses. `last` is the end
    of the feed's days, and of hires that are open-ended. Times are UTC."""

    bars: Sequence[Bar]
    phases: Mapping[str, Phase]
    now: datetime
    last: datetime


def write_feed(desk: Desk, name: str, events: FeedEvents, cut_at: int | None) -> bytes:
    """The file, which calendar programs show as `name`. If not all hires are in `events`, `cut_at`
    is how many a feed holds, and an entry of today says so."""
    calendar = Calendar()
    calendar.add("prodid", "-//rms_pipeline//calendar feed//EN")
    calendar.add("version", "2.0")
    calendar.add("method", "PUBLISH")
    for title in ("name", "x-wr-calname"):
        calendar.add(title, _plain(name))
    # Events are in UTC, so that no program needs a VTIMEZONE. Some show this zone.
    calendar.add("x-wr-timezone", desk.time_zone)
    calendar.add("refresh-interval", _REFRESH, {"VALUE": "DURATION"})
    calendar.add("x-published-ttl", "PT15M")
    for bar in events.bars:
        calendar.add_component(_event(desk, bar, events))
    if cut_at is not None:
        calendar.add_component(_not_all(desk, events.now, cut_at))
    text: bytes = calendar.to_ical()
    return text


def _event(desk: Desk, bar: Bar, events: FeedEvents) -> Event:
    event = Event()
    event.add("uid", f"opportunity-{bar.id}@{desk.account}.rms-pipeline")
    event.add("dtstamp", events.now)
    named = f"{bar.name} ({bar.customer})" if bar.customer else bar.name
    event.add("summary", _plain(named))
    if bar.edited:
        event.add("last-modified", bar.edited)
        event.add("sequence", _revision(bar))
    event.add("dtstart", bar.starts)
    if (ends := bar.ends or events.last) > bar.starts:
        # RFC 5545 allows an end only if it is later than the start. An event without an end is a
        # moment.
        event.add("dtend", ends)
    status = events.phases.get(bar.status or "")
    event.add("status", _MEANS.get(status, "TENTATIVE") if status else "TENTATIVE")
    # A hire goes on for days, and must not mark the person as busy.
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


def _not_all(desk: Desk, now: datetime, most: int) -> Event:
    """The entry in a calendar that says that not all hires are in it."""
    event = Event()
    event.add("uid", f"not-all@{desk.account}.rms-pipeline")
    event.add("dtstamp", now)
    event.add("summary", f"More than {most:,} hires: not all are in this calendar")
    event.add("description", "Create a calendar feed with a filter, and revoke this one.")
    event.add("dtstart", Day.of(now, desk.time_zone).date)
    return event
