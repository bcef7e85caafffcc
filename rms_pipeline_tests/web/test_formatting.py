"""Numbers, money, times and charts as people read them."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from rms_pipeline.mirror.overview import WEEKS, StatusCount, WebhookDay, WeekCount
from rms_pipeline.mirror.statuses import Phase
from rms_pipeline.web import charts
from rms_pipeline.web.formatting import (
    Clock,
    duration,
    money,
    number,
    short_money,
    time_left,
    whole_money,
)
from rms_pipeline.web.templating import templates

NOON = datetime(2026, 6, 15, 12, 0, tzinfo=UTC)
MONDAY = date(2026, 6, 15)
UTC_CLOCK = Clock("UTC")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (Decimal(0), "0.00"),
        (Decimal("1234.5"), "1,234.50"),
        (Decimal("-1234.5"), "-1,234.50"),
        (Decimal("-0.001"), "0.00"),
        (Decimal(f"{10**40}.01"), f"{10**40:,}.01"),
    ],
)
def test_money_has_two_decimals_and_never_a_minus_before_nothing(
    value: Decimal | None, text: str
) -> None:
    assert money(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (Decimal("1234.5"), "1,234"),
        (Decimal("1235.5"), "1,236"),
        (Decimal("-0.4"), "0"),
        (Decimal("-0.6"), "-1"),
    ],
)
def test_whole_money_has_no_decimals(value: Decimal | None, text: str) -> None:
    assert whole_money(value) == text


def test_numbers_are_grouped() -> None:
    assert (number(None), number(0), number(5_012)) == ("–", "0", "5,012")
    assert number(1_234_567) == "1,234,567"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("85.4", "85"),
        ("999.4", "999"),
        ("999.5", "1.0k"),
        ("1000", "1.0k"),
        ("1250", "1.2k"),
        ("9949", "9.9k"),
        ("9950", "10k"),
        ("9999", "10k"),
        ("340000", "340k"),
        ("999499", "999k"),
        ("999500", "1.0M"),
        ("999999", "1.0M"),
        ("1200000", "1.2M"),
        ("12345678", "12M"),
        ("9999999999", "10,000M"),
        ("-1500", "-1.5k"),
        ("-999999", "-1.0M"),
    ],
)
def test_short_money_is_short_on_both_sides_of_each_unit(value: str, text: str) -> None:
    assert short_money(Decimal(value)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (0.4, "0.4 s"),
        (9.94, "9.9 s"),
        (9.95, "10 s"),
        (14.4, "14 s"),
        (59.6, "1 min 0 s"),
        (80, "1 min 20 s"),
        (3_599.6, "1 h 0 min"),
        (7_500, "2 h 5 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d 0 h"),
        (1_000_000, "11 d 13 h"),
        (-0.0, "0.0 s"),
        (-3, "0.0 s"),
    ],
)
def test_a_duration_is_in_the_units_one_would_say(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "nearly done"),
        (1.2, "about 1 s left"),
        (9.6, "about 10 s left"),
        (130, "about 2 min 10 s left"),
    ],
)
def test_the_time_left_is_no_more_exact_than_it_can_be(seconds: float, text: str) -> None:
    assert time_left(seconds) == text


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("Run `rms-pipeline up`.", "Run <code>rms-pipeline up</code>."),
        ("`<b>`", "<code>&lt;b&gt;</code>"),
        ("a ` b", "a ` b"),
        ("``", "``"),
        ("`a\nb`", "`a\nb`"),
        (None, ""),
    ],
)
def test_what_is_to_be_typed_stands_out_and_html_stays_text(text: str | None, html: str) -> None:
    assert templates.filters["with_code"](text) == html


def test_times_are_those_of_the_time_zone() -> None:
    london = Clock("Europe/London")
    assert london.full(NOON) == "Mon 15 Jun 2026, 13:00:00"
    assert london.minute(NOON) == "15 Jun 2026, 13:00"
    assert Clock("Pacific/Kiritimati").minute(NOON) == "16 Jun 2026, 02:00"
    assert london.day(MONDAY) == "15 Jun 2026"
    for way in (london.full, london.minute, london.short, london.ago):
        assert way(None) == "–"


def test_a_short_time_leaves_out_what_is_plain() -> None:
    london = Clock("Europe/London")
    assert london.short(NOON, now=NOON + timedelta(hours=10, minutes=59)) == "13:00"
    assert london.short(NOON, now=NOON + timedelta(hours=11)) == "15 Jun 13:00"
    new_year = datetime(2027, 1, 1, tzinfo=UTC)
    assert london.short(NOON, now=new_year) == "15 Jun 2026"
    assert Clock("America/New_York").short(NOON, now=new_year) == "15 Jun 08:00"


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Kiritimati"])
@pytest.mark.parametrize("moment", [datetime.min, datetime.max], ids=["first", "last"])
def test_the_ends_of_time_are_told_like_any_other(zone: str, moment: datetime) -> None:
    clock, aware = Clock(zone), moment.replace(tzinfo=UTC)
    for text in (clock.full(aware), clock.minute(aware), clock.short(aware), clock.ago(aware)):
        assert text
    if zone == "UTC":
        assert str(moment.year) in clock.minute(aware)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-100_000, "just now"),
        (0, "just now"),
        (89, "just now"),
        (90, "2 min ago"),
        (240, "4 min ago"),
        (5_399, "90 min ago"),
        (5_400, "2 h ago"),
        (7_200, "2 h ago"),
        (129_600, "2 d ago"),
        (259_200, "3 d ago"),
        (89 * 86_400, "89 d ago"),
        (90 * 86_400, "3 months ago"),
        (487 * 86_400, "16 months ago"),
        (800 * 86_400, "2 years ago"),
        (1_800 * 86_400, "4 years ago"),
    ],
)
def test_how_long_ago(seconds: float, text: str) -> None:
    assert UTC_CLOCK.ago(NOON - timedelta(seconds=seconds), now=NOON) == text


def status(name: str, count: int, value: str = "0") -> StatusCount:
    return StatusCount(name, count, Decimal(0), Decimal(value))


def test_bars_are_as_long_as_their_counts_and_lead_to_their_lists() -> None:
    bars = charts.status_bars([status("Open & <b>", 8), status("Lost", 2), status("Gone", 0)])
    assert [(b.status, b.width, b.share) for b in bars] == [
        ("Open & <b>", 100, 80),
        ("Lost", 25, 20),
    ]
    assert bars[0].href == "/opportunities?status=Open+%26+%3Cb%3E"
    assert charts.status_bars([]) == []


PHASES: dict[str, Phase] = {
    "Reserved": "confirmed",
    "Active": "confirmed",
    "Lost": "lost",
    "Dead": "lost",
}


def week(weeks: int, name: str, value: str, count: int = 1) -> WeekCount:
    return WeekCount(MONDAY + timedelta(weeks=weeks), name, count, Decimal(value))


def test_weeks_stack_undecided_on_confirmed_and_leave_out_what_is_closed() -> None:
    drawn = charts.week_columns(
        [
            week(0, "Reserved", "30"),
            week(0, "Open", "20"),
            week(0, "Never heard of", "50"),
            week(0, "Lost", "900"),
            week(1, "Active", "25"),
            week(2, "Open", "-10"),
            week(3, "Dead", "900"),
        ],
        MONDAY,
        UTC_CLOCK,
        PHASES,
    )
    assert (len(drawn.columns), drawn.top, drawn.empty) == (WEEKS, "100", False)
    assert [c.parts for c in drawn.columns[:4]] == [
        [("confirmed", 0, 30), ("undecided", 30, 70)],
        [("confirmed", 0, 25)],
        [],
        [],
    ]
    first, third = drawn.columns[0], drawn.columns[2]
    assert first.title == ("Week of 15 Jun 2026: 30 confirmed, 70 undecided, 3 opportunities")
    assert first.href == (
        "/opportunities?status=is%3Aopen&from=2026-06-15&to=2026-06-21&sort=starts"
    )
    assert "1 opportunity" in third.title
    assert "1 opportunities" not in third.title


def test_each_month_is_named_once_where_it_begins() -> None:
    for start in range(104):
        monday = MONDAY + timedelta(weeks=start)
        labels = [c.label for c in charts.week_columns([], monday, UTC_CLOCK, PHASES).columns]
        named = [label for label in labels if label]
        assert len(named) in (5, 6, 7)
        assert len(named) == len(set(named))


def test_nothing_of_any_value_is_an_empty_chart() -> None:
    assert charts.week_columns([], MONDAY, UTC_CLOCK, PHASES).empty
    assert charts.week_columns([week(0, "Lost", "5")], MONDAY, UTC_CLOCK, PHASES).empty
    assert charts.webhook_columns([WebhookDay(MONDAY, 0, 0, 0)]).empty


@pytest.mark.parametrize("huge", ["1e1000", "1e28", "1e-1000"])
def test_an_amount_out_of_all_proportion_is_drawn(huge: str) -> None:
    drawn = charts.week_columns(
        [week(0, "Open", huge), week(0, "Active", huge), week(1, "Active", "1")],
        MONDAY,
        UTC_CLOCK,
        PHASES,
    )
    for column in drawn.columns:
        assert all(0 <= height <= 100 for _, _, height in column.parts)
    assert len(charts.status_bars([status("Open", 10**18, huge), status("Lost", 1)])) == 2


def test_days_of_webhooks_stack_to_what_was_received() -> None:
    drawn = charts.webhook_columns([WebhookDay(MONDAY, 10, 6, 1), WebhookDay(MONDAY, 5, 5, 0)])
    assert drawn.top == "10"
    first, second = drawn.columns
    assert first.parts == [("settled", 0, 60), ("waiting", 60, 30), ("dead", 90, 10)]
    assert second.parts == [("settled", 0, 50)]
    assert first.title == ("Monday 15 Jun: 10 webhooks, 6 settled, 3 waiting, 1 dead letter")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one", "one"),
        ("\n one\ntwo", "one"),
        ("x" * 120, "x" * 120),
        ("x" * 121, "x" * 119 + "…"),
        ("", ""),
    ],
)
def test_the_first_line_of_an_error_sums_it_up(text: str, line: str) -> None:
    assert templates.filters["first_line"](text) == line


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("It is 12.5 %. That is all.", "It is 12.5 %. That is all."),
        ("It was read at 12:03. It was last shown at 12:03:04.", "It was read at 12:03."),
        ("x" * 31, "x" * 29 + "…"),
        ("", ""),
    ],
)
def test_a_long_explanation_ends_with_a_sentence(text: str, kept: str) -> None:
    assert templates.filters["first_sentences"](text, 30) == kept


@pytest.mark.parametrize(
    "counts",
    [[5], [1, 1], [1] * 40, [10**9, 1], [97, 1, 1, 1], [30, 30, 1, 1, 1, 1, 30, 1, 1, 1, 1, 1]],
)
def test_a_pie_is_whole_and_its_labels_are_clear_of_each_other(counts: list[int]) -> None:
    bars = charts.status_bars([status(f"Status {n}", c) for n, c in enumerate(counts)])
    slices = charts.pie(bars)
    assert sum(s.bar.share for s in slices) == pytest.approx(100)
    assert sum(s.bar.opportunities for s in slices) == sum(counts)
    assert len(slices) <= 10
    for side in ("start", "end"):
        places = sorted(s.y for s in slices if s.label and s.anchor == side)
        assert all(0 < y < charts.PIE_HEIGHT for y in places)
        assert all(after - before >= 15 for before, after in pairwise(places))
    # An arc of a whole circle would be drawn as nothing.
    assert all("nan" not in s.path and s.path.count("A") >= 1 for s in slices)
    assert charts.pie([]) == []


@pytest.mark.parametrize(
    ("typed", "dialled"),
    [
        ("+44 (0)20 7946-0000, ext. 12", "+442079460000"),
        ("(020) 7946.0000", "02079460000"),
        (" 0049/30 123 ", "004930123"),
        ("ask Ada", ""),
        ("", ""),
        ("javascript:1", ""),
    ],
)
def test_a_telephone_number_is_dialled_as_people_mean_it(typed: str, dialled: str) -> None:
    assert templates.filters["dialled"](typed) == dialled
