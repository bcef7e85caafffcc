"""Periods as words or dates.

The dates of a word are worked out each time it is read. So an address with `weekend` always means
the next weekend.
"""

import re
from collections.abc import Callable
from datetime import date, timedelta

from rms_pipeline.mirror.criteria import Days

_ONE_DAY = timedelta(days=1)


def _around(behind: int, ahead: int) -> Callable[[date], Days]:
    return lambda today: Days(today - _ONE_DAY * behind, today + _ONE_DAY * ahead)


def _weekend(today: date) -> Days:
    """On a Sunday, the weekend that is not over yet."""
    saturday = today + _ONE_DAY * (5 - today.weekday())
    return Days(saturday, saturday + _ONE_DAY)


def _month(today: date) -> Days:
    first = today.replace(day=1)
    return Days(first, _first_of_next(first) - _ONE_DAY)


def _last_month(today: date) -> Days:
    return _month(today.replace(day=1) - _ONE_DAY)


def _next_month(today: date) -> Days:
    return _month(_first_of_next(today))


def _first_of_next(day: date) -> date:
    return (day.replace(day=28) + _ONE_DAY * 4).replace(day=1)


# The word in an address, its name, and the days. What lies ahead begins today, what is past ends
# today: both include it.
PERIODS: dict[str, tuple[str, Callable[[date], Days]]] = {
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
}
_DATES = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})?\.\.([0-9]{4}-[0-9]{2}-[0-9]{2})?")


def days_of(text: str, today: date) -> Days:
    """The days of `text` on the day `today`. `text` is a word of `PERIODS`, one date, or two dates
    with `..` in between, of which one can be left out. Raises ValueError, whose text says what is
    valid."""
    text = text.strip()
    if text in PERIODS:
        return PERIODS[text][1](today)
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
