"""Numbers, money and times as people read them. Times are shown in the company's time zone."""

from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

ABSENT = "–"


def number(value: int | None) -> str:
    """5,012"""
    return ABSENT if value is None else f"{value:,}"


def some(count: int, one: str, more: str = "") -> str:
    """5,012 webhooks, 1 webhook; `more` where an s does not do."""
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"


def money(value: Decimal | None) -> str:
    """12,345.60, in the account's currency, which the API does not name."""
    return ABSENT if value is None else f"{value:z,.2f}"


def whole_money(value: Decimal | None) -> str:
    """12,346"""
    return ABSENT if value is None else f"{value:z,.0f}"


def signed_money(value: Decimal) -> str:
    """+12,346, −1,200"""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{abs(value):,.0f}"


def short_money(value: Decimal) -> str:
    """1.2M, 340k, 85: for the axis of a chart."""
    for limit, unit in ((1_000_000, "M"), (1_000, "k")):
        # What rounds to a thousand of one unit is one of the next.
        if abs(value) >= limit - Decimal(limit) / 2_000:
            scaled = value / limit
            return (
                f"{scaled:.1f}{unit}" if abs(scaled) < Decimal("9.95") else f"{scaled:,.0f}{unit}"
            )
    return f"{value:z.0f}"


def duration(seconds: float | None) -> str:
    """0.4 s, 14 s, 1 min 20 s, 2 h 5 min"""
    if seconds is None:
        return ABSENT
    # Clocks of two machines may make it negative.
    seconds = max(seconds, 0.0)
    if seconds < 9.95:
        return f"{seconds:z.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def time_left(seconds: float) -> str:
    """about 4 s left, about 2 min 10 s left, nearly done: an estimate, so no tenths of seconds."""
    whole = round(seconds)
    if whole < 1:
        return "nearly done"
    return f"about {f'{whole} s' if whole < 10 else duration(whole)} left"


class Clock:
    """Times in `time_zone` (a name of the IANA database)."""

    def __init__(self, time_zone: str) -> None:
        self.name = time_zone
        self.zone = ZoneInfo(time_zone)

    def full(self, moment: datetime | None) -> str:
        """Wed 25 Nov 2026, 12:03:09"""
        return ABSENT if moment is None else f"{self._local(moment):%a %d %b %Y, %H:%M:%S}"

    def minute(self, moment: datetime | None) -> str:
        """25 Nov 2026, 12:03"""
        return ABSENT if moment is None else f"{self._local(moment):%d %b %Y, %H:%M}"

    def short(self, moment: datetime | None, now: datetime | None = None) -> str:
        """12:03 today, 24 Nov 12:03 this year, 24 Nov 2025 before and after."""
        if moment is None:
            return ABSENT
        local, today = self._local(moment), self._local(now or datetime.now(UTC))
        if local.date() == today.date():
            return f"{local:%H:%M}"
        if local.year == today.year:
            return f"{local:%d %b %H:%M}"
        return f"{local:%d %b %Y}"

    def day(self, value: date) -> str:
        """25 Nov 2026"""
        return f"{value:%d %b %Y}"

    def weekday(self, value: date) -> str:
        """Wednesday 25 November 2026"""
        return f"{value:%A} {value.day} {value:%B %Y}"

    def within(self, moment: datetime, day: date) -> str:
        """12:03 on that `day`, Wed 25 Nov 12:03 in that year, Wed 25 Nov 2025 in others."""
        local = self._local(moment)
        if local.date() == day:
            return f"{local:%H:%M}"
        return f"{local:%a %d %b %H:%M}" if local.year == day.year else f"{local:%a %d %b %Y}"

    def ago(self, moment: datetime | None, now: datetime | None = None) -> str:
        """just now, 4 min ago, 2 h ago, 3 d ago"""
        if moment is None:
            return ABSENT
        seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
        for limit, size, unit in ((90, 0, ""), (5400, 60, "min"), (129_600, 3600, "h")):
            if seconds < limit:
                return f"{round(seconds / size)} {unit} ago" if size else "just now"
        return f"{round(seconds / 86_400)} d ago"

    def _local(self, moment: datetime) -> datetime:
        try:
            return moment.astimezone(self.zone)
        except OverflowError:
            return moment
