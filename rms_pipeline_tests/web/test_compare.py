"""Figures beside those of earlier, and the SQL that is shown: run, and held against the page."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from rms_pipeline.insight.compare import months_before, read_memory, shifted
from rms_pipeline.insight.days import Day
from rms_pipeline.insight.today import compare_today
from rms_pipeline.insight.totals import compare_totals, compare_webhooks
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline_tests.rows import insert, insert_opportunities, query
from rms_pipeline_tests.web.conftest import Web
from rms_pipeline_tests.web.page import get, visit

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def noon() -> datetime:
    return NOW.replace(hour=12, minute=0, second=0)


def job(starts: datetime | None, ends: datetime | None, **fields: Any) -> dict[str, Any]:
    return {"starts_at": starts, "ends_at": ends, "opportunity_status": "Reserved", **fields}


def remember_since(database: Database, began: datetime) -> None:
    query(
        database,
        "INSERT INTO mirror_state (name, value) VALUES ('history_began', %s)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value RETURNING name",
        began.isoformat(),
    )


def reach_back_to(database: Database, day: datetime | None) -> None:
    query(database, "DELETE FROM mirrored_windows RETURNING collection")
    if day is not None:
        insert(
            database, "mirrored_windows", [{"collection": "opportunities", "reaches_back_to": day}]
        )


@pytest.fixture
def clean(web: Web) -> Web:
    remember_since(web.database, NOW)
    reach_back_to(web.database, None)
    return web


def versions(database: Database, since: datetime, *ids: int) -> None:
    insert(
        database,
        "opportunity_versions",
        [{"id": i, "asked_at": since, "answered_at": since, "valid_from": since} for i in ids],
    )


def was(database: Database, id_: int, since: datetime, until: datetime, **columns: Any) -> None:
    """A version of before, which ended."""
    past = {"opportunity_id": id_, "valid_from": since, "valid_to": until, "deleted": False}
    insert(database, "opportunity_past", [past | {"difference": {}} | columns])


def told(web: Web, path: str) -> dict[str, Any]:
    answer = get(web, path)
    assert answer.status_code == 200, answer.text
    return {figure["id"]: figure for figure in answer.json()["figures"]}


def measures(figure: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {m["point"]: m for m in [figure["now"], *figure["before"]]}


def assert_sql_gives_the_figures(web: Web, figures: dict[str, Any]) -> int:
    """Pasted as it is shown; how many were run."""
    run = 0
    for figure in figures.values():
        for measure in measures(figure).values():
            if not measure["sql"]:
                assert measure["count"] is None
                assert measure["note"]
                continue
            ((count, value),) = query(web.database, measure["sql"])
            shown = None if measure["value"] is None else Decimal(measure["value"])
            assert (count, value) == (measure["count"], shown), figure["id"]
            run += 1
    return run


def test_a_day_stands_beside_the_same_weekday_as_it_was_known_then(clean: Web) -> None:
    began = NOW - 500 * DAY
    remember_since(clean.database, began)
    insert_opportunities(
        clean.database,
        job(noon(), noon() + DAY, total_value=100),
        job(noon() - 7 * DAY, noon() - 6 * DAY, total_value=40),
        # Moved away since: it went out that day as far as anybody knew.
        job(noon() + 30 * DAY, noon() + 31 * DAY, total_value=7),
        # Entered since.
        job(noon() - 7 * DAY, noon() - 6 * DAY, total_value=1_000),
        job(noon() - 364 * DAY, noon() - 363 * DAY, total_value=5),
    )
    versions(clean.database, began, 1, 2, 5)
    versions(clean.database, NOW - DAY, 3, 4)
    was(
        clean.database,
        3,
        began,
        NOW - DAY,
        **job(noon() - 7 * DAY, noon() - 6 * DAY, total_value=60),
    )
    figures = told(clean, "/today/compared.json")
    out = measures(figures["goes_out"])
    assert (out["now"]["count"], Decimal(out["now"]["value"])) == (1, Decimal(100))
    week, year = out["week_before"], out["year_before"]
    assert (week["count"], Decimal(week["value"]), week["known"]) == (2, Decimal(100), "then")
    assert (year["count"], Decimal(year["value"]), year["known"]) == (1, Decimal(5), "then")
    assert assert_sql_gives_the_figures(clean, figures) == 7 * 3
    text = visit(clean, "/today/compared").text
    assert "The week before" in text
    assert "opportunities_as_of" in text


def test_what_no_history_knows_is_said_and_what_took_place_is_counted_as_known_now(
    clean: Web,
) -> None:
    remember_since(clean.database, NOW - 30 * DAY)
    reach_back_to(clean.database, NOW - 400 * DAY)
    insert_opportunities(clean.database, job(noon() - 364 * DAY, noon() - 363 * DAY, total_value=5))
    versions(clean.database, NOW - 30 * DAY, 1)
    figures = told(clean, "/today/compared.json")
    began = NOW - 30 * DAY
    missing = f"no history before {began.day} {began:%B %Y}"
    year = measures(figures["goes_out"])["year_before"]
    assert (year["count"], year["known"]) == (1, "now")
    assert year["note"] == f"as known now: {missing}"
    for name in ("late_back", "not_confirmed", "confirmed", "lost"):
        unknown = measures(figures[name])["year_before"]
        assert (unknown["count"], unknown["note"]) == (None, missing)
    assert_sql_gives_the_figures(clean, figures)
    assert missing in visit(clean, "/today/compared").text


def test_the_day_on_which_the_history_begins_is_that_of_the_company(clean: Web) -> None:
    # 00:30 on 1 June in London, and still 31 May in UTC.
    began = datetime(2026, 5, 31, 23, 30, tzinfo=UTC)
    remember_since(clean.database, began)
    reach_back_to(clean.database, began)
    insert(clean.database, "webhook_events", [{"opportunity_id": 1, "received_at": began}])
    counted = {"opportunity_status": "Open", "phase": "open", "opportunities": 1}
    counted |= {"charge_total": 1, "total_value": 1, "day": date(2026, 6, 1)}
    insert(clean.database, "daily_status_counts", [counted])
    today = Day(date(2026, 6, 2), "Europe/London")
    with clean.database.session() as connection:
        memory = read_memory(connection, today.time_zone)
        assert memory.missing == "no history before 1 June 2026"
        assert memory.covered_said == "1 June 2026"
        figures = [
            *compare_totals(connection, today),
            compare_webhooks(connection, today, today.starts),
            *compare_today(connection, today, today.starts),
        ]
    notes = {measure.note for figure in figures for measure in figure.before}
    assert {"no history before 1 June 2026", "no webhooks before 1 June 2026"} <= notes
    assert "31 May" not in str(notes)


def test_a_year_that_is_not_mirrored_is_no_year_without_jobs(clean: Web) -> None:
    remember_since(clean.database, NOW - 30 * DAY)
    reach_back_to(clean.database, NOW - 60 * DAY)
    figures = told(clean, "/today/compared.json")
    year = measures(figures["on_hire"])["year_before"]
    covered = NOW - 60 * DAY
    assert year["count"] is None
    assert f"the mirror has nothing older than {covered.day} {covered:%B %Y}" in year["note"]
    assert '"/further-back"' in visit(clean, "/today/compared").html
    reach_back_to(clean.database, None)
    remember_since(clean.database, NOW)
    assert "no history before" in visit(clean, "/today/compared").text


def test_what_was_decided_is_held_against_the_same_hours_of_the_week_before(clean: Web) -> None:
    remember_since(clean.database, NOW - 60 * DAY)
    insert_opportunities(clean.database, *(job(noon(), noon() + DAY) for _ in range(4)))
    versions(clean.database, NOW - 60 * DAY, 1, 2, 3, 4)

    # Not as this module was loaded: by now that may be long ago.
    now = datetime.now(UTC)

    def decided(id_: int, at: datetime, after: str = "Reserved", before: str = "Open") -> None:
        change = {"opportunity_id": id_, "field": "opportunity_status", "seen_at": at}
        insert(
            clean.database,
            "opportunity_changes",
            [change | {"old_value": before, "new_value": after, "changed_at": at}],
        )

    decided(1, now - HOUR / 60)
    decided(2, now - 7 * DAY - HOUR / 60)
    decided(3, now - 7 * DAY - HOUR / 60, "Lost")
    # Later that day: not so far by the same time.
    decided(4, now - 7 * DAY + HOUR / 6)
    # From one confirmed status to another decides nothing.
    decided(1, now - 7 * DAY - HOUR / 60, "Active", "Reserved")
    figures = told(clean, "/today/compared.json")
    confirmed = measures(figures["confirmed"])
    assert confirmed["week_before"]["count"] == 1
    assert confirmed["now"]["count"] == 1
    assert measures(figures["lost"])["week_before"]["count"] == 1
    assert_sql_gives_the_figures(clean, figures)


@pytest.mark.parametrize("day", ["1900-01-02", "2199-12-30", "2031-05-17", "2024-02-29"])
def test_any_day_can_be_compared(clean: Web, day: str) -> None:
    figures = told(clean, f"/today/compared.json?day={day}")
    assert "late_back" not in figures
    assert_sql_gives_the_figures(clean, figures)
    visit(clean, f"/today/compared?day={day}")


def test_the_figures_of_the_page_are_those_that_are_compared(clean: Web) -> None:
    insert_opportunities(
        clean.database,
        job(noon(), noon() + DAY, total_value=3),
        job(noon() - DAY, noon(), total_value=4),
        job(noon() - 3 * DAY, NOW - DAY, opportunity_status="Active"),
        job(noon() + 2 * DAY, noon() + 3 * DAY, opportunity_status="Open"),
    )
    page = get(clean, "/today.json").json()
    for name, figure in told(clean, "/today/compared.json").items():
        listed = page[name]
        count = len(listed) if isinstance(listed, list) else listed["count"]
        assert figure["now"]["count"] == count, name
        if isinstance(listed, dict):
            assert figure["now"]["value"] == listed["total_value"]


def test_the_same_time_earlier_follows_the_companys_clock() -> None:
    # Clocks went forward on 29 March 2026.
    noon = datetime(2026, 4, 1, 11, tzinfo=UTC)
    assert shifted(noon, "Europe/London", days=7) == datetime(2026, 3, 25, 12, tzinfo=UTC)
    assert shifted(noon, "UTC", months=1) == datetime(2026, 3, 1, 11, tzinfo=UTC)
    assert months_before(date(2026, 3, 31), 1) == date(2026, 2, 28)
    assert months_before(date(2024, 3, 31), 1) == date(2024, 2, 29)
    assert months_before(date(2024, 2, 29), 12) == date(2023, 2, 28)
    assert months_before(date(2026, 1, 15), 1) == date(2025, 12, 15)


@pytest.mark.parametrize(
    ("kind", "column"),
    [("customers", "organisation_id"), ("venues", "venue_id"), ("owners", "owner_id")],
)
def test_a_year_of_one_of_them_stands_beside_the_year_before_as_known_a_year_before(
    clean: Web, kind: str, column: str
) -> None:
    began = NOW - 800 * DAY
    remember_since(clean.database, began)
    name = column.replace("_id", "_name")
    mine = {column: 7, name: "Harbour"}
    this, last = (datetime(NOW.year - n, 6, 1, 12, tzinfo=UTC) for n in (0, 1))
    insert_opportunities(
        clean.database,
        job(this, this + DAY, charge_total=300, **mine),
        # Booked late: a year before, nobody knew of it.
        job(last, last + DAY, charge_total=50, **mine),
        job(last, last + DAY, charge_total=40, **mine),
        job(this, this + DAY, charge_total=100, **{column: 8, name: "Quay"}),
        job(
            this, this + DAY, charge_total=5, opportunity_status="Lost", state_name="Order", **mine
        ),
        job(this, this + DAY, charge_total=9, opportunity_status="Open", **mine),
    )
    versions(clean.database, began, 3)
    versions(clean.database, NOW - 40 * DAY, 1, 4)
    versions(clean.database, NOW - 2 * DAY, 2, 5, 6)
    figures = told(clean, f"/{kind}/7/compared.json")
    confirmed = measures(figures["confirmed"])
    assert Decimal(confirmed["now"]["value"]) == 300
    assert Decimal(confirmed["month_before"]["value"]) == 300
    assert Decimal(confirmed["year_before"]["value"]) == 40
    assert Decimal(measures(figures["share"])["now"]["value"]) == 75
    assert Decimal(measures(figures["won"])["now"]["value"]) == 50
    assert measures(figures["lost_orders"])["now"]["count"] == 1
    assert measures(figures["not_decided"])["month_before"]["count"] == 0
    assert assert_sql_gives_the_figures(clean, figures) == 5 * 3
    # The page itself has the same.
    party = get(clean, f"/{kind}/7.json").json()
    assert Decimal(party["confirmed"]["value"]) == 300
    assert party["lost_orders"]["opportunities"] == 1
    assert "75.0 %" in visit(clean, f"/{kind}/7/compared").text
    assert "/compared?year=" in visit(clean, f"/{kind}/7").html


def test_of_a_year_that_nobody_mirrored_the_page_says_so(clean: Web) -> None:
    insert_opportunities(clean.database, job(noon(), noon() + DAY, organisation_id=7))
    reach_back_to(clean.database, NOW - 30 * DAY)
    figures = told(clean, "/customers/7/compared.json")
    assert measures(figures["confirmed"])["year_before"]["count"] is None
    page = visit(clean, "/customers/7/compared")
    assert "No history before" in page.text
    assert '"/further-back"' in page.html
    assert get(clean, f"/customers/{2**63}/compared.json").status_code == 404


def test_the_totals_of_the_dashboard_stand_beside_those_of_earlier_days(clean: Web) -> None:
    insert_opportunities(
        clean.database,
        job(noon(), noon() + DAY, total_value=10),
        job(noon(), noon() + DAY, total_value=4, opportunity_status="Lost"),
    )
    refresh_status_counts(clean.database, "UTC")
    query(clean.database, "DELETE FROM daily_status_counts RETURNING day")
    days = [
        (8, "Open", "open", 1, 1),
        (7, "Reserved", "confirmed", 3, 30),
        (7, "Lost", "lost", 2, 8),
    ]
    insert(
        clean.database,
        "daily_status_counts",
        [
            {
                "day": NOW.date() - n * DAY,
                "opportunity_status": status,
                "phase": phase,
                "opportunities": count,
                "charge_total": value,
                "total_value": value,
            }
            for n, status, phase, count, value in days
        ],
    )
    figures = {f["id"]: f for f in get(clean, "/api/dashboard").json()["compared"]}
    everything = measures(figures["all"])
    assert (everything["now"]["count"], Decimal(everything["now"]["value"])) == (2, Decimal(14))
    assert everything["week_before"]["count"] == 5
    assert measures(figures["confirmed"])["week_before"]["count"] == 3
    began = NOW - 8 * DAY
    missing = f"no history before {began.day} {began:%B %Y}"
    assert measures(figures["lost"])["year_before"]["note"] == missing
    assert assert_sql_gives_the_figures(clean, figures) == 6
    text = visit(clean, "/").text
    assert "Week before 5" in " ".join(text.split())
    assert f"No history{missing.removeprefix('no history')}" in text


def test_webhooks_of_the_last_days_stand_beside_those_of_the_days_before(clean: Web) -> None:
    def arrive(at: datetime, record: int | None = 1) -> None:
        event = {"action_id": len(stored) + 1, "action_type": "update"}
        event |= {"subject_type": "Opportunity", "opportunity_id": record, "received_at": at}
        stored.append(at)
        insert(clean.database, "webhook_events", [event])

    def figure() -> dict[str, Any]:
        found: dict[str, Any] = get(clean, "/api/dashboard").json()["compared_webhooks"]
        return found

    stored: list[datetime] = []
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    assert (figure()["now"]["count"], figure()["before"][0]["note"]) == (0, "no webhooks")
    arrive(midnight)
    arrive(midnight - 6 * DAY)
    # About no record.
    arrive(midnight, None)
    began = midnight - 6 * DAY
    missing = f"no webhooks before {began.day} {began:%B %Y}"
    assert (figure()["now"]["count"], figure()["before"][0]["note"]) == (2, missing)
    assert missing in visit(clean, "/").text
    arrive(midnight - 7 * DAY)
    arrive(midnight - 13 * DAY)
    # Later on that day than it is now, and before those days.
    arrive(midnight - 6 * DAY - timedelta(seconds=1))
    arrive(midnight - 13 * DAY - timedelta(seconds=1))
    now, [before] = figure()["now"], figure()["before"]
    assert (now["count"], before["count"], before["known"]) == (2, 2, "then")
    for measure in (now, before):
        assert query(clean.database, measure["sql"]) == [(measure["count"],)]
    assert "2 webhooks. In the 7 days before, up to the same time of day: 2." in " ".join(
        visit(clean, "/").text.split()
    )


def test_each_status_and_the_coming_weeks_of_the_dashboard_stand_beside_earlier(
    clean: Web,
) -> None:
    remember_since(clean.database, NOW - 10 * DAY)
    odd = "50% 'off' %(x)s"
    monday = noon() - noon().weekday() * DAY
    insert_opportunities(
        clean.database,
        job(monday, monday + DAY, id=1, total_value=10),
        job(monday + 181 * DAY, monday + 181 * DAY, id=2, total_value=20),
        job(monday + 183 * DAY, monday + 183 * DAY, id=3, total_value=40),
        job(monday, monday + DAY, id=4, total_value=80, opportunity_status=odd),
        job(monday - 2 * DAY, monday, id=5, total_value=160),
    )
    # A week ago only the fifth was there; its weeks began a week earlier, too.
    versions(clean.database, NOW - DAY, 1, 2, 3, 4)
    versions(clean.database, NOW - 9 * DAY, 5)
    refresh_status_counts(clean.database, "UTC")
    query(clean.database, "DELETE FROM daily_status_counts RETURNING day")
    day = {"phase": "open", "charge_total": 0, "total_value": 3, "opportunities": 6}
    insert(
        clean.database,
        "daily_status_counts",
        [{"day": NOW.date() - 7 * DAY, "opportunity_status": odd} | day],
    )
    figures = told(clean, "/compared.json")
    assert list(figures) == [
        *("all", "confirmed", "lost", "status:Reserved", f"status:{odd}"),
        *("weeks_confirmed", "weeks_undecided"),
    ]
    status = measures(figures[f"status:{odd}"])
    assert (status["now"]["count"], status["week_before"]["count"]) == (1, 6)
    assert status["year_before"]["count"] is None
    assert measures(figures["status:Reserved"])["week_before"]["count"] == 0
    weeks = measures(figures["weeks_confirmed"])
    assert (weeks["now"]["count"], Decimal(weeks["now"]["value"])) == (2, Decimal(30))
    assert (weeks["week_before"]["count"], weeks["week_before"]["known"]) == (1, "then")
    assert weeks["year_before"]["count"] is None
    assert measures(figures["weeks_undecided"])["now"]["count"] == 1
    assert assert_sql_gives_the_figures(clean, figures) == 14
    page = visit(clean, "/compared")
    assert "How this is counted" in page.text
    assert odd in page.text
    assert "/compared" in visit(clean, "/").links


def test_what_is_known_now_stands_for_no_month_before(clean: Web) -> None:
    reach_back_to(clean.database, NOW - 900 * DAY)
    insert_opportunities(clean.database, job(noon(), noon() + DAY, organisation_id=7))
    confirmed = measures(told(clean, "/customers/7/compared.json")["confirmed"])
    assert confirmed["now"]["count"] == 1
    assert confirmed["month_before"]["count"] is None
    assert confirmed["year_before"]["count"] == 0


@pytest.mark.parametrize("kind", ["customers", "venues", "owners"])
def test_the_sql_of_a_ranking_gives_its_rows(clean: Web, kind: str) -> None:
    column = {"customers": "organisation", "venues": "venue", "owners": "owner"}[kind]
    insert_opportunities(
        clean.database,
        *(
            job(
                noon() - n * 100 * DAY,
                noon(),
                charge_total=n * 10,
                **{f"{column}_id": n % 3, f"{column}_name": f"100% {n % 3}"},
            )
            for n in range(1, 8)
        ),
    )
    found = get(clean, f"/{kind}.json?q=100%25&sort=name").json()
    rows = query(clean.database, found["sql"])
    assert len(rows) == found["count"] == 3
    shown = [(r["id"], r["name"], r["opportunities"]) for r in found["ranked"]]
    assert [(row[0], row[1], row[2]) for row in rows] == shown
    assert [Decimal(r["value"]) for r in found["ranked"]] == [row[4] for row in rows]
    assert "How this is counted" in visit(clean, f"/{kind}?q=100%25&sort=name").text
