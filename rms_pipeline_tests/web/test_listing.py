"""What a list's address may ask for, what the page then shows, and the addresses it leads to."""

import io
import json
import re
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import requests

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.saved_views import MOST_VIEWS
from rms_pipeline.mirror.browse import ORDERS
from rms_pipeline.mirror.criteria import condition
from rms_pipeline.mirror.promoted import Promoted, demote, promote, promoted_fields
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import load_settings
from rms_pipeline.web import workbooks
from rms_pipeline.web.list_address import COLUMNS, PARAMETERS, PERIOD_FILTERS, asked_by
from rms_pipeline.web.reading import Reader
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.rows import insert, insert_opportunities, query
from rms_pipeline_tests.web.conftest import BEARER, Web, serving
from rms_pipeline_tests.web.page import EVIL, Page, get, visit
from rms_pipeline_tests.web.test_feeds import make as make_feed
from rms_pipeline_tests.web.test_feeds import read as read_feed

TODAY = datetime.now(UTC).date()


def noon() -> datetime:
    return datetime.combine(TODAY, datetime.min.time(), UTC) + timedelta(hours=12)


HOSTILE = ["", " ", "0", "-1", "9" * 30, "9" * 70, "NaN", "1e9", "'; --", "%s", "\x00", "\ud800"]
HOSTILE += [EVIL, "soon", "..", "9999-12-31..", "..0001-01-01", "2026-02-30", "2-", "2-!!"]
# Places that say too little, too much, or no moment there is.
HOSTILE += ["2-AAAA", "2-WzEsMiwzXQ", "2-WyJhIiwxLDBd"]
HOSTILE += ["2-WyIyMDI2LTk5LTk5IDAwOjAwOjAwKzAwIiwxLDBd"]


def quoted(text: str) -> str:
    return urllib.parse.quote(text.encode(errors="surrogatepass"), safe="")


_ONE = re.compile(r"/opportunities/(\d+)")


def found(web: Web, query_: str) -> list[int]:
    """Ids of the rows, as the page and its twin agree on them."""
    page = visit(web, f"/opportunities?{query_}")
    ids = [int(found[1]) for link in page.links if (found := _ONE.fullmatch(link))]
    answer = requests.get(f"{web.url}/api/opportunities?{query_}", headers=BEARER, timeout=30)
    assert answer.status_code == 200, answer.text
    assert [row["id"] for row in answer.json()["opportunities"]] == ids
    return ids


def links(page: Page, text: str) -> list[str]:
    return [link for link in page.links if text in link]


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_filter_that_an_address_names_narrows_the_list(name: str) -> None:
    """One that is described and not read would leave all opportunities in the list."""
    whole, _ = condition(asked_by("", "UTC").criteria)
    value = "2026-05-31" if name in {*PERIOD_FILTERS, "from", "to"} else "7"
    narrowed, values = condition(asked_by(f"{name}={value}", "UTC").criteria)
    assert narrowed.startswith(f"{whole} AND ")
    assert values


def test_the_further_filters_are_open_only_if_a_field_there_is_in_use(web: Web) -> None:
    insert_opportunities(web.database, {"organisation_id": 7, "store_id": 2})
    for query_, is_in_use in (("customer_id=7&store=2", False), ("customer_id=7&tag=vip", True)):
        text = visit(web, f"/opportunities?{query_}").text
        assert ("More filters (1 on)" in text) == is_in_use, query_


@pytest.mark.parametrize("field", [*PARAMETERS, "column", "sort", "page"])
def test_no_parameter_of_a_list_is_an_error_of_ours(web: Web, field: str) -> None:
    insert_opportunities(web.database, *({"name": f"Ball {i}"} for i in range(3)))
    with requests.Session() as session:
        for value in HOSTILE:
            for sort in ("starts", "-value", "name") if field == "page" else ("updated",):
                asked = f"{field}={quoted(value)}" + ("" if field == "sort" else f"&sort={sort}")
                answer = session.get(
                    f"{web.url}/api/opportunities?{asked}", headers=BEARER, timeout=30
                )
                assert answer.status_code in (200, 422), (asked, answer.status_code)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (f"/opportunities?{'&'.join(f'tag=t{n}' for n in range(2_000))}", "tag is there more than"),
        ("/customers?sort=evil", "sort is not one of name, opportunities, value"),
        ("/customers?page=0", "page is less than 1"),
        ("/customers?page=one", "page is not a whole number"),
        ("/venues?page=10001", "page is more than 10000"),
        ("/owners/abc", "id is not a whole number"),
        (f"/customers?q={'x' * 201}", "q is longer than 200 letters"),
        ("/customers/1?year=0", "year is less than 1901"),
        ("/opportunities/1e5", "id is not a whole number"),
        ("/won-and-lost?owner=9223372036854775808", "owner is 9223372036854775808 or more"),
        ("/won-and-lost/2026-05?outcome=drawn", "outcome is not 'won' or 'lost'"),
        ("/find?q=a&before=x", "before is not a whole number"),
    ],
)
def test_an_odd_address_is_refused_in_plain_words_in_the_page_and_its_twin(
    web: Web, path: str, says: str
) -> None:
    page = visit(web, path, 422)
    assert says in page.text
    # Where the page can do without parameters, it is a click away.
    (again,) = [link for link in page.links if link not in ("/", "/today")] or ["/today"]
    assert again.partition("?")[0] in (path.partition("?")[0], "/today")
    assert get(web, again).status_code == 200
    told = requests.get(f"{web.url}{path}", headers=BEARER, timeout=30)
    assert (told.status_code, says in told.json()["error"]) == (422, True), told.text


def test_each_kind_of_days_answers_its_own_question(web: Web) -> None:
    day = timedelta(days=1)
    insert_opportunities(
        web.database,
        {"starts_at": noon() - day, "ends_at": noon() + day},
        {"starts_at": noon(), "ends_at": noon() + 2 * day},
        {"starts_at": noon() - 3 * day, "ends_at": noon()},
        {"starts_at": noon() + 5 * day, "ends_at": noon() + 6 * day, "confirmed_at": noon()},
        {"created_at_rms": noon() - day},
        {"starts_at": noon(), "deliver_starts_at": noon() - day, "ends_at": noon() + day},
    )
    assert sorted(found(web, "onhire=today")) == [1, 2, 3, 6]
    assert found(web, "out=today") == [2]
    assert sorted(found(web, "starts=today")) == [2, 6]
    assert found(web, "back=today") == [3]
    assert found(web, "confirmed=today") == [4]
    assert found(web, "created=yesterday") == [5]
    assert found(web, f"onhire={TODAY + 5 * day}") == [4]
    assert found(web, f"out={TODAY + day}..") == [4]
    assert sorted(found(web, "out=next-7")) == [2, 4]
    assert "out=next-7" in str(links(visit(web, "/opportunities?out=next-7"), ".csv"))


def test_an_address_keeps_no_empty_parameter_and_says_what_a_form_meant(web: Web) -> None:
    sent = "q=&status=Open&owner=&onhire=custom&onhire_from=2026-05-01&onhire_to=&sort=-updated"
    answer = get(web, f"/opportunities?{sent}")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/opportunities?status=Open&onhire=2026-05-01.."
    cleared = get(web, "/opportunities?q=&status=&owner=&onhire=custom")
    assert cleared.headers["Location"] == "/opportunities?sort=-updated"
    # A script does it itself, and gets what it asks for.
    assert get(web, f"/opportunities?{sent}", **{"HX-Request": "true"}).status_code == 200


@pytest.mark.parametrize(
    ("sent", "clean"),
    [
        ("/changes?day=&who=&field=&least=10&days=", "/changes?least=10"),
        (
            "/changes?day=&who=Ann&field=total_value&least=&days=",
            "/changes?who=Ann&field=total_value",
        ),
        ("/changes?day=&who=&field=&least=&days=", "/changes"),
        ("/calendar?status=Open&owner=&customer=&venue=", "/calendar?status=Open"),
        ("/calendar?status=&owner=&customer=&venue=&view=week", "/calendar?view=week"),
        ("/calendar?status=&owner=&customer=&venue=&day=2026-05-31", "/calendar?day=2026-05-31"),
    ],
)
def test_no_other_form_without_a_script_leaves_empty_parameters(
    web: Web, sent: str, clean: str
) -> None:
    answer = get(web, sent)
    assert (answer.status_code, answer.headers.get("Location")) == (303, clean)
    assert get(web, clean).status_code == 200
    assert get(web, sent, **{"HX-Request": "true"}).status_code == 200


def test_chips_name_each_filter_and_lead_to_the_list_without_it(web: Web) -> None:
    row = {"organisation_id": 7, "organisation_name": "Acme", "tags": ["vip", "late"]}
    insert_opportunities(web.database, {**row, "opportunity_status": "Open", "total_value": 12})
    asked = "q=Opp&status=is:open&customer_id=7&tag=vip&tag=late&onhire=..2026-05-31&least=1,000"
    page = visit(web, f"/opportunities?{asked}")
    for words in ("Confirmed or undecided", "Acme", "vip", "late", "until 31 May 2026", "1,000"):
        assert words in page.text
    chips = [link for link in page.links if link.startswith("?") and "column" not in link][:7]
    asked_for = urllib.parse.parse_qsl(asked)
    left = [urllib.parse.parse_qsl(link[1:]) for link in chips]
    assert sorted(map(sorted, left)) == sorted(
        sorted(pair for pair in asked_for if pair != gone) for gone in asked_for
    )


def test_facets_count_what_there_is_as_if_nothing_of_their_kind_were_chosen(web: Web) -> None:
    rows = [("Open", "Ann"), ("Open", "Bob"), ("Lost", "Ann"), ("Lost", "Ann"), (None, None)]
    insert_opportunities(
        web.database, *({"opportunity_status": s, "owner_name": o, "tags": ["x"]} for s, o in rows)
    )

    def facets(query_: str) -> dict[str, dict[str, int]]:
        answer = requests.get(
            f"{web.url}/api/opportunities/facets?{query_}", headers=BEARER, timeout=30
        )
        return {
            f["kind"]: {c["name"]: c["count"] for c in f["choices"]}
            for f in answer.json()["facets"]
        }

    assert facets("")["status"] == {"Open": 2, "Lost": 2}
    both = facets("status=Lost&owner=Ann")
    assert (both["status"], both["owner"], both["tag"]) == (
        {"Lost": 2, "Open": 1},
        {"Ann": 2},
        {"x": 2},
    )
    page = visit(web, "/fragments/facets?status=Lost&owner=Ann")
    on = [a["href"] for a in page.all("a") if "aria-current" in a]
    assert on == ["?owner=Ann", "?status=Lost"]
    for link in page.links:
        assert visit(web, f"/opportunities{link}")
    # Without scripts a link leads to the same.
    listed = visit(web, "/opportunities?status=Lost&owner=Ann")
    [counts] = [link for link in listed.links if link.startswith("/counts/")]
    alone = visit(web, counts)
    assert "Status: Lost" in " ".join(alone.text.split())
    for link in on:
        assert f"/opportunities{link}" in alone.links
    assert "/opportunities?status=Lost&owner=Ann" in alone.links


def test_what_has_no_venue_or_no_owner_is_found_and_counted_and_so_is_a_store(web: Web) -> None:
    insert_opportunities(
        web.database,
        {"opportunity_status": "Reserved", "venue_name": "Hall", "store_id": 1},
        {"opportunity_status": "Reserved", "owner_name": "Ann", "store_id": 2},
        {"opportunity_status": "Open", "venue_name": "is:none", "owner_name": "Ann"},
        {"opportunity_status": "Reserved", "store_id": 2},
    )
    assert sorted(found(web, "status=is:confirmed&venue=is:none")) == [2, 4]
    assert sorted(found(web, "owner=is:none")) == [1, 4]
    assert found(web, "owner=is:none&venue=is:none&sort=-name") == [4]
    assert sorted(found(web, "store=2")) == [2, 4]
    page = visit(web, "/fragments/facets?status=is:confirmed")
    assert "No venue 2" in " ".join(page.text.split())
    assert "?status=is%3Aconfirmed&venue=is%3Anone" in page.links
    assert "?status=is%3Aconfirmed&store=2" in page.links
    chosen = visit(web, "/opportunities?status=is:confirmed&venue=is:none&owner=is:none&store=2")
    text = " ".join(chosen.text.split())
    for chip in ("Venue: none", "Owner: none", "Store: 2"):
        assert chip in text
    assert {"name": "store", "value": "2", "type": "hidden"} in [
        {k: each[k] for k in ("name", "value", "type")}
        for each in chosen.all("input", name="store")
    ]
    query(web.database, "UPDATE opportunities SET store_id = 2")
    assert "Store" not in visit(web, "/fragments/facets").text


def test_counting_ends_at_ten_thousand_and_says_so(web: Web) -> None:
    query(
        web.database,
        "INSERT INTO opportunities (id, name, opportunity_status)"
        " SELECT i, 'Opportunity', 'Open' FROM generate_series(1, 10001) i",
    )
    page = visit(web, "/opportunities")
    assert "10,000+ opportunities, page 1" in page.text
    assert "page 1 of" not in page.text
    fragment = visit(web, "/fragments/facets")
    assert "10,001+" in fragment.text
    assert "among the first 10,000" in fragment.text
    query(web.database, "DELETE FROM opportunities WHERE id = 1")
    assert "10,000 opportunities, page 1 of 200" in visit(web, "/opportunities").text
    assert "10,000+" not in visit(web, "/fragments/facets").text


@pytest.mark.parametrize("parameters", ["status=Open", "owner=Ann", "q=needle", "least=1"])
def test_of_a_long_list_the_rows_are_there_before_all_of_it_is_counted(
    web: Web, parameters: str
) -> None:
    query(
        web.database,
        "INSERT INTO opportunities (id, name, opportunity_status, owner_name, total_value)"
        " SELECT i, 'A needle', 'Open', 'Ann', 2 FROM generate_series(1, 1051) i",
    )
    page = visit(web, f"/opportunities?{parameters}")
    assert "1,000+ opportunities, page 1" in page.text
    assert "page 1 of" not in page.text
    (found,) = page.all("p", id="found")
    whole = "1,051 opportunities worth 2,102.00 with tax, page {} of 22"
    assert visit(web, found["data-fill"]).text.strip() == whole.format(1)
    # The second page counts itself as that, too.
    (second,) = page.all("a", rel="next")
    (found,) = visit(web, second["href"]).all("p", id="found")
    assert visit(web, found["data-fill"]).text.strip() == whole.format(2)
    # A program waits for all of it.
    told = get(web, f"/opportunities.json?{parameters}").json()
    assert (told["count"], told["countIsLeast"], told["totalValue"]) == (1051, False, "2102")
    query(web.database, "DELETE FROM opportunities WHERE id > 1000")
    page = visit(web, f"/opportunities?{parameters}")
    assert "1,000 opportunities worth 2,000.00 with tax, page 1 of 20" in page.text
    assert "data-fill" not in page.all("p", id="found")[0]


def test_the_arrows_walk_through_the_list_and_back_by_place(web: Web) -> None:
    insert_opportunities(web.database, *({"total_value": i % 3} for i in range(130)))
    seen: list[str] = []
    address = "/opportunities?sort=-value"
    for number in (1, 2, 3):
        page = visit(web, address)
        assert f"page {number} of 3" in page.text
        seen += [link for link in page.links if re.fullmatch(r"/opportunities/\d+", link)]
        address = next(iter(a["href"] for a in page.all("a", rel="next")), "")
    assert address == ""
    assert len(set(seen)) == len(seen) == 130
    back = page.all("a", rel="prev")[0]["href"]
    page = visit(web, back)
    assert "page 2 of 3" in page.text
    assert [link for link in page.links if re.fullmatch(r"/opportunities/\d+", link)] == seen[
        50:100
    ]
    assert page.all("a", rel="prev")[0]["href"] == "/opportunities?sort=-value"


def test_a_page_whose_place_does_not_fit_says_so(web: Web) -> None:
    insert_opportunities(web.database, *({"starts_at": noon()} for _ in range(60)))
    following = visit(web, "/opportunities?sort=starts").all("a", rel="next")[0]["href"]
    wrong = following.replace("sort=starts", "sort=value")
    assert "Start at the first page" in visit(web, wrong, 422).text


def test_each_order_begins_where_people_want_it_and_then_turns(web: Web) -> None:
    insert_opportunities(web.database, {})
    names = "&".join(f"column={name}" for name in COLUMNS)
    page = visit(web, f"/opportunities?{names}&sort=back")
    # The ready views are lists of their own.
    ours = [a["href"] for a in page.all("a") if "href" in a and a.get("class") != "ready"]
    for key, order in ORDERS.items():
        first, then = (f"-{key}", key) if order.falls else (key, f"-{key}")
        if key == "back":
            first, then = then, first
        chosen = [
            link
            for link in ours
            if link.startswith("/opportunities?")
            and dict(urllib.parse.parse_qsl(link)).get("sort", "-updated") == first
        ]
        assert len(chosen) == 1, key
        turned = visit(web, chosen[0])
        (heading,) = [a for tag, a in turned.tags if tag == "th" and "aria-sort" in a]
        assert heading["aria-sort"] == ("descending" if first[0] == "-" else "ascending")
        assert then in str(turned.links)


def test_the_views_that_every_company_asks_for_are_there_and_stay_relative(web: Web) -> None:
    day = timedelta(days=1)
    quotation = {"state_name": "Quotation", "opportunity_status": "Open"}
    insert_opportunities(
        web.database,
        {"opportunity_status": "Reserved", "starts_at": noon() + day, "venue_name": "Hall"},
        {"opportunity_status": "Reserved", "starts_at": noon() + 9 * day},
        {**quotation, "created_at_rms": noon() - 14 * day},
        {**quotation, "created_at_rms": noon() - 13 * day},
    )
    ready = visit(web, "/opportunities").all("a", **{"class": "ready"})
    assert [found(web, a["href"].partition("?")[2]) for a in ready] == [[1], [3], [2]]
    for one in ready:
        again = visit(web, one["href"]).all("a", **{"class": "ready"})
        assert [a["href"] for a in again if "aria-current" in a] == [one["href"]]


def test_value_sorts_downwards_first(web: Web) -> None:
    insert_opportunities(web.database, {})
    page = visit(web, "/opportunities")
    assert "/opportunities?sort=-value" in page.links
    assert "/opportunities?sort=value" in visit(web, "/opportunities?sort=-value").links
    assert "/opportunities?sort=name" in page.links


def test_columns_are_those_that_were_chosen_in_the_page_and_in_what_is_taken_away(
    web: Web,
) -> None:
    insert_opportunities(web.database, {"venue_name": "Hall", "owner_name": "Ann"})
    page = visit(web, "/opportunities?column=venue&column=tags")
    assert [t["class"] for t in page.all("th", scope="col")] == ["name", "venue", "tags"]
    assert "Hall" in page.text
    lines = get(web, "/opportunities.csv?column=venue&column=tags").text.splitlines()
    assert lines == ["\ufeffid,number,name,venue,tags", '1,"","Opportunity 1","Hall",""']
    assert "column 'nothing' is none of" in visit(web, "/opportunities?column=nothing", 422).text
    toggle = next(link for link in page.links if link.startswith("?") and "column=owner" in link)
    assert "Ann" in visit(web, f"/opportunities{toggle}").text


def test_views_are_saved_shared_shown_first_and_deleted(web: Web) -> None:
    def send(path: str, **fields: str) -> requests.Response:
        return requests.post(
            f"{web.url}{path}", data=fields, headers=BEARER, timeout=30, allow_redirects=False
        )

    insert_opportunities(web.database, {"opportunity_status": "Open"}, {"name": "Other"})
    saved = send("/views", name="  Open   ones ", query="status=Open&page=3&x=1&q=")
    assert (saved.status_code, saved.headers["Location"]) == (303, "/opportunities?status=Open")
    page = visit(web, "/opportunities")
    assert "Open ones" in page.text
    assert "/views/1" in page.links
    shared = get(web, "/views/1")
    assert (shared.status_code, shared.headers["Location"]) == (303, "/opportunities?status=Open")
    # By that name there is one view only.
    instead = {"name": "Open ones", "query": "out=weekend", "replaces": "?status=Open"}
    assert send("/views", **instead, default="yes").status_code == 303
    twin = requests.get(f"{web.url}/api/views", headers=BEARER, timeout=30).json()["views"]
    assert [(v["id"], v["name"], v["address"], v["is_default"]) for v in twin] == [
        (1, "Open ones", "/opportunities?out=weekend", True)
    ]
    assert get(web, "/opportunities").headers["Location"] == "/opportunities?out=weekend"
    # And everything can still be had.
    assert found(web, "sort=-updated") == [2, 1]
    send("/views", name="Second", query="status=Lost", default="yes")
    assert get(web, "/opportunities").headers["Location"] == "/opportunities?status=Lost"
    send("/views/none/default")
    assert get(web, "/opportunities").status_code == 200
    send("/views/1/default")
    assert get(web, "/opportunities").headers["Location"] == "/opportunities?out=weekend"
    assert send("/views/1/delete").status_code == 303
    for gone in ("/views/1", "/views/1/default", "/views/1/delete", "/views/99"):
        answer = get(web, gone) if gone.count("/") == 2 else send(gone)
        assert answer.status_code == 404, gone
    assert get(web, "/opportunities").status_code == 200
    for name in ("", " ", "x" * 101):
        assert send("/views", name=name, query="").status_code == 422


def test_nobody_replaces_a_view_of_somebody_else_without_having_seen_it(web: Web) -> None:
    def save(**fields: str) -> requests.Response:
        return requests.post(
            f"{web.url}/views",
            data={"name": "Mine", **fields},
            headers={**BEARER, "Accept": "text/html"},
            timeout=30,
            allow_redirects=False,
        )

    def kept() -> list[tuple[str, bool]]:
        rows = query(web.database, "SELECT query, is_default FROM saved_views")
        return [(asked, is_default) for asked, is_default in rows]

    save(query="status=Open")
    # The same once more, as with a second press of the button.
    assert save(query="status=Open").status_code == 303
    answer = save(query="status=Lost", default="yes")
    assert (answer.status_code, kept()) == (409, [("status=Open", False)])
    page = Page(answer.text)
    assert page.forbidden == []
    assert "There is already a view Mine" in page.text
    assert {"/opportunities?status=Open", "/opportunities?status=Lost"} <= set(page.links)
    # Meanwhile somebody else replaces it.
    save(query="status=Reserved", replaces="?status=Open")
    seen = {each["name"]: each["value"] for each in page.all("input", type="hidden")}
    assert (seen["replaces"], seen["default"]) == ("?status=Open", "yes")
    again = save(**seen)
    assert (again.status_code, kept()) == (409, [("status=Reserved", False)])
    assert "Somebody has changed it meanwhile" in again.text
    seen = {each["name"]: each["value"] for each in Page(again.text).all("input", type="hidden")}
    assert save(**seen).status_code == 303
    assert kept() == [("status=Lost", True)]
    # A program is told what to send.
    told = requests.post(f"{web.url}/views", data={"name": "Mine"}, headers=BEARER, timeout=30)
    assert (told.status_code, "`replaces=?`" in told.json()["error"]) == (409, True)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("onhire=junk", "onhire is not a period"),
        ("sort=nothing", "sort is not one of"),
        ("column=nothing", "column 'nothing' is none of"),
        ("field.gone=1", "field.gone is not a custom field with a column"),
        ("&".join(["tag=a"] * 201), "more than 200 filters"),
    ],
)
def test_a_view_or_a_calendar_that_no_list_would_show_is_not_saved(
    web: Web, asked: str, says: str
) -> None:
    # A view says it as its page does, and people read it there later.
    told = {"/views": says.replace("onhire", "“On hire on”"), "/calendar/feeds": says}
    for path, words in told.items():
        answer = requests.post(
            f"{web.url}{path}", data={"name": "Any", "query": asked}, headers=BEARER, timeout=30
        )
        assert (answer.status_code, words in answer.json()["error"]) == (422, True), answer.text
    assert query(web.database, "SELECT count(*) FROM saved_views") == [(0,)]


def test_a_view_of_what_is_gone_says_so_and_keeps_nobody_from_the_list(web: Web) -> None:
    """Somebody saved it, and later a field lost its column."""
    insert_opportunities(web.database, {})
    view = {"collection": "opportunities", "name": "Ours", "query": "field.gone=1"}
    insert(web.database, "saved_views", [{**view, "is_default": True}])
    (id_,) = query(web.database, "SELECT id FROM saved_views")[0]
    assert get(web, "/opportunities").headers["Location"] == f"/views/{id_}"
    page = visit(web, f"/views/{id_}", 422)
    assert "The view Ours cannot be shown any more" in page.text
    assert "field.gone is not a custom field with a column" in page.text
    actions = [form["action"] for form in page.all("form", method="post")]
    assert actions == [f"/views/{id_}/delete", "/views/none/default", "/logout"]
    assert "/opportunities?sort=-updated" in page.links
    told = requests.get(f"{web.url}/views/{id_}", headers=BEARER, timeout=30)
    assert (told.status_code, told.json()["success"]) == (422, False)
    assert visit(web, "/opportunities?sort=-updated").text
    requests.post(f"{web.url}{actions[1]}", headers=BEARER, timeout=30)
    assert get(web, "/opportunities").status_code == 200


def test_there_is_an_end_to_how_many_views_each_list_names(web: Web) -> None:
    def save(name: str) -> int:
        form = {"name": name, "query": "status=Open", "replaces": "?"}
        answer = requests.post(
            f"{web.url}/views", data=form, headers=BEARER, timeout=30, allow_redirects=False
        )
        return answer.status_code

    kept = [{"collection": "opportunities", "name": f"View {i}", "query": ""}
            for i in range(MOST_VIEWS - 1)]  # fmt: skip
    insert(web.database, "saved_views", kept)
    assert save("The last") == 303
    assert save("One more") == 409
    # Which view has the same name is replaced, and not one more.
    assert save("View 5") == 303
    assert len(query(web.database, "SELECT 1 FROM saved_views")) == MOST_VIEWS


def test_no_view_leads_elsewhere_or_breaks_the_page(web: Web) -> None:
    hostile = (EVIL, "\r\nSet-Cookie: a=b", "//evil.example", "a" * 8_000, "\x00")
    for number, query_ in enumerate(hostile):
        form = {"name": f"{number}{EVIL}"[:100], "query": query_}
        answer = requests.post(
            f"{web.url}/views", data=form, headers=BEARER,
            timeout=30, allow_redirects=False,
        )  # fmt: skip
        assert answer.status_code == 303
        assert answer.headers["Location"].startswith("/opportunities?")
        assert "Set-Cookie" not in answer.headers
    assert EVIL[:100] in visit(web, "/opportunities").text


def test_a_page_of_another_site_saves_no_view(web: Web) -> None:
    session = web.access.sessions
    answer = requests.post(
        f"{web.url}/views",
        data={"name": "theirs"},
        cookies={session.cookie: session.session.get_secret_value()},
        headers={"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        timeout=30,
    )
    assert answer.status_code == 403
    assert query(web.database, "SELECT count(*) FROM saved_views") == [(0,)]


def test_the_last_ten_that_were_looked_at_are_a_click_away(web: Web) -> None:
    insert_opportunities(web.database, *({"name": f"Ball {i}"} for i in range(1, 13)))
    with requests.Session() as browser:
        browser.headers.update({**BEARER, "Accept": "text/html"})
        for id_ in (*range(1, 13), 5):
            browser.get(f"{web.url}/opportunities/{id_}", timeout=30)
        text = browser.get(f"{web.url}/opportunities?q=nothing", timeout=30).text
        assert re.findall(r"Ball \d+", text) == [
            f"Ball {i}" for i in (5, 12, 11, 10, 9, 8, 7, 6, 4, 3)
        ]
        for cookie in ("x", "1" * 400, "-1.99999999999999999999.2", "..", "٣"):
            browser.cookies.set("rms_visited", quoted(cookie), path="/opportunities")
            assert browser.get(f"{web.url}/opportunities", timeout=30).status_code == 200


def sheet_of(web: Web, query_: str = "") -> Any:
    answer = get(web, f"/opportunities.xlsx?{query_}")
    assert answer.status_code == 200
    assert "spreadsheetml" in answer.headers["Content-Type"]
    return workbook(answer.content)


def workbook(content: bytes) -> Any:
    # Half a second for the tables of numpy, in each process of pytest.
    import openpyxl  # type: ignore[import-untyped]

    return openpyxl.load_workbook(io.BytesIO(content))


def test_fields_of_the_accounts_own_filter_once_they_have_a_column(web: Web) -> None:
    fields = [
        {"risk": "4", "crew": "Ann"},
        {"risk": 12.0, "crew": ["7", "9"]},
        {"risk": "many"},
        {},
    ]
    days = {"starts_at": datetime.now(UTC), "ends_at": datetime.now(UTC) + timedelta(days=1)}
    insert_opportunities(web.database, *({"data": {}, **days} for _ in fields))
    for number, custom in enumerate(fields, 1):
        statement = "UPDATE opportunities SET custom_fields = %s WHERE id = %s"
        query(web.database, statement, json.dumps(custom), number)
    with web.database.session() as connection:
        for key, column, kind in (("risk", "risk", "numeric"), ("crew", "crew", "text")):
            promote(connection, OPPORTUNITIES, Promoted(key, column, kind))
        connection.commit()
    try:
        assert found(web, "field.risk=4.0") == [1]
        assert sorted(found(web, "field.risk=3..12")) == [1, 2]
        assert found(web, "field.risk=5..") == [2]
        assert sorted(found(web, "field.risk=..")) == [1, 2]
        assert found(web, "field.crew=Ann") == [1]
        for where in ("field.risk=5..", "field.risk=5..&q=Opportunity"):
            bars = get(web, f"/calendar.json?{where}").json()["bars"]
            assert [bar["id"] for bar in bars] == [2], where
            events = read_feed(make_feed(web, where)).events
            assert [event.summary for event in events] == ["Opportunity 2"], where
        assert get(web, "/calendar?field.other=1").status_code == 422
        for nothing in ("field.risk=many", "field.risk=%00", f"field.crew={quoted(EVIL)}"):
            assert found(web, nothing) == []
        page = visit(web, "/opportunities?field.risk=4")
        assert page.all("input", name="field.risk")[0]["value"] == "4"
        assert "field.risk=4" in str(links(page, ".csv"))
        assert "risk:" in page.text
        assert (
            "not a custom field with a column"
            in visit(web, "/opportunities?field.other=1", 422).text
        )
        many = "&".join(f"field.f{i}=1" for i in range(30))
        assert get(web, f"/opportunities?{many}").status_code == 422
    finally:
        with web.database.session() as connection:
            demote(connection, OPPORTUNITIES, "risk")
            demote(connection, OPPORTUNITIES, "crew")
            connection.commit()


def test_a_field_that_loses_its_column_while_a_list_is_read_is_said(web: Web) -> None:
    """It was looked up a moment before."""
    insert_opportunities(web.database, {}, {})
    looked_up = {"collection": "opportunities", "key": "risk", "kind": "numeric"}
    insert(web.database, "promoted_fields", [{**looked_up, "column_name": "risk"}])
    try:
        for path in (
            *("/opportunities", "/opportunities.json", "/opportunities.csv", "/opportunities.xlsx"),
            *("/print/opportunities", "/fragments/facets", "/counts/opportunities"),
            *("/calendar", "/calendar.json"),
        ):
            answer = get(web, f"{path}?field.risk=3..4")
            assert answer.status_code == 503, path
            assert "lost its column while the list was read" in answer.text, path
            assert answer.headers["Retry-After"] == "1"
        feed = make_feed(web, "field.risk=3..4")
        assert requests.get(feed, timeout=30).status_code == 503
    finally:
        query(web.database, "DELETE FROM promoted_fields RETURNING 1")
    answer = get(web, "/opportunities?field.risk=3..4")
    assert (answer.status_code, "field.risk is not a custom field" in answer.text) == (422, True)


@pytest.mark.parametrize(("other", "status"), [("text", 200), (None, 422)])
def test_a_field_that_is_demoted_while_a_list_waits_for_its_rows_is_said(
    web: Web, other: str | None, status: int
) -> None:
    address = "/opportunities?field.risk=4.."
    with web.database.session() as connection:
        promote(connection, OPPORTUNITIES, Promoted("risk", "risk", "numeric"))
    try:
        with (
            ThreadPoolExecutor() as pool,
            web.database.session() as connection,
            connection.cursor() as cursor,
        ):
            # The page finds the column of the field, and then waits for the rows.
            cursor.execute("LOCK opportunities IN ACCESS EXCLUSIVE MODE")
            waiting = pool.submit(get, web, address)
            wait_until(lambda: web.query(_WAITING) == [(1,)])
            demote(connection, OPPORTUNITIES, "risk")
            if other is not None:
                promote(connection, OPPORTUNITIES, Promoted("risk", "risk", other))
            connection.commit()
            answer = waiting.result()
        assert answer.status_code == 503, answer.text
        assert "lost its column while the list was read" in answer.text
        assert get(web, address).status_code == status
    finally:
        with web.database.session() as connection, connection.cursor() as cursor:
            for field in promoted_fields(cursor, OPPORTUNITIES):
                demote(connection, OPPORTUNITIES, field.key)


_WAITING = (
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'opportunities'::regclass"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def test_printing_shows_all_rows_and_the_filter(web: Web) -> None:
    insert_opportunities(web.database, *({"opportunity_status": "Open"} for _ in range(130)), {})
    assert "/print/opportunities?status=Open" in visit(web, "/opportunities?status=Open").links
    page = visit(web, "/print/opportunities?status=Open&onhire=..&sort=-value&column=status")
    assert len([link for link in page.links if _ONE.fullmatch(link)]) == 130
    for words in ("130 opportunities", "Status:", "Open", "On hire on:", "any day"):
        assert words in page.text
    assert [t["class"] for t in page.all("th", scope="col")] == ["name", "status"]


ODD = ["=1+1", "+1", "-1", "@SUM(A1)", "0005", "1E5", "2026-05-31", "1/2", "9" * 20, "TRUE"]
ODD += ["{=1}", "http://example.com", "mailto:a@example.com", "a\x01b\x00c", "🎪", "שלום", " a "]
ODD += ["<r><t>a</t></r>", "a & <b>", "_x0041_", "_x41_ _", "\"'", "\t\n", "a\uffffb"]


@pytest.mark.parametrize("text", ODD)
def test_a_text_in_the_workbook_is_that_text_whatever_it_looks_like(web: Web, text: str) -> None:
    from openpyxl.utils.escape import unescape  # type: ignore[import-untyped]

    kept = text.replace("\x00", "\ufffd")
    insert_opportunities(web.database, {"name": kept, "data": {"number": kept}})
    cells = sheet_of(web)["Opportunities"][2]
    for cell in cells[1:3]:
        readable = re.sub("[\x01\uffff]", "\ufffd", kept)
        assert (unescape(cell.value), cell.data_type) == (readable, "s")
        assert cell.hyperlink is None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a" * 32_767, "a" * 32_767),
        ("a" * 32_768, "a" * 32_767),
        ("🎪" * 16_384, "🎪" * 16_383),
        ("a" + "🎪" * 16_383, "a" + "🎪" * 16_383),
    ],
)
def test_the_workbook_says_how_many_texts_are_longer_than_a_cell(
    web: Web, text: str, kept: str
) -> None:
    insert_opportunities(web.database, {"name": text}, {"name": "short"})
    book = sheet_of(web, "sort=name&column=name")
    assert kept in {row[2].value for row in book["Opportunities"].rows}
    told = dict(book["About"].values).get("Shortened texts")
    expected = "1. A cell holds 32,767 letters at most."
    assert told == (None if kept == text else expected)


def test_a_list_that_no_sheet_has_room_for_is_refused_with_what_to_do(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbooks, "_MOST_ROWS", 5)
    insert_opportunities(web.database, *({"opportunity_status": "Open"} for _ in range(4)))
    assert len(list(sheet_of(web, "sort=name")["Opportunities"].rows)) == 5
    insert_opportunities(web.database, {"id": 99, "name": "The fifth"})
    page = visit(web, "/opportunities.xlsx?sort=name", 422)
    assert "more than 4 opportunities, and a sheet of Excel holds no more" in page.text
    assert "take the CSV" in page.text
    # What is left of them by a filter fits.
    assert len(list(sheet_of(web, "status=Open")["Opportunities"].rows)) == 5
    assert get(web, "/opportunities.csv").text.count("\n") == 6


def test_a_long_workbook_comes_in_parts_and_holds_all_rows(web: Web) -> None:
    rows = 12_000
    query(
        web.database,
        "INSERT INTO opportunities (id, name, total_value)"
        " SELECT i, md5(i::text), i FROM generate_series(1, %s) i",
        rows,
    )
    wanted = "sort=value&column=name&column=value"
    reader = Reader(web.database)
    try:
        parts = list(workbooks._parts(reader, asked_by(wanted, "UTC"), [], None))
    finally:
        reader.close()
    # So the first one is sent while the others are not read yet.
    assert len(parts) > 4
    assert max(map(len, parts)) < 100_000
    sheet = workbook(b"".join(parts))["Opportunities"]
    assert sheet.auto_filter.ref == f"A1:D{rows + 1}"
    values = [(id_, value) for id_, _, _, value in sheet.values][1:]
    assert values == [(id_, id_) for id_ in range(1, rows + 1)]


def test_a_workbook_is_not_compressed_twice(web: Web) -> None:
    insert_opportunities(web.database, *({"name": "x" * 1_000} for _ in range(50)))
    for path, is_packed in (("/opportunities.csv", True), ("/opportunities.xlsx", False)):
        answer = get(web, path, **{"Accept-Encoding": "gzip"})
        assert ("Content-Encoding" in answer.headers) == is_packed


def test_lines_of_a_text_stay_lines_in_the_workbook(web: Web) -> None:
    insert_opportunities(web.database, {"name": "one\r\ntwo\nthree"})
    assert sheet_of(web)["Opportunities"][2][2].value == "one\ntwo\nthree"


def test_numbers_and_times_in_the_workbook_are_what_excel_reckons_with(
    emptied: Any, web: Web
) -> None:
    insert_opportunities(
        emptied,
        {"id": 2**62, "starts_at": datetime(2026, 7, 1, 8, 30, tzinfo=UTC),
         "ends_at": datetime(1, 1, 1, tzinfo=UTC), "total_value": Decimal("1234.50"),
         "charge_total": Decimal("12345678901234567890.12")},
    )  # fmt: skip
    current = load_settings(_env_file=None, RMS_TIME_ZONE="Europe/London")
    with SandboxServer(Store(1)) as sandbox, serving(emptied, sandbox, current=current) as london:
        book = sheet_of(london, "q=Opportunity")
        titles, cells = book["Opportunities"].values
        row = dict(zip(titles, cells, strict=True))
        assert row["Id"] == str(2**62)
        assert row["Starts"] == datetime(2026, 7, 1, 9, 30)
        assert str(row["Ends"]).startswith("0001-01-01")
        assert row["With tax"] == 1234.5
        assert row["Without tax"] == "12345678901234567890.12"
        told = dict(book["About"].values)
        assert (told["Times are in"], told["Search"]) == ("Europe/London", "Opportunity")
        assert book["Opportunities"].auto_filter.ref == "A1:L2"
        # The same times in the CSV, as the company's clocks have them.
        assert "2026-07-01 09:30:00" in get(london, "/opportunities.csv").text
        assert "2026-07-01T08:30:00Z" in get(web, "/opportunities.csv").text


def test_the_workbook_holds_what_the_list_holds_in_its_order(web: Web) -> None:
    insert_opportunities(web.database, *({"total_value": i % 3} for i in range(9)))
    sheet = sheet_of(web, "sort=-value&least=1&column=value")["Opportunities"]
    assert [row[:1] + row[3:] for row in sheet.values] == [
        ("Id", "With tax"), (9, 2), (6, 2), (3, 2), (8, 1), (5, 1), (2, 1)
    ]  # fmt: skip
    assert [row[0] for row in sheet_of(web, "q=nothing")["Opportunities"].values] == ["Id"]


def test_the_api_tells_the_pages_of_a_list(web: Web) -> None:
    insert_opportunities(web.database, *({"total_value": Decimal("1.10")} for _ in range(60)))
    asked = f"{web.url}/api/opportunities?least=1"
    first = requests.get(asked, headers=BEARER, timeout=30).json()
    assert (first["count"], first["countIsLeast"], first["totalValue"]) == (60, False, "66.00")
    assert len(first["opportunities"]) == 50
    second = requests.get(f"{web.url}{first['next']}", headers=BEARER, timeout=30).json()
    assert (len(second["opportunities"]), second["next"]) == (10, None)
    assert second["previous"] == "/api/opportunities?least=1"
    ids = {row["id"] for row in first["opportunities"] + second["opportunities"]}
    assert len(ids) == 60
