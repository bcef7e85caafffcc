"""Dagster's UI as `up` starts it, and pages that mean it ill: real Dagster, in a real browser."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from playwright.sync_api import Page, expect
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from rms_pipeline.defs.metadata import status_metadata
from rms_pipeline.mirror.summary import StatusCount
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import load_settings
from rms_pipeline.web.dagster_api import is_up
from rms_pipeline_tests.conftest import dagsters_tables, database_at, with_all_tables
from rms_pipeline_tests.copies import copy_of
from rms_pipeline_tests.defs.test_metadata import HOSTILE
from rms_pipeline_tests.forks import Child
from rms_pipeline_tests.processes import (
    PROJECT,
    REPOSITORY,
    SECRET_KEY,
    environment_for,
    free_port,
    wait_until,
)
from rms_pipeline_tests.web.conftest import API_TOKEN, BEARER, serving

pytestmark = pytest.mark.usefixtures("warm")
_SCHEDULES = """query S($selector: RepositorySelector!) {
  schedulesOrError(repositorySelector: $selector) {
    ... on Schedules { results { name scheduleState { id status } } } } }"""


@dataclass
class Stand:
    """Dagster behind its guard at `dagster`, the web service at `web`, a foreign site on `evil`."""

    dagster: str
    web: str
    evil: int
    pages: dict[str, str]

    def graphql(self, query: str, **variables: Any) -> Any:
        answer = requests.post(
            f"{self.dagster}/graphql",
            json={"query": query, "variables": variables},
            headers=BEARER,
            timeout=60,
        )
        return answer.json()["data"]

    def schedules(self) -> dict[str, tuple[str, str]]:
        """The id of each, and whether it is on."""
        found = self.graphql(_SCHEDULES, selector=REPOSITORY)["schedulesOrError"]["results"]
        return {s["name"]: (s["scheduleState"]["id"], s["scheduleState"]["status"]) for s in found}


@pytest.fixture(scope="module")
def stand(embedded_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    log = tmp_path_factory.mktemp("dagster") / "log"
    pages: dict[str, str] = {}

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages.get(self.path, "").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ExitStack() as stack:
        url = stack.enter_context(copy_of(embedded_url, with_all_tables(embedded_url)))
        database = database_at(url)
        stack.enter_context(dagsters_tables(database))
        sandbox = stack.enter_context(SandboxServer(Store(5), api_key=SECRET_KEY))
        dagster = f"http://127.0.0.1:{free_port()}"
        current = load_settings(
            _env_file=None, RMS_DAGSTER_URL=dagster, RMS_COLLECTIONS="opportunities"
        )
        web = stack.enter_context(serving(database, sandbox, current=current, dagster_url=dagster))
        environment = environment_for(
            url, sandbox, RMS_API_TOKEN=API_TOKEN, RMS_DAGSTER_URL=dagster
        )
        started = stack.enter_context(guarded(dagster, web.url, environment, log))
        wait_until(lambda: is_up(dagster) or started.poll() is not None, timeout=120)
        evil = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
        Thread(target=evil.serve_forever, daemon=True).start()
        yield Stand(dagster, web.url, evil.server_address[1], pages)
        evil.shutdown()
        evil.server_close()
        assert API_TOKEN not in log.read_text()


@contextmanager
def guarded(dagster: str, sign_in: str, environment: dict[str, str], log: Path) -> Iterator[Child]:
    """Ends with its block."""
    arguments = ["--port", dagster.rpartition(":")[2], "--sign-in", sign_in]
    with (
        log.open("wb") as out,
        Child(
            *("rms_pipeline.dagster_ui", *arguments),
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
            warm=True,
        ) as started,
    ):
        try:
            yield started
        finally:
            started.terminate()
            started.wait(timeout=60)


def test_opening_dagster_leads_to_the_sign_in_of_the_dashboard_and_back(
    page: Page, stand: Stand
) -> None:
    wanted = f"{stand.dagster}/asset-groups?a=b"
    page.goto(wanted)
    page.get_by_label("API token").fill(API_TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_url(wanted)
    expect(page.get_by_text("status_counts").first).to_be_visible()
    # Who has signed in is asked nothing more, under another name of this machine either.
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


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_hostile_page_in_the_browser_of_who_signed_in_changes_nothing(
    page: Page, stand: Stand, host: str
) -> None:
    """From another port of the same host, whose cookies browsers share, and from another site."""
    page.goto(f"{stand.web}/dagster?to=/jobs&token={API_TOKEN}")
    page.wait_for_url(f"{stand.dagster}/jobs")
    id_, status = stand.schedules()["incremental_sync"]
    assert status == "RUNNING"
    stand.pages["/"] = hostile(stand, id_)
    page.goto(f"http://{host}:{stand.evil}/")
    expect(page).to_have_title("trying, tried")
    assert stand.schedules()["incremental_sync"] == (id_, "RUNNING")
    # A link is followed with the session, and must be as harmless.
    by_get = f'mutation {{ stopRunningSchedule(id: "{id_}") {{ __typename }} }}'
    stand.pages["/link"] = f'<a href="{stand.dagster}/graphql?query={quote(by_get)}">go</a>'
    page.goto(f"http://{host}:{stand.evil}/link")
    page.get_by_role("link").click()
    expect(page.get_by_text("Send mutations by POST")).to_be_visible()
    assert stand.schedules()["incremental_sync"] == (id_, "RUNNING")
    reported = "query R { assetNodes { assetKey { path } assetMaterializations { runId } } }"
    nodes = stand.graphql(reported)["assetNodes"]
    assert nodes
    assert [n for n in nodes if n["assetMaterializations"]] == []


def test_dagsters_own_page_does_what_a_person_does_on_it(page: Page, stand: Stand) -> None:
    page.goto(f"{stand.web}/dagster?to=/automation&token={API_TOKEN}")
    row = page.locator("[data-index]").filter(has=page.get_by_text("housekeeping", exact=True))
    switch = row.get_by_role("checkbox").last
    expect(switch).to_be_checked()
    for status in ("STOPPED", "RUNNING"):
        # Before the page has heard of the last change, it takes no key. What a key then does
        # depends on what the page shows, so a second press is never one too many.
        def switched(status: str = status) -> bool:
            shows = switch.is_checked() == (status == "RUNNING")
            if not shows and switch.is_enabled():
                switch.press("Space")
            return shows and stand.schedules()["housekeeping"][1] == status

        wait_until(switched, timeout=60)
    assert API_TOKEN not in page.url


def test_a_program_with_the_token_subscribes_over_a_websocket(stand: Stand) -> None:
    url = f"{stand.dagster.replace('http', 'ws')}/graphql"
    protocols = [Subprotocol("graphql-ws")]
    with connect(url, additional_headers=BEARER, subprotocols=protocols) as opened:
        opened.send('{"type": "connection_init"}')
        assert "connection_ack" in str(opened.recv(timeout=30))


def test_a_status_that_is_markdown_is_shown_as_it_was_typed(
    page: Page, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [StatusCount(status, 1, Decimal(0), Decimal(0)) for status in HOSTILE]
    monkeypatch.setenv("DAGSTER_HOME", str(PROJECT))
    with dg.DagsterInstance.get() as instance:
        counted = dg.AssetMaterialization("status_counts", metadata=status_metadata(counts))
        instance.report_runless_asset_event(counted)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{stand.web}/dagster?to=/assets/status_counts&token={API_TOKEN}")
    page.get_by_text("Show Markdown").first.click()
    table = page.get_by_role("dialog").get_by_role("table")
    expect(table.get_by_role("row")).to_have_count(len(HOSTILE) + 1)
    shown = [
        cell.replace("\u200b", "") for cell in table.locator("td:first-child").all_inner_texts()
    ]
    assert shown == [" ".join(text.split()) for text in HOSTILE]
    for what in ("a", "img", "script", "code", "em", "strong", "del", "h1", "sup"):
        expect(table.locator(what)).to_have_count(0)
    assert [url for url in asked if "evil.example" in url] == []
