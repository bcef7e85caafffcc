"""Numbers, money and times as people read them. Times are shown in the company's time zone.

The words of the pages are English. A number, an amount, a date or a time stands for itself, and is
written whole as its reader writes it, names of months and weekdays included; the locale data of a
library say how (`locales`). What is part of an English sentence stays English around its number:
"4 min ago", "in 3 days", "1 h 5 min". Every page writes through this module.
"""

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal, DecimalException
from functools import lru_cache
from typing import Any, Literal
from zoneinfo import ZoneInfo

from babel import Locale, dates, numbers

from rms_pipeline.web.locales import british, manner

ABSENT = "–"
# The end of a hire that has none, as in the templates.
OPEN_ENDED = "open-ended"


def number(value: int | None) -> str:
    """5,012"""
    if value is None:
        return ABSENT
    locale = manner().locale
    return f"{value:,}" if locale is None else str(numbers.format_decimal(value, locale=locale))


def some(count: int, one: str, more: str = "") -> str:
    """5,012 webhooks, 1 webhook. `more` is the plural if it does not end in s."""
    return f"{number(count)} {one if count == 1 else more or f'{one}s'}"


def share(percent: float) -> str:
    """12.5 %"""
    return f"{_decimal(Decimal(str(percent)), '.0', f'{percent:.1f}')} %"


def money(value: Decimal | None) -> str:
    """12,345.60, or £12,345.60 if the currency is known."""
    return ABSENT if value is None else _money(value, f"{value:z,.2f}", is_whole=False)


def whole_money(value: Decimal | None) -> str:
    """12,346, or £12,346"""
    return ABSENT if value is None else _money(value, f"{value:z,.0f}", is_whole=True)


def signed_money(value: Decimal) -> str:
    """+12,346, −1,200"""
    sign = "+" if value > 0 else "−" if value < 0 else ""
    return f"{sign}{_money(abs(value), f'{abs(value):,.0f}', is_whole=True)}"


def short_money(value: Decimal) -> str:
    """1.2M, 340k, 85: short numbers for the axis of a chart."""
    text = f"{value:z.0f}"
    for limit, unit in ((1_000_000, "M"), (1_000, "k")):
        # What rounds to a thousand of one unit is one of the next.
        if abs(value) >= limit - Decimal(limit) / 2_000:
            scaled = value / limit
            is_small = abs(scaled) < Decimal("9.95")
            shown = f"{scaled:.1f}" if is_small else f"{scaled:,.0f}"
            text = f"{_decimal(scaled, '.0' if is_small else '', shown)}{unit}"
            break
    currency = manner().currency
    if currency is None:
        return text
    return f"{numbers.get_currency_symbol(currency, locale=manner().locale or british())}{text}"


def _money(value: Decimal, plain: str, *, is_whole: bool) -> str:
    """`plain` is the text if neither currency nor language is known."""
    here = manner()
    currency = here.currency
    if currency is None:
        return _decimal(value, "" if is_whole else ".00", plain)
    locale = here.locale or british()

    def write() -> str:
        if is_whole:
            return numbers.format_currency(
                _without_zero(value),
                currency,
                format=_whole_currency_pattern(locale),
                locale=locale,
                currency_digits=False,
            )
        return numbers.format_currency(_without_zero(value), currency, locale=locale)

    # The library cannot round some numbers. Then the digits are shown.
    return _or(write, f"{plain} {currency}")


def _decimal(value: Decimal, fraction: str, plain: str) -> str:
    locale = manner().locale
    if locale is None:
        return plain
    pattern = _decimal_pattern(fraction, locale)
    return _or(
        lambda: numbers.format_decimal(_without_zero(value), format=pattern, locale=locale), plain
    )


@lru_cache(maxsize=256)
def _decimal_pattern(fraction: str, locale: Locale) -> numbers.NumberPattern:
    pattern = locale.decimal_formats[None].pattern.partition(";")[0].partition(".")[0]
    return numbers.parse_pattern(pattern + fraction)


@lru_cache(maxsize=256)
def _whole_currency_pattern(locale: Locale) -> numbers.NumberPattern:
    return numbers.parse_pattern(locale.currency_formats["standard"].pattern.replace(".00", ""))


def _without_zero(value: Decimal) -> Decimal:
    """Removes the minus of zero."""
    return value if abs(value) >= Decimal("0.005") else Decimal(0)


def _or(write: Callable[[], Any], plain: str) -> str:
    try:
        return _apart(str(write()))
    except (DecimalException, ValueError, OverflowError):
        return plain


def duration(seconds: float | None) -> str:
    """0.4 s, 14 s, 1 min 20 s, 2 h 5 min"""
    if seconds is None:
        return ABSENT
    # Clocks of two machines may make it negative.
    seconds = max(seconds, 0.0)
    if seconds < 9.95:
        return f"{_decimal(Decimal(seconds), '.0', f'{seconds:z.1f}')} s"
    whole = round(seconds)
    if whole < 60:
        return f"{number(whole)} s"
    if whole < 3600:
        return f"{number(whole // 60)} min {number(whole % 60)} s"
    if whole < 86_400:
        return f"{number(whole // 3600)} h {number(whole % 3600 // 60)} min"
    return f"{number(whole // 86_400)} d {number(whole % 86_400 // 3600)} h"


def time_left(seconds: float) -> str:
    """about 4 s left, about 2 min 10 s left, nearly done. An estimate has no tenths of seconds."""
    whole = round(seconds)
    if whole < 1:
        return "nearly done"
    return f"about {f'{number(whole)} s' if whole < 10 else duration(whole)} left"


class Clock:
    """Times in `time_zone` (a name of the IANA database)."""

    def __init__(self, time_zone: str) -> None:
        self.name = time_zone
        self.zone = ZoneInfo(time_zone)

    def full(self, moment: datetime | None) -> str:
        """Wed 25 Nov 2026, 12:03:09"""
        if moment is None:
            return ABSENT
        local = self._local(moment)
        return _written(local, "yMMMEd", f"{local:%a %d %b %Y}", "Hms", f", {local:%H:%M:%S}")

    def on_its_day(self, moment: datetime | None) -> str:
        """Wed 25 Nov 2026, 12:03"""
        if moment is None:
            return ABSENT
        local = self._local(moment)
        return _written(local, "yMMMEd", f"{local:%a %d %b %Y}", "Hm", f", {local:%H:%M}")

    def minute(self, moment: datetime | None) -> str:
        """25 Nov 2026, 12:03"""
        if moment is None:
            return ABSENT
        local = self._local(moment)
        return _written(local, "yMMMd", f"{local:%d %b %Y}", "Hm", f", {local:%H:%M}")

    def short(self, moment: datetime | None, now: datetime | None = None) -> str:
        """12:03 today, 24 Nov 12:03 this year, 24 Nov 2025 before and after."""
        if moment is None:
            return ABSENT
        local, today = self._local(moment), self._local(now or datetime.now(UTC))
        if local.date() == today.date():
            return _written(local, "", "", "Hm", f"{local:%H:%M}")
        if local.year == today.year:
            return _written(local, "MMMd", f"{local:%d %b}", "Hm", f" {local:%H:%M}")
        return _written(local, "yMMMd", f"{local:%d %b %Y}")

    def day_of(self, moment: datetime) -> date:
        """The day of `moment`. People type any year: no limit of `insight.days` holds here."""
        return self._local(moment).date()

    def day(self, value: date) -> str:
        """25 Nov 2026"""
        return _written(value, "yMMMd", f"{value:%d %b %Y}")

    def weekday(self, value: date) -> str:
        """Wednesday 25 November 2026"""
        return _written(value, "yMMMMEEEEd", f"{value:%A} {value.day} {value:%B %Y}")

    def day_of_week(self, value: date) -> str:
        """Wed 25"""
        return _written(value, "Ed", f"{value:%a %d}")

    def within(self, moment: datetime, day: date) -> str:
        """12:03 on that `day`, Wed 25 Nov 12:03 in that year, Wed 25 Nov 2025 in others."""
        local = self._local(moment)
        if local.date() == day:
            return _written(local, "", "", "Hm", f"{local:%H:%M}")
        if local.year == day.year:
            return _written(local, "MMMEd", f"{local:%a %d %b}", "Hm", f" {local:%H:%M}")
        return _written(local, "yMMMEd", f"{local:%a %d %b %Y}")

    def ago(self, moment: datetime | None, now: datetime | None = None) -> str:
        """just now, 4 min ago, 2 h ago, 3 d ago, 5 months ago, 2 years ago"""
        if moment is None:
            return ABSENT
        seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
        for limit, size, unit in ((90, 0, ""), (5400, 60, "min"), (129_600, 3600, "h")):
            if seconds < limit:
                return f"{number(round(seconds / size))} {unit} ago" if size else "just now"
        days = seconds / 86_400
        if days < 90:
            return f"{number(round(days))} d ago"
        # People understand "16 months ago" sooner than "487 d ago".
        months = round(days / 365.25 * 12)
        return f"{some(months, 'month') if months < 24 else some(months // 12, 'year')} ago"

    def _local(self, moment: datetime) -> datetime:
        try:
            return moment.astimezone(self.zone)
        except OverflowError:
            return moment


def month(value: date) -> str:
    """Nov"""
    return _written(value, "MMM", f"{value:%b}")


def long_month(value: date, *, with_year: bool = True) -> str:
    """November 2026, or November"""
    if with_year:
        return _written(value, "yMMMM", f"{value:%B %Y}")
    return _written(value, "MMMM", f"{value:%B}")


def weekday(value: date) -> str:
    """Wed"""
    return _written(value, "E", f"{value:%a}")


def weekday_and_day(value: date) -> str:
    """Wednesday 25 Nov"""
    return _written(value, "MMMEEEEd", f"{value:%A %d %b}")


def _written(value: date, day: str, plain_day: str, clock: str = "", plain_time: str = "") -> str:
    """`day` and `clock` name the parts to show, in the letters of CLDR's skeletons. The plain texts
    are the same in our own English."""
    locale = manner().locale
    if locale is None:
        return f"{plain_day}{plain_time}"
    parts = []
    if day:
        parts.append(_day(day, value.date() if isinstance(value, datetime) else value, locale))
    if clock and isinstance(value, datetime):
        has_seconds = clock == "Hms"
        # A zone of a time would be changed into another one.
        shown = time(value.hour, value.minute, value.second if has_seconds else 0)
        parts.append(_time(shown, "medium" if has_seconds else "short", locale))
    return _apart(", ".join(parts))


def _apart(text: str) -> str:
    """`text`, and where it is in letters that run from right to left, with marks around it: a page
    runs from left to right, and would put a day behind its time and a currency before its space."""
    if text.isascii():
        return text
    kinds = {unicodedata.bidirectional(letter) for letter in text}
    return f"\u2067{text}\u2069" if kinds & {"R", "AL"} and kinds & {"EN", "AN"} else text


# A list has hundreds of days and times, and most of them several times. To write one takes the
# library longer than all else that a row needs.
@lru_cache(maxsize=8_192)
def _day(wanted: str, value: date, locale: Locale) -> str:
    try:
        return str(dates.format_date(value, _day_pattern(wanted, locale), locale=locale))
    except (KeyError, AttributeError, ValueError):
        # No locale lacks this one.
        return str(dates.format_date(value, "medium", locale=locale))


@lru_cache(maxsize=8_192)
def _time(value: time, length: Literal["medium", "short"], locale: Locale) -> str:
    return str(dates.format_time(value, length, locale=locale))


@lru_cache(maxsize=512)
def _day_pattern(wanted: str, locale: Locale) -> str:
    """Raises KeyError, AttributeError or ValueError if the locale has none."""
    skeletons = locale.datetime_skeletons
    pattern = str(skeletons[dates.match_skeleton(wanted, skeletons)].pattern)
    if "EEEE" in wanted:
        # Locale data have patterns with short names only: where these stand, long ones do.
        pattern = re.sub(r"[Ec]+", "EEEE", pattern)
    if "MMMM" in wanted:
        pattern = re.sub(r"[ML]{3,}", "MMMM", pattern)
    return pattern
