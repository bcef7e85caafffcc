"""What only a browser shows of a list or a day: its address as one filters, the choices beside it,
and what changes while it is open.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, Route, expect

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline_tests.browser.matrix import leave_out_alike
from rms_pipeline_tests.rows import insert_opportunities, query
from rms_pipeline_tests.web.conftest import API_TOKEN, Web, serving

NOW = datetime.now(UTC)


@pytest.fixture
def web(emptied: Database) -> Iterator[Web]:
    day = timedelta(days=1)
    insert_opportunities(
        emptied,
        *(
            {
                "opportunity_status": ("Open", "Reserved")[i % 2],
                "starts_at": NOW - day,
                "ends_at": NOW + (i + 1) * day,
                "total_value": i,
            }
            for i in range(4)
        ),
    )
    refresh_status_counts(emptied, "UTC")
    with SandboxServer(Store(1)) as sandbox, serving(emptied, sandbox) as served:
        yield served


def test_a_checker_is_shown_two_rows_of_each_kind_and_every_row_that_differs(page: Page) -> None:
    rows = [f'<tr><td><a href="/{n}">Job {n}</a><td class="num">{n}' for n in range(50)]
    rows[20] = '<tr><td><a href="/20">Job 20</a><td class="num" style="color: #ccc">20'
    rows[30] = '<tr><td><a href="/30"></a><td class="num">30'
    rows[40] = '<tr><td><a href="/40">Job 40</a><td class="num"><b>40</b>'
    page.set_content(f"<table><tbody>{''.join(rows)}</table><ul><li>1<li>2<li>3<li hidden>4</ul>")
    leave_out_alike(page)
    assert [each.split()[-1] for each in page.locator("tr").all_inner_texts()] == [
        *("0", "1", "20", "30", "40")
    ]
    assert page.locator("li").all_text_contents() == ["1", "2", "4"]


def test_a_huge_amount_stays_within_its_place(web: Web, page: Page) -> None:
    huge = "-9999999999999999.99"
    query(web.database, f"UPDATE opportunities SET total_value = {huge}, charge_total = {huge}")
    refresh_status_counts(web.database, "UTC")
    outside = """
        () => [...document.querySelectorAll(".value, .what, .tiles a, .figures dd, td, h2")]
            .filter((e) => [...e.querySelectorAll(".long-amount")].some((amount) =>
                amount.getBoundingClientRect().right > e.getBoundingClientRect().right + 1))
            .concat([...document.querySelectorAll(".scroll:has(.list)"), document.documentElement]
                .filter((e) => e.scrollWidth > e.clientWidth + 1))
            .map((e) => `${e.tagName} ${e.className} ${e.innerText.slice(0, 40)}`)
    """
    for path in ("/today", "/opportunities?sort=-value", "/"):
        page.goto(f"{web.url}{path}{'&' if '?' in path else '?'}token={API_TOKEN}")
        assert page.locator(".long-amount").count(), path
        for width in (360, 721, 1100, 1280, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            assert not page.evaluate(outside), (path, width)


def test_filters_leave_a_clean_address_and_choices_follow_the_list(web: Web, page: Page) -> None:
    page.goto(f"{web.url}/opportunities?token={API_TOKEN}")
    expect(page.locator(".facet").first).to_contain_text("Open")
    page.locator("[name=onhire]").select_option("today")
    expect(page).to_have_url(f"{web.url}/opportunities?onhire=today")
    expect(page.locator("#found")).to_contain_text("4 opportunities")
    page.locator(".facet a", has_text="Reserved").click()
    expect(page).to_have_url(f"{web.url}/opportunities?status=Reserved&onhire=today")
    expect(page.locator(".facet a[aria-current]")).to_contain_text("Reserved")
    page.locator(".chips a", has_text="Reserved").click()
    expect(page).to_have_url(f"{web.url}/opportunities?onhire=today")
    page.locator("[name=onhire]").select_option("custom")
    first = (NOW + timedelta(days=4)).date().isoformat()
    page.locator("[name=onhire_from]").fill(first)
    expect(page).to_have_url(f"{web.url}/opportunities?onhire={first}..")
    expect(page.locator("#found")).to_contain_text("1 opportunity")
    # The field says one thing and the list another, until somebody says so.
    page.route("**/opportunities?*", lambda route: route.abort())
    page.get_by_label("Search", exact=True).fill("ball")
    expect(page.locator("#notice")).to_contain_text("The service did not answer")
    page.unroute("**/opportunities?*")
    page.get_by_label("Search", exact=True).fill("zzz")
    expect(page.locator("#results")).to_contain_text("No opportunity matches these filters")
    expect(page.locator("#notice")).not_to_contain_text("did not answer")


def test_escape_closes_what_was_found_and_keeps_what_was_typed(web: Web, page: Page) -> None:
    page.goto(f"{web.url}/opportunities?token={API_TOKEN}")
    there = page.get_by_role("link", name="Calendar", exact=True)
    there.focus()
    page.keyboard.press("/")
    field = page.get_by_role("combobox", name="Find anything")
    expect(field).to_be_focused()
    page.keyboard.type("cal")
    expect(page.locator("#finds [href='/calendar']")).to_be_visible()
    # The answer to an empty field has all pages.
    expect(page.locator("#finds [href='/changes']")).to_have_count(0)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.keyboard.press("Escape")
    expect(page.locator("#finds")).to_be_hidden()
    expect(field).to_have_value("cal")
    # Emptying the field would have asked for everything, whose answer would open it again.
    page.keyboard.press("Escape")
    expect(there).to_be_focused()
    assert not [url for url in asked if "/find?" in url]
    page.keyboard.press("Control+k")
    expect(field).to_be_focused()
    page.keyboard.press("Control+k")
    expect(there).to_be_focused()


# As the clock does each minute, and whoever comes back to the tab.
_COME_BACK = "document.dispatchEvent(new Event('visibilitychange'))"


@pytest.mark.parametrize("path", ["/today", "/calendar"])
def test_a_day_and_a_calendar_that_stay_open_show_what_has_changed_unless_they_are_in_use(
    web: Web, page: Page, path: str
) -> None:
    def come_late(route: Route) -> None:
        # After all other scripts, as on a slow line.
        page.wait_for_timeout(300)
        route.continue_()

    page.route("**/app*.js*", come_late)
    page.goto(f"{web.url}{path}?token={API_TOKEN}")
    row = page.locator("main a[href='/opportunities/2']").first
    expect(row).to_be_visible()
    expect(page.locator("[hx-trigger=load]")).to_have_count(0)
    row.evaluate("(e) => { e.dataset.seen = 'yes' }")
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url))

    def come_back() -> None:
        with page.expect_response(lambda response: response.url == page.url):
            page.evaluate(_COME_BACK)

    # Nothing has changed, so nothing is put in its place.
    come_back()
    come_back()
    expect(row).to_have_attribute("data-seen", "yes")
    web.query("UPDATE opportunities SET name = 'Renamed' WHERE id = 2 RETURNING 1")
    used = page.locator("main input, main select").first
    used.focus()
    page.evaluate(_COME_BACK)
    expect(used).to_be_focused()
    expect(row).not_to_contain_text("Renamed")
    used.blur()
    come_back()
    expect(row).to_contain_text("Renamed")
    # It was not asked for while it was in use.
    assert asked.count(page.url) == 3
    # What comes a moment after the page comes again, too.
    expect(page.locator("[hx-trigger=load]")).to_have_count(0)
    if path == "/today":
        expect(page.locator("#compared table")).to_be_visible()
