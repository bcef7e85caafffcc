"""Won and lost by the month of the decision, the lists behind the numbers, and the SQL."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from rms_pipeline_tests.rows import insert, insert_opportunities, query
from rms_pipeline_tests.web.conftest import Web
from rms_pipeline_tests.web.page import EVIL, get, visit

YEAR = datetime.now(UTC).year
ANN, BOB = {"owner_id": 1, "owner_name": "Ann"}, {"owner_id": 2, "owner_name": "Bob"}


def on(month: int, day: int = 10, year: int | None = None) -> datetime:
    return datetime(year or YEAR, month, day, 12, tzinfo=UTC)


@pytest.fixture
def decided(web: Web) -> Web:
    won: dict[str, Any] = {"state_name": "Order", "opportunity_status": "Reserved"}
    lost: dict[str, Any] = {"state_name": "Quotation", "opportunity_status": "Lost"}
    insert_opportunities(
        web.database,
        won | ANN | {"ordered_at": on(1), "charge_total": 100},
        won | BOB | {"ordered_at": on(1, 31), "charge_total": 50},
        lost | ANN | {"updated_at_rms": on(1), "charge_total": 30},
        lost | ANN | {"state_name": "Order", "updated_at_rms": on(2), "charge_total": 7},
        # No quotation was ever made.
        lost | ANN | {"state_name": "Enquiry", "updated_at_rms": on(2), "charge_total": 9},
        won | BOB | {"ordered_at": on(1, year=YEAR - 1), "charge_total": 5, "name": EVIL},
        # Confirmed before the mirror looked, and never ordered.
        {"state_name": "Quotation", "opportunity_status": "Active", "charge_total": 1} | BOB,
    )
    return web


def told(web: Web, path: str) -> dict[str, Any]:
    answer = get(web, path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_each_month_has_what_was_won_and_lost_beside_the_year_before(decided: Web) -> None:
    found = told(decided, "/won-and-lost.json")
    january, february, *rest = found["months"]
    assert january["decided"] == {
        "won": 2,
        "lost": 1,
        "lost_orders": 0,
        "won_value": "150",
        "lost_value": "30",
    }
    assert (january["year_before"]["won"], january["year_before"]["won_value"]) == (1, "5")
    assert (february["decided"]["lost"], february["decided"]["lost_orders"]) == (1, 1)
    assert all(m["decided"]["won"] == m["decided"]["lost"] == 0 for m in rest)
    assert found["total"]["won"] == 2
    assert found["undated"]["won"] == 1
    page = visit(decided, "/won-and-lost")
    assert "67 %" in page.text
    assert "No full sync has ended yet, so these figures are not complete" in page.text
    assert f"Won in {YEAR - 1}" in page.text


def test_the_sql_that_is_shown_gives_the_numbers_that_are_shown(decided: Web) -> None:
    for path in ("/won-and-lost.json", "/won-and-lost.json?owner=1"):
        found = told(decided, path)
        rows = {row[0]: tuple(row[1:]) for row in query(decided.database, found["sql"])}
        for month in found["months"]:
            first = date.fromisoformat(month["month"])
            for day, name in ((first, "decided"), (first.replace(year=YEAR - 1), "year_before")):
                shown = month[name]
                expected = (
                    *(shown[each] for each in ("won", "lost", "lost_orders")),
                    *(Decimal(shown[each]) for each in ("won_value", "lost_value")),
                )
                assert rows.get(day, (0,) * 5) == expected
        listed = told(decided, f"/won-and-lost/{YEAR}-01.json?outcome=won")
        ids = [row[0] for row in query(decided.database, listed["sql"])]
        assert ids == [each["id"] for each in listed["decisions"]]


def test_every_number_leads_to_the_list_of_what_it_counts(decided: Web) -> None:
    page = visit(decided, "/won-and-lost")
    found = told(decided, "/won-and-lost.json")
    links = [
        (tag["href"], int(tag["aria-label"].split()[0]))
        for tag in page.all("a")
        if "outcome=" in tag["href"]
    ]
    months = [m[name] for m in found["months"] for name in ("decided", "year_before")]
    assert len(links) == sum(bool(m[each]) for m in [*months, found["undated"]] for each in
                             ("won", "lost"))  # fmt: skip
    for href, count in links:
        path, _, parameters = href.partition("?")
        listed = told(decided, f"{path}.json?{parameters}")
        assert listed["count"] == len(listed["decisions"]) == count
        visit(decided, href)
    both = told(decided, f"/won-and-lost/{YEAR}-01.json")
    assert [each["id"] for each in both["decisions"]] == [2, 3, 1]
    assert both["value"] == "180"


def test_what_is_read_by_indexes_is_what_the_view_has(web: Web) -> None:
    """Of every combination of state, status and times, some of them absent."""
    rows = [
        {"state_name": state, "opportunity_status": status, "ordered_at": ordered,
         "confirmed_at": confirmed, "updated_at_rms": updated, "charge_total": 3, "owner_id": 1}
        for state in ("Order", "Quotation", "Enquiry", None)
        for status in ("Open", "Reserved", "Completed", "Lost", "Unheard of", None)
        for ordered in (None, on(3)) for confirmed in (None, on(2, year=YEAR - 1))
        for updated in (None, on(4), on(4, year=YEAR - 3))
    ]  # fmt: skip
    insert_opportunities(web.database, *rows)
    lost = {"field": "opportunity_status", "old_value": "Open", "new_value": "Lost"}
    insert(
        web.database,
        "opportunity_changes",
        # Some were lost in another year than the one in which they were changed last.
        [lost | {"opportunity_id": i, "changed_at": on(5)} for i in range(1, len(rows), 2)],
    )
    for path in ("/won-and-lost.json", "/won-and-lost.json?owner=1"):
        found = told(web, path)
        counted = {m["month"]: m["decided"] for m in found["months"]}
        counted |= {m["month"].replace(str(YEAR), str(YEAR - 1), 1): m["year_before"]
                    for m in found["months"]}  # fmt: skip
        counted[None] = found["undated"]
        view = query(
            web.database,
            "SELECT month::text, count(*) FILTER (WHERE outcome = 'won'),"
            " count(*) FILTER (WHERE outcome = 'lost'),"
            " count(*) FILTER (WHERE outcome = 'lost' AND was_order), sum(charge_total)"
            " FROM decisions WHERE month IS NULL OR month >= %s GROUP BY 1",
            date(YEAR - 1, 1, 1),
        )
        assert {row[0] for row in view} >= {None, f"{YEAR}-05-01", f"{YEAR - 1}-02-01"}
        for month, won, lost_, lost_orders, value in view:
            shown = counted.pop(month)
            assert (won, lost_, lost_orders) == (
                shown["won"], shown["lost"], shown["lost_orders"],
            ), month  # fmt: skip
            assert Decimal(shown["won_value"]) + Decimal(shown["lost_value"]) == value
        assert not any(each["won"] + each["lost"] for each in counted.values())
    assert told(web, "/won-and-lost/undated.json")["count"] == sum(
        found["undated"][each] for each in ("won", "lost")
    )


def test_of_one_owner_there_is_only_hers(decided: Web) -> None:
    found = told(decided, "/won-and-lost.json?owner=1")
    assert (found["owner"], found["total"]["won"], found["total"]["lost"]) == ("Ann", 1, 2)
    page = visit(decided, "/won-and-lost?owner=1")
    assert all("owner=1" in t["href"] for t in page.all("a") if "outcome=" in t["href"])
    assert told(decided, f"/won-and-lost/{YEAR}-01.json?owner=2")["count"] == 1


@pytest.mark.parametrize(
    "path",
    ["/2026-13", "/2026-1", "/0001-01", "/9999-12", "/now", "/2026-01-01", "/'; --", "/2026-01%00"],
)
def test_what_is_no_month_is_not_found(decided: Web, path: str) -> None:
    assert get(decided, f"/won-and-lost{path}").status_code == 404
    assert get(decided, f"/won-and-lost{path}.json").status_code == 404


@pytest.mark.parametrize("query_", ["year=1", "year=x", "owner=x", f"owner={2**63}"])
def test_a_year_or_owner_that_cannot_be_is_refused(decided: Web, query_: str) -> None:
    assert get(decided, f"/won-and-lost?{query_}").status_code == 422


def test_a_year_in_which_nothing_was_decided_says_so(web: Web) -> None:
    insert_opportunities(web.database, {"updated_at_rms": datetime.now(UTC) - timedelta(days=1)})
    page = visit(web, f"/won-and-lost?year={YEAR + 1}")
    assert f"Nothing was decided in {YEAR + 1}" in page.text
    assert "There are none" in visit(web, f"/won-and-lost/{YEAR + 1}-05?outcome=lost").text
