"""Dagster's UI as `up` starts it, and pages that mean it ill: everything runs for real, in a real
browser.
"""

import base64
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
import requests
from playwright.sync_api import Locator, Page, expect
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from rms_pipeline.defs.metadata import status_metadata
from rms_pipeline.mirror.summary import StatusCount
from rms_pipeline_tests.browser.conftest import picture_failure
from rms_pipeline_tests.browser.stand import TOKEN, Stand, everything
from rms_pipeline_tests.conftest import dagsters_tables, database_at
from rms_pipeline_tests.defs.test_metadata import HOSTILE
from rms_pipeline_tests.processes import (
    PROJECT,
    REPOSITORY,
    command,
    query,
    reset_schedules,
    reset_sensors,
    stop_schedules,
    wait_until,
)

RUN_MS = 60_000
BEARER = {"Authorization": f"Bearer {TOKEN}"}
_SCHEDULES = """query S($selector: RepositorySelector!) {
  schedulesOrError(repositorySelector: $selector) {
    ... on Schedules { results { name scheduleState { id status } } } } }"""


@pytest.fixture(scope="module")
def stand(embedded_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """All that `up` starts, over an account with 150 opportunities."""
    with everything(embedded_url, tmp_path_factory.mktemp("up"), opportunities=150) as started:
        yield started


def open_dagster(page: Page, stand: Stand, path: str) -> None:
    """Sign in and open this page of Dagster's UI."""
    stand.visit(page, f"/dagster?to={quote(path)}")
    page.wait_for_url(f"{stand.dagster}{path}")


@pytest.fixture(scope="module")
def standing_ui(stand: Stand, standing_tab: Page) -> Iterator[Page]:
    """A tab with Dagster's UI, which is loaded once. Use `ui`."""
    tab = standing_tab.context.new_page()
    open_dagster(tab, stand, "/jobs")
    yield tab
    tab.close()


@pytest.fixture
def ui(
    request: pytest.FixtureRequest, stand: Stand, standing_ui: Page, tmp_path: Path
) -> Iterator[Page]:
    """`standing_ui`, signed in. `go_to` leads to its pages."""
    sign_in(stand, standing_ui)
    yield standing_ui
    picture_failure(request, standing_ui, tmp_path)


def sign_in(stand: Stand, tab: Page) -> None:
    """Sign its browser in again: a test with a tab of its own begins without any session."""
    assert tab.context.request.get(f"{stand.url}/dagster?to=/server_info&token={TOKEN}").ok


def go_to(ui: Page, path: str) -> None:
    """Open this page of Dagster's UI as its links do, without loading the UI again."""
    ui.evaluate(
        "(path) => { history.pushState(null, '', path);"
        " dispatchEvent(new PopStateEvent('popstate')); }",
        path,
    )


def open_launchpad(ui: Page, job: str) -> Locator:
    go_to(ui, f"/locations/rms_pipeline/jobs/{job}")
    ui.get_by_role("button", name="Materialize all").locator("xpath=following::button[1]").click()
    ui.get_by_role("menuitem", name="Open launchpad").click()
    return ui.get_by_role("dialog")


def test_materialize_all_succeeds_and_status_counts_has_its_table_and_its_chart(
    ui: Page, stand: Stand
) -> None:
    before = stand.syncs("id")
    go_to(ui, "/asset-groups")
    ui.get_by_role("button", name="Materialize all").click()
    ui.get_by_role("link", name="View", exact=True).click()
    expect(ui.get_by_text("RUN_SUCCESS")).to_be_visible(timeout=RUN_MS)
    assert stand.syncs("sync_type, status")[len(before) :] == [("initial_sync", "completed")]

    go_to(ui, "/assets/status_counts")
    for said in (
        "The number and the value of opportunities in each status",
        "The sum of their charges with tax",
        "current_rms",
    ):
        expect(ui.get_by_text(said).first).to_be_visible()
    ui.get_by_text("Show Markdown").first.click()
    dialog = ui.get_by_role("dialog")
    counts = query(stand.environment, "SELECT opportunity_status, opportunities FROM status_counts")
    assert len(counts) > 5
    for status, count in counts:
        expect(dialog.locator("tr", has_text=str(status))).to_contain_text(str(count))
    chart = dialog.get_by_alt_text("Opportunities by status")
    expect(chart).to_be_visible()
    # A picture that the page refuses, or cannot read, has no width of its own.
    assert chart.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    drawing = base64.b64decode((chart.get_attribute("src") or "").partition(",")[2]).decode()
    assert drawing.count("<rect") == len(counts)


def test_another_window_is_synced_from_the_launchpad(ui: Page, stand: Stand) -> None:
    launchpad = open_launchpad(ui, "initial_sync")
    setting = launchpad.locator(".CodeMirror-line", has_text="days_back: 30")
    expect(launchpad.locator(".CodeMirror-line", has_text="days_ahead: 365")).to_be_visible()
    setting.click()
    expect(launchpad.get_by_text("fetch opportunities that end at most")).to_be_visible()
    ui.keyboard.press("End")
    for key in ("Backspace", "Backspace", "9", "0"):
        ui.keyboard.press(key)
    expect(launchpad.get_by_text("No errors")).to_be_visible()
    launchpad.locator("button", has_text="Materialize").click()
    expect(ui.get_by_text("RUN_SUCCESS")).to_be_visible(timeout=RUN_MS)
    run = ui.url.rpartition("/")[2]
    window = "(metadata ->> 'window_end')::date - (metadata ->> 'window_start')::date"
    found = query(
        stand.environment,
        f"SELECT sync_type, status, {window} FROM sync_metadata WHERE run_id = '{run}'",
    )
    assert found == [("initial_sync", "completed", 90 + 365)]


def test_a_setting_of_the_wrong_type_is_refused_before_it_runs(ui: Page, stand: Stand) -> None:
    before = stand.syncs("id")
    launchpad = open_launchpad(ui, "initial_sync")
    launchpad.locator(".CodeMirror-line", has_text="days_back: 30").click()
    ui.keyboard.press("End")
    ui.keyboard.type("x")
    expect(launchpad.get_by_text(re.compile("Invalid scalar|Expected type"))).to_be_visible()
    expect(launchpad.locator("button", has_text="Materialize")).to_be_disabled()
    assert stand.syncs("id") == before


def test_a_failed_sync_says_what_to_do_on_its_page_without_a_stack(ui: Page, stand: Stand) -> None:
    environment = {**stand.environment, "CURRENT_RMS_API_KEY": "not-the-key"}
    assert command("sync", "initial", environment=environment).returncode == 1
    go_to(ui, "/runs")
    expect(ui.get_by_text("user: command line")).to_be_visible()
    run = stand.syncs("run_id, status")[-1]
    assert run[1] == "failed"
    go_to(ui, f"/runs/{run[0]}")
    expect(ui.get_by_text("RUN_FAILURE")).to_be_in_viewport()
    said = ui.get_by_text("Check CURRENT_RMS_SUBDOMAIN and CURRENT_RMS_API_KEY").last
    expect(said).to_be_in_viewport()
    expect(ui.get_by_text("Stack Trace")).to_have_count(0)


def graphql(stand: Stand, query: str, **variables: Any) -> Any:
    answer = requests.post(
        f"{stand.dagster}/graphql",
        json={"query": query, "variables": variables},
        headers=BEARER,
        timeout=60,
    )
    return answer.json()["data"]


def schedules(stand: Stand) -> dict[str, tuple[str, str]]:
    """The id of each, and whether it is on."""
    found = graphql(stand, _SCHEDULES, selector=REPOSITORY)["schedulesOrError"]["results"]
    return {s["name"]: (s["scheduleState"]["id"], s["scheduleState"]["status"]) for s in found}


def switch_on(stand: Stand) -> None:
    """Reset every schedule to what the code says, at a time at which none of them starts a sync."""
    left = 900 - time.time() % 900
    if left < 30:
        time.sleep(left)
    reset_schedules(stand.dagster, TOKEN)


@pytest.fixture
def switched_on(stand: Stand) -> Iterator[None]:
    switch_on(stand)
    yield
    assert stop_schedules(stand.dagster, TOKEN)


@dataclass
class Evil:
    """A foreign site on `port` of this machine, with these `pages` by path."""

    port: int
    pages: dict[str, str]


@pytest.fixture(scope="module")
def evil() -> Iterator[Evil]:
    pages: dict[str, str] = {}

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages.get(self.path, "").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    Thread(target=server.serve_forever, daemon=True).start()
    yield Evil(server.server_address[1], pages)
    server.shutdown()
    server.server_close()


def test_who_has_signed_in_is_asked_nothing_more(page: Page, stand: Stand) -> None:
    """Under another name of this machine, and at a reload."""
    open_dagster(page, stand, "/asset-groups")
    expect(page.get_by_text("status_counts").first).to_be_visible()
    page.goto(f"{stand.dagster.replace('127.0.0.1', 'localhost')}/jobs")
    page.wait_for_url(f"{stand.dagster}/jobs")
    expect(page.get_by_text("incremental_sync").first).to_be_visible()
    page.reload()
    expect(page.get_by_text("incremental_sync").first).to_be_visible()


def hostile(stand: Stand, schedule: str) -> str:
    """A page that tries every way to switch the schedule off that is open to a page."""
    stop = f'mutation {{ stopRunningSchedule(id: "{schedule}") {{ __typename }} }}'
    url = f"{stand.dagster}/graphql"
    by_get = f"{url}?query={quote(stop)}"
    return f"""<!doctype html><title>trying</title>
    <img src="{by_get}"><link rel="stylesheet" href="{by_get}"><script src="{by_get}"></script>
    <iframe src="{by_get}"></iframe><iframe name="form"></iframe>
    <form id="form" target="form" method="post" enctype="text/plain" action="{by_get}">
    <input name="a"></form>
    <script>
    const query = {stop!r};
    document.getElementById("form").submit();
    const tries = [
      fetch({by_get!r}, {{mode: "no-cors", credentials: "include"}}),
      fetch({by_get!r}, {{credentials: "include"}}),
      fetch({url!r}, {{method: "POST", mode: "no-cors", credentials: "include",
        headers: {{"Content-Type": "text/plain"}}, body: JSON.stringify({{query}})}}),
      fetch({url!r}, {{method: "POST", credentials: "include",
        headers: {{"Content-Type": "application/json"}}, body: JSON.stringify({{query}})}}),
      fetch("{stand.dagster}/report_asset_materialization/opportunities",
        {{method: "POST", mode: "no-cors", credentials: "include"}}),
      new Promise((done) => {{
        const socket = new WebSocket("{url.replace("http", "ws")}", "graphql-ws");
        socket.onopen = () => {{ document.title = "open"; done(); }};
        socket.onerror = done;
      }}),
    ];
    navigator.sendBeacon({by_get!r}, "");
    Promise.allSettled(tries).then(() => {{ document.title += ", tried"; }});
    </script>"""


_REPORTED = "query R { assetNodes { assetKey { path } assetMaterializations { runId timestamp } } }"


@pytest.mark.usefixtures("switched_on")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_hostile_page_in_the_browser_of_who_signed_in_changes_nothing(
    page: Page, stand: Stand, evil: Evil, host: str
) -> None:
    """From another port of the same host, whose cookies browsers share, and from another site."""
    # Whoever opened Dagster has this session. The pages of its UI ask for nothing else here.
    open_dagster(page, stand, "/server_info")
    before = graphql(stand, _REPORTED)["assetNodes"]
    assert before
    id_, status = schedules(stand)["incremental_sync"]
    assert status == "RUNNING"
    evil.pages["/"] = hostile(stand, id_)
    page.goto(f"http://{host}:{evil.port}/")
    expect(page).to_have_title("trying, tried")
    assert schedules(stand)["incremental_sync"] == (id_, "RUNNING")
    # A link is followed with the session, and must be as harmless.
    by_get = f'mutation {{ stopRunningSchedule(id: "{id_}") {{ __typename }} }}'
    evil.pages["/link"] = f'<a href="{stand.dagster}/graphql?query={quote(by_get)}">go</a>'
    page.goto(f"http://{host}:{evil.port}/link")
    page.get_by_role("link").click()
    expect(page.get_by_text("Send mutations by POST")).to_be_visible()
    assert schedules(stand)["incremental_sync"] == (id_, "RUNNING")
    assert graphql(stand, _REPORTED)["assetNodes"] == before


@pytest.mark.usefixtures("switched_on")
def test_dagsters_own_page_does_what_a_person_does_on_it(ui: Page, stand: Stand) -> None:
    go_to(ui, "/automation")
    row = ui.locator("[data-index]").filter(has=ui.get_by_text("housekeeping", exact=True))
    switch = row.get_by_role("checkbox").last
    expect(switch).to_be_checked()
    for status in ("STOPPED", "RUNNING"):
        # Before the page has heard of the last change, it takes no key. What a key then does
        # depends on what the page shows, so a second press is never one too many.
        def switched(status: str = status) -> bool:
            shows = switch.is_checked() == (status == "RUNNING")
            if not shows and switch.is_enabled():
                switch.press("Space")
            return shows and schedules(stand)["housekeeping"][1] == status

        wait_until(switched, timeout=60)
    assert TOKEN not in ui.url


def test_a_program_with_the_token_subscribes_over_a_websocket(stand: Stand) -> None:
    url = f"{stand.dagster.replace('http', 'ws')}/graphql"
    protocols = [Subprotocol("graphql-ws")]
    with connect(url, additional_headers=BEARER, subprotocols=protocols) as opened:
        opened.send('{"type": "connection_init"}')
        assert "connection_ack" in str(opened.recv(timeout=30))


def test_a_status_that_is_markdown_is_shown_as_it_was_typed(
    ui: Page, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [StatusCount(status, 1, Decimal(0), Decimal(0)) for status in HOSTILE]
    monkeypatch.setenv("DAGSTER_HOME", str(PROJECT))
    database = database_at(stand.environment["POSTGRES_URL"])
    with dagsters_tables(database), dg.DagsterInstance.get() as instance:
        counted = dg.AssetMaterialization("status_counts", metadata=status_metadata(counts))
        instance.report_runless_asset_event(counted)
    asked: list[str] = []
    ui.on("request", lambda request: asked.append(request.url))
    go_to(ui, "/assets/status_counts")
    # The tab still has the counts of earlier tests, and would close a dialog when these come.
    ui.reload()
    ui.get_by_text("Show Markdown").first.click()
    table = ui.get_by_role("dialog").get_by_role("table")
    expect(table.get_by_role("row")).to_have_count(len(HOSTILE) + 1)
    shown = [
        cell.replace("\u200b", "") for cell in table.locator("td:first-child").all_inner_texts()
    ]
    assert shown == [" ".join(text.split()) for text in HOSTILE]
    for what in ("a", "img", "script", "code", "em", "strong", "del", "h1", "sup"):
        expect(table.locator(what)).to_have_count(0)
    assert [url for url in asked if "evil.example" in url] == []


@pytest.fixture(scope="module")
def automation(stand: Stand, standing_ui: Page) -> Iterator[Page]:
    """The page of what runs by itself, which other tests could do without."""
    switch_on(stand)
    reset_sensors(stand.dagster, TOKEN)
    sign_in(stand, standing_ui)
    go_to(standing_ui, "/automation")
    yield standing_ui
    assert stop_schedules(stand.dagster, TOKEN)


@pytest.mark.parametrize(
    ("name", "is_on"),
    [
        *(("incremental_sync", True), ("reconciliation", True), ("housekeeping", True)),
        *(("webhook_refresh", True), ("business_events", False)),
    ],
)
def test_what_runs_by_itself_is_listed_and_shows_whether_it_is_on(
    automation: Page, name: str, is_on: bool
) -> None:
    row = automation.locator("[data-index]").filter(has=automation.get_by_text(name, exact=True))
    expect(row.get_by_role("checkbox")).to_have_count(2)
    expect(row.get_by_role("checkbox").last).to_be_checked(checked=is_on)
