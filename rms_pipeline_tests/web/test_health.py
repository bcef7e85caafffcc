"""The line at the head of every page, over real HTTP."""

from datetime import UTC, datetime, timedelta

import pytest
import requests

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.transport import Failure
from rms_pipeline.mirror.api_troubles import NotedTroubles
from rms_pipeline.web.templating import NAVIGATION
from rms_pipeline_tests.rows import insert, insert_opportunities, insert_proof, insert_sync, query
from rms_pipeline_tests.web.conftest import BEARER, Web
from rms_pipeline_tests.web.page import Page, get, visit

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def synced(web: Web) -> None:
    walk = {"kind": "full", "runs": ["full"], "completed_at": NOW, "settled_at": NOW}
    insert(web.database, "walks", [walk | {"watermark": NOW}])
    insert_sync(web.database, "full")
    insert_proof(web.database)


def state_of(page: Page) -> str:
    return page.all("aside", id="health")[0]["class"].removeprefix("health ")


@pytest.mark.parametrize("path", [*(address for _, address, _ in NAVIGATION), "/opportunities/1"])
def test_every_page_has_the_line_and_the_navigation(web: Web, path: str) -> None:
    insert_opportunities(web.database, {"id": 1})
    synced(web)
    page = visit(web, path)
    assert state_of(page) == "green"
    assert "Fresh as of" in page.text
    assert "5,012 of 5,012" in page.text
    for _, address, title in NAVIGATION:
        assert address in page.links
        assert title in page.text


def test_each_page_of_the_navigation_is_marked_on_itself(web: Web) -> None:
    for _, address, _ in NAVIGATION:
        current = [a["href"] for a in visit(web, address).all("a") if "aria-current" in a]
        # Before what a page has of its own.
        assert current[0] == address
        assert not {a for _, a, _ in NAVIGATION} & {*current[1:]} - {address}


def test_the_line_renews_itself_and_agrees_with_its_twin(web: Web) -> None:
    def twin() -> dict[str, object]:
        answer = requests.get(f"{web.url}/api/health", headers=BEARER, timeout=30)
        assert answer.status_code == 200
        told: dict[str, object] = answer.json()
        return told

    fragment = visit(web, "/fragments/health")
    assert (state_of(fragment), twin()["state"]) == ("none", "none")
    assert "Run the initial sync" in fragment.text
    synced(web)
    fragment = visit(web, "/fragments/health")
    assert (state_of(fragment), twin()["state"]) == ("green", "green")
    assert fragment.all("aside", id="health")[0]["hx-get"] == "/fragments/health"
    assert str(twin()["sentence"]).startswith("Fresh as of 20")
    schema = web.app.openapi()["components"]["schemas"]["HealthAnswer"]
    assert set(schema["properties"]) == set(twin())


def test_while_the_api_does_not_answer_the_attempt_is_shown_in_place_of_a_turn(web: Web) -> None:
    insert_sync(web.database, "first", status="running", ago=5)
    assert "Waiting for another sync" in visit(web, "/fragments/sync").text
    NotedTroubles(web.database, "acme", OPPORTUNITIES)(Failure(4, 8, "status 503", 20.0))
    for path in ("/", "/fragments/sync", "/opportunities"):
        page = visit(web, path)
        assert "Attempt 4 of 8 failed, the next is at" in page.text, path
        assert "Waiting for another sync" not in page.text, path


# What a page or its twin finds in the mirror, each with words that it says when it finds nothing.
# Cells of tables follow each other without a space.
PAGES = {
    "/today": "Nothing goes out.",
    "/today/checks": "No problems found.",
    "/today/compared": "Comes back0",
    "/": "Opportunities0",
    "/compared": "Opportunities0",
    "/opportunities?status=Lost": "No opportunity matches these filters.",
    "/print/opportunities?status=Lost": "No opportunity matches these filters.",
    "/counts/opportunities?status=Lost": "No opportunity matches these filters.",
    "/find?q=nobody": "Nothing matches “nobody”.",
    "/changes": "Nothing has changed since the mirror began.",
    "/calendar": "0 hires",
    "/calendar?view=agenda": "Nothing.",
    "/customers": "No opportunity names a customer yet.",
    "/owners": "No opportunity names an owner yet.",
    "/won-and-lost/undated": "There are none.",
}
TWINS = (
    *("/today.json", "/today/checks.json", "/today/compared.json", "/compared.json"),
    *("/api/dashboard", "/opportunities.json", "/api/opportunities", "/api/opportunities/facets"),
    *("/find.json?q=nobody", "/changes.json", "/calendar.json", "/customers.json", "/api/health"),
    *("/won-and-lost.json", "/won-and-lost/undated.json"),
)


def said(page: Page) -> str:
    return " ".join(page.text.split())


def test_before_the_first_full_sync_no_page_says_that_there_is_nothing(web: Web) -> None:
    for path, words in PAGES.items():
        text = said(visit(web, path))
        assert words not in text, path
        assert "Nothing has been read yet. Run the initial sync." in text, path
    assert {get(web, path).json()["mirrored"] for path in TWINS} == {"nothing"}
    assert "Everything" not in visit(web, "/today").text

    # One that is not lost, and names nobody: no page has anything to show of it.
    insert_sync(web.database, "first", status="failed", error="The run was stopped.")
    insert_opportunities(web.database, {"starts_at": NOW - 900 * DAY, "total_value": 1})
    for path, words in PAGES.items():
        text = said(visit(web, path))
        assert words not in text or f"{words} Not all opportunities are mirrored yet." in text, path
        assert "No full sync has completed yet." in text, path
        assert "Until a full sync has completed, all pages show only a part." in text, path
        assert "Correct the cause, then run the initial sync." in text, path
    assert {get(web, path).json()["mirrored"] for path in TWINS} == {"part"}


def test_after_the_first_full_sync_a_page_says_that_there_is_nothing(web: Web) -> None:
    synced(web)
    for path, words in PAGES.items():
        # Statuses are counted at the end of a sync, which did not run here.
        if path != "/":
            assert words in said(visit(web, path)), path
    assert {get(web, path).json()["mirrored"] for path in TWINS} == {"all"}


@pytest.mark.parametrize(
    "path", ["/today?day={}", "/calendar?day={}", "/calendar?view=agenda&day={}"]
)
def test_days_that_syncs_do_not_read_are_not_said_to_be_empty(web: Web, path: str) -> None:
    def notes(days: int) -> str:
        return said(visit(web, path.format((NOW + days * DAY).date())))

    synced(web)
    reach = {"collection": "opportunities", "reaches_back_to": NOW - 100 * DAY}
    insert(web.database, "mirrored_windows", [reach])
    earlier, later = "so earlier days are not complete here", "so what starts later may be missing"
    assert earlier in notes(-150)
    assert earlier not in notes(-60)
    assert later not in notes(300)
    assert later in notes(450)


def test_what_was_lost_before_the_history_began_is_not_said_to_be_nothing(web: Web) -> None:
    def lost(days: int) -> str:
        text = said(visit(web, f"/today?day={(NOW + days * DAY).date()}"))
        return text[text.index("Nothing was lost.") :]

    synced(web)
    began = NOW - 5 * DAY
    query(
        web.database,
        "UPDATE mirror_state SET value = %s WHERE name = 'history_began'",
        began.isoformat(),
    )
    unknown = f"Nothing was lost. No history before {began.day} {began:%B %Y}. Biggest"
    assert lost(-5).startswith(unknown)
    known = lost(-2).replace("All changes since the day before ", "")
    assert known.startswith("Nothing was lost. Biggest changes of the charge No charge")


def test_a_collection_that_was_read_first_does_not_make_the_opportunities_fresh(web: Web) -> None:
    members = {"kind": "full", "runs": ["full"], "collection": "members", "settled_at": NOW}
    insert(web.database, "walks", [members])
    for path in ("/today", "/fragments/health"):
        page = visit(web, path)
        assert "Nothing has been read yet. Run the initial sync." in said(page)
        assert "Fresh as of" not in page.text


def test_a_failed_proof_ends_with_one_full_stop(web: Web) -> None:
    synced(web)
    insert_proof(web.database, scan=2, shown=False, counted=20, mirrored=8, closed_at=NOW + DAY)
    text = said(visit(web, "/today"))
    assert "8 of 20 at" in text
    assert ".." not in text.split("See the syncs")[0]


def test_the_line_is_for_people_who_are_signed_in(web: Web) -> None:
    for path in ("/fragments/health", "/api/health"):
        assert requests.get(f"{web.url}{path}", timeout=30).status_code == 401
