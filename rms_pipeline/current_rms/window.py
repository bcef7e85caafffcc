"""Which records a full sync covers, and how to ask the API for exactly those."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

Params = tuple[tuple[str, str], ...]
CHANGED_SINCE = "q[updated_at_gteq]"
ENDS_AFTER, STARTS_BEFORE = "q[ends_at_gteq]", "q[starts_at_lteq]"
# A filter may compare whole days, in any time zone.
ROUNDED = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Segment:
    """One filtered list. A full walk reads each segment of its window to the end.

    `params` are Ransack predicates. `lacking` names the date ("start" or "end") that records of the
    segment do not have. `since` is the earliest `updated_at` (UTC) of its records. `window` is what
    they overlap. Records that do not fit show that the API ignored the filter.
    """

    name: str
    params: Params
    lacking: Literal["start", "end"] | None = None
    since: datetime | None = None
    window: "Window | None" = None

    def fits(self, starts_at: datetime | None, ends_at: datetime | None) -> bool:
        """Return whether a record with these dates belongs here, as far as absent dates tell."""
        if self.lacking == "start":
            return starts_at is None
        return self.lacking is None or (ends_at is None and starts_at is not None)


@dataclass(frozen=True, slots=True)
class Window:
    """Records that overlap `[start, end]` (UTC), and records without a start or an end."""

    start: datetime
    end: datetime

    @classmethod
    def around(cls, now: datetime, *, days_back: int, days_ahead: int) -> "Window":
        # Whole milliseconds, so that the bounds of our test are exactly those of the request.
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)
        return cls(now - timedelta(days=days_back), now + timedelta(days=days_ahead))

    def contains(self, starts_at: datetime | None, ends_at: datetime | None) -> bool:
        """Return whether these dates are in the window. They are the dates received, not the ones
        asked for.
        """
        if starts_at is None or ends_at is None:
            return True
        return ends_at >= self.start and starts_at <= self.end

    def inner(self) -> "Window":
        """Return the window without its first and last days.

        Where filters compare whole days, everything that a list of it can hold is in this window.
        """
        return Window(self.start + ROUNDED, self.end - ROUNDED)

    def edges(self) -> tuple[Segment, ...]:
        """Return lists of the first and the last days, with some days around the window.

        Where filters compare whole days, the lists of `segments` may lack some of these.
        """
        start, end = self.start, self.end
        first = ((ENDS_AFTER, iso(start - ROUNDED)), ("q[ends_at_lteq]", iso(start + ROUNDED)))
        last = (("q[starts_at_gteq]", iso(end - ROUNDED)), (STARTS_BEFORE, iso(end + ROUNDED)))
        return Segment("first_days", first), Segment("last_days", last)

    def segments(self) -> tuple[Segment, ...]:
        """Return disjoint lists that together hold the window.

        In the API's database, a comparison with an absent date is never true. So records without a
        date need lists of their own.
        """
        return (
            Segment(
                "dated",
                ((ENDS_AFTER, iso(self.start)), (STARTS_BEFORE, iso(self.end))),
                window=self,
            ),
            Segment("no_start", (("q[starts_at_null]", "1"),), lacking="start"),
            Segment(
                "no_end", (("q[ends_at_null]", "1"), ("q[starts_at_not_null]", "1")), lacking="end"
            ),
        )


EVERYTHING = Segment("everything", ())
# The one list of a collection without a window.
ALL = Segment("all", ())


def segments_of(window: Window | None) -> tuple[Segment, ...]:
    """Return disjoint lists that together hold the window, or all records if there is no window."""
    return (ALL,) if window is None else window.segments()


CHANGED = "changed"


def changed_since(since: datetime, *, whole_days: bool = False) -> Segment:
    """Return the list of everything that changed at or after `since` (the API's clock), whatever
    its dates. `whole_days` if the filter compares whole days.
    """
    since = since - ROUNDED if whole_days else since
    return Segment(CHANGED, ((CHANGED_SINCE, iso(since)),), since=since)


def iso(moment: datetime) -> str:
    """Return UTC in ISO 8601 with milliseconds and `Z`, as the API writes its own times."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
