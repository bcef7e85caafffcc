"""Numbers, money and dates in the reader's own writing, and the currency that was named."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from babel import dates

from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import SettingsError, load_settings
from rms_pipeline.web import formatting, locales
from rms_pipeline.web.formatting import Clock
from rms_pipeline.web.forms import amount, linked_amount
from rms_pipeline.web.locales import Manner, locale_of
from rms_pipeline_tests.rows import insert_opportunities
from rms_pipeline_tests.web.conftest import Web, serving
from rms_pipeline_tests.web.page import Page, get

MOMENT = datetime(2026, 7, 1, 8, 5, 9, tzinfo=UTC)
LONDON = Clock("Europe/London")


@pytest.fixture
def reads() -> Iterator[Callable[[str, str | None], None]]:
    """Has what is written in this test be read by somebody."""
    before = locales._manner.set(Manner())

    def choose(accepted: str, currency: str | None = None) -> None:
        locales._manner.set(Manner(locale_of(accepted), currency))

    yield choose
    locales._manner.reset(before)


Reads = Callable[..., None]


@pytest.mark.parametrize(
    ("accepted", "name"),
    [
        ("", None),
        ("*", None),
        ("en", None),
        ("en-GB,de;q=0.9", None),
        ("en-US,en;q=0.9", "en_US"),
        ("de-CH", "de_CH"),
        ("de-XX", "de"),
        ("xx,fr;q=0.5", "fr"),
        ("fr;q=0.3, nl;q=0.8", "nl"),
        ("nl;q=0,fr", "fr"),
        ("pt-BR", "pt_BR"),
        ("zh-Hant-TW", "zh_Hant_TW"),
        ("he", "he"),
        ("xx", None),
        ("../../etc/passwd", None),
        ("de" * 400, None),
        (";;;,,,q=", None),
        ("\u0000", None),
    ],
)
def test_the_first_language_that_there_is_data_for_decides(accepted: str, name: str | None) -> None:
    found = locale_of(accepted)
    assert (found and str(found)) == name


@pytest.mark.parametrize(
    ("accepted", "number", "amount", "full", "day"),
    [
        ("en-GB", "5,012", "1,234.50", "Wed 01 Jul 2026, 09:05:09", "01 Jul 2026"),
        ("de", "5.012", "1.234,50", "Mi., 1. Juli 2026, 09:05:09", "1. Juli 2026"),
        ("fr", "5\u202f012", "1\u202f234,50", "mer. 1 juil. 2026, 09:05:09", "1 juil. 2026"),
        ("nl", "5.012", "1.234,50", "wo 1 jul 2026, 09:05:09", "1 jul 2026"),
        ("en-US", "5,012", "1,234.50", "Wed, Jul 1, 2026, 9:05:09\u202fAM", "Jul 1, 2026"),
    ],
)
def test_each_language_has_its_numbers_and_dates(
    reads: Reads, accepted: str, number: str, amount: str, full: str, day: str
) -> None:
    reads(accepted)
    assert formatting.number(5_012) == number
    assert formatting.money(Decimal("1234.5")) == amount
    assert LONDON.full(MOMENT) == full
    assert LONDON.day(date(2026, 7, 1)) == day


@pytest.mark.parametrize(
    ("accepted", "currency", "amount", "whole", "short"),
    [
        ("", "GBP", "£1,234.50", "£1,234", "£1.2k"),
        ("", "EUR", "€1,234.50", "€1,234", "€1.2k"),
        ("", "USD", "US$1,234.50", "US$1,234", "US$1.2k"),
        ("", "JPY", "JP¥1,234", "JP¥1,234", "JP¥1.2k"),
        ("de", "EUR", "1.234,50\xa0€", "1.234\xa0€", "€1,2k"),
        ("en-US", "USD", "$1,234.50", "$1,234", "$1.2k"),
        ("fr", "CHF", "1\u202f234,50\xa0CHF", "1\u202f234\xa0CHF", "CHF1,2k"),
    ],
)
def test_money_has_its_symbol_where_the_currency_is_known(
    reads: Reads, accepted: str, currency: str, amount: str, whole: str, short: str
) -> None:
    reads(accepted, currency)
    value = Decimal("1234.5")
    assert formatting.money(value) == amount
    assert formatting.whole_money(value - Decimal("0.1")) == whole
    assert formatting.short_money(value) == short


AMOUNTS = [Decimal(10) ** 1_000, Decimal("NaN"), Decimal("-0.001"), Decimal(0), Decimal("1e-1000")]


@pytest.mark.parametrize("accepted", ["", "de", "hi", "ar", "en-IN", "he", "ja"])
@pytest.mark.parametrize("currency", [None, "GBP", "JPY", "KWD"])
def test_no_amount_and_no_moment_is_too_odd_to_be_written(
    reads: Reads, accepted: str, currency: str | None
) -> None:
    reads(accepted, currency)
    for value in (*AMOUNTS, None):
        for write in (formatting.money, formatting.whole_money):
            assert write(value)
    for value in (AMOUNTS[0], AMOUNTS[2], AMOUNTS[3]):
        assert formatting.signed_money(value)
        assert formatting.short_money(value)
    assert "-" not in formatting.money(Decimal("-0.001"))
    for moment in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), MOMENT):
        for how in (LONDON.full, LONDON.minute, LONDON.short):
            assert how(moment)
        assert LONDON.within(moment, MOMENT.date())
        assert LONDON.weekday(moment.date())
        assert LONDON.day_of_week(moment.date())
        for named in (formatting.month, formatting.long_month, formatting.weekday):
            assert named(moment.date())


@pytest.mark.parametrize(
    ("accepted", "day", "lasted", "ago", "left", "jobs"),
    [
        ("", "Wednesday 1 July 2026", "1.5 s", "4 min ago", "about 9 s left", "1,000 jobs"),
        ("de", "Mittwoch, 1. Juli 2026", "1,5 s", "4 min ago", "about 9 s left", "1.000 jobs"),
        ("sv", "onsdag 1 juli 2026", "1,5 s", "4 min ago", "about 9 s left", "1\xa0000 jobs"),
    ],
)
def test_a_date_is_written_whole_as_its_reader_writes_it_and_sentences_stay_english(
    reads: Reads, accepted: str, day: str, lasted: str, ago: str, left: str, jobs: str
) -> None:
    reads(accepted)
    assert LONDON.weekday(date(2026, 7, 1)) == day
    assert formatting.duration(1.5) == lasted
    assert LONDON.ago(MOMENT, MOMENT + timedelta(minutes=4)) == ago
    assert formatting.time_left(9) == left
    assert formatting.some(1_000, "job") == jobs


def test_a_reader_sees_months_in_no_language_of_a_reader_before(reads: Reads) -> None:
    names = {"he": "יולי", "pl": "lip", "es": "jul", "ar": "يوليو", "cs": "čvc", "hu": "júl."}
    for accepted in (*names, *reversed(names)):
        reads(accepted)
        assert formatting.month(date(2026, 7, 1)) == names[accepted]
        assert formatting.weekday(date(2026, 7, 1)) != "Wed"


@pytest.mark.parametrize("accepted", ["he", "ar", "ur", "yi"])
def test_what_runs_from_right_to_left_keeps_its_order_among_english_words(
    reads: Reads, accepted: str
) -> None:
    """A mark before it says in which direction it runs, and one behind it ends that."""
    reads(accepted, "ILS")
    for text in (
        LONDON.minute(MOMENT),
        LONDON.full(MOMENT),
        LONDON.day(MOMENT.date()),
        LONDON.weekday(MOMENT.date()),
        LONDON.within(MOMENT, date(2026, 6, 1)),
        formatting.weekday_and_day(MOMENT.date()),
    ):
        assert (text[0], text[-1]) == ("\u2067", "\u2069"), text
        assert not set(text[1:-1]) & {"\u2067", "\u2069"}
    assert "\u2067" not in formatting.number(5_012)
    for value in (Decimal("12.5"), Decimal("-12.5")):
        written = formatting.money(value)
        assert written.count("\u2067") == written.count("\u2069")
    reads("de", "EUR")
    assert "\u2067" not in LONDON.full(MOMENT) + formatting.money(Decimal("12.5"))


@pytest.mark.parametrize(
    ("accepted", "typed", "means"),
    [
        ("", "1,500", "1500"),
        ("", "1500.5", "1500.5"),
        ("", "1,234,567.89", "1234567.89"),
        ("de", "1,500", "1500"),
        ("", "1.500", "1.5"),
        ("", "1500,50", None),
        ("", "1.500,00", None),
        ("en-US", "12,50", None),
        ("de", "1.500", "1500"),
        ("de", "1.500,50", "1500.50"),
        ("de", "1500,5", "1500.5"),
        ("de", "1500.50", "1500.50"),
        ("de", "1.234.567", "1234567"),
        ("es", "1.500", "1500"),
        ("fr", "1\u202f500,50", "1500.50"),
        ("pl", "1 500", "1500"),
        ("de-CH", "1\u2019500.50", "1500.50"),
        ("en-IN", "1,50,000", "150000"),
        ("he", "-1,500", "-1500"),
        ("de", "1.5.0", None),
        ("de", "1e3", None),
        ("", "\u0663\u0660", None),
        ("", "", None),
        ("", "9" * 41, None),
    ],
)
def test_an_amount_is_read_as_its_reader_writes_it_and_a_link_means_the_same_to_all(
    reads: Reads, accepted: str, typed: str, means: str | None
) -> None:
    reads(accepted)
    if means is None:
        with pytest.raises(ValueError, match="is not an amount"):
            amount(typed)
        return
    assert amount(typed) == Decimal(means)
    linked = linked_amount(typed)
    for other in ("", "en-US", "de", "es", "fr", "pl", "de-CH", "en-IN", "he", "ar"):
        reads(other)
        assert amount(linked) == Decimal(means), other


def test_the_links_of_a_list_hold_amounts_as_programs_write_them(web: Web) -> None:
    insert_opportunities(web.database, {"total_value": 1_400}, {"total_value": 1_600})
    page = get(web, "/opportunities?least=1.500&sort=value", **{"Accept-Language": "de"})
    assert "1 opportunity" in page.text
    assert "least=1500&amp;sort=value" in page.text
    assert "1.500,00 \u00d7" in " ".join(Page(page.text).text.split())
    plain = get(web, "/opportunities.json?least=1500")
    assert [row["id"] for row in plain.json()["opportunities"]] == [2]
    assert get(web, "/changes?least=1.500", **{"Accept-Language": "de"}).status_code == 200


def test_no_page_names_a_month_or_a_weekday_past_what_its_reader_writes() -> None:
    web = Path(formatting.__file__).parent
    for path in (*web.glob("*.py"), *web.glob("templates/*.html")):
        # UTC for programs and logs is in digits; letters are for people.
        named = re.search(r"[.]strftime[(]|[{:]%-?[aAbBpcx][^(]*}", path.read_text())
        assert named is None or path.name == "formatting.py", (path.name, named)


@pytest.fixture
def in_pounds(emptied: Database) -> Iterator[Web]:
    insert_opportunities(
        emptied,
        {"total_value": Decimal("1234.5"), "starts_at": MOMENT, "updated_at_rms": MOMENT}
        | {"ends_at": MOMENT + timedelta(days=1), "opportunity_status": "Reserved"},
    )
    current = load_settings(_env_file=None, RMS_CURRENCY="gbp", RMS_TIME_ZONE="Europe/London")
    with SandboxServer(Store(1)) as sandbox, serving(emptied, sandbox, current=current) as web:
        yield web


def test_pages_are_written_for_their_reader_and_files_for_nobody(in_pounds: Web) -> None:
    german = {"Accept-Language": "de-DE,de;q=0.9,en;q=0.1"}
    for path in ("/opportunities", "/opportunities/1"):
        assert "1.234,50\xa0€".replace("€", "£") in get(in_pounds, path, **german).text, path
        assert "£1,234.50" in get(in_pounds, path).text, path
    assert "1. Juli 2026, 09:05" in get(in_pounds, "/opportunities", **german).text
    assert "01 Jul 2026, 09:05" in get(in_pounds, "/opportunities").text
    assert "Money is in GBP" in get(in_pounds, "/today").text
    for view, heading in (
        ("/calendar?day=2026-07-01", "Juli 2026"),
        ("/today?day=2026-07-01", "Mittwoch, 1. Juli 2026"),
    ):
        text = get(in_pounds, view, **german).text
        assert heading in text, view
        assert not re.search(r"\b(July|Wednesday|Wed|vor|in \d+ Tag\w*)\b", text), view
    # One reader's manner is no other's, and a program gets what it always got.
    assert get(in_pounds, "/opportunities.csv", **german).content == (
        get(in_pounds, "/opportunities.csv").content
    )
    answer = get(in_pounds, "/api/opportunities", **german).json()
    assert answer["opportunities"][0]["total_value"] == "1234.5"


def test_a_currency_that_there_is_not_is_refused() -> None:
    assert load_settings(_env_file=None, RMS_CURRENCY=" eur ").currency == "EUR"
    assert load_settings(_env_file=None, RMS_CURRENCY="").currency is None
    with pytest.raises(SettingsError, match="RMS_CURRENCY is not an ISO 4217 code"):
        load_settings(_env_file=None, RMS_CURRENCY="pounds")


def test_a_day_and_a_time_that_a_list_shows_again_are_written_by_the_library_once(
    monkeypatch: pytest.MonkeyPatch, reads: Reads
) -> None:
    asked: list[object] = []
    for name in ("format_date", "format_time", "match_skeleton"):
        write = getattr(dates, name)

        def counted(*values: object, write: Any = write, **named: object) -> object:
            asked.append(values)
            return write(*values, **named)

        monkeypatch.setattr(dates, name, counted)
    reads("de")
    clock = Clock("UTC")
    moment = datetime(1987, 3, 4, 5, 6, tzinfo=UTC)
    once = clock.minute(moment)
    assert (once, len(asked) in (2, 3)) == ("4. März 1987, 05:06", True)
    asked.clear()
    assert [clock.minute(moment + timedelta(seconds=n)) for n in range(50)] == [once] * 50
    assert not asked
