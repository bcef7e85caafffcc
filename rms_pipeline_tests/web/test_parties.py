"""Customers, venues and owners, on opportunities whose figures are known."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from rms_pipeline.insight import rankings
from rms_pipeline.insight.days import Day
from rms_pipeline.insight.parties import KINDS as PARTIES
from rms_pipeline.insight.rankings import RankingQuery, rank
from rms_pipeline.settings import load_settings
from rms_pipeline_tests.rows import insert, insert_opportunities, query
from rms_pipeline_tests.web.conftest import Web, serving
from rms_pipeline_tests.web.page import EVIL, get, visit

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
IDS = {"customers": "organisation_id", "venues": "venue_id", "owners": "owner_id"}
NAMES = {"customers": "organisation_name", "venues": "venue_name", "owners": "owner_name"}
KINDS = list(IDS)


def job(starts: datetime | None, charge: object, status: Any = "Reserved", **more: Any) -> Any:
    """One of the customer, venue and owner 7, without a number where `more` says so."""
    who: dict[str, Any] = {IDS[kind]: 7 for kind in KINDS} | {
        NAMES[kind]: "Harbour" for kind in KINDS
    }
    return who | {"starts_at": starts, "charge_total": charge, "opportunity_status": status} | more


def at(year: int, month: int, day: int = 15) -> datetime:
    return datetime(year, month, day, 12, tzinfo=UTC)


def told(web: Web, path: str) -> dict[str, Any]:
    answer = get(web, path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def amount(opportunities: int, value: str) -> dict[str, Any]:
    return {"opportunities": opportunities, "value": value}


@pytest.mark.parametrize("kind", KINDS)
def test_a_ranking_adds_up_the_last_twelve_months_and_the_twelve_before(
    web: Web, kind: str
) -> None:
    other: dict[str, Any] = {IDS[kind]: 8, NAMES[kind]: "Quay"}
    insert_opportunities(
        web.database,
        job(NOW - 10 * DAY, 100),
        job(NOW - 300 * DAY, 20),
        job(NOW - 400 * DAY, 500),
        job(NOW - 800 * DAY, 9_000),
        job(NOW + 40 * DAY, 7),
        job(NOW + 41 * DAY, 3, "Provisional"),
        job(NOW - 5 * DAY, 1_000, "Lost"),
        job(NOW - 5 * DAY, 130, **other),
        job(None, 4, **other),
        job(NOW, 1_000_000, **dict.fromkeys((IDS[kind], NAMES[kind]))),
    )
    found = told(web, f"/{kind}.json")
    assert found["count"] == 2
    quay, harbour = found["ranked"]
    assert (quay["id"], quay["value"], quay["trend"]) == (8, "130", "130")
    assert (harbour["id"], harbour["name"]) == (7, "Harbour")
    assert (harbour["value"], harbour["opportunities"]) == ("120", 2)
    assert (harbour["value_before"], harbour["opportunities_before"]) == ("500", 1)
    assert harbour["trend"] == "-380"
    assert (harbour["coming_value"], harbour["open_value"]) == ("7", "3")
    page = visit(web, f"/{kind}")
    assert f"/{kind}/7" in page.links
    assert "−380" in page.text
    # Whoever was worth nothing before has a difference, too: the list is sorted by it.
    assert "+130" in page.text


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_one_leads_to_the_list_of_theirs_and_of_nobody_elses(
    web: Web, kind: str
) -> None:
    other: dict[str, Any] = {IDS[kind]: 8, NAMES[kind]: "Harbour & Sons"}
    insert_opportunities(web.database, job(NOW, 1), job(None, 2, "Lost"), job(NOW, 3, **other))
    page = visit(web, f"/{kind}/7")
    listed = next(link for link in page.links if link.startswith("/opportunities?"))
    found = told(web, listed.replace("?", ".json?"))
    assert sorted(row["id"] for row in found["opportunities"]) == [1, 2]


@pytest.mark.parametrize(
    ("today", "first", "first_before"),
    [
        (date(2029, 2, 28), date(2028, 2, 29), date(2027, 3, 1)),
        (date(2029, 3, 1), date(2028, 3, 2), date(2027, 3, 2)),
        (date(2028, 2, 28), date(2027, 3, 1), date(2026, 3, 1)),
        (date(2028, 2, 29), date(2027, 3, 1), date(2026, 3, 1)),
        (date(2027, 12, 31), date(2027, 1, 1), date(2026, 1, 1)),
    ],
)
def test_twelve_months_begin_the_day_after_this_day_a_year_ago_in_leap_years_too(
    web: Web, today: date, first: date, first_before: date
) -> None:
    """As the view `customer_value` has it, whose day is always today."""
    days = (first_before - DAY, first_before, first - DAY, first, today, today + DAY)
    insert_opportunities(
        web.database,
        *(job(at(d.year, d.month, d.day), 10**n) for n, d in enumerate(days)),
    )
    [(view_first, view_before)] = query(
        web.database,
        "SELECT (%(t)s::date - interval '1 year')::date + 1,"
        " (%(t)s::date - interval '2 years')::date + 1".replace("%(t)s", f"'{today}'"),
    )
    assert (view_first, view_before) == (first, first_before)
    with web.database.session() as connection:
        _, [found] = rank(connection, RankingQuery(PARTIES["customers"], Day(today, "UTC")))
    assert [found.value_before, found.value, found.coming_value] == [110, 11_000, 100_000]


def test_a_customer_is_worth_what_the_view_for_analysts_says(web: Web) -> None:
    insert_opportunities(
        web.database,
        *(
            job(NOW - days * DAY, 1 + days, status, organisation_id=1 + days % 3)
            for days in (-400, -1, 0, 1, 200, 363, 364, 365, 366, 367, 500, 729, 730, 731, 732)
            for status in ("Reserved", "Open", "Dead")
        ),
    )
    view = web.query(
        "SELECT organisation_id, value, value_before, trend, coming_value, open_value,"
        " opportunities, opportunities_before FROM customer_value ORDER BY 1"
    )
    ranked = sorted(told(web, "/customers.json")["ranked"], key=lambda one: one["id"])
    keys = ("value", "value_before", "trend", "coming_value", "open_value")
    assert [
        (one["id"], *(one[key] for key in keys), one["opportunities"], one["opportunities_before"])
        for one in ranked
    ] == [(row[0], *map(str, row[1:6]), *row[6:]) for row in view]
    assert len(view) == 3


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("-value", [1, 2, 3]),
        ("value", [3, 2, 1]),
        ("trend", [3, 1, 2]),
        ("name", [2, 3, 1]),
        ("-name", [1, 3, 2]),
        ("-coming", [3, 2, 1]),
    ],
)
def test_a_ranking_is_sorted_as_asked(web: Web, sort: str, expected: list[int]) -> None:
    insert_opportunities(
        web.database,
        *(
            job(NOW - ago * DAY, charge, organisation_id=id_, organisation_name=name)
            for id_, name, ago, charge in (
                (1, "Zebra", 3, 900), (1, "Zebra", 500, 850), (2, "Ant", 3, 500),
                (3, "Bee", 3, 10), (3, "Bee", 500, 20), (3, "Bee", -9, 5),
            )
        ),
    )  # fmt: skip
    found = told(web, f"/customers.json?sort={sort}")
    assert [one["id"] for one in found["ranked"]] == expected
    [heading] = [
        each for each in visit(web, f"/customers?sort={sort}").all("th") if "aria-sort" in each
    ]
    assert heading["aria-sort"] == ("descending" if sort.startswith("-") else "ascending")


@pytest.mark.parametrize("search", ["50%", "a_b", "back\\slash", "ÄRGER", "%"])
def test_a_name_is_found_as_it_was_typed(web: Web, search: str) -> None:
    insert_opportunities(
        web.database,
        job(NOW, 1, organisation_id=1, organisation_name="Rent 50% off"),
        job(NOW, 1, organisation_id=2, organisation_name="a_b"),
        job(NOW, 1, organisation_id=3, organisation_name="acb"),
        job(NOW, 1, organisation_id=4, organisation_name="Back\\Slash"),
        job(NOW, 1, organisation_id=5, organisation_name="Großer Ärger"),
    )
    answer = get(web, "/customers.json?q=" + search.replace("%", "%25").replace("\\", "%5C"))
    expected = {"50%": [1], "a_b": [2], "back\\slash": [4], "ÄRGER": [5], "%": [1]}[search]
    assert [one["id"] for one in answer.json()["ranked"]] == expected


def test_a_page_beyond_the_last_one_does_not_say_that_there_is_nobody(web: Web) -> None:
    insert_opportunities(web.database, job(NOW, 1))
    text = visit(web, "/customers?page=99").text
    assert "There are fewer pages than that." in text
    assert "0 customers" not in text


@pytest.mark.parametrize("path", ["/customers/abc", "/won-and-lost?year=abc", "/venues?page=x"])
def test_a_person_whose_address_is_wrong_is_told_no_words_for_programs(web: Web, path: str) -> None:
    assert "openapi" not in visit(web, path, 422).text
    assert "/openapi.json describes" in get(web, path, Accept="application/json").json()["error"]


def test_a_ranking_goes_on_on_the_next_page(web: Web) -> None:
    insert_opportunities(
        web.database,
        *(job(NOW, i, organisation_id=i, organisation_name=f"C{i}") for i in range(1, 76)),
    )
    first, second, third = (told(web, f"/customers.json?page={n}") for n in (1, 2, 3))
    assert [one["id"] for one in first["ranked"] + second["ranked"]] == list(range(75, 0, -1))
    assert third["ranked"] == []
    assert "/customers?page=2" in visit(web, "/customers").links
    assert "There are fewer pages" in visit(web, "/customers?page=3").text


@pytest.mark.parametrize("kind", KINDS)
def test_where_there_are_many_a_page_is_the_same_without_reading_all(
    web: Web, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_opportunities(
        web.database,
        *(
            job(NOW - ago * DAY, charge, status, **{IDS[kind]: id_, NAMES[kind]: f"N{id_ or ago}"})
            for id_, ago, charge, status in (
                (1, 3, 900, "Reserved"), (1, 500, 850, "Reserved"), (2, 3, 900, "Reserved"),
                (2, 3000, 7, "Provisional"), (3, 3, -10, "Reserved"), (3, 500, 20, "Reserved"),
                (4, -9, 5, "Reserved"), (5, 3, 100, "Lost"), (6, 900, 1, "Reserved"),
                (7, 3, 100, "Open"), (None, 3, 30, "Reserved"), (None, 4, 20, "Reserved"),
            )
        ),
    )  # fmt: skip
    monkeypatch.setattr(rankings, "MOST_RANKED", 2)
    day, of = Day(NOW.date(), "UTC"), PARTIES[kind]
    leading = 0
    with web.database.session() as connection:
        wanted = RankingQuery(of, day)
        assert rankings.rank_leading(connection, wanted) is None, "few are read at once"
        monkeypatch.setattr(rankings, "MOST_READ_AT_ONCE", -1)
        for key in rankings.RANKINGS:
            for sort in (key, f"-{key}"):
                for offset in range(0, 10, 2):
                    wanted = RankingQuery(of, day, sort, offset)
                    found = rankings.rank_leading(connection, wanted)
                    leading += found is not None
                    _, whole = rank(connection, wanted)
                    assert found in (None, whole), (sort, offset)
    assert leading >= 7


def test_where_there_are_many_the_page_comes_first_and_their_number_after_it(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_opportunities(
        web.database,
        *(job(NOW, i, organisation_id=i, organisation_name=f"C{i}") for i in range(1, 116)),
    )
    monkeypatch.setattr(rankings, "MOST_READ_AT_ONCE", -1)
    page = visit(web, "/customers?page=2")
    [found] = page.all("p", id="found")
    assert "Customers 51 to 100" in page.text
    assert "/customers?page=3" in page.links
    assert "115 customers, page 2 of 3" in visit(web, found["data-fill"]).text
    assert "115 customers, page 3 of 3" in visit(web, "/customers?page=3").text
    assert told(web, "/customers.json")["count"] == 115


@pytest.mark.parametrize("kind", KINDS)
def test_the_newest_name_is_shown_and_two_of_one_name_stay_two(web: Web, kind: str) -> None:
    def named(id_: int, name: str, days_ago: int) -> Any:
        who = {IDS[kind]: id_, NAMES[kind]: name, "updated_at_rms": NOW - days_ago * DAY}
        return job(NOW - days_ago * DAY, 100, state_name="Order", ordered_at=NOW, **who)

    insert_opportunities(
        web.database,
        named(7, "Zenith", 9), named(7, "Acme", 2), named(7, "Middle", 5), named(8, "Acme", 3),
        named(9, "Zed", 3),
    )  # fmt: skip
    renamed = {"id": 9, "name": "Renamed", "membership_type": "Organisation"}
    insert(web.database, "members", [renamed | {"updated_at_rms": NOW}])
    ranked = told(web, f"/{kind}.json")["ranked"]
    assert [(one["id"], one["name"]) for one in ranked] == [
        (7, "Acme"), (8, "Acme"), (9, "Renamed"),
    ]  # fmt: skip
    assert [one["id"] for one in told(web, f"/{kind}.json?q=acme")["ranked"]] == [7, 8]
    assert [told(web, f"/{kind}/{n}.json")["name"] for n in (7, 8, 9)] == [
        "Acme",
        "Acme",
        "Renamed",
    ]
    if kind == "owners":
        assert told(web, "/won-and-lost.json?owner=7")["owner"] == "Acme"
    if kind == "customers":
        facets = told(web, "/api/opportunities/facets")["facets"]
        [choices] = [facet["choices"] for facet in facets if facet["kind"] == "customer_id"]
        assert {(c["value"], c["name"]) for c in choices} == {
            ("7", "Acme"), ("8", "Acme"), ("9", "Renamed"),
        }  # fmt: skip
        page = visit(web, "/opportunities?customer_id=7&status=Lost")
        assert "Customer: Acme" in " ".join(page.text.split())


@pytest.mark.parametrize("kind", KINDS)
def test_the_list_of_all_opportunities_of_one_has_those_with_an_earlier_name_and_no_others(
    web: Web, kind: str
) -> None:
    def named(id_: int, name: str) -> Any:
        return job(NOW, 100, **{IDS[kind]: id_, NAMES[kind]: name, "updated_at_rms": NOW})

    def list_of(id_: int) -> str:
        found = re.search('href="([^"]+)">All opp', visit(web, f"/{kind}/{id_}").html)
        assert found is not None
        return found[1]

    insert_opportunities(web.database, named(7, "Earlier"), named(7, "Now"), named(8, "Now"))
    renamed = {"id": 7, "name": "Newest", "membership_type": "User", "updated_at_rms": NOW + DAY}
    insert(web.database, "members", [renamed])
    to_all = list_of(7)
    assert told(web, to_all.replace("?", ".json?"))["count"] == 2
    for page in (visit(web, to_all), visit(web, to_all.replace("opportunities", "calendar"))):
        assert f"{PARTIES[kind].single.capitalize()}: Newest" in " ".join(page.text.split())
    assert told(web, list_of(8).replace("?", ".json?"))["count"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_of_one_shows_its_year_by_month_against_the_year_before(web: Web, kind: str) -> None:
    other: dict[str, Any] = {IDS[kind]: 8}
    insert_opportunities(
        web.database,
        job(at(2031, 3), 100),
        job(at(2031, 3), 50, deliver_starts_at=at(2031, 2, 27)),
        job(at(2031, 3), 8, "Open", state_name="Quotation"),
        job(at(2031, 5), 30, "Lost", state_name="Quotation"),
        job(at(2031, 5), 40, "Cancelled", state_name="Order"),
        job(at(2031, 5), 70, "Dead", state_name="Enquiry"),
        job(at(2030, 3), 200),
        job(at(2032, 1, 1), 999),
        job(at(2031, 6), 450, **other),
        job(None, 60, "Provisional"),
    )
    found = told(web, f"/{kind}/7.json?year=2031")
    months = {m["month"]: m for m in found["months"]}
    assert list(months) == [f"2031-{n:02d}-01" for n in range(1, 13)]
    assert months["2031-02-01"]["confirmed"] == amount(1, "50")
    assert months["2031-03-01"]["confirmed"] == amount(1, "100")
    assert months["2031-03-01"]["undecided"] == amount(1, "8")
    assert months["2031-03-01"]["year_before"] == amount(1, "200")
    assert months["2031-05-01"]["confirmed"] == amount(0, "0")
    assert found["confirmed"] == amount(2, "150")
    assert found["year_before"] == amount(1, "200")
    assert found["won"] == amount(2, "150")
    assert found["lost"] == amount(2, "70")
    assert found["lost_orders"] == amount(1, "40")
    assert found["total"] == "600"
    assert (found["open_count"], found["open_value"]) == (2, "68")
    assert [j["id"] for j in found["next_jobs"]] == [7, 2, 1, 8]
    page = visit(web, f"/{kind}/7?year=2031")
    assert "Harbour" in page.text
    assert "50 %" in page.text, "two won of four that were decided"
    assert "25 %" in page.text, "150 of 600"
    # What it offers to copy says the same.
    [statement] = re.findall(r"SELECT month,.*?;", page.text, re.DOTALL)
    in_sql = {str(month): (count, str(value)) for month, count, value in web.query(statement)}
    of_page = {
        m["month"]: (m["confirmed"]["opportunities"], m["confirmed"]["value"])
        for m in found["months"]
        if m["confirmed"]["opportunities"]
    }
    assert {month: told for month, told in in_sql.items() if month[:4] == "2031"} == of_page
    assert {f"/{kind}/7?year=2030", f"/{kind}/7?year=2032", f"/{kind}"} <= set(page.links)


def test_months_are_those_of_the_company(web: Web) -> None:
    # In Auckland it is the first of July already.
    insert_opportunities(web.database, job(datetime(2031, 6, 30, 13, tzinfo=UTC), 10))
    current = load_settings(_env_file=None, RMS_TIME_ZONE="Pacific/Auckland")
    with serving(web.database, web.sandbox, current=current) as there:
        found = told(there, "/customers/7.json?year=2031")
    assert [m["month"] for m in found["months"] if m["confirmed"]["opportunities"]] == [
        "2031-07-01"
    ]


def test_a_year_that_goes_on_is_held_against_the_same_days_of_the_year_before(web: Web) -> None:
    year = NOW.year
    insert_opportunities(
        web.database,
        job(NOW - timedelta(minutes=1), 10),
        job(at(year, 12, 31) + timedelta(hours=11), 5),
        job(at(year - 1, 1, 1), 7),
        job(at(year - 1, 12, 31) + timedelta(hours=11), 90),
    )
    found = told(web, "/customers/7.json")
    assert found["year"] == year
    assert found["confirmed"] == amount(2, "15")
    assert found["year_before"] == amount(2, "97")
    last_day = NOW.date() == at(year, 12, 31).date()
    assert found["so_far"] == (amount(2, "15") if last_day else amount(1, "10"))
    assert found["year_before_so_far"] == (amount(2, "97") if last_day else amount(1, "7"))


def test_contacts_are_those_that_current_rms_lists_of_the_customer(web: Web) -> None:
    insert_opportunities(web.database, job(NOW, 1))
    related = [{"related_id": n} for n in (21, 22, 23, 2**70, None, "x")] + [None, 5]
    insert(
        web.database,
        "members",
        [
            {"id": 7, "name": "Harbour", "membership_type": "Organisation",
             "data": {"child_members": related}},
            {"id": 21, "name": "Ada Blake", "membership_type": "Contact", "active": True},
            {"id": 22, "name": "Gone", "membership_type": "Contact", "active": False},
            {"id": 23, "name": "Hall", "membership_type": "Venue", "active": True},
            {"id": 24, "name": "Somebody else's", "membership_type": "Contact"},
        ],
    )  # fmt: skip
    emails = '[{"address": "ada@harbour.example"}, {"address": null}, 3]'
    web.query(
        f"UPDATE members SET emails = '{emails}', phones = '[{{\"number\": \" +44 20 \"}}]'"
        " WHERE id = 21 RETURNING 1"
    )
    assert told(web, "/customers/7.json")["contacts"] is None
    current = load_settings(_env_file=None, RMS_COLLECTIONS="opportunities,members")
    with serving(web.database, web.sandbox, current=current) as there:
        found = told(there, "/customers/7.json")
        page = visit(there, "/customers/7")
    assert found["contacts"] == [
        {"id": 21, "name": "Ada Blake", "emails": ["ada@harbour.example"], "phones": ["+44 20"]}
    ]
    assert {"mailto:ada%40harbour.example", "tel:+4420"} <= {*page.links}
    assert "Gone" not in page.text


def test_what_people_typed_stays_text(web: Web) -> None:
    insert_opportunities(
        web.database,
        job(NOW + DAY, 1, name=EVIL, organisation_name=EVIL, venue_name=EVIL, owner_name=EVIL),
    )
    for kind in KINDS:
        assert EVIL in visit(web, f"/{kind}").text
        assert EVIL in visit(web, f"/{kind}/7").text


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_mirror_and_an_unknown_one_say_so(web: Web, kind: str) -> None:
    assert "yet" in visit(web, f"/{kind}").text
    assert told(web, f"/{kind}.json")["ranked"] == []
    for unknown in (7, 2**63, -(2**63) - 5):
        for part in ("", "/compared"):
            answer = get(web, f"/{kind}/{unknown}{part}.json")
            assert answer.status_code == 404
            assert str(unknown) in answer.text
    assert get(web, f"/{kind}/7.json?year=12345").status_code == 422
    assert get(web, f"/{kind}.json?sort=nothing").status_code == 422


@pytest.mark.parametrize(
    ("path", "name_of"),
    [
        ("/customers", lambda year: ("the 12 months before", "the last 12 months")),
        ("/venues", lambda year: ("the 12 months before", "the last 12 months")),
        ("/owners/7", lambda year: (str(year - 1), str(year))),
        ("/customers/7?year=2025", lambda year: ("2024", "2025")),
        ("/won-and-lost", lambda year: (str(year - 1), str(year))),
        ("/won-and-lost?year=2025", lambda year: ("2024", "2025")),
    ],
)
def test_sums_over_time_that_is_not_mirrored_say_so(web: Web, path: str, name_of: Any) -> None:
    """Nothing for a year of which the mirror has nothing looks like a bad year."""
    insert_opportunities(web.database, job(NOW - DAY, 100), job(at(2025, 12, 1), 5))
    earlier, later = name_of(NOW.year)
    said = "The mirror has nothing older than {}, so {} not complete"
    assert "No full sync has ended yet, so these figures are not complete" in visit(web, path).text
    insert(web.database, "mirrored_windows", [{"collection": "opportunities"}])
    for covered, periods in (
        (NOW, f"{earlier} and {later} are"),
        (at(2010, 1), None),
        # Within the earlier period, whichever that is.
        (_within(earlier), f"{earlier} is"),
    ):
        query(web.database, "UPDATE mirrored_windows SET reaches_back_to = %s", covered)
        text = visit(web, path).text
        if periods is None:
            assert "not complete" not in text
        else:
            assert said.format(f"{covered.day} {covered:%B %Y}", periods) in text


def _within(period: str) -> datetime:
    return at(int(period), 6) if period.isdecimal() else NOW - 500 * DAY
