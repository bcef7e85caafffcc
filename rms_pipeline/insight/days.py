"""Days of the company: from midnight to midnight in its time zone."""

import contextlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

# Further away nothing is hired out, and clocks of every zone can still be told.
FIRST, LAST = date(1900, 1, 2), date(2199, 12, 30)


@dataclass(frozen=True, slots=True)
class Day:
    """The day `date` in `time_zone` (a name of the IANA database). It has 23 or 25 hours if clocks
    change. Raises ValueError if the day is not from `FIRST` to `LAST`."""

    date: date
    time_zone: str

    def __post_init__(self) -> None:
        if not FIRST <= self.date <= LAST:
            raise ValueError(f"is not a day from {FIRST} to {LAST}")

    @classmethod
    def of(cls, moment: datetime, time_zone: str) -> "Day":
        """The day of `moment`. Raises ValueError like `Day`."""
        return cls(moment.astimezone(ZoneInfo(time_zone)).date(), time_zone)

    @classmethod
    def near(cls, moment: datetime, time_zone: str) -> "Day":
        """The day of `moment`; the first or the last possible day if it is outside. Use it for
        times from records, because people write 31 December 9999 for no end."""
        with contextlib.suppress(OverflowError):
            moment = moment.astimezone(ZoneInfo(time_zone))
        return cls(min(max(moment.date(), FIRST), LAST), time_zone)

    @property
    def starts(self) -> datetime:
        """The first moment of the day (UTC). If clocks skip midnight, the moment of that change."""
        midnight = datetime(*self.date.timetuple()[:3], tzinfo=ZoneInfo(self.time_zone))
        return midnight.astimezone(UTC)

    @property
    def ends(self) -> datetime:
        """The first moment of the next day (UTC)."""
        after = self.date + timedelta(days=1)
        midnight = datetime(*after.timetuple()[:3], tzinfo=ZoneInfo(self.time_zone))
        return midnight.astimezone(UTC)

    def moved(self, days: int) -> "Day | None":
        """The day that many days later, or None if it is outside the possible days."""
        other = self.date + timedelta(days=days)
        return Day(other, self.time_zone) if FIRST <= other <= LAST else None


def a_year_before(moment: datetime, time_zone: str) -> Day:
    """The day that begins where the same day of the year before ends, of the day that ends at
    `moment`; for the 29th of February where the 28th ends, as PostgreSQL reckons in the view."""
    day = Day.of(moment.astimezone(UTC) - timedelta(microseconds=1), time_zone).date
    try:
        before = day.replace(year=day.year - 1)
    except ValueError:
        before = date(day.year - 1, 2, 28)
    return Day(max(before + timedelta(days=1), FIRST), time_zone)
