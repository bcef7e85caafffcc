"""Calendar feeds, read back by an iCalendar library that did not write them."""

import logging
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import requests
from ical.calendar import Calendar
from ical.calendar_stream import IcsCalendarStream

from rms_pipeline.insight.feeds import MOST_FEEDS
from rms_pipeline.settings import load_settings
from rms_pipeline.web import feeds as web_feeds
from rms_pipeline_tests.rows import insert, insert_opportunities, query
from rms_pipeline_tests.web.conftest import BEARER, Web, serving
from rms_pipeline_tests.web.page import EVIL, Page, visit

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def job(starts: datetime | None, ends: datetime | None, **fields: Any) -> dict[str, Any]:
    return {"starts_at": starts, "ends_at": ends, "opportunity_status": "Reserved", **fields}


def post(web: Web, path: str, **form: str) -> requests.Response:
    headers = {**BEARER, "Accept": "text/html"}
    return requests.post(
        f"{web.url}{path}", data=form, headers=headers, timeout=30, allow_redirects=False
    )


def make(web: Web, query: str = "", name: str = "Hires") -> str:
    """The address of a new feed, on the tests' own host."""
    answer = post(web, "/calendar/feeds", name=name, query=query)
    assert answer.status_code == 200, answer.text
    assert Page(answer.text).forbidden == []
    [secret] = {*re.findall(r"/calendar/feeds/([A-Za-z0-9_-]+)\.ics", answer.text)}
    return f"{web.url}/calendar/feeds/{secret}.ics"


def fetch(address: str) -> requests.Response:
    """As a calendar program does: with nothing but the address."""
    return requests.get(address, timeout=30)


def read(address: str) -> Calendar:
    answer = fetch(address)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/calendar; charset=utf-8"
    return IcsCalendarStream.calendar_from_ics(answer.content.decode())


def test_a_feed_holds_the_hires_of_its_filters_as_a_calendar_reads_them(web: Web) -> None:
    insert_opportunities(
        web.database,
        job(NOW, NOW + 2 * DAY, name="Gala; a, b\\c\n✓", organisation_name="Harbour",
            venue_name="Hall, 2", owner_name="Ada", number="000123",
            total_value=Decimal("98765.43"), charge_total=Decimal("87654.32"),
            custom_fields={"vip": "secret-note"}),
        job(NOW + DAY, NOW + DAY + HOUR, opportunity_status="Open", owner_name="Ada"),
        job(NOW + DAY, NOW + 2 * DAY, opportunity_status="Lost", owner_name="Ada"),
        job(NOW + DAY, NOW + 2 * DAY, owner_name="Sam"),
        job(NOW - 50 * DAY, NOW - 40 * DAY, owner_name="Ada"),
        job(NOW, None, owner_name="Ada", open_ended_rental=True),
    )  # fmt: skip
    address = make(web, "owner=Ada")
    events = {event.uid: event for event in read(address).events}
    assert [uid.partition("@")[0] for uid in sorted(events)] == [
        "opportunity-1", "opportunity-2", "opportunity-6",
    ]  # fmt: skip
    by_id = {uid.partition("@")[0]: event for uid, event in events.items()}
    gala = by_id["opportunity-1"]
    assert gala.summary == "Gala; a, b\\c\n✓ (Harbour)"
    assert (gala.dtstart, gala.dtend) == (NOW, NOW + 2 * DAY)
    assert gala.location == "Hall, 2"
    assert gala.description == "Status: Reserved\nNumber: 000123\nOwner: Ada"
    assert gala.status == "CONFIRMED"
    assert by_id["opportunity-2"].status == "TENTATIVE"
    assert "Open-ended" in (by_id["opportunity-6"].description or "")
    text = fetch(address).text
    for hidden in ("98765", "87654", "secret-note"):
        assert hidden not in text
    lines = fetch(address).content.split(b"\r\n")
    assert max(len(line) for line in lines) <= 75, "RFC 5545 folds longer lines"


def test_a_feed_of_what_is_lost_says_that_it_is_cancelled(web: Web) -> None:
    insert_opportunities(web.database, job(NOW, NOW + HOUR, opportunity_status="Cancelled"))
    [event] = read(make(web, "status=is%3Aclosed")).events
    assert event.status == "CANCELLED"


def test_a_program_can_tell_an_edited_hire_from_the_one_that_it_has(web: Web) -> None:
    """Outlook keeps an event unless its revision rises. RFC 5545 allows no end at the start."""
    entered = NOW - 9 * DAY
    insert_opportunities(
        web.database,
        job(NOW, NOW + HOUR, created_at_rms=entered, updated_at_rms=entered + 90 * HOUR),
        job(NOW, NOW + HOUR, created_at_rms=NOW, updated_at_rms=NOW - HOUR),
        job(NOW, None),
    )
    address = make(web)
    events = {event.uid.partition("@")[0]: event for event in read(address).events}
    edited, odd, moment = (events[f"opportunity-{n}"] for n in (1, 2, 3))
    assert (edited.last_modified, edited.sequence) == (entered + 90 * HOUR, 90 * 3600)
    assert (odd.last_modified, odd.sequence) == (NOW - HOUR, 0)
    assert moment.dtend is None
    later = "UPDATE opportunities SET updated_at_rms = %s WHERE id = 1"
    query(web.database, later, entered + 91 * HOUR)
    [again] = [e for e in read(address).events if e.uid == edited.uid]
    assert (again.sequence or 0) > (edited.sequence or 0)
    text = fetch(address).text
    assert "X-WR-TIMEZONE:UTC" in text
    assert "DTEND" not in text.partition("UID:opportunity-3@")[2].partition("END:VEVENT")[0]


def test_what_cannot_be_taken_back_is_asked_once_more(web: Web) -> None:
    make(web)
    post(web, "/views", name="Mine", query="status=Open")
    for path, action in (
        ("/calendar/feeds", "/calendar/feeds/1/revoke"),
        ("/opportunities?status=Open", "/views/1/delete"),
    ):
        page = visit(web, path)
        [asked] = [each for each in page.all("details") if each.get("class", "").endswith("sure")]
        assert "open" not in asked
        html = page.html.partition('sure">')[2].partition("</details>")[0]
        assert f'action="{action}"' in html
        assert page.html.count(f'action="{action}"') == 1


def test_a_period_in_words_stays_relative(web: Web) -> None:
    insert_opportunities(
        web.database, job(NOW + 3 * DAY, NOW + 4 * DAY), job(NOW + 20 * DAY, NOW + 21 * DAY)
    )
    assert [e.uid.partition("@")[0] for e in read(make(web, "out=next-7")).events] == [
        "opportunity-1"
    ]
    [kept] = web.query("SELECT query FROM calendar_feeds")
    assert kept == ("out=next-7",)


def test_an_empty_feed_is_a_calendar_too(web: Web) -> None:
    assert read(make(web)).events == []


def test_the_database_holds_no_secret_of_a_feed(web: Web) -> None:
    secret = make(web).rpartition("/")[2].removesuffix(".ics")
    assert len(secret) >= 43, "256 bits"
    [(row,)] = web.query("SELECT to_jsonb(f)::text FROM calendar_feeds f")
    assert secret not in row
    assert secret not in visit(web, "/calendar/feeds").html, "nor is it shown again"


def test_a_feed_has_no_money_even_if_its_list_has_columns_of_money(web: Web) -> None:
    amounts = {"charge_total": "71717.5", "total_value": "82828.5"}
    insert_opportunities(web.database, job(NOW, NOW + DAY, **amounts))
    columns = "&column=value&column=charge&column=profit"
    told = fetch(make(web, f"least=5&sort=-value{columns}")).text
    assert "BEGIN:VEVENT" in told
    assert [digits for digits in ("71717", "82828") if digits in told] == []


def test_an_error_of_ours_tells_nobody_the_secret_of_a_feed(
    web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = make(web)
    secret = address.rpartition("/")[2].removesuffix(".ics")

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(web_feeds, "read_bars", fail)
    with caplog.at_level(logging.DEBUG, "rms_pipeline"):
        answer = fetch(address)
        assert (answer.status_code, secret in answer.text) == (500, False)
    logged = [r for r in caplog.records if not r.name.startswith("urllib3")]
    assert any("failed" in r.getMessage() for r in logged)
    assert [r.name for r in logged if secret in logging.Formatter().format(r)] == []


def test_a_revoked_feed_is_gone_for_good(web: Web) -> None:
    address, other = make(web), make(web, name="Another")
    assert fetch(address).status_code == 200
    [(id_,)] = web.query("SELECT id FROM calendar_feeds WHERE name = 'Hires'")
    assert post(web, f"/calendar/feeds/{id_}/revoke").status_code == 303
    assert fetch(address).status_code == 404
    assert fetch(other).status_code == 200
    assert post(web, f"/calendar/feeds/{id_}/revoke").status_code == 303, "twice is no fault"


@pytest.mark.parametrize(
    "secret", ["x", "a" * 43, "a" * 5000, "%00" * 30, "é" * 30, "..%2f..%2fapi%2fsyncs"]
)
def test_a_guessed_address_answers_that_there_is_nothing(web: Web, secret: str) -> None:
    make(web)
    assert fetch(f"{web.url}/calendar/feeds/{secret}.ics").status_code == 404


def test_a_feed_opens_nothing_else_and_nobody_makes_one_without_the_token(web: Web) -> None:
    secret = make(web).rpartition("/")[2].removesuffix(".ics")
    for path in ("/calendar", "/calendar.json", "/calendar/feeds", "/api/sync/status"):
        bearer = {"Authorization": f"Bearer {secret}"}
        assert requests.get(f"{web.url}{path}", headers=bearer, timeout=30).status_code == 401
    for path in ("/calendar/feeds", "/calendar/feeds/1/revoke"):
        answer = requests.post(f"{web.url}{path}", data={"name": "x"}, timeout=30)
        assert answer.status_code == 401
    assert len(web.query("SELECT 1 FROM calendar_feeds")) == 1


def test_a_program_that_asks_without_a_pause_is_told_to_wait(web: Web) -> None:
    address, other = make(web), make(web, name="Another")
    answers = [fetch(address).status_code for _ in range(31)]
    assert answers == [200] * 30 + [429]
    assert 0 < int(fetch(address).headers["Retry-After"]) <= 61
    assert fetch(other).status_code == 200


def test_a_feed_that_nobody_reads_can_be_told_from_one_that_is_read(web: Web) -> None:
    address = make(web)
    assert "never read" in visit(web, "/calendar/feeds").text
    read(address)
    assert "last read" in visit(web, "/calendar/feeds").text


@pytest.mark.parametrize(
    ("form", "word"),
    [
        ({"name": " ", "query": ""}, "name"),
        ({"name": "x" * 101, "query": ""}, "name"),
        ({"name": "x", "query": "onhire=never"}, "“On hire on” is not a period"),
        ({"name": "x", "query": "least=abc"}, "“Value from” is not an amount"),
    ],
)
def test_a_feed_that_could_not_be_read_is_not_made(
    web: Web, form: dict[str, str], word: str
) -> None:
    answer = post(web, "/calendar/feeds", **form)
    assert answer.status_code == 422
    assert word in answer.text
    assert web.query("SELECT 1 FROM calendar_feeds") == []


def test_there_is_an_end_to_how_many_feeds_are_made(web: Web) -> None:
    insert(
        web.database,
        "calendar_feeds",
        [
            {"name": f"{n}", "query": "", "secret_hash": n.to_bytes(32, "big")}
            for n in range(MOST_FEEDS)
        ],
    )
    assert post(web, "/calendar/feeds", name="one more", query="").status_code == 409


def test_links_in_a_feed_lead_to_where_people_reach_the_pages(web: Web) -> None:
    insert_opportunities(web.database, job(NOW, NOW + HOUR))
    current = load_settings(_env_file=None, RMS_PUBLIC_URL="https://rms.example/")
    with serving(web.database, web.sandbox, current=current) as there:
        answer = post(there, "/calendar/feeds", name="Hires", query="")
        [address] = re.findall(r"https://rms\.example/calendar/feeds/\S+?\.ics", answer.text)
        # A phone opens this with its calendar. On this machine's own address no phone could.
        assert address.replace("https:", "webcal:") in Page(answer.text).links
        assert "on this machine only" not in answer.text
        assert "on this machine only" in post(web, "/calendar/feeds", name="x", query="").text
        [event] = read(address.replace("https://rms.example", there.url)).events
    assert event.url == "https://rms.example/opportunities/1"


def test_a_calendar_that_is_cut_off_says_so(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rms_pipeline.web.feeds.MOST_EVENTS", 2)
    insert_opportunities(web.database, *(job(NOW, NOW + HOUR) for _ in range(3)))
    events = read(make(web)).events
    assert len(events) == 3
    [warning] = [event for event in events if event.uid.startswith("not-all")]
    assert "not all" in (warning.summary or "")
    assert isinstance(warning.dtstart, date)


def test_what_people_typed_stays_text(web: Web) -> None:
    insert_opportunities(
        web.database, job(NOW, NOW + HOUR, name=f"{EVIL}\r\nEND:VEVENT", venue_name="a\r\nX-EVIL:1")
    )
    address = make(web, name=EVIL[:90])
    assert EVIL[:90] in visit(web, "/calendar/feeds").text
    [event] = read(address).events
    assert "END:VEVENT" in (event.summary or "")


def test_no_control_character_keeps_a_program_from_the_whole_calendar(web: Web) -> None:
    odd = "".join(map(chr, [*range(1, 0x20), 0x7F]))
    insert_opportunities(
        web.database,
        job(NOW, NOW + HOUR, name=f"Ga{odd}la", venue_name=f"Ha{odd}ll", owner_name=f"A{odd}da"),
    )
    address = make(web, name="Hi\x01res")
    found = set(fetch(address).content) - set(b"\r\n\t")
    assert not [byte for byte in found if byte < 0x20 or byte == 0x7F]
    [event] = read(address).events
    assert (event.summary, event.location) == ("Ga\t\nla", "Ha\t\nll")
