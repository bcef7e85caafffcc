"""The line at the head of every page, over real HTTP."""

from datetime import UTC, datetime

import pytest
import requests

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.transport import Failure
from rms_pipeline.mirror.api_troubles import NotedTroubles
from rms_pipeline.web.templating import NAVIGATION
from rms_pipeline_tests.rows import insert, insert_opportunities, insert_proof, insert_sync
from rms_pipeline_tests.web.conftest import BEARER, Web
from rms_pipeline_tests.web.page import Page, visit

NOW = datetime.now(UTC)


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


def test_the_line_is_for_people_who_are_signed_in(web: Web) -> None:
    for path in ("/fragments/health", "/api/health"):
        assert requests.get(f"{web.url}{path}", timeout=30).status_code == 401
