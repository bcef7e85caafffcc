"""The dashboard, its buttons, its JSON and its files, over real HTTP."""

import gzip
import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import requests

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.progress import Progress, note_progress
from rms_pipeline.mirror.summary import NO_STATUS, refresh_status_counts
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.web.dagster_link import Starting
from rms_pipeline.web.recounting import Recounter
from rms_pipeline.web.templating import STATIC, static_address
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.rows import (
    insert,
    insert_opportunities,
    insert_proof,
    insert_sync,
    query,
)
from rms_pipeline_tests.web.conftest import BEARER, NO_DAGSTER, Web
from rms_pipeline_tests.web.page import Page, get, visit

NOW = datetime.now(UTC).replace(microsecond=0)
FRAGMENT = {"HX-Request": "true"}


def post(web: Web, path: str, **headers: str) -> requests.Response:
    asked = {**BEARER, "Accept": "text/html", **headers}
    return requests.post(f"{web.url}{path}", headers=asked, timeout=30, allow_redirects=False)


def read(web: Web) -> dict[str, Any]:
    answer = requests.get(f"{web.url}/api/dashboard", headers=BEARER, timeout=30)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def run(web: Web, id_: str, status: str, *, job: str = "initial_sync", ago: float = 100) -> None:
    insert_sync(web.database, id_, job, status, ago=ago)


def full_sync_of_before(web: Web, **certificate: Any) -> None:
    run(web, "full", "completed", ago=1_000)
    settled = {"kind": "full", "completed_at": NOW, "settled_at": NOW, "watermark": NOW}
    settled |= {"window_start": NOW - timedelta(days=30), "window_end": NOW + timedelta(days=365)}
    insert(web.database, "walks", [settled | {"runs": ["full"]}])
    window = {name: settled[name] for name in ("window_start", "window_end")}
    insert_proof(web.database, **{**window, "as_of": NOW, **certificate})


def test_an_account_without_an_opportunity_has_none_and_is_counted(web: Web) -> None:
    full_sync_of_before(web, counted=0, mirrored=0)
    page = visit(web, "/")
    assert re.search(r'id="total">0</a>', page.html)
    for words in ("Counted", "no opportunity on these days", "No opportunity has changed"):
        assert words in page.text
    for words in ("Nothing has been counted", "at the end of the initial sync", "not known yet"):
        assert words not in page.text
    insert_opportunities(web.database, {})
    assert "Nothing has been counted yet" in visit(web, "/").text


def test_an_empty_mirror_says_what_to_do(web: Web) -> None:
    page = visit(web, "/")
    for words in (
        *("Nothing is mirrored yet", "Run the initial sync", "No sync has run yet"),
        *("No opportunities yet", "Nothing has been counted yet", "No event is waiting"),
        *(
            "You can start an incremental sync after an initial sync has completed",
            "rms-pipeline webhooks register",
        ),
    ):
        assert words in page.text
    (incremental,) = page.all("button", id="incremental")
    assert incremental["aria-disabled"] == "true"
    assert incremental["aria-describedby"] == "why-no-incremental"
    assert "aria-disabled" not in page.all("button", id="initial")[0]


def test_the_api_of_the_dashboard_agrees_with_the_rows(web: Web) -> None:
    insert_opportunities(
        web.database,
        {"opportunity_status": "Open", "total_value": Decimal("0.10"), "starts_at": NOW},
        {"opportunity_status": "Open", "total_value": Decimal("10.05"), "starts_at": NOW},
        {"opportunity_status": "Reserved", "total_value": Decimal(10**40), "updated_at_rms": NOW},
        {"total_value": None},
    )
    event = {"opportunity_id": 1, "received_at": NOW}
    insert(
        web.database,
        "webhook_events",
        [event, {**event, "processed_at": NOW}, {**event, "dead_at": NOW, "error": "x"}],
    )
    refresh_status_counts(web.database, "UTC")
    full_sync_of_before(web)
    told = read(web)
    counted = query(
        web.database,
        "SELECT coalesce(opportunity_status, %s), count(*), coalesce(sum(total_value), 0)::text"
        " FROM opportunities GROUP BY 1 ORDER BY 2 DESC, 1",
        NO_STATUS,
    )
    assert [
        (s["status"], s["opportunities"], s["total_value"]) for s in told["statuses"]
    ] == counted
    assert query(web.database, "SELECT count(*), sum(total_value)::text FROM opportunities") == [
        (told["total"], told["total_value"])
    ]
    assert (told["success"], told["sandbox"], told["time_zone"]) == (True, True, "UTC")
    monday = NOW.date() - timedelta(days=NOW.weekday())
    assert told["weeks"] == [
        {"week": f"{monday}", "status": "Open", "opportunities": 2, "total_value": "10.15"}
    ]
    assert [(e["id"], e["status"]) for e in told["recent"]] == [(3, "Reserved")]
    assert sum(d["received"] for d in told["webhook_days"]) == 3
    assert [(a["id"], a["webhooks"]) for a in told["most_active"]] == [(1, 3)]
    schemas = web.app.openapi()["components"]["schemas"]
    for name, answered in (
        *(("DashboardAnswer", told), ("StatusCount", told["statuses"][0])),
        *(("WeekCount", told["weeks"][0]), ("RecentEdit", told["recent"][0])),
        *(("ActiveOpportunity", told["most_active"][0]), ("SyncState", told["sync"])),
    ):
        assert set(schemas[name]["properties"]) == set(answered), name
    sync = told["sync"]
    assert (sync["has_full_sync"], sync["running"]) == (True, None)
    assert (sync["queue"]["depth"], sync["queue"]["dead"]) == (1, 1)
    assert [s["run_id"] for s in sync["history"]] == ["full"]
    page = visit(web, "/")
    assert "10.15" not in page.text
    assert f"{10**40 + 10:,}" in page.text
    assert "1 event waiting" in page.text
    assert "1 dead letter." in page.text


def test_the_api_of_an_empty_mirror_is_complete(web: Web) -> None:
    told = read(web)
    assert (told["total"], told["total_value"], told["as_of"]) == (0, "0", None)
    assert (told["statuses"], told["weeks"], told["recent"], told["most_active"]) == ([],) * 4


@pytest.mark.parametrize(
    ("certificate", "sentence"),
    [
        ({}, "5,012 of 5,012"),
        ({"unstorable": 3}, "and 3 that cannot be stored"),
        ({"unreadable": [37]}, ", 1 that Current RMS cannot deliver: 37"),
        ({"shown": False, "reason": "[why]"}, "Not shown to be complete: 5,012 of 5,012 at"),
        ({"shown": False, "reason": "[why]"}, ". [why]"),
    ],
)
def test_the_certificate_is_told(web: Web, certificate: dict[str, Any], sentence: str) -> None:
    full_sync_of_before(web, **certificate)
    page = visit(web, "/fragments/sync")
    assert sentence in page.text
    assert ("Complete as of" in page.text) == certificate.get("shown", True)
    # Whoever adds up finds the others outside of these days.
    days = f"{NOW - timedelta(days=30):%d %b %Y} to {NOW + timedelta(days=365):%d %b %Y}"
    assert (f"that overlap {days} or have no dates" in page.text) == certificate.get("shown", True)


def test_a_running_sync_shows_how_far_it_is_and_no_second_one_is_to_be_had(web: Web) -> None:
    full_sync_of_before(web)
    run(web, "now", "running", job="reconciliation", ago=65)
    page = visit(web, "/fragments/sync")
    assert "Waiting for another sync, or starting" in page.text
    # Of a run that has not begun, seconds would be counted again from 0 when it does.
    assert re.search(r"is running\s+since [^,]*\d\d:\d\d\s+Waiting", page.text), page.text
    # Nor is anything synced yet; that of before is the other one.
    assert page.text.count(" synced") == 1
    with web.database.session() as connection:
        note_progress(connection, "now", Progress("fetching", 10, 50, 1_000, 5_012))
    query(web.database, "UPDATE sync_progress SET stage_began_at = 0, stage_started_at ="
          " updated_at - interval '20 s'")  # fmt: skip
    page = visit(web, "/fragments/sync")
    assert "Reconciliation is running" in " ".join(page.text.split())
    assert "1,000 of 5,012 records" in page.text
    assert "10 of 50 pages" in page.text
    assert re.search(r"about 1 min (20|1\d) s left", page.text), page.text
    assert page.all("progress")[0]["max"] == "50"
    assert re.search(r"is running\s+since [^,]*\d\d:\d\d, \d+ min \d+ s", page.text), page.text
    assert page.text.count("A sync is running. You can start another when it has ended.") == 1
    assert page.all("section", id="sync")[0]["hx-trigger"] == "every 1s"
    for button in ("initial", "incremental"):
        # A button that is `disabled` loses the focus of whoever pressed it.
        assert page.all("button", id=button)[0]["aria-disabled"] == "true"
        assert "disabled" not in page.all("button", id=button)[0]
    # What is read out to people does not change each second.
    (status,) = page.all("p", role="status")
    assert status["id"] == "sync-status"
    assert re.search(r'role="status">Reconciliation is running</p>', page.html)
    for kind in ("initial", "incremental"):
        refused = post(web, f"/sync/{kind}", **FRAGMENT)
        # A reconciliation is a full sync, and Dagster is not even asked.
        assert refused.status_code == (409 if kind == "initial" else 503)


@pytest.mark.parametrize("fragment", [True, False])
@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [("initial", 503, "rms-pipeline up"), ("incremental", 409, "Run an initial sync first")],
)
def test_a_sync_that_cannot_start_says_why_and_what_to_do(
    web: Web, kind: str, status: int, words: str, fragment: bool
) -> None:
    """Dagster is down; nothing has been mirrored."""
    answer = post(web, f"/sync/{kind}", **(FRAGMENT if fragment else {}))
    assert answer.status_code == status
    page = Page(answer.text)
    assert page.forbidden == []
    assert words in page.text
    # Outside of what is polled, so that it stays; a script puts it where the page has it.
    (notice,) = page.all("div", id="notice")
    assert notice.get("hx-swap-oob") == ("innerHTML" if fragment else None)
    assert notice.get("role") == (None if fragment else "alert")
    assert page.html.index('id="notice"') > page.html.index("</section>")
    assert words in page.html.partition('id="notice"')[2]
    (dismiss,) = [a for a in page.all("a") if "data-dismiss" in a]
    assert dismiss["href"] == "/"
    assert len(page.all("section", id="sync")) == 1
    assert len(page.all("html")) == (0 if fragment else 1)
    assert len(page.all("div", id="overview")) == (0 if fragment else 1)
    assert query(web.database, "SELECT count(*) FROM dagster.runs") == [(0,)]


def test_a_webhook_refresh_stands_in_no_ones_way(web: Web) -> None:
    full_sync_of_before(web)
    run(web, "refresh", "running", job="webhook_refresh", ago=2)
    page = visit(web, "/fragments/sync")
    assert "Webhook refresh is running" in page.text
    assert not [b for b in page.all("button") if "aria-disabled" in b]
    # Also when the one that is in the way is not the one that is shown.
    run(web, "waits", "launched", job="initial_sync", ago=1)
    with web.database.session() as connection:
        note_progress(connection, "refresh", Progress("fetching", 1, 1, 1, 1))
    page = visit(web, "/fragments/sync")
    assert len([b for b in page.all("button") if "aria-disabled" in b]) == 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/sync/full", 422),
        ("POST", "/dead-letters/x/replay", 422),
        ("GET", "/opportunities?from=2026-13-01", 422),
        ("GET", "/opportunities?page=0", 422),
        ("GET", "/nowhere", 404),
    ],
)
def test_a_script_gets_errors_it_can_show_and_a_person_a_page(
    web: Web, method: str, path: str, status: int
) -> None:
    asked = {**BEARER, "Accept": "text/html"}
    page = requests.request(method, f"{web.url}{path}", headers=asked, timeout=30)
    said = requests.request(method, f"{web.url}{path}", headers=asked | FRAGMENT, timeout=30)
    assert page.status_code == said.status_code == status
    assert "<html" in page.text
    assert said.json()["error"]


def test_an_answer_to_a_button_clears_the_notice_of_the_one_before(dead: Web) -> None:
    told = Page(post(dead, "/dead-letters/2/replay", **FRAGMENT).text)
    assert "1 dead letter is back in the queue." in told.html.partition('id="notice"')[2]
    for path in ("/fragments/sync", "/"):
        page = visit(dead, path)
        assert [a for a in page.all("a") if "data-dismiss" in a] == []
    # A fragment that is polled leaves it alone.
    assert visit(dead, "/fragments/sync").all("div", id="notice") == []
    assert len(visit(dead, "/").all("div", id="notice", role="alert")) == 1


@pytest.mark.parametrize("kind", ["full", "", "initial%00", "%ff", "reconciliation", "9" * 300])
def test_no_other_kind_of_sync_is_started(web: Web, kind: str) -> None:
    assert post(web, f"/sync/{kind}").status_code in (404, 405, 422)
    assert requests.get(f"{web.url}/sync/initial", headers=BEARER, timeout=30).status_code == 405


@pytest.fixture
def dead(web: Web) -> Web:
    """Dead letters 1 to 3, and one that waits."""
    event = {"opportunity_id": 7, "received_at": NOW, "attempts": 8}
    given_up = {**event, "dead_at": NOW, "error": "answered 422"}
    insert(web.database, "webhook_events", [given_up] * 3 + [event])
    return web


def dead_ids(web: Web) -> list[int]:
    found = query(
        web.database, "SELECT id FROM webhook_events WHERE dead_at IS NOT NULL ORDER BY 1"
    )
    return [row[0] for row in found]


def test_one_dead_letter_is_replayed_or_all_of_them(dead: Web) -> None:
    assert "3 dead letters." in visit(dead, "/").text
    answer = post(dead, "/dead-letters/2/replay", **FRAGMENT)
    assert answer.status_code == 200
    assert "1 dead letter is back in the queue." in Page(answer.text).text
    assert "event-1" in Page(answer.text).ids
    assert "event-2" not in Page(answer.text).ids
    assert dead_ids(dead) == [1, 3]
    again = post(dead, "/dead-letters/2/replay", **FRAGMENT)
    assert again.status_code == 409
    assert "There are no dead letters to replay" in again.text
    answer = post(dead, "/dead-letters/replay")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    assert dead_ids(dead) == []
    answer = post(dead, "/dead-letters/replay")
    assert answer.status_code == 409
    assert "<html" in answer.text


@pytest.mark.parametrize(
    "event", ["0", "-1", "4", "99", str(2**63 - 1), str(2**63), "9" * 30, "-" + "9" * 30]
)
def test_an_event_that_is_no_dead_letter_replays_no_other(dead: Web, event: str) -> None:
    answer = post(dead, f"/dead-letters/{event}/replay")
    assert answer.status_code == 409
    assert dead_ids(dead) == [1, 2, 3]


@pytest.mark.parametrize("event", ["x", "1.5", "%00", "1;DELETE", "9" * 5_000])
def test_what_is_no_event_replays_nothing(dead: Web, event: str) -> None:
    assert post(dead, f"/dead-letters/{event}/replay").status_code == 422
    assert dead_ids(dead) == [1, 2, 3]


def test_fragments_are_parts_of_the_page(web: Web) -> None:
    full_sync_of_before(web)
    whole = visit(web, "/")
    for path, id_ in (("/fragments/sync", "sync"), ("/fragments/overview", "overview")):
        part = visit(web, path)
        assert part.tags[0][1]["id"] == id_
        assert part.all("html") == []
        assert set(part.ids) <= set(whole.ids)
        ids = list(part.ids)
        assert len(ids) == len(set(ids))
    assert len(list(whole.ids)) == len(set(whole.ids))


def test_amounts_out_of_all_proportion_break_no_page(web: Web) -> None:
    insert_opportunities(
        web.database,
        {"total_value": Decimal("1e1000"), "starts_at": NOW, "opportunity_status": "Open"},
        {"total_value": Decimal("-1e1000"), "starts_at": NOW, "opportunity_status": "Reserved"},
        {"total_value": Decimal("1e-1000"), "starts_at": NOW, "opportunity_status": "Lost"},
        {"starts_at": datetime.min.replace(tzinfo=UTC), "updated_at_rms": NOW},
        {"updated_at_rms": datetime.max.replace(tzinfo=UTC)},
    )
    refresh_status_counts(web.database, "UTC")
    visit(web, "/")
    visit(web, "/opportunities?sort=value")
    assert len(read(web)["statuses"]) == 4


def addresses(page: Page) -> Iterator[str]:
    for tag, name in (("script", "src"), ("link", "href")):
        yield from (found[name] for found in page.all(tag) if found.get(name))


def test_files_are_kept_for_ever_under_an_address_that_bears_their_mark(web: Web) -> None:
    found = {a for path in ("/", "/opportunities", "/login") for a in addresses(visit(web, path))}
    marked = {a for a in found if "?v=" in a}
    assert {static_address(n) for n in ("app.css", "app.js", "icon.svg")} <= marked
    for address in marked:
        answer = requests.get(f"{web.url}{address}", timeout=30)
        assert answer.status_code == 200
        name = address.removeprefix("/static/").partition("?")[0]
        assert answer.content == (STATIC / name).read_bytes()
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    for address in found - marked - {"data:,"}:
        answer = requests.get(f"{web.url}{address}", timeout=30)
        assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-cache")


def test_a_file_that_is_not_there_is_not_remembered(web: Web) -> None:
    answer = requests.get(f"{web.url}/static/nothing.css?v=1", timeout=30)
    assert answer.status_code == 404
    assert "immutable" not in answer.headers["Cache-Control"]
    assert "max-age" not in answer.headers["Cache-Control"]


@pytest.mark.parametrize("path", ["/", "/opportunities", "/opportunities.csv", "/static/app.css"])
def test_what_is_long_is_sent_compressed_to_who_takes_that(web: Web, path: str) -> None:
    insert_opportunities(web.database, *({"name": f"Ball {i}"} for i in range(100)))

    def ask(encoding: str) -> tuple[bytes, Any]:
        headers = {**BEARER, "Accept-Encoding": encoding, "Accept": "text/html"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{web.url}{path}", headers=headers), timeout=30
        ) as answer:
            return answer.read(), answer.headers

    packed, headers = ask("gzip")
    plain, plain_headers = ask("identity")
    assert headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain_headers
    assert len(packed) < len(plain) / 2
    # Ages are told to the second.
    assert len(gzip.decompress(packed)) == pytest.approx(len(plain), abs=50)
    assert "Accept-Encoding" in headers["Vary"]


def test_pages_are_kept_by_no_cache(web: Web) -> None:
    for path in ("/", "/opportunities", "/fragments/sync", "/opportunities.csv", "/api/dashboard"):
        assert get(web, path).headers["Cache-Control"] == "no-store", path


def test_what_was_refreshed_is_recounted_soon(
    database: Database,
) -> None:
    def counted() -> list[tuple[Any, ...]]:
        return query(database, "SELECT opportunity_status, opportunities FROM status_counts")

    recounter = Recounter(database, "UTC")
    recounter.start()
    try:
        insert_opportunities(database, {"opportunity_status": "Open"})
        # Nothing was refreshed, so nothing is counted.
        recounter(WorkedOff(claimed=1, failed=1))
        time.sleep(1)
        assert counted() == []
        recounter(WorkedOff(records=1))
        assert wait_until(counted) == [("Open", 1)]
        insert_opportunities(database, {"id": 2, "opportunity_status": "Open"})
        recounter(WorkedOff(records=1))
        wait_until(lambda: counted() == [("Open", 2)])
    finally:
        recounter.stop()


def test_a_burst_of_refreshes_is_few_recounts(database: Database) -> None:
    insert_opportunities(database, {"opportunity_status": "Open"})
    recounter = Recounter(database, "UTC")
    recounter.start()
    seen: set[Any] = set()
    began = time.monotonic()
    try:
        for _ in range(200):
            recounter(WorkedOff(records=1))
            seen.update(query(database, "SELECT as_of FROM status_counts"))
            time.sleep(0.005)
        took = time.monotonic() - began
        wait_until(lambda: query(database, "SELECT as_of FROM status_counts"))
    finally:
        recounter.stop()
    # Each recount gathers for half a second first.
    assert len(seen) <= 1 + took / 0.5


def test_a_recount_that_failed_is_made_when_the_database_is_back(
    caplog: pytest.LogCaptureFixture, database: Database
) -> None:
    insert_opportunities(database, {"opportunity_status": "Open"})
    query(database, "ALTER TABLE week_counts RENAME TO away")
    recounter = Recounter(database, "UTC")
    recounter.start()
    try:
        recounter(WorkedOff(records=1))
        wait_until(lambda: "The statuses could not be counted again" in caplog.text)
        query(database, "ALTER TABLE away RENAME TO week_counts")
        wait_until(lambda: query(database, "SELECT 1 FROM status_counts"))
    finally:
        recounter.stop()


def test_a_silent_dagster_holds_up_no_page(serve: Callable[..., Web], history: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        web = serve(fast_lane=False, dagster_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(requests.Timeout):
            requests.post(f"{web.url}/sync/initial", headers=BEARER, timeout=0.5)
        began = time.monotonic()
        for _ in range(5):
            visit(web, "/")
        assert time.monotonic() - began < 25


def test_the_dashboard_says_what_is_starting_and_what_never_came(
    serve: Callable[..., Web], history: None
) -> None:
    seconds = [0.0]
    starting = Starting(NO_DAGSTER, first_sync=True, clock=lambda: seconds[0])
    web = serve(fast_lane=False, starting=starting)
    page = visit(web, "/")
    assert "Starting: Dagster, and then the initial sync" in page.text
    assert "The initial sync starts by itself in a moment." in page.text
    assert page.all("button", id="initial")[0]["aria-disabled"] == "true"
    assert page.all("section", id="sync")[0]["hx-trigger"] == "every 1s"
    seconds[0] = 181
    page = visit(web, "/")
    assert "Dagster does not answer at" in page.text
    assert "aria-disabled" not in page.all("button", id="initial")[0]


def test_the_dashboard_forgets_that_dagster_was_starting_once_it_answers(
    serve: Callable[..., Web], history: None
) -> None:
    with SandboxServer(Store(1)) as other:
        # Whatever answers there is up: its answers are others' affair.
        starting = Starting(other.url.removesuffix("/api/v1"))
        web = serve(fast_lane=False, starting=starting)
        assert starting.dagster == "starting"
        assert "Starting: Dagster" in visit(web, "/").text
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as answering:
        Thread(target=answering.serve_forever, daemon=True).start()
        starting = Starting(f"http://127.0.0.1:{answering.server_address[1]}")
        web = serve(fast_lane=False, starting=starting)
        wait_until(lambda: starting.dagster == "ready", timeout=20)
        assert "Starting" not in visit(web, "/").text
        answering.shutdown()


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def in_statuses(web: Web, **counts: int) -> None:
    insert_opportunities(
        web.database,
        *({"opportunity_status": name} for name, count in counts.items() for _ in range(count)),
    )
    refresh_status_counts(web.database, "UTC")


def test_the_distribution_is_bars_until_somebody_wants_the_pie_and_that_is_remembered(
    web: Web,
) -> None:
    in_statuses(web, Open=3, Lost=1)
    assert 'class="bars"' in visit(web, "/").html
    browser = requests.Session()
    browser.headers.update(BEARER)
    chosen = browser.get(f"{web.url}/?statuses=pie", timeout=30)
    assert 'class="pie"' in chosen.text
    cookie = chosen.headers["Set-Cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert 'class="pie"' in browser.get(f"{web.url}/", timeout=30).text
    assert 'class="pie"' in browser.get(f"{web.url}/fragments/overview", timeout=30).text
    # What the page says when it renews itself is what it shows, whatever was chosen elsewhere.
    renewed = browser.get(f"{web.url}/fragments/overview?statuses=bars", timeout=30)
    assert 'class="bars"' in renewed.text
    assert "Set-Cookie" not in renewed.headers
    assert 'class="bars"' in browser.get(f"{web.url}/?statuses=bars", timeout=30).text
    assert 'class="bars"' in browser.get(f"{web.url}/", timeout=30).text


@pytest.mark.parametrize("kept", ["", "cake", "pie%00", "bars,pie", "p" * 5_000])
def test_a_choice_that_nobody_offered_is_bars(web: Web, kept: str) -> None:
    in_statuses(web, Open=1)
    headers = {**BEARER, "Cookie": f"rms_statuses={kept}"}
    answer = requests.get(f"{web.url}/", headers=headers, timeout=30)
    assert 'class="bars"' in answer.text
    assert get(web, "/?statuses=cake").status_code == 422


def test_beneath_the_pie_a_table_says_all_of_it_in_the_colours_of_the_company(web: Web) -> None:
    in_statuses(web, Open=6, Lost=3, Waitlisted=1)
    with web.database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO statuses (name, phase, colour) VALUES ('Waitlisted', 'open', '#123456')"
        )
        connection.commit()
    try:
        page = visit(web, "/?statuses=pie")
        api = read(web)
    finally:
        query(web.database, "DELETE FROM statuses WHERE name = 'Waitlisted' RETURNING name")
    fills = [found["fill"] for _, found in page.tags if "fill" in found]
    # A piece of the pie, and the square beside the name in the table.
    assert fills.count("#123456") >= 2
    assert fills.count("#0a57f9") >= 2
    assert api["colours"]["Waitlisted"] == "#123456"
    assert len(page.all("table", **{"class": "distribution"})) == 1
    assert re.search(r"Waitlisted\s*1\s*10\.0 %", page.text)
    assert "Waitlisted 10 %" in page.text
    links = [found["href"] for found in page.all("a") if "status=Waitlisted" in found["href"]]
    assert len(links) == 2
