"""Periods in words: what each means on each day, and what is none."""

from datetime import date

import pytest

from rms_pipeline.insight.periods import PERIODS, days_of, weekend_of, words_for
from rms_pipeline.mirror.criteria import Days

THURSDAY = date(2026, 11, 26)


def day(number: int, month: int = 11, year: int = 2026) -> date:
    return date(year, month, number)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("today", day(26), day(26)),
        ("tomorrow", day(27), day(27)),
        ("yesterday", day(25), day(25)),
        ("weekend", day(28), day(29)),
        ("next-7", day(26), day(2, 12)),
        ("next-30", day(26), day(25, 12)),
        ("next-90", day(26), day(23, 2, 2027)),
        ("this-month", day(1), day(30)),
        ("next-month", day(1, 12), day(31, 12)),
        ("last-month", day(1, 10), day(31, 10)),
        ("last-7", day(20), day(26)),
        ("last-30", day(28, 10), day(26)),
        ("working-day", day(25), day(26)),
        ("ago-14", None, day(12)),
        ("ago-30", None, day(27, 10)),
        ("ago-90", None, day(28, 8)),
        ("2026-05-31", day(31, 5), day(31, 5)),
        ("2026-05-31..2026-06-01", day(31, 5), day(1, 6)),
        ("2026-05-31..", day(31, 5), None),
        ("..2026-05-31", None, day(31, 5)),
        ("..", None, None),
        (" today ", day(26), day(26)),
    ],
)
def test_a_period_is_these_days(text: str, first: date | None, last: date | None) -> None:
    assert days_of(text, THURSDAY) == Days(first, last)


def test_every_word_is_tried_above() -> None:
    assert len(PERIODS) == 16


@pytest.mark.parametrize(("today", "saturday"), [(23, 28), (27, 28), (28, 28), (29, 28), (30, 5)])
def test_this_weekend_is_the_one_that_is_not_over(today: int, saturday: int) -> None:
    first = days_of("weekend", day(today)).first
    assert first == (day(saturday) if saturday > 5 else day(saturday, 12))


@pytest.mark.parametrize(
    ("zone", "first", "last"),
    [
        ("Europe/London", day(28), day(29)),
        ("Asia/Jerusalem", day(27), day(28)),
        ("Asia/Tehran", day(27), day(27)),
        ("Asia/Calcutta", day(29), day(29)),
        ("Asia/Kolkata", day(29), day(29)),
        ("UTC", day(28), day(29)),
        ("Etc/GMT+5", day(28), day(29)),
    ],
)
def test_a_weekend_is_that_of_the_companys_country(zone: str, first: date, last: date) -> None:
    assert days_of("weekend", THURSDAY, weekend_of(zone)) == Days(first, last)
    for today in (first, last):
        assert days_of("weekend", today, weekend_of(zone)) == Days(first, last)


@pytest.mark.parametrize(
    ("today", "zone", "working"),
    [(23, "Europe/London", 20), (22, "Europe/London", 20), (21, "Europe/London", 20),
     (24, "Europe/London", 23), (22, "Asia/Riyadh", 19), (23, "Asia/Riyadh", 22)],
)  # fmt: skip
def test_on_a_monday_the_last_working_day_is_before_the_weekend(
    today: int, zone: str, working: int
) -> None:
    found = days_of("working-day", day(today), weekend_of(zone))
    assert found == Days(day(working), day(today))


@pytest.mark.parametrize(
    ("today", "last", "current", "following"),
    [
        (date(2027, 1, 31), date(2026, 12, 1), date(2027, 1, 31), date(2027, 2, 28)),
        (date(2028, 2, 29), date(2028, 1, 1), date(2028, 2, 29), date(2028, 3, 31)),
        (date(2026, 12, 31), date(2026, 11, 1), date(2026, 12, 31), date(2027, 1, 31)),
    ],
)
def test_months_have_their_own_lengths(
    today: date, last: date, current: date, following: date
) -> None:
    assert days_of("last-month", today).first == last
    assert days_of("this-month", today).last == current
    assert days_of("next-month", today).last == following


@pytest.mark.parametrize(
    "text",
    ["soon", "next-8", "2026-02-30", "2026-13-01..", "2026-1-1", "2026-05-31...2026-06-01",
     "20260531", "2026-W01-1", "today..tomorrow", "٢٠٢٦-٠٥-٣١.."],
)  # fmt: skip
def test_what_is_no_period_is_refused_with_what_may_be_written(text: str) -> None:
    with pytest.raises(ValueError, match=r"next-30, .*2026-05-01\.\.2026-05-31"):
        days_of(text, THURSDAY)


def test_a_period_has_a_name_for_people() -> None:
    named = {
        "weekend": "This weekend",
        "2026-05-31": "31.5.",
        "2026-05-31..2026-05-31": "31.5.",
        "2026-05-31..2026-06-01": "31.5. to 1.6.",
        "2026-05-31..": "from 31.5.",
        "..2026-05-31": "until 31.5.",
        "..": "any day",
    }
    for text, name in named.items():
        assert words_for(text, lambda d: f"{d.day}.{d.month}.") == name
