"""Days of the company, where clocks change too."""

from datetime import UTC, date, datetime, timedelta

import pytest

from rms_pipeline.insight.days import FIRST, LAST, Day


@pytest.mark.parametrize(
    ("zone", "day", "starts", "hours"),
    [
        ("UTC", date(2026, 11, 26), datetime(2026, 11, 26), 24),
        ("Europe/London", date(2026, 3, 29), datetime(2026, 3, 29), 23),
        ("Europe/London", date(2026, 10, 25), datetime(2026, 10, 24, 23), 25),
        ("Pacific/Auckland", date(2026, 4, 5), datetime(2026, 4, 4, 11), 25),
        # Clocks skip midnight.
        ("Africa/Cairo", date(2026, 4, 24), datetime(2026, 4, 23, 22), 23),
        # The hour before midnight comes twice.
        ("Africa/Cairo", date(2026, 10, 29), datetime(2026, 10, 28, 21), 25),
        # The hour after midnight comes twice.
        ("America/Havana", date(2026, 11, 1), datetime(2026, 11, 1, 4), 25),
        # Half an hour.
        ("Australia/Lord_Howe", date(2026, 4, 5), datetime(2026, 4, 4, 13), 24.5),
    ],
)
def test_a_day_lasts_from_midnight_to_midnight_of_its_zone(
    zone: str, day: date, starts: datetime, hours: float
) -> None:
    found = Day(day, zone)
    assert found.starts == starts.replace(tzinfo=UTC)
    assert found.ends - found.starts == timedelta(hours=hours)
    after = found.moved(1)
    assert after is not None
    assert after.starts == found.ends
    assert Day.of(found.starts, zone) == found
    assert Day.of(found.ends - timedelta(microseconds=1), zone) == found
    assert Day.of(found.ends, zone) == after


@pytest.mark.parametrize("day", [date.min, date(1900, 1, 1), date(2199, 12, 31), date.max])
def test_a_day_at_the_ends_of_time_is_none(day: date) -> None:
    with pytest.raises(ValueError, match="is not a day from 1900-01-02 to 2199-12-30"):
        Day(day, "Europe/London")


def test_there_is_no_day_before_the_first_and_none_after_the_last() -> None:
    assert Day(FIRST, "UTC").moved(-1) is None
    assert Day(LAST, "UTC").moved(1) is None
    assert Day(LAST, "Pacific/Kiritimati").ends > Day(LAST, "Pacific/Kiritimati").starts
