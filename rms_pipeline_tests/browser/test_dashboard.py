"""The dashboard as a person meets it: `up` with everything it starts, in a real browser."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, Route, expect

from rms_pipeline.web.list_address import COLUMNS
from rms_pipeline_tests.browser.conftest import new_context
from rms_pipeline_tests.browser.matrix import (
    RULES,
    hidden_columns,
    leave_out_alike,
    violations,
)
from rms_pipeline_tests.browser.stand import TOKEN, Stand
from rms_pipeline_tests.processes import SECRET_KEY, command, query, wait_until
from rms_pipeline_tests.sandbox.holding import held

# A page's worth of requests takes long enough to be watched.
SLOW = 2.0


@pytest.fixture
def filled(stand: Stand) -> Stand:
    """With opportunities, one of which has changed, for a test that runs without the first."""
    if query(stand.environment, "SELECT count(*) FROM opportunities") == [(0,)]:
        assert command("sync", "initial", environment=stand.environment).returncode == 0
    if query(stand.environment, "SELECT count(*) FROM opportunity_changes") == [(0,)]:
        mirrored = "SELECT id FROM opportunities WHERE opportunity_status <> 'Postponed' LIMIT 1"
        edited = int(str(query(stand.environment, mirrored)[0][0]))
        assert stand.sandbox.store.edit(edited, {"status": 80})
        assert command("sync", "incremental", environment=stand.environment).returncode == 0
    return stand


def renewed_twice(page: Page) -> None:
    """Has the sync panel ask for itself two times, as it does every few seconds."""
    for _ in range(2):
        with page.expect_response(lambda r: r.url.endswith("/fragments/sync")):
            page.evaluate("htmx.trigger('#sync', 'every')")
    # It is marked until what came has been put in its place.
    expect(page.locator("#sync.htmx-request")).to_have_count(0)


def test_from_the_first_visit_to_a_replayed_dead_letter(stand: Stand, page: Page) -> None:
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    sandbox = stand.sandbox

    # The first visit: nothing is there, and the page says what to do.
    stand.visit(page)
    expect(page).to_have_url(f"{stand.url}/")
    expect(page.get_by_text("Nothing is mirrored yet.")).to_be_visible()
    expect(page.locator("#incremental")).to_be_disabled()
    expect(page.locator("#why-no-incremental")).to_contain_text(
        "after an initial sync has completed"
    )

    # The initial sync, watched.
    sandbox.latency = SLOW
    page.locator("#initial").click()
    expect(page.locator("progress")).to_be_visible()
    expect(page.locator(".badge.running")).to_be_visible()
    expect(page.locator("#progress-words")).to_contain_text(re.compile(r"[\d,]+ of [\d,]+ records"))
    expect(page.locator("#initial")).to_be_disabled()
    sandbox.latency = 0.0
    expect(page.locator(".badge.completed")).to_be_visible(timeout=60_000)
    count = query(stand.environment, "SELECT count(*) FROM opportunities")[0][0]
    assert isinstance(count, int)
    expect(page.locator("#total")).to_have_text(f"{count:,}")
    expect(page.locator("#certificate")).to_contain_text(f"{count:,} of {count:,}")
    expect(page.locator(".bars li")).not_to_have_count(0)
    summed = page.locator(".bars .count").all_inner_texts()
    assert sum(int(text.replace(",", "")) for text in summed) == count

    # An edit in Current RMS shows by itself: a webhook, the fast lane, the page's own asking.
    registered = command("webhooks", "register", stand.url, environment=stand.environment)
    assert registered.returncode == 0, registered.stderr
    edited = next(i for i in sandbox.store.ids() if (sandbox.store.get(i) or {})["starts_at"])
    page.evaluate("window.notReloaded = true")
    sandbox.store.edit(edited, {"subject": "Lantern parade, tower lights", "status": 80})
    recent = page.locator(".recent li").first
    expect(recent).to_contain_text("Lantern parade, tower lights", timeout=60_000)
    expect(recent).to_contain_text("Postponed")
    assert page.evaluate("window.notReloaded") is True

    # An incremental sync by its button.
    expect(page.locator("#incremental")).to_be_enabled()
    page.locator("#incremental").click()
    newest = page.locator("#history > li").first
    expect(newest).to_contain_text("Incremental sync", timeout=60_000)
    expect(newest.locator(".badge")).to_have_text("completed", timeout=60_000)

    # An API that refuses: a red badge, and an error that a person can act on.
    sandbox.api_key = "another-key"
    page.locator("#incremental").click()
    expect(newest.locator(".badge")).to_have_text("failed", timeout=60_000)
    # Asked for as often as while it ran, until the panel has noticed that nothing runs any more.
    renewed_twice(page)
    newest.locator("summary").click()
    expect(newest.locator(".error")).to_contain_text("CURRENT_RMS_API_KEY")
    # What was opened stays open while the page renews itself.
    renewed_twice(page)
    expect(newest.locator(".error")).to_be_visible()
    sandbox.api_key = SECRET_KEY

    # A dead letter, replayed.
    stand.write(
        "INSERT INTO webhook_events (action_type, subject_type, opportunity_id, attempts, dead_at,"
        " error) VALUES ('update', 'Opportunity', %s, 8, now(), 'Current RMS answered 422.')",
        edited,
    )
    expect(page.locator("#queue")).to_contain_text("1 dead letter", timeout=60_000)
    page.locator("#dead-letters > summary").click()
    expect(page.locator("#dead-letters")).to_contain_text("Current RMS answered 422.")
    page.get_by_role("button", name="Replay event").click()
    expect(page.locator("#queue")).to_contain_text("No dead letters", timeout=60_000)
    settled = "SELECT bool_and(processed_at IS NOT NULL) FROM webhook_events WHERE"
    wait_until(
        lambda: query(stand.environment, f"{settled} opportunity_id = {edited}") == [(True,)]
    )

    assert not messages, messages
    assert TOKEN not in stand.log.read_text()


def test_a_status_and_a_week_open_their_lists_and_the_list_an_opportunity(
    filled: Stand, page: Page
) -> None:
    filled.visit(page)
    bar = page.locator(".bars li", has_text="Provisional")
    count = bar.locator(".count").inner_text()
    bar.locator("a").click()
    expect(page.locator("#found")).to_contain_text(f"{count} opportunit")
    expect(page.get_by_label("Status")).to_have_value("Provisional")
    assert set(page.locator("td[data-label=Status]").all_inner_texts()) == {"Provisional"}

    page.goto(f"{filled.url}/")
    week = page.locator("#weeks a").nth(3)
    words = week.get_attribute("aria-label") or ""
    week.click()
    expect(page).to_have_url(re.compile(r"from=\d{4}-\d\d-\d\d&to=\d{4}-\d\d-\d\d"))
    lines = int(page.locator("#found").inner_text().split()[0].replace(",", ""))
    told = re.search(r"([\d,]+) opportunities$", words)
    assert told is not None
    assert lines == int(told[1].replace(",", ""))

    name = page.locator("tbody th a").first.inner_text()
    page.locator("tbody th a").first.click()
    expect(page.locator("h1")).to_have_text(name)
    page.get_by_text("Show all fields").click()
    expect(page.locator("pre")).to_contain_text('"charge_including_tax_total"')


def test_typing_finds_by_number_subject_and_customer_without_a_reload(
    filled: Stand, page: Page
) -> None:
    filled.visit(page, "/opportunities")
    id_, number, subject, customer = query(
        filled.environment,
        "SELECT id, data ->> 'number', subject, organisation_name FROM opportunities"
        " WHERE subject IS NOT NULL ORDER BY id LIMIT 1",
    )[0]
    page.evaluate("window.notReloaded = true")
    search = page.locator(".filters [name=q]")
    for text in (number, str(subject)[2:-2], str(customer)[:-1], id_):
        search.fill(str(text))
        expect(page).to_have_url(re.compile(r"q="))
        link = page.locator(f'tbody a[href="/opportunities/{id_}"]')
        more = page.get_by_role("link", name="Next →")
        expect(link.or_(more).first).to_be_visible()
    assert page.evaluate("window.notReloaded") is True
    search.fill("nothing is called like this")
    expect(page.get_by_text("No opportunity matches these filters.")).to_be_visible()
    with page.expect_download() as download:
        page.goto(f"{filled.url}/opportunities?status=Lost")
        page.locator(".csv").click()
    lines = Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines()
    lost = query(
        filled.environment, "SELECT count(*) FROM opportunities WHERE opportunity_status = 'Lost'"
    )
    assert len(lines) == 1 + int(str(lost[0][0]))


def test_anything_is_found_from_anywhere_by_keys_alone(filled: Stand, page: Page) -> None:
    number, name = query(
        filled.environment, "SELECT number, name FROM opportunities ORDER BY id DESC LIMIT 1"
    )[0]
    filled.visit(page, "/changes")
    box = page.get_by_role("combobox", name="Find anything")
    options = page.locator("#finds a[role=option]")
    page.keyboard.press("Control+k")
    expect(box).to_be_focused()
    # With nothing typed: where to go.
    expect(options.filter(has_text="Today")).to_be_visible()
    box.fill(str(number))
    first = options.first
    expect(first).to_contain_text(str(name))
    box.press("ArrowDown")
    expect(first).to_have_attribute("aria-selected", "true")
    page.evaluate(AXE_SCRIPT)
    found = violations(page)
    assert [f["id"] for f in found if f["impact"] in ("serious", "critical")] == []
    box.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(str(name))
    # A slash does the same, and a letter that is typed there is no key of the page.
    page.keyboard.press("/")
    expect(page.get_by_role("combobox", name="Find anything")).to_be_focused()


def test_who_is_in_the_search_before_the_page_is_ready_is_answered_too(
    filled: Stand, page: Page
) -> None:
    page.add_init_script(
        "document.addEventListener('readystatechange', () => {"
        " if (document.readyState === 'interactive')"
        " document.querySelector('[data-finder]')?.focus(); });"
    )
    filled.visit(page, "/changes")
    expect(page.locator("#finds a[role=option]").filter(has_text="Today")).to_be_visible()


@pytest.fixture(scope="module")
def reader(chromium: Browser) -> Iterator[Page]:
    """A tab in which Axe may run."""
    with new_context(chromium, bypass_csp=True) as context:
        yield context.new_page()


_WIDTHS = (1400, 390, 320)
# Axe takes most of the time. A phone of 390 px has the rules of style of one of 320 px, and the
# dark scheme has the same colours in every width: `drills/test_every_page.py` has Axe check those.
_CHECKED: tuple[tuple[int, Literal["light", "dark"]], ...] = (
    (1400, "light"),
    (1400, "dark"),
    (320, "light"),
)


# Whether nothing is being asked for; then the page asks for nothing by itself any more. Its buttons
# are paler meanwhile.
_RESTS = """() => {
  if (document.querySelector(".htmx-request")) return false;
  for (let timer = setTimeout(() => {}); timer > 0; timer--) clearTimeout(timer);
  return true;
}"""


# The pages that differ most. `drills/test_every_page.py` looks at all pages, and at large letters.
@pytest.mark.parametrize(
    ("path", "has_lists"),
    [
        *(("/login", False), ("/", False), ("/today", True), ("/find?q=gala", True)),
        *(("/opportunities", True), ("/opportunities/{one}", False)),
    ],
)
def test_no_page_has_a_serious_accessibility_finding_scrolls_sideways_or_hides_a_column(
    filled: Stand, reader: Page, path: str, has_lists: bool
) -> None:
    """With everything opened that opens."""
    one = query(filled.environment, "SELECT min(opportunity_id) FROM opportunity_changes")[0][0]
    reader.context.clear_cookies()
    path = path.format(one=one)
    if path == "/login":
        reader.goto(f"{filled.url}{path}")
    else:
        filled.visit(reader, path)
    reader.wait_for_function(_RESTS)
    if has_lists:
        assert reader.locator(".scroll .list").count()
        assert not hidden_columns(reader)
    reader.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    if path == "/":
        reader.evaluate("tell('A notice, at the bottom of the window. '.repeat(5))")
    reader.wait_for_function(_RESTS)
    reader.evaluate(AXE_SCRIPT)
    for scheme in RULES:
        reader.emulate_media(color_scheme=scheme)
        for width in _WIDTHS:
            reader.set_viewport_size({"width": width, "height": 900})
            wide = reader.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, scheme
    leave_out_alike(reader)
    for width, scheme in _CHECKED:
        reader.set_viewport_size({"width": width, "height": 900})
        reader.emulate_media(color_scheme=scheme)
        serious = [
            (found["id"], found["nodes"][0]["html"])
            for found in violations(reader, **RULES[scheme])
            if found["impact"] in ("serious", "critical")
        ]
        assert not serious, (width, scheme, serious)


# `drills/test_every_page.py` shows these to Axe.
@pytest.mark.parametrize("path", ["/won-and-lost", "/customers"])
def test_no_list_hides_its_last_column_at_any_width(filled: Stand, reader: Page, path: str) -> None:
    filled.visit(reader, path)
    reader.wait_for_function(_RESTS)
    assert reader.locator(".scroll .list").count()
    assert not hidden_columns(reader)


def test_a_printed_list_has_all_its_columns_on_the_sheet(filled: Stand, page: Page) -> None:
    # A4 without its margins, in the pixels of CSS.
    page.set_viewport_size({"width": 718, "height": 1_000})
    page.emulate_media(media="print")
    filled.visit(page, "/opportunities")
    box = page.get_by_role("columnheader", name="Updated").bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= 718
    expect(page.locator(".filters")).to_be_hidden()
    expect(page.locator("tbody tr").first.locator("td").last).to_be_visible()
    # A date is not broken: only its time may stand below it.
    lines = "all => Math.max(...all.map(time => time.getClientRects().length))"
    assert page.locator(".list tbody time").evaluate_all(lines) <= 2
    # Its reader may like a dark screen: a printer leaves out backgrounds, and light text with them.
    colours = """() => ["body", "h1", ".card", "tbody td", "tbody a", ".health"].map((name) => {
        const style = getComputedStyle(document.querySelector(name));
        return [style.color, style.backgroundColor];
    })"""
    light = page.evaluate(colours)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(colours) == light
    # With all columns it is as wide as the long side of the sheet.
    every = "&".join(f"column={name}" for name in COLUMNS)
    # Thousands of rows would take many seconds to lay out.
    name = quote(page.locator(".list tbody a").first.inner_text())
    filled.visit(page, f"/print/opportunities?q={name}&{every}")
    page.set_viewport_size({"width": 1_047, "height": 700})
    assert page.locator("table").evaluate("e => e.getBoundingClientRect().right") <= 1_047
    sheets = re.findall(rb"/MediaBox \[0 0 (\d+) (\d+)", page.pdf())
    assert {int(width) > int(height) for width, height in sheets} == {True}


def test_neither_column_of_the_dashboard_waits_for_the_other(filled: Stand, page: Page) -> None:
    filled.visit(page)
    gaps = """(names) => names.slice(1).map((name, i) =>
        document.querySelector(name).getBoundingClientRect().top
        - document.querySelector(names[i]).getBoundingClientRect().bottom)"""
    left, right = [".figures", ".statuses", ".weeks", ".recent"], ["#sync", "#webhooks"]
    long = "document.querySelector('#queue').style.paddingBottom = '%dpx'"
    # What the page asks for anew has no such paragraph.
    page.route("**/fragments/sync", lambda route: route.abort())
    for pixels in (0, 2_000):
        page.evaluate(long % pixels)
        for column in (left, right):
            assert set(page.evaluate(gaps, column)) == {16}, (pixels, column)


def test_the_panel_of_webhooks_renews_itself_in_its_own_column(filled: Stand, page: Page) -> None:
    filled.visit(page)
    expect(page.locator("#webhooks .empty, #webhooks ol").first).to_be_visible()
    page.evaluate("document.querySelector('#webhooks h2').textContent = 'Of before'")
    expect(page.get_by_role("heading", name="Webhooks, last 7 days")).to_be_visible()
    expect(page.locator(".side > #webhooks")).to_have_count(1)
    expect(page.locator("#webhooks")).to_have_count(1)


@pytest.mark.usefixtures("filled")
def test_by_keyboard_alone_a_sync_is_started_once_and_its_button_keeps_the_focus(
    stand: Stand, page: Page
) -> None:
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if r.method == "POST" else None)
    stand.visit(page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    incremental = page.locator("#incremental")
    # One that is disabled takes no focus.
    expect(incremental).to_be_enabled()
    focused = "document.activeElement.id"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate(focused) == "incremental":
            break
    expect(incremental).to_be_focused()
    # Renewing the panel does not take the focus away.
    renewed_twice(page)
    expect(incremental).to_be_focused()
    expect(incremental).to_be_enabled()
    # However long the page takes, the sync takes longer.
    with held(stand.sandbox):
        page.keyboard.press("Enter")
        expect(incremental).to_be_disabled()
        expect(page.locator("#sync-status")).to_have_text("Incremental sync is running")
        expect(incremental).to_be_focused()
        renewed_twice(page)
        page.keyboard.press("Enter")
        page.keyboard.press("Space")
        renewed_twice(page)
        expect(incremental).to_be_focused()
    assert asked == [f"{stand.url}/sync/incremental"]
    expect(incremental).to_be_enabled(timeout=60_000)
    expect(incremental).to_be_focused()
    newest = page.locator("#history > li").first
    expect(newest.locator(".badge")).to_have_text("completed", timeout=60_000)


def test_a_notice_stays_until_it_is_dismissed_or_the_next_answer(stand: Stand, page: Page) -> None:
    dead = "INSERT INTO webhook_events (opportunity_id, attempts, dead_at, error)"
    for _ in range(2):
        stand.write(f"{dead} VALUES (1, 8, now(), 'answered 422')")
    stand.visit(page)
    page.locator("#dead-letters > summary").click()
    # Another person was quicker, and the panel does not show it yet.
    page.route("**/fragments/sync", lambda route: route.abort())
    stand.write("UPDATE webhook_events SET dead_at = NULL, processed_at = now() WHERE id = ("
                "SELECT max(id) FROM webhook_events WHERE dead_at IS NOT NULL)")  # fmt: skip
    notice = page.get_by_role("alert").locator(".notice")
    page.get_by_role("button", name="Replay event").first.click()
    page.unroute("**/fragments/sync")
    expect(notice).to_contain_text("no dead letters to replay")
    renewed_twice(page)
    expect(notice).to_be_in_viewport()
    page.get_by_role("button", name="Replay all").click()
    expect(notice).to_contain_text("1 dead letter is back in the queue.")
    page.evaluate("window.notReloaded = true")
    notice.get_by_role("link", name="Dismiss").click()
    expect(notice).to_have_count(0)
    assert page.evaluate("window.notReloaded") is True


def fulfil(answer: dict[str, Any], route: Route) -> None:
    route.fulfill(**answer)


@pytest.mark.usefixtures("filled")
def test_a_refusal_or_a_failure_is_told_and_leaves_the_page_as_it_was(
    stand: Stand, page: Page
) -> None:
    stand.visit(page)
    words = "<b>Something</b> went wrong."
    notice = page.get_by_role("alert").locator(".notice")
    answers: list[dict[str, Any]] = [
        {"status": 500, "json": {"success": False, "error": words}},
        {"status": 502, "content_type": "text/html", "body": "<html><h1>Bad gateway</h1></html>"},
        {"status": 503, "content_type": "application/json", "body": "{"},
    ]
    told = [words, "cannot be reached at the moment (502)", "could not be read"]
    for answer, expected in zip(answers, told, strict=True):
        page.route("**/sync/*", partial(fulfil, answer))
        page.locator("#incremental").click()
        expect(notice).to_contain_text(expected)
        expect(page.locator("#sync #incremental")).to_be_visible()
        page.unroute("**/sync/*")

    page.goto(f"{stand.url}/opportunities")
    lines = page.locator("tbody tr").count()
    # The year 12026, half typed: no date of ours.
    page.route("**/opportunities?*", lambda route: route.continue_(
        url=f"{stand.url}/opportunities?from=12026-1-1"))  # fmt: skip
    page.locator(".filters [name=q]").fill("x")
    expect(notice).to_be_visible()
    assert page.locator("tbody tr").count() == lines > 0
    expect(page).to_have_url(f"{stand.url}/opportunities")
    # What is asked for next is answered, and nothing is to be told any more.
    page.unroute("**/opportunities?*")
    page.locator(".filters [name=q]").fill("nothing is called like this")
    expect(page.get_by_text("No opportunity matches these filters.")).to_be_visible()
    expect(notice).to_have_count(0)


def test_a_service_that_went_away_is_said_and_forgotten_when_it_is_back(
    filled: Stand, page: Page
) -> None:
    filled.visit(page)
    page.route("**/fragments/*", lambda route: route.abort())
    expect(page.locator("#offline")).to_be_visible(timeout=60_000)
    expect(page.locator("#total")).to_be_visible()
    page.unroute("**/fragments/*")
    expect(page.locator("#offline")).to_be_hidden(timeout=60_000)


def test_without_the_token_the_form_asks_for_it_and_leads_on(filled: Stand, page: Page) -> None:
    page.goto(f"{filled.url}/opportunities?status=Open")
    page.get_by_label("API token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("API token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{filled.url}/opportunities?status=Open")
    cookie = page.context.cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert TOKEN not in cookie["value"]


# What one does in Dagster's UI is in `drills/test_dagster_ui.py`.
def test_opening_dagster_leads_to_the_sign_in_of_the_dashboard_and_back(
    page: Page, stand: Stand
) -> None:
    wanted = f"{stand.dagster}/asset-groups?a=b"
    page.goto(wanted)
    page.get_by_label("API token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_url(wanted)
    expect(page.get_by_text("status_counts").first).to_be_visible()
