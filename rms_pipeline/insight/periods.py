"""Periods as words or dates.

The dates of a word are worked out each time it is read. So an address with `weekend` always means
the next weekend. Which days are a weekend depends on the country of the company's time zone, so
that a link means the same days for everybody in the company.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

from babel import Locale, UnknownLocaleError
from babel.core import get_global

from rms_pipeline.mirror.criteria import Days

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Weekend:
    """The days of a weekend, from `first` to `last`, as `date.weekday` counts: 0 is Monday."""

    first: int
    last: int

    def has(self, day: date) -> bool:
        return (day.weekday() - self.first) % 7 <= (self.last - self.first) % 7

    def since(self, today: date) -> Days:
        """The weekend that is not over on the day `today`."""
        first = today
        while not self.has(first):
            first += _ONE_DAY
        while self.has(first - _ONE_DAY):
            first -= _ONE_DAY
        return Days(first, first + _ONE_DAY * ((self.last - self.first) % 7))

    def working_day_before(self, today: date) -> date:
        """The last day before `today` that is no weekend."""
        day = today - _ONE_DAY
        while self.has(day):
            day -= _ONE_DAY
        return day


SATURDAY_AND_SUNDAY = Weekend(5, 6)


@lru_cache(maxsize=256)
def weekend_of(time_zone: str) -> Weekend:
    """The weekend in the country of `time_zone` (a name of the IANA database), by the locale data
    of a library. Saturday and Sunday if the time zone is of no country, such as UTC."""
    known = get_global("zone_territories")
    country = known.get(time_zone) or known.get(get_global("zone_aliases").get(time_zone, ""))
    if not country:
        return SATURDAY_AND_SUNDAY
    try:
        locale = Locale.parse(f"und_{country}")
    except (UnknownLocaleError, ValueError):
        return SATURDAY_AND_SUNDAY
    return Weekend(locale.weekend_start, locale.weekend_end)


# Of a day and a weekend, the days that a word means.
_Find = Callable[[date, Weekend], Days]


def _around(behind: int, ahead: int) -> _Find:
    return lambda today, _: Days(today - _ONE_DAY * behind, today + _ONE_DAY * ahead)


def _ago(days: int) -> _Find:
    return lambda today, _: Days(None, today - _ONE_DAY * days)


def _weekend(today: date, weekend: Weekend) -> Days:
    return weekend.since(today)


def _since_working_day(today: date, weekend: Weekend) -> Days:
    return Days(weekend.working_day_before(today), today)


def _month(today: date, _: Weekend = SATURDAY_AND_SUNDAY) -> Days:
    first = today.replace(day=1)
    return Days(first, _first_of_next(first) - _ONE_DAY)


def _last_month(today: date, _: Weekend) -> Days:
    return _month(today.replace(day=1) - _ONE_DAY)


def _next_month(today: date, _: Weekend) -> Days:
    return _month(_first_of_next(today))


def _first_of_next(day: date) -> date:
    return (day.replace(day=28) + _ONE_DAY * 4).replace(day=1)


# The word in an address, its name, and the days. What lies ahead begins today, what is past ends
# today: both include it.
PERIODS: dict[str, tuple[str, _Find]] = {
    "today": ("Today", _around(0, 0)),
    "tomorrow": ("Tomorrow", _around(-1, 1)),
    "yesterday": ("Yesterday", _around(1, -1)),
    "weekend": ("This weekend", _weekend),
    "next-7": ("Next 7 days", _around(0, 6)),
    "next-30": ("Next 30 days", _around(0, 29)),
    "next-90": ("Next 90 days", _around(0, 89)),
    "this-month": ("This month", _month),
    "next-month": ("Next month", _next_month),
    "last-month": ("Last month", _last_month),
    "last-7": ("Last 7 days", _around(6, 0)),
    "last-30": ("Last 30 days", _around(29, 0)),
    "working-day": ("Since the last working day", _since_working_day),
    "ago-14": ("14 days ago or earlier", _ago(14)),
    "ago-30": ("30 days ago or earlier", _ago(30)),
    "ago-90": ("90 days ago or earlier", _ago(90)),
}
_DATES = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})?\.\.([0-9]{4}-[0-9]{2}-[0-9]{2})?")


def days_of(text: str, today: date, weekend: Weekend = SATURDAY_AND_SUNDAY) -> Days:
    """The days of `text` on the day `today`. `text` is a word of `PERIODS`, one date, or two dates
    with `..` in between, of which one can be left out. Raises ValueError, whose text says what is
    valid."""
    text = text.strip()
    if text in PERIODS:
        return PERIODS[text][1](today, weekend)
    first, last = text, text
    if ".." in text:
        found = _DATES.fullmatch(text)
        if found is None:
            raise ValueError(_EXPLAINED)
        first, last = found[1] or "", found[2] or ""
    elif not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError(_EXPLAINED)
    try:
        return Days(_date(first), _date(last))
    except ValueError:
        raise ValueError(_EXPLAINED) from None


def words_for(text: str, write: Callable[[date], str]) -> str:
    """The period `text`, which `days_of` has accepted, for people. `write` formats a date."""
    text = text.strip()
    if text in PERIODS:
        return PERIODS[text][0]
    first, _, last = text.partition("..")
    dates = [write(date.fromisoformat(each)) for each in (first, last) if each]
    if ".." not in text or len(dates) == 2:
        return " to ".join(dict.fromkeys(dates))
    if not dates:
        return "any day"
    return f"from {dates[0]}" if first else f"until {dates[0]}"


def _date(text: str) -> date | None:
    return date.fromisoformat(text) if text else None


_EXPLAINED = (
    f"is not a period: write {', '.join(PERIODS)}, a date like 2026-05-31, or two like"
    " 2026-05-01..2026-05-31"
)
