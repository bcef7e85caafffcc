"""Pages under stress: thousands of statuses, names without a space, two directions of writing; and
the page for whoever came to nothing."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.web.templating import NAVIGATION
from rms_pipeline_tests.rows import insert, insert_opportunities, query
from rms_pipeline_tests.web.conftest import Web
from rms_pipeline_tests.web.page import get, visit

NOW = datetime.now(UTC)
LONG = "x" * 200
STATUS = "Waiting for the customer to confirm the deposit and insurance documents"
HEBREW, ARABIC = "כנס שנתי בתל אביב", "حفل زفاف في القاهرة"


def thousands_of_statuses(database: Database, count: int = 2_000) -> None:
    query(
        database,
        "INSERT INTO opportunities (id, name, opportunity_status, starts_at)"
        " SELECT i, 'Ball ' || i,"
        " CASE WHEN i > 1000 THEN 'Status ' || i ELSE 'Status ' || (i %% 100) END, now()"
        " FROM generate_series(1, %s) i",
        count,
    )
    refresh_status_counts(database, "UTC")


def test_thousands_of_statuses_leave_the_dashboard_short_and_name_what_is_left_out(
    web: Web,
) -> None:
    thousands_of_statuses(web.database)
    answer = get(web, "/")
    assert len(answer.content) < 100_000
    page = visit(web, "/")
    shown = [link for link in page.links if re.match(r"/opportunities\?status=(?!is)", link)]
    assert 12 <= len(set(shown)) <= 112
    first, _, behind = page.html.partition(' id="more-statuses">')
    assert len(re.findall(r'href="/opportunities\?status=S', first)) == 12
    assert "1,088 more statuses with 1,880 opportunities" in behind
    assert "status_counts" in page.text


def test_an_account_with_few_statuses_sees_them_all(web: Web) -> None:
    insert_opportunities(web.database, *({"opportunity_status": f"S{i}"} for i in range(12)))
    refresh_status_counts(web.database, "UTC")
    assert "more-statuses" not in visit(web, "/").html


def test_thousands_of_statuses_leave_the_list_light(web: Web) -> None:
    thousands_of_statuses(web.database)
    assert len(get(web, "/opportunities").content) < 120_000
    page = visit(web, "/opportunities?status=Status+1999")
    assert [o["value"] for o in page.all("option") if "selected" in o] == ["Status 1999"]
    assert len(visit(web, "/fragments/facets").links) <= 6 * 12


@pytest.mark.parametrize("path", ["/", "/opportunities", "/today", "/opportunities/1"])
def test_names_are_written_in_their_own_direction(web: Web, path: str) -> None:
    row = {"starts_at": NOW, "ends_at": NOW, "updated_at_rms": NOW, "opportunity_status": "Open"}
    insert_opportunities(web.database, {**row, "name": HEBREW, "organisation_name": ARABIC})
    page = visit(web, path)
    for text in (HEBREW, ARABIC):
        assert re.search(rf'(<bdi>|dir="auto"[^>]*>)\s*(<a[^>]*>)?{text}', page.html), text


def test_what_is_long_is_whole_in_the_page_and_has_room(web: Web) -> None:
    insert_opportunities(
        web.database, {"name": LONG, "organisation_name": LONG, "opportunity_status": STATUS}
    )
    page = visit(web, "/opportunities")
    assert page.text.count(LONG) >= 2
    (cut,) = (a for a in page.all("span") if a.get("title") == LONG)
    assert cut["class"] == "clamp"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/00001234", "00001234"),
        ("/opportunities/777", "777"),
        ("/opportunities/777.json", "777"),
        ("/opportunities/777/items.json", "777"),
        ("/opportunities/777/timeline.json", "777"),
        ("/opportunities/777/items", "777"),
        ("/00001234.csv", "00001234"),
        ("/opportunities/views/api.json", ""),
        ("/customers/99999.json", ""),
        ("/v1.2", "v1.2"),
        ("/job/Summer%20ball", "ball"),
        ("/opportunities/views/api", ""),
        ("/customers/99999", ""),
        ("/won-and-lost/2026-13", ""),
        ("/views/77", ""),
        ("/%00", ""),
    ],
)
def test_a_manager_who_came_to_nothing_is_led_on(web: Web, path: str, hint: str) -> None:
    page = visit(web, path, 404)
    for _, address, title in NAVIGATION:
        assert address in page.links
        assert title in page.text
    # What programs are told is of no use to her.
    assert "openapi" not in page.text
    (field,) = (a for a in page.all("input", name="q") if "aria-label" not in a)
    assert field["value"] == hint
    assert (f"/opportunities?q={hint}" in page.links) == bool(hint)


def test_a_person_who_is_not_signed_in_learns_nothing_from_a_missing_page(web: Web) -> None:
    insert(web.database, "saved_views", [{"collection": "opportunities", "name": "x", "query": ""}])
    answer = requests.get(f"{web.url}/nowhere", headers={"Accept": "text/html"}, timeout=30)
    assert answer.status_code == 404
    assert "There is nothing here" in answer.text
    assert "sandbox" not in answer.text
    assert "/opportunities" not in answer.text
    wrong = {"Accept": "text/html", "Authorization": "Bearer wrong"}
    assert "sandbox" not in requests.get(f"{web.url}/nowhere", headers=wrong, timeout=30).text


def test_programs_are_told_what_is_missing_in_json(web: Web) -> None:
    answer = get(web, "/nowhere", Accept="application/json")
    assert (answer.status_code, answer.json()["success"]) == (404, False)


PARTS = ["/opportunities/1", "/venues", "/owners", "/customers/1", "/today/compared"]
PARTS += ["/customers/1/compared", "/find?q=ball"]


@pytest.mark.parametrize("path", [*(address for _, address, _ in NAVIGATION), *PARTS])
def test_no_page_gives_two_of_its_parts_the_same_name(web: Web, path: str) -> None:
    insert_opportunities(
        web.database,
        {"starts_at": NOW, "ends_at": NOW, "organisation_id": 1, "organisation_name": "Ball"},
    )
    page = visit(web, path)
    ids = [*page.ids]
    assert sorted(ids) == sorted(set(ids))
    # Whoever goes from landmark to landmark by ear tells them apart by their names.
    names = re.findall(r'<(?:section|div)[^>]*aria-labelledby="([^"]*)"', get(web, path).text)
    assert sorted(names) == sorted(set(names))


def test_paper_says_what_is_not_on_it(web: Web) -> None:
    insert_opportunities(
        web.database,
        *(
            {"starts_at": NOW, "opportunity_status": "Reserved", "organisation_id": n}
            | {"organisation_name": f"Customer {n}"}
            for n in range(60)
        ),
    )
    for path, said in (
        ("/opportunities", "Only this page of the list is printed"),
        ("/customers?q=customer", "Only this page of the ranking is printed, of those with"),
        ("/calendar", ", confirmed or undecided"),
    ):
        page = visit(web, path)
        assert said in page.text, path
        assert "paper-only" in page.html
    assert "is printed" not in visit(web, "/opportunities?q=zzzz").text
    assert ", confirmed or undecided" not in visit(web, "/calendar?status=Reserved").text


def test_a_panel_that_renews_itself_is_not_dimmed_while_it_does(web: Web) -> None:
    style = get(web, "/static/app.css").text
    dimmed = re.findall(r"[^\s;{}]*\.htmx-request[^{]*{[^}]*opacity", style)
    assert [rule.split("{")[0].strip() for rule in dimmed] == ["form.htmx-request button"]


def test_a_very_long_name_fills_no_page_but_its_own(web: Web) -> None:
    name = "word " * 800
    row: dict[str, Any] = dict.fromkeys(("starts_at", "ends_at", "updated_at_rms"), NOW)
    row |= {"confirmed_at": NOW}
    row |= {"opportunity_status": "Reserved", "organisation_id": 7, "organisation_name": "Acme"}
    insert_opportunities(web.database, {**row, "name": name})
    change: dict[str, Any] = {"opportunity_id": 1, "field": "opportunity_status"}
    change |= {"old_value": "Open", "new_value": "Reserved", "changed_at": NOW, "seen_at": NOW}
    insert(web.database, "opportunity_changes", [change])
    paths = ["/", "/today", "/opportunities", "/calendar?view=agenda", "/customers/7", "/changes"]
    for path in [*paths, f"/won-and-lost/{NOW:%Y-%m}"]:
        page = visit(web, path)
        links = [a for a in page.all("a") if a.get("href") == "/opportunities/1"]
        assert links, path
        assert {a.get("class") for a in links} == {"clamp"}, path
        assert max(map(len, re.findall(r">([^<]+)<", page.html))) < 1_500, path
    assert name.strip() in visit(web, "/opportunities/1").text
