"""Bars of a calendar: which days they cover, and how they lie beside each other."""

import random
from datetime import UTC, date, datetime, timedelta

import pytest

from rms_pipeline.insight.calendar import Bar, days_of_bar, events_of_days, lay_out
from rms_pipeline.insight.days import FIRST, LAST

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MONDAY = date(2031, 5, 12)
NOON = datetime(2031, 5, 12, 12, tzinfo=UTC)


def bar(id_: int, starts: datetime, ends: datetime | None) -> Bar:
    return Bar(id_, str(id_), f"Job {id_}", "Reserved", None, None, None, starts, ends)


@pytest.mark.parametrize(
    ("starts", "ends", "zone", "days"),
    [
        (NOON, NOON + HOUR, "UTC", (MONDAY, MONDAY)),
        (NOON, NOON + 12 * HOUR, "UTC", (MONDAY, MONDAY)),
        (NOON, NOON + 13 * HOUR, "UTC", (MONDAY, MONDAY + DAY)),
        (NOON, NOON, "UTC", (MONDAY, MONDAY)),
        (NOON - 12 * HOUR, NOON - 12 * HOUR, "UTC", (MONDAY, MONDAY)),
        (NOON, None, "UTC", (MONDAY, None)),
        (NOON, NOON + HOUR, "Pacific/Auckland", (MONDAY + DAY, MONDAY + DAY)),
        # Midnight in New York is four o'clock.
        (NOON, NOON + 16 * HOUR, "America/New_York", (MONDAY, MONDAY)),
        # What people write for no end, and what a slip of the finger makes of a year.
        (NOON, datetime(9999, 12, 31, 23, tzinfo=UTC), "Pacific/Auckland", (MONDAY + DAY, LAST)),
        (NOON, datetime(2200, 1, 1, tzinfo=UTC), "America/New_York", (MONDAY, LAST)),
        (datetime(1, 1, 1, tzinfo=UTC), NOON, "America/New_York", (FIRST, MONDAY)),
    ],
)
def test_a_bar_covers_the_days_of_the_company_that_it_touches(
    starts: datetime, ends: datetime | None, zone: str, days: tuple[date, date | None]
) -> None:
    assert days_of_bar(bar(1, starts, ends), zone) == days


def test_a_long_bar_lies_above_and_a_free_lane_is_used_again() -> None:
    pieces = lay_out(
        [
            bar(1, NOON, NOON + HOUR),
            bar(2, NOON, NOON + 2 * DAY),
            bar(3, NOON + DAY, NOON + DAY),
            bar(4, NOON - 9 * DAY, NOON + 20 * DAY),
            bar(5, NOON + 6 * DAY, None),
            bar(6, NOON + 7 * DAY, None),
            bar(7, NOON - 2 * DAY, NOON - DAY),
        ],
        MONDAY,
        7,
        "UTC",
    )
    assert {p.bar.id: (p.column, p.span, p.lane, p.begins, p.ends) for p in pieces} == {
        4: (0, 7, 0, False, False),
        2: (0, 3, 1, True, True),
        1: (0, 1, 2, True, True),
        3: (1, 1, 2, True, True),
        5: (6, 1, 1, True, False),
    }


@pytest.mark.parametrize("seed", range(20))
def test_no_two_pieces_lie_on_each_other_and_every_day_of_a_bar_is_covered(seed: int) -> None:
    chance = random.Random(seed)
    bars = []
    for id_ in range(60):
        starts = NOON + chance.randint(-400, 400) * HOUR
        ends = starts + chance.choice([0, 1, 30, 200, 900]) * HOUR
        bars.append(bar(id_, starts, None if chance.random() < 0.1 else ends))
    taken: dict[tuple[int, int], int] = {}
    pieces = lay_out(bars, MONDAY, 7, "Europe/London")
    for piece in pieces:
        for column in range(piece.column, piece.column + piece.span):
            assert taken.setdefault((piece.lane, column), piece.bar.id) == piece.bar.id
    for each in bars:
        first, last = days_of_bar(each, "Europe/London")
        days = [MONDAY + n * DAY for n in range(7)]
        columns = {n for n, d in enumerate(days) if first <= d and (last is None or d <= last)}
        assert {c for (_, c), id_ in taken.items() if id_ == each.id} == columns
    most = max(
        sum(p.column <= c < p.column + p.span for p in pieces) for c in range(7)
    )  # fmt: skip
    assert max(p.lane for p in pieces) < most, "as few lanes as there are bars on one day"


def test_an_agenda_tells_what_comes_and_goes_by_the_clock_and_then_what_goes_on() -> None:
    bars = [
        bar(1, NOON, NOON + 2 * DAY),
        bar(2, NOON - HOUR, NOON + HOUR),
        bar(3, NOON + DAY, NOON + DAY),
        bar(4, NOON - 3 * DAY, None),
    ]
    told = events_of_days(bars, MONDAY, 4, "UTC")
    assert [(day, [(what, each.id) for what, each in events]) for day, events in told] == [
        (MONDAY, [("starts", 2), ("starts", 1), ("ends", 2), ("goes on", 4)]),
        (MONDAY + DAY, [("starts", 3), ("goes on", 1), ("goes on", 4)]),
        (MONDAY + 2 * DAY, [("ends", 1), ("goes on", 4)]),
        (MONDAY + 3 * DAY, [("goes on", 4)]),
    ]
