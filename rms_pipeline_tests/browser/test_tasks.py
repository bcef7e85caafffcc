"""The questions of docs/how-to/tasks.md, answered in a browser in as many clicks as it says.

Everything is there: a sandbox whose answers are known, a full sync, people's edits by webhooks and
the fast lane, and the pages over that mirror. It is noon for the company, whatever the clock says.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ical.calendar_stream import IcsCalendarStream
from playwright.sync_api import Locator, Page, expect

from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import load_settings
from rms_pipeline_tests.browser.conftest import picture_failure
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.conftest import dagsters_tables
from rms_pipeline_tests.core import full_sync
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.web.conftest import API_TOKEN, Web, clients_of, delivery, serving

PAGE = Path(__file__).parents[2] / "docs/how-to/tasks.md"
NOW = datetime.now(UTC).replace(microsecond=0)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# Etc/GMT-3 is three hours ahead of UTC.
_OFFSET = 12 - NOW.hour
ZONE = f"Etc/GMT{-_OFFSET:+d}" if _OFFSET else "UTC"
LOCAL = NOW + _OFFSET * HOUR
WEEKEND = NOW + (5 - LOCAL.weekday()) * DAY
HARBOUR, QUAY = (101, "Harbour Events"), (102, "Quay Conferences")
HALL, BARN = (201, "Great Hall"), (202, "The Barn")
ADA, SAM = (301, "Ada Bell"), (302, "Sam Okoro")


def person(who: tuple[int, str]) -> dict[str, Any]:
    return {"id": who[0], "name": who[1]}


def job(
    subject: str,
    starts: datetime,
    ends: datetime,
    status: tuple[int, str],
    charge: int,
    customer: tuple[int, str] = HARBOUR,
    venue: tuple[int, str] | None = HALL,
    owner: tuple[int, str] = ADA,
    **fields: Any,
) -> dict[str, Any]:
    """As Current RMS serves it."""
    empty = {f"{stage}_{end}_at": None for stage in _STAGES for end in ("starts", "ends")}
    money = {"charge_total": f"{charge}.0", "charge_including_tax_total": f"{charge * 6 / 5:.1f}"}
    return empty | money | {
        "subject": subject, "number": None, "status": status[0], "status_name": status[1],
        "starts_at": starts.isoformat(), "ends_at": ends.isoformat(),
        "member_id": customer[0], "member": person(customer),
        "venue_id": venue and venue[0], "venue": venue and person(venue), "venue_name": None,
        "owned_by": owner[0], "owner": person(owner),
        "provisional_cost_total": "0.0", "predicted_cost_total": "0.0",
        "actual_cost_total": "0.0", "open_ended_rental": False, "invoiced": True,
        **fields,
    }  # fmt: skip


_STAGES = ("prep", "load", "deliver", "setup", "show", "takedown", "collect", "unload", "deprep")
OPEN, PROVISIONAL, RESERVED, ACTIVE = (
    (0, "Open"),
    (1, "Provisional"),
    (5, "Reserved"),
    (20, "Active"),
)
COMPLETED, LOST = (40, "Completed"), (60, "Lost")
CONFIRMED = (RESERVED, ACTIVE, COMPLETED)
QUOTATION: dict[str, Any] = {"state": 2, "state_name": "Quotation"}
JOBS = (
    job("Gala", NOW + 4 * HOUR, NOW + 2 * DAY, RESERVED, 1_000, number="0000004711"),
    job("Fair", NOW - 3 * DAY, NOW + DAY, ACTIVE, 2_000),
    job("Forgotten", NOW - 5 * DAY, NOW - DAY, ACTIVE, 300),
    job(
        "Maybe",
        NOW + 3 * DAY,
        NOW + 4 * DAY,
        PROVISIONAL,
        8_000,
        owner=SAM,
        **QUOTATION,
        created_at=(NOW - 20 * DAY).isoformat(),
    ),
    job("Small", NOW + 40 * DAY, NOW + 41 * DAY, OPEN, 400, **QUOTATION),
    job("Dropped", NOW + 20 * DAY, NOW + 21 * DAY, PROVISIONAL, 900, owner=SAM, **QUOTATION),
    job("Agreed", NOW + 22 * DAY, NOW + 23 * DAY, PROVISIONAL, 700, owner=SAM, **QUOTATION),
    job("Moved", NOW + 25 * DAY, NOW + 26 * DAY, RESERVED, 600),
    job("Free", NOW + 30 * DAY, NOW + 31 * DAY, RESERVED, 0, venue=None),
    job("Weekender", WEEKEND, WEEKEND + DAY, RESERVED, 500, venue=BARN),
    job("Anniversary", NOW - 400 * DAY, NOW - 399 * DAY, COMPLETED, 5_000, QUAY, BARN),
    job("Breakfast", NOW - 20 * DAY, NOW - 19 * DAY, COMPLETED, 100, QUAY, BARN),
)


# As the statuses are once people have edited them.
EDITED = {"Dropped": LOST, "Agreed": RESERVED}
NOON = NOW - LOCAL.minute * timedelta(minutes=1) - LOCAL.second * timedelta(seconds=1)


def midnight(days: int = 0) -> datetime:
    """When the company's day so many days from now begins."""
    return NOON - 12 * HOUR + days * DAY


def names(
    first: datetime, last: datetime, part: str = "hire", *statuses: tuple[int, str]
) -> set[str]:
    """The jobs whose hire lies in part between two times, or whose hire `starts` or `ends` there:
    those in one of the statuses, by what was put into Current RMS."""
    found = set()
    for fields in JOBS:
        begins, ends = (datetime.fromisoformat(fields[f"{end}_at"]) for end in ("starts", "ends"))
        if fields["subject"] == "Moved":
            begins = NOW + 24 * DAY
        times = {"hire": (begins, ends), "starts": (begins, begins), "ends": (ends, ends)}[part]
        status = EDITED.get(fields["subject"], (fields["status"], fields["status_name"]))
        if times[0] < last and times[1] >= first and status in statuses:
            found.add(fields["subject"])
    return found


@dataclass
class Person:
    """Somebody at a page, whose clicks count."""

    page: Page
    web: Web
    clicks: int = 0
    ids: dict[str, int] = field(default_factory=dict)

    def click(self, what: Locator) -> None:
        what.click()
        # Where that led to another page, its controls do nothing before its scripts have run.
        self.page.wait_for_load_state()
        self.clicks += 1

    def choose(self, what: Locator, value: str) -> None:
        what.select_option(value)
        self.clicks += 1

    def go(self, title: str) -> None:
        """Through the navigation."""
        self.click(self.page.get_by_role("navigation", name="Pages").get_by_text(title, exact=True))
        expect(self.page.get_by_role("heading", level=1)).to_be_visible()


@pytest.fixture(scope="module")
def stand(ready: Database) -> Iterator[tuple[Web, dict[str, int]]]:
    """The pages at `web`, and the ids of the jobs by name."""
    store = Store()
    ids = {fields["subject"]: store.create(fields) for fields in JOBS}
    with ExitStack() as opened:
        opened.enter_context(dagsters_tables(ready))
        sandbox = opened.enter_context(SandboxServer(store))

        client = clients_of(sandbox, ready)
        with client() as reading:
            full_sync(ready, reading, Window.around(NOW, days_back=800, days_ahead=365))
        current = load_settings(_env_file=None, RMS_TIME_ZONE=ZONE, RMS_COLLECTIONS="opportunities")
        web = opened.enter_context(serving(ready, sandbox, client=client, current=current))
        edits: list[tuple[str, str, dict[str, Any]]] = [
            ("Dropped", "Kim Day", {"status": LOST[0]}),
            ("Agreed", "Ada Bell", {"status": RESERVED[0]}),
            ("Moved", "Lee Poe", {"starts_at": (NOW + 24 * DAY).isoformat()}),
        ]
        for number, (name, who, fields) in enumerate(edits, 1):
            store.edit(ids[name], fields)
            told = delivery(number, ids[name], member={"id": number, "name": who})
            assert web.post(told).status_code == 200
        wait_until(
            lambda: (
                web.query(
                    "SELECT count(*) = 3 AND bool_and(processed_at IS NOT NULL) FROM webhook_events"
                )
                == [(True,)]
            )
        )
        # As the web service does after each refresh.
        refresh_status_counts(ready, ZONE)
        yield web, ids


@pytest.fixture(scope="module")
def before_them() -> list[Person]:
    """Everybody who has answered a question."""
    return []


@pytest.fixture
def someone(
    stand: tuple[Web, dict[str, int]],
    standing_tab: Page,
    before_them: list[Person],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> Iterator[Person]:
    """Somebody who has the day open. All questions are answered in one tab, as on a morning."""
    web, ids = stand
    # Who found the answer without a click has left the page as it was.
    if not before_them or before_them[-1].clicks or standing_tab.url != f"{web.url}/today":
        standing_tab.context.clear_cookies()
        standing_tab.goto(f"{web.url}/today?token={API_TOKEN}")
    expect(standing_tab.get_by_role("heading", level=1)).to_be_visible()
    before_them.append(Person(standing_tab, web, ids=ids))
    yield before_them[-1]
    picture_failure(request, standing_tab, tmp_path)


def jobs_in(place: Locator) -> set[str]:
    """The jobs of `JOBS` that are named there."""
    text = place.inner_text()
    return {fields["subject"] for fields in JOBS if re.search(rf"\b{fields['subject']}\b", text)}


def expect_jobs(place: Locator, expected: set[str]) -> None:
    """Waits until these are named there, and no others: the address changes before the page."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: jobs_in(place) == expected, timeout=30)
    assert jobs_in(place) == expected


def section(person: Person, title: str) -> Locator:
    return person.page.locator("section").filter(
        has=person.page.get_by_role("heading", level=2, name=title)
    )


def find(person: Person, text: str) -> None:
    person.page.keyboard.press("Control+k")
    expect(person.page.get_by_role("combobox")).to_be_focused()
    person.page.keyboard.type(text)


def goes_out_today(s: Person) -> None:
    expected = names(midnight(), midnight(1), "starts", *CONFIRMED)
    assert "Gala" in expected
    expect_jobs(s.page.locator("#goes-out"), expected)


def comes_back_tomorrow(s: Person) -> None:
    s.click(s.page.get_by_role("link", name=re.compile("→")).first)
    expect(s.page).to_have_url(re.compile("day="))
    expected = names(midnight(1), midnight(2), "ends", *CONFIRMED)
    assert "Fair" in expected
    expect_jobs(s.page.locator("#comes-back"), expected)


def is_late(s: Person) -> None:
    expect_jobs(s.page.locator("#late-back"), {"Forgotten"})


def is_not_confirmed(s: Person) -> None:
    expect_jobs(s.page.locator("#not-confirmed"), {"Maybe"})


def was_lost(s: Person) -> None:
    lost = section(s, "Lost since")
    expect_jobs(lost, {"Dropped"})
    expect(lost).to_contain_text("Kim Day")


def was_confirmed(s: Person) -> None:
    confirmed = section(s, "Confirmed since")
    expect(confirmed).to_contain_text("Agreed")
    # The others were entered as confirmed, minutes ago. The first ones are shown.
    expected, shown = names(midnight(-900), midnight(900), "hire", *CONFIRMED), jobs_in(confirmed)
    assert shown <= expected
    expect(confirmed).to_contain_text(f"{len(expected) - len(shown)} more")
    expect(confirmed).to_contain_text("Ada Bell")


def makes_no_sense(s: Person) -> None:
    checks = s.page.locator("#checks")
    expect(checks).to_contain_text("Free")
    expect(checks).to_contain_text("After the confirmation Lee Poe changed hire starts.")


def is_complete(s: Person) -> None:
    expect(s.page.locator("#health")).to_contain_text("12 of 12")


def is_on_hire_at_the_weekend(s: Person) -> None:
    s.go("Opportunities")
    s.choose(s.page.locator("select[name=onhire]"), "weekend")
    expect(s.page).to_have_url(re.compile("onhire=weekend"))
    first = midnight(5 - LOCAL.weekday())
    expected = names(first, first + 2 * DAY, "hire", *CONFIRMED, OPEN, PROVISIONAL, LOST)
    assert "Weekender" in expected
    expect_jobs(s.page.locator("#results table"), expected)


def big_quotations(s: Person) -> None:
    s.go("Opportunities")
    s.click(s.page.locator(".facet").get_by_role("link", name=re.compile("Quotation")))
    expect(s.page).to_have_url(re.compile("state=Quotation"))
    s.click(s.page.get_by_role("columnheader", name="Value").get_by_role("link"))
    expect(s.page).to_have_url(re.compile("sort=-value"))
    first = s.page.locator("#results tbody tr").first
    expect(first).to_contain_text("Maybe")
    expect(first).to_contain_text("9,600")


def by_number(s: Person) -> None:
    find(s, "4711")
    option = s.page.get_by_role("option", name=re.compile("Gala"))
    s.click(option)
    expect(s.page.get_by_role("heading", level=1)).to_have_text("Gala")


def of_a_customer(s: Person) -> None:
    find(s, "quay conf")
    s.click(s.page.get_by_role("option", name=re.compile("Quay Conferences customer")))
    expect(s.page.get_by_role("heading", level=1)).to_have_text("Quay Conferences")
    expect(section(s, "Last")).to_contain_text("Breakfast")


def what_happened(s: Person) -> None:
    s.click(section(s, "Lost since").get_by_role("link", name="Dropped"))
    happened = section(s, "What happened")
    expect(happened).to_contain_text("Kim Day")
    expect(happened).to_contain_text("Provisional")


def on_a_past_day(s: Person) -> None:
    with a_past_of("Dropped", s):
        s.click(section(s, "Lost since").get_by_role("link", name="Dropped"))
        facts = s.page.locator("main")
        expect(facts).to_contain_text("900.00")
        s.page.get_by_label("As of the end of").fill(str((LOCAL - 9 * DAY).date()))
        s.click(s.page.get_by_role("button", name="Show"))
        expect(s.page.get_by_role("status").first).to_contain_text("You see the state")
        expect(facts).to_contain_text("777.00")
        expect(facts).not_to_contain_text("900.00")


@contextlib.contextmanager
def a_past_of(name: str, s: Person) -> Iterator[None]:
    """The mirror is minutes old. Meanwhile its history began 20 days ago, and until 5 days ago the
    job had another charge."""
    began = "SELECT value FROM mirror_state WHERE name = 'history_began'"
    ((before,),) = query(s.web.database, began)
    state = "UPDATE mirror_state SET value = %s WHERE name = 'history_began'"
    query(s.web.database, state, str(NOW - 20 * DAY))
    query(
        s.web.database,
        "INSERT INTO opportunity_past (opportunity_id, valid_from, valid_to, deleted, name,"
        " opportunity_status, charge_total) VALUES (%s, %s, %s, false, %s, 'Open', 777)",
        *(s.ids[name], NOW - 20 * DAY, NOW - 5 * DAY, name),
    )
    try:
        yield
    finally:
        query(s.web.database, "DELETE FROM opportunity_past WHERE charge_total = 777")
        query(s.web.database, state, before)


def dates_changed(s: Person) -> None:
    s.go("Changes")
    s.choose(s.page.locator("select[name=field]"), "starts_at")
    expect(s.page).to_have_url(re.compile("field=starts_at"))
    results = s.page.locator("#results")
    expect(results).to_contain_text("Lee Poe")
    expect_jobs(results, {"Moved"})


def by_a_colleague(s: Person) -> None:
    s.go("Changes")
    s.choose(s.page.locator("select[name=who]"), "Kim Day")
    expect(s.page).to_have_url(re.compile("who=Kim"))
    results = s.page.locator("#results")
    expect(results).to_contain_text("Lost")
    expect_jobs(results, {"Dropped"})


def best_customers(s: Person) -> None:
    s.go("Customers")
    first = s.page.locator("#results tbody tr").first
    expect(first).to_contain_text("Harbour Events")
    # Gala, Fair, Forgotten, and the job of the weekend where that has begun.
    so_far = 1_000 + 2_000 + 300 + (500 if WEEKEND <= NOW + 12 * HOUR else 0)
    expect(first).to_contain_text(f"{so_far:,}")


def whose_value_fell(s: Person) -> None:
    s.go("Customers")
    heading = s.page.get_by_role("columnheader", name="Difference").get_by_role("link")
    s.click(heading)
    expect(s.page).to_have_url(re.compile("sort=trend"))
    first = s.page.locator("#results tbody tr").first
    expect(first).to_contain_text("Quay Conferences")
    expect(first).to_contain_text("−4,900")


def one_customer(s: Person) -> None:
    s.go("Customers")
    s.click(s.page.get_by_role("link", name="Quay Conferences"))
    month = (LOCAL - 20 * DAY).strftime("%B")
    row = s.page.get_by_role("row", name=re.compile(month))
    expect(row).to_contain_text("100")


def best_venue(s: Person) -> None:
    s.go("Customers")
    s.click(s.page.get_by_role("link", name="Venues"))
    expect(s.page).to_have_url(re.compile("/venues"))
    # Like the customers, but for the job of the weekend, which is in the barn.
    weekend = 500 if WEEKEND <= NOW + 12 * HOUR else 0
    worth = (("Great Hall", 1_000 + 2_000 + 300), ("The Barn", 100 + weekend))
    rows = s.page.locator("#results tbody tr")
    expect(rows).to_have_count(len(worth))
    for row, (name, value) in zip(rows.all(), worth, strict=True):
        expect(row.get_by_role("rowheader")).to_have_text(name)
        # Of the last twelve months, and of those before.
        before = 5_000 if name == "The Barn" else 0
        expect(row.get_by_role("cell").nth(0)).to_have_text(f"{value:,}")
        expect(row.get_by_role("cell").nth(1)).to_have_text(f"{before:,}")


def won_by_a_colleague(s: Person) -> None:
    s.go("Customers")
    s.click(s.page.get_by_role("link", name="Owners"))
    expect(s.page).to_have_url(re.compile("/owners"))
    s.click(s.page.get_by_role("link", name="Sam Okoro"))
    expect(s.page.get_by_role("heading", level=1)).to_have_text("Sam Okoro")
    if (LOCAL + 20 * DAY).year == (LOCAL + 22 * DAY).year == LOCAL.year:
        # One lost, one won.
        expect(s.page.locator(".figures")).to_contain_text("50 %")


def this_month(s: Person) -> None:
    s.go("Calendar")
    bars = s.page.locator("#calendar .weeks")
    begins = LOCAL.date().replace(day=1)
    ends = (begins + 31 * DAY).replace(day=1)
    # Whole weeks, and what is lost is out of the calendar.
    first = midnight((begins - LOCAL.date()).days - begins.weekday())
    last = midnight((ends - LOCAL.date()).days + -ends.weekday() % 7)
    expect_jobs(bars, names(first, last, "hire", *CONFIRMED, OPEN, PROVISIONAL))


def next_week(s: Person) -> None:
    s.go("Calendar")
    s.click(s.page.get_by_role("navigation", name="Calendar").get_by_role("link", name="Week"))
    expect(s.page).to_have_url(re.compile("view=week"))
    s.click(s.page.get_by_role("link", name="After"))
    expect(s.page).to_have_url(re.compile("day="))
    monday = midnight(7 - LOCAL.weekday())
    expected = names(monday, monday + 7 * DAY, "hire", *CONFIRMED, OPEN, PROVISIONAL)
    expect_jobs(s.page.locator("#calendar .weeks"), expected)


def in_my_calendar(s: Person) -> None:
    s.go("Calendar")
    s.click(s.page.get_by_text("Subscribe", exact=True))
    s.click(s.page.get_by_role("button", name="Create an address"))
    made = s.page.locator("main code").first
    expect(made).to_contain_text(re.compile(r"/calendar/feeds/\S+\.ics"))
    address = made.inner_text()
    answer = s.page.request.get(address.replace(address.partition("/calendar")[0], s.web.url))
    told = {e.summary for e in IcsCalendarStream.calendar_from_ics(answer.text()).events}
    expected = names(midnight(-30), midnight(366), "hire", *CONFIRMED, OPEN, PROVISIONAL)
    customers = {fields["subject"]: fields["member"]["name"] for fields in JOBS}
    assert told == {f"{name} ({customers[name]})" for name in expected}


def to_a_spreadsheet(s: Person) -> None:
    s.go("Opportunities")
    with s.page.expect_download() as download:
        s.click(s.page.get_by_role("link", name="Excel"))
    with Path(download.value.path()).open("rb") as file:
        # Half a second for the tables of numpy, in each process of pytest.
        import openpyxl  # type: ignore[import-untyped]

        sheet = openpyxl.load_workbook(file).active
    assert sheet is not None
    titles, *rows = sheet.iter_rows(values_only=True)
    places = [titles.index(title) for title in ("Opportunity", "Without tax", "Customer")]
    told = {tuple(row[place] for place in places) for row in rows}
    assert told == {
        (fields["subject"], float(fields["charge_total"]), fields["member"]["name"])
        for fields in JOBS
    }


def as_a_pie(s: Person) -> None:
    s.go("Syncs")
    s.click(s.page.get_by_role("link", name="Pie", exact=True))
    expect(s.page).to_have_url(re.compile("statuses=pie"))
    table = s.page.locator("#overview").get_by_role("table", name="Status distribution")
    for status in (*CONFIRMED, OPEN, PROVISIONAL, LOST):
        count = len(names(midnight(-900), midnight(900), "hire", status))
        row = table.get_by_role("row", name=re.compile(rf"^{status[1]}\b"))
        expect(row.get_by_role("cell", name=str(count), exact=True)).to_be_visible()
    # It renews itself, and is remembered.
    s.page.evaluate("htmx.trigger('#overview', 'every')")
    s.page.goto(f"{s.web.url}/")
    expect(table).to_be_visible()


def beside_the_week_before(s: Person) -> None:
    tile = s.page.locator("#tiles li").filter(has_text="On hire")
    # The mirror is minutes old, so that it is counted as it is known now.
    now, then = (
        len(names(midnight(days), midnight(days + 1), "hire", *CONFIRMED)) for days in (0, -7)
    )
    expect(tile.locator(".count")).to_have_text(str(now))
    expect(tile).to_contain_text(re.compile(rf"Week before\s+{then}\b.*\*"))
    expect(s.page.locator("#beside-notes")).to_contain_text("No history before")


def counted_in_sql(s: Person) -> None:
    summary = s.page.locator("#compared summary")
    expect(summary).to_be_visible()
    s.click(summary)
    shown = s.page.get_by_label("SQL: Goes out, Now")
    expect(shown).to_be_visible()
    # As an analyst would paste it.
    ((count, _),) = s.web.query(shown.inner_text())
    assert count == len(names(midnight(), midnight(1), "starts", *CONFIRMED))
    expect(s.page.locator("#tiles .count").first).to_have_text(str(count))


def beside_last_year(s: Person) -> None:
    s.go("Customers")
    s.click(s.page.get_by_role("link", name="Quay Conferences"))
    row = s.page.locator("#compared").get_by_role("row", name=re.compile("^Confirmed"))
    # What took place is known, though no history reaches there.
    started = LOCAL - 400 * DAY
    expect(row.get_by_role("cell").last).to_contain_text(
        "5,000" if started.year == LOCAL.year - 1 else "0"
    )
    expect(s.page.locator("#compared")).to_contain_text("No history before")


def won_by_month(s: Person) -> None:
    s.go("Customers")
    s.click(s.page.get_by_role("link", name="Won and lost"))
    row = s.page.get_by_role("row", name=re.compile(LOCAL.strftime("^%B")))
    expect(row.get_by_role("link", name=re.compile("lost in"))).to_have_text("1")


def what_was_lost_this_month(s: Person) -> None:
    won_by_month(s)
    row = s.page.get_by_role("row", name=re.compile(LOCAL.strftime("^%B")))
    s.click(row.get_by_role("link", name=re.compile("lost in")))
    expect_jobs(s.page.locator("#results"), {"Dropped"})


def cost_of_further_back(s: Person) -> None:
    s.go("Syncs")
    s.click(s.page.get_by_role("link", name="Mirror further back"))
    s.click(s.page.get_by_role("link", name=re.compile("to compare months")))
    last_year = LOCAL.date().replace(year=LOCAL.year - 1, month=1, day=1)
    first = midnight((last_year - LOCAL.date()).days)
    read = names(first, midnight(900), "hire", *CONFIRMED, OPEN, PROVISIONAL, LOST)
    facts = {
        "Opportunities to read": str(len(read)),
        "Not mirrored yet": "0",
        # One page of them, and what proves that they are all.
        "Calls to Current RMS": "about 9",
    }
    for title, told in facts.items():
        fact = s.page.locator(".facts div").filter(has_text=title)
        expect(fact.get_by_role("definition")).to_have_text(told)
    button = s.page.get_by_role("button", name=re.compile("Mirror back to"))
    expect(button).to_contain_text(str(last_year.year))


def keep_a_view(s: Person) -> None:
    s.go("Opportunities")
    s.page.get_by_role("searchbox", name="Search").fill("harbour")
    expect(s.page).to_have_url(re.compile("q=harbour"))
    table = s.page.locator("#results table")
    ours = {fields["subject"] for fields in JOBS if fields["member"]["name"] == HARBOUR[1]}
    expect_jobs(table, ours)
    s.click(s.page.get_by_text("Save this view", exact=True))
    s.page.locator("form[action='/views']").get_by_label("Name").fill("My list")
    s.click(s.page.get_by_role("button", name="Save", exact=True))
    kept = s.page.get_by_role("navigation", name="Views").get_by_role("link", name="My list")
    expect(kept).to_be_visible()
    # As tomorrow.
    s.page.goto(f"{s.web.url}{kept.get_attribute('href')}")
    expect_jobs(table, ours)


def what_changed_since_the_last_working_day(s: Person) -> None:
    s.click(s.page.get_by_role("link", name=re.compile("All changes")))
    expect(s.page).to_have_url(re.compile("/changes\\?day="))
    expect_jobs(s.page.locator("#results"), {"Dropped", "Agreed", "Moved"})


def has_no_venue(s: Person) -> None:
    s.go("Opportunities")
    s.click(s.page.get_by_role("link", name="Confirmed without a venue"))
    expect(s.page).to_have_url(re.compile("venue=is%3Anone"))
    expect_jobs(s.page.locator("#results table"), {"Free"})


def old_quotations(s: Person) -> None:
    s.go("Opportunities")
    s.click(s.page.get_by_role("link", name="Quotations open for 14 days"))
    expect(s.page).to_have_url(re.compile("created=ago-14"))
    # Typing is no click.
    s.page.get_by_label("Value from").fill("5000")
    expect(s.page).to_have_url(re.compile("least=5000"))
    expect_jobs(s.page.locator("#results table"), {"Maybe"})


def whom_to_call(s: Person) -> None:
    late = s.page.locator("#late-back")
    expect_jobs(late, {"Forgotten"})
    s.click(late.get_by_role("link", name="Harbour Events"))
    expect(s.page.get_by_role("heading", level=1)).to_have_text("Harbour Events")


TASKS: dict[str, Callable[[Person], None]] = {
    "What goes out today?": goes_out_today,
    "What comes back tomorrow?": comes_back_tomorrow,
    "What should be back and is not?": is_late,
    "What starts soon and is not confirmed?": is_not_confirmed,
    "What did we lose since the last working day, and who says so?": was_lost,
    "What was confirmed since the last working day?": was_confirmed,
    "Where do our records make no sense?": makes_no_sense,
    "Is what I see complete and fresh?": is_complete,
    "What is on hire this weekend?": is_on_hire_at_the_weekend,
    "Which open quotations are worth 5,000 or more?": big_quotations,
    "Which open quotations over 5,000 are older than 14 days?": old_quotations,
    "Which confirmed job has no venue?": has_no_venue,
    "What changed since the last working day?": what_changed_since_the_last_working_day,
    "Who is late back, and where are their numbers?": whom_to_call,
    "Where is the job with this number?": by_number,
    "Which jobs does this customer have?": of_a_customer,
    "What happened to this job?": what_happened,
    "What did this job look like on a past day?": on_a_past_day,
    "Who changed the dates of a job?": dates_changed,
    "What did this colleague change?": by_a_colleague,
    "Who are our best customers?": best_customers,
    "Whose value fell most against the year before?": whose_value_fell,
    "What is this customer worth by month?": one_customer,
    "Which venue brings the most?": best_venue,
    "How much of what was decided does this colleague win?": won_by_a_colleague,
    "What does this month look like?": this_month,
    "What is planned next week?": next_week,
    "How do I see the hires in my own calendar?": in_my_calendar,
    "How do I take a list to a spreadsheet?": to_a_spreadsheet,
    "How do I keep this list for tomorrow?": keep_a_view,
    "How many jobs are in each status?": as_a_pie,
    "Is today busier than the week before?": beside_the_week_before,
    "How is this figure counted, in SQL?": counted_in_sql,
    "How does this customer stand against last year?": beside_last_year,
    "How much do we win and lose each month?": won_by_month,
    "Which jobs did we lose this month?": what_was_lost_this_month,
    "What does it cost to mirror last year as well?": cost_of_further_back,
}


def told() -> dict[str, int]:
    """The clicks that the page says, by question."""
    rows = re.findall(r"^\| (.+\?) \| .+ \| (\d) \|$", PAGE.read_text(), re.MULTILINE)
    return {question: int(clicks) for question, clicks in rows}


# Each is answered on the same pages, in the same way, as another one.
LIKE_OTHERS = (
    "Which open quotations are worth 5,000 or more?",
    "Which confirmed job has no venue?",
    "Where is the job with this number?",
    "What happened to this job?",
    "What did this colleague change?",
    "Who are our best customers?",
    "What is this customer worth by month?",
    "Which venue brings the most?",
    "What does this month look like?",
    "How much do we win and lose each month?",
)


@pytest.mark.parametrize(
    "question", some_in_drills(TASKS, lambda question: question not in LIKE_OTHERS)
)
def test_a_question_of_the_morning_is_answered_in_as_many_clicks_as_the_page_says(
    someone: Person, question: str
) -> None:
    TASKS[question](someone)
    assert someone.clicks == told()[question]


def test_the_page_tells_of_every_question_and_none_takes_more_than_three_clicks() -> None:
    assert list(told()) == list(TASKS)
    assert TASKS.keys() >= set(LIKE_OTHERS)
    assert len(told()) >= 25
    assert max(told().values()) <= 3
