"""What each view says of rows that were put there by hand, computed by hand."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.defs import asset_checks
from rms_pipeline.insight.days import Day
from rms_pipeline.insight.sense import SENSE_CHECKS
from rms_pipeline.insight.today import read_today
from rms_pipeline.mirror.database import Database
from rms_pipeline_tests.insight.conftest import set_time_zone
from rms_pipeline_tests.rows import insert, insert_opportunities, query

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def change(
    opportunity: int, field: str, old: str | None, new: str | None, at: datetime, **more: Any
) -> dict[str, Any]:
    told = {"opportunity_id": opportunity, "field": field, "old_value": old, "new_value": new}
    return told | {"changed_at": at, "seen_at": at + HOUR} | more


# sense_checks


def checks_of(database: Database, name: str | None = None) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for id_, check in query(
        database,
        "SELECT opportunity_id, sense_check FROM sense_checks"
        " WHERE sense_check = coalesce(%s, sense_check)",
        name,
    ):
        found.setdefault(id_, set()).add(check)
    return found


SOUND: dict[str, Any] = {
    "opportunity_status": "Reserved",
    "charge_total": 100,
    "starts_at": NOW + 20 * DAY,
    "ends_at": NOW + 22 * DAY,
}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, set()),
        ({"opportunity_status": "Active", "starts_at": NOW - 3 * DAY,
          "ends_at": NOW - HOUR}, {"late_back"}),
        ({"opportunity_status": "Active", "starts_at": NOW - 3 * DAY,
          "ends_at": NOW - HOUR, "collect_ends_at": NOW + HOUR}, set()),
        ({"opportunity_status": "Active", "starts_at": NOW - 3 * DAY, "ends_at": NOW - HOUR,
          "open_ended_rental": True}, set()),
        ({"opportunity_status": "Reserved", "starts_at": NOW - 3 * DAY,
          "ends_at": NOW - HOUR}, set()),
        ({"opportunity_status": "Provisional", "starts_at": NOW + 6 * DAY},
         {"starts_soon_and_open"}),
        ({"opportunity_status": "Provisional", "starts_at": NOW + 6 * DAY, "ends_at": None},
         {"starts_soon_and_open"}),
        ({"opportunity_status": "Provisional", "starts_at": NOW + 8 * DAY}, set()),
        ({"opportunity_status": "Provisional", "deliver_starts_at": NOW + 6 * DAY,
          "starts_at": NOW + 8 * DAY}, {"starts_soon_and_open"}),
        ({"opportunity_status": "Provisional", "starts_at": NOW - 2 * DAY}, set()),
        ({"opportunity_status": "Provisional", "starts_at": NOW + HOUR, "ends_at": NOW - 9 * DAY},
         {"starts_soon_and_open", "ends_before_it_starts"}),
        ({"opportunity_status": "Never heard of", "starts_at": NOW + DAY},
         {"starts_soon_and_open"}),
        ({"opportunity_status": None, "starts_at": NOW + DAY}, {"starts_soon_and_open"}),
        ({"opportunity_status": "Reserved", "starts_at": NOW + DAY}, set()),
        ({"opportunity_status": "Lost", "starts_at": NOW + DAY}, set()),
        ({"charge_total": 0}, {"confirmed_at_zero"}),
        ({"charge_total": Decimal("0.00")}, {"confirmed_at_zero"}),
        ({"charge_total": None}, {"confirmed_at_zero"}),
        ({"charge_total": 0, "opportunity_status": "Provisional"}, set()),
        ({"charge_total": 0, "opportunity_status": "Lost"}, set()),
        ({"starts_at": None, "ends_at": None}, {"confirmed_without_dates"}),
        ({"starts_at": None, "ends_at": None, "opportunity_status": "Completed"}, set()),
        ({"starts_at": None, "ends_at": None, "opportunity_status": "Active"},
         {"confirmed_without_dates"}),
        ({"starts_at": None, "ends_at": None, "charge_total": 0},
         {"confirmed_without_dates", "confirmed_at_zero"}),
        ({"starts_at": None}, set()),
        ({"ends_at": None}, set()),
        ({"starts_at": None, "ends_at": None, "deliver_starts_at": NOW}, set()),
        ({"starts_at": None, "ends_at": None, "collect_ends_at": NOW}, set()),
        ({"starts_at": None, "ends_at": None, "prep_starts_at": NOW},
         {"confirmed_without_dates"}),
        # No list of a day shows its end.
        ({"starts_at": None, "open_ended_rental": True}, {"confirmed_without_dates"}),
        ({"ends_at": None, "open_ended_rental": True}, set()),
        ({"starts_at": None, "ends_at": None, "opportunity_status": "Provisional"}, set()),
        ({"starts_at": None, "ends_at": None, "opportunity_status": "Lost"}, set()),
        ({"starts_at": None, "ends_at": None, "opportunity_status": None}, set()),
        ({"ends_at": NOW + 19 * DAY}, {"ends_before_it_starts"}),
        ({"ends_at": NOW + 20 * DAY}, set()),
        ({"ends_at": NOW + 19 * DAY, "open_ended_rental": True}, set()),
        ({"deliver_starts_at": NOW + 21 * DAY, "collect_ends_at": NOW + 20 * DAY},
         {"ends_before_it_starts"}),
        ({"opportunity_status": "Completed", "invoiced": False}, {"completed_and_not_invoiced"}),
        ({"opportunity_status": "Completed", "invoiced": True}, set()),
        ({"opportunity_status": "Completed", "invoiced": None}, set()),
        ({"opportunity_status": "Active", "invoiced": False}, set()),
        ({"provisional_cost_total": 101}, {"costs_above_charge"}),
        ({"predicted_cost_total": 101, "actual_cost_total": 5}, {"costs_above_charge"}),
        ({"actual_cost_total": Decimal("100.01")}, {"costs_above_charge"}),
        ({"provisional_cost_total": 100, "predicted_cost_total": 99}, set()),
        ({"provisional_cost_total": 101, "opportunity_status": "Cancelled"}, set()),
    ],
)  # fmt: skip
def test_a_sense_check_names_what_makes_no_sense_and_nothing_else(
    london: Database, fields: dict[str, Any], found: set[str]
) -> None:
    insert_opportunities(london, SOUND | fields, SOUND)
    assert checks_of(london) == ({1: found} if found else {})


def test_a_start_on_one_of_seven_days_of_the_company_with_today_is_soon_as_on_the_page(
    london: Database,
) -> None:
    today, week = query(
        london,
        "SELECT lower(rms_local_day((now() AT TIME ZONE 'Europe/London')::date)),"
        " lower(rms_local_day((now() AT TIME ZONE 'Europe/London')::date + 7))",
    )[0]
    soon = {"opportunity_status": "Open", "ends_at": NOW + 30 * DAY}
    insert_opportunities(
        london,
        soon | {"starts_at": today},
        soon | {"starts_at": today - timedelta(seconds=1)},
        soon | {"starts_at": week - timedelta(minutes=5)},
        soon | {"starts_at": week + timedelta(minutes=5)},
    )
    assert checks_of(london) == {1: {"starts_soon_and_open"}, 3: {"starts_soon_and_open"}}
    with london.session() as connection:
        now = datetime.now(UTC)
        listed = read_today(connection, Day.of(now, "Europe/London"), now).not_confirmed
    assert [job.id for job in listed.jobs] == [1, 3]


def test_dates_that_were_changed_after_the_confirmation_are_named_with_who_did_it(
    london: Database,
) -> None:
    confirmed = SOUND | {"confirmed_at": NOW - 5 * DAY}
    insert_opportunities(
        london,
        confirmed,
        confirmed,
        confirmed,
        # Before the history began: whatever is known came later.
        SOUND,
        confirmed | {"opportunity_status": "Lost"},
        confirmed,
        confirmed,
        confirmed,
    )
    late, early = NOW - 2 * DAY, NOW - 9 * DAY
    insert(
        london,
        "opportunity_changes",
        [
            change(1, "ends_at", "a", "b", late - DAY, changed_by="Ann"),
            change(1, "collect_ends_at", "a", "b", late, changed_by="Bob"),
            change(2, "ends_at", "a", "b", early, changed_by="Ann"),
            change(3, "subject", "a", "b", late),
            change(4, "deliver_starts_at", None, "b", late),
            change(5, "ends_at", "a", "b", late),
            change(6, "custom_fields.starts_at", "a", "b", late),
            change(6, "quote_invalid_at", "a", "b", late),
            change(7, "starts_at", "a", None, late, changed_at=None, changed_by="Ann"),
            change(8, "starts_at", "a", "b", late, changed_by="Ann"),
            change(8, "ends_at", "a", "b", late),
        ],
    )
    assert query(
        london,
        "SELECT opportunity_id, says, moment, about_money FROM sense_checks ORDER BY 1",
    ) == [
        (1, "After the confirmation Ann, Bob changed collect_ends_at, ends_at.", late, False),
        (4, "After the confirmation somebody changed deliver_starts_at.", late, False),
        (7, "After the confirmation Ann changed starts_at.", late + HOUR, False),
        (8, "After the confirmation Ann and somebody changed ends_at, starts_at.", late, False),
    ]


def test_every_date_of_the_schedule_counts_when_it_was_changed(london: Database) -> None:
    dates = [c.name for c in OPPORTUNITIES.columns if c.name.endswith(("starts_at", "ends_at"))]
    assert len(dates) == 20
    insert_opportunities(london, SOUND | {"confirmed_at": NOW - 5 * DAY})
    insert(london, "opportunity_changes", [change(1, d, "a", "b", NOW - DAY) for d in dates])
    ((says,),) = query(london, "SELECT says FROM sense_checks")
    assert says == f"After the confirmation somebody changed {', '.join(sorted(dates))}."


def test_a_field_that_the_company_calls_required_is_named_where_it_is_empty(
    london: Database,
) -> None:
    insert(
        london,
        "required_fields",
        [
            {"field": "venue_name"},
            {"field": "custom_fields.po"},
            {"field": "subject", "phase": "open"},
            {"field": "tags"},
            # Of nothing that there is: the asset check says so.
            {"field": "colour"},
            {"collection": "members", "field": "owner_name"},
        ],
    )
    full = {"venue_name": "Hall", "subject": "Party", "tags": ["a"], "custom_fields": {"po": "7"}}
    insert_opportunities(
        london,
        SOUND | full,
        SOUND | full | {"venue_name": None, "tags": []},
        SOUND | full | {"venue_name": " \n\t", "custom_fields": {"po": " "}},
        SOUND | full | {"custom_fields": {"po": []}},
        SOUND | full | {"custom_fields": {"other": 0}},
        SOUND | full | {"custom_fields": {"po": 0}},
        SOUND | {"opportunity_status": "Open"},
        SOUND | {"opportunity_status": "Lost"},
    )
    query(london, "UPDATE opportunities SET custom_fields = '[]' WHERE id = 1")
    assert query(
        london, "SELECT opportunity_id, says, sense_check FROM sense_checks ORDER BY 1"
    ) == [
        (1, "It lacks custom_fields.po.", "required_field_empty"),
        (2, "It lacks tags, venue_name.", "required_field_empty"),
        (3, "It lacks custom_fields.po, venue_name.", "required_field_empty"),
        (4, "It lacks custom_fields.po.", "required_field_empty"),
        (5, "It lacks custom_fields.po.", "required_field_empty"),
        (7, "It lacks subject.", "required_field_empty"),
    ]


def test_every_column_can_be_called_required(london: Database) -> None:
    mapped = [c.name for c in OPPORTUNITIES.columns if c.is_mapped and c.kind != "jsonb"]
    insert(london, "required_fields", [{"field": name} for name in mapped])
    insert_opportunities(london, {"opportunity_status": "Reserved", "charge_total": 1, "name": " "})
    ((says,),) = query(
        london, "SELECT says FROM sense_checks WHERE sense_check = 'required_field_empty'"
    )
    named = says.removeprefix("It lacks ").removesuffix(".").split(", ")
    wanted = {*mapped} - {"opportunity_status", "charge_total"}
    assert sorted(named) == sorted(wanted), "insight/views/sense_checks.sql has a line for each"


def test_a_query_for_one_check_shows_no_other_check(london: Database) -> None:
    insert_opportunities(
        london,
        SOUND | {"charge_total": 0, "actual_cost_total": 1, "ends_at": NOW},
    )
    assert checks_of(london) == {
        1: {"confirmed_at_zero", "costs_above_charge", "ends_before_it_starts"}
    }
    assert checks_of(london, "costs_above_charge") == {1: {"costs_above_charge"}}
    assert query(london, "SELECT sense_check, about_money FROM sense_checks ORDER BY 1") == [
        ("confirmed_at_zero", True),
        ("costs_above_charge", True),
        ("ends_before_it_starts", False),
    ]


def test_each_sense_check_is_an_asset_check_that_warns_with_a_count_and_the_first_ids(
    london: Database,
) -> None:
    checks = asset_checks.sense_of(london)
    assert checks.keys() == SENSE_CHECKS.keys()
    assert all(check.passed for check in checks.values())
    insert_opportunities(
        london,
        *[SOUND | {"opportunity_status": "Active", "starts_at": NOW - 9 * DAY,
                   "ends_at": NOW - DAY}] * 12,
    )  # fmt: skip
    checks = asset_checks.sense_of(london)
    found = checks["late_back"]
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert "12 opportunities" in (found.description or "")
    assert "The first are 1, 2, 3, 4, 5, 6, 7, 8, 9, 10." in (found.description or "")
    assert found.metadata["opportunities"].value == 12
    assert [n for n in SENSE_CHECKS if not checks[n].passed] == ["late_back"]


def test_a_required_field_that_there_is_not_is_named_by_the_check(london: Database) -> None:
    known = [{"field": "venue_name", "phase": "open"}, {"field": "custom_fields.any thing"}]
    insert(london, "required_fields", known)
    assert asset_checks.sense_of(london)["required_field_empty"].passed
    insert(london, "required_fields", [{"field": "Venue"}, {"field": "data"}])
    found = asset_checks.sense_of(london)["required_field_empty"]
    assert not found.passed
    assert "required_fields names Venue, data, which is neither" in (found.description or "")


# hire_days


def days_of(database: Database, id_: int = 1) -> list[str]:
    return [
        day.isoformat()
        for (day,) in query(
            database, "SELECT day FROM hire_days WHERE opportunity_id = %s ORDER BY 1", id_
        )
    ]


@pytest.mark.parametrize(
    ("zone", "starts", "ends", "days"),
    [
        ("UTC", "2026-06-05T10:00Z", "2026-06-07T09:00Z", ["05", "06", "07"]),
        ("UTC", "2026-06-05T10:00Z", "2026-06-05T10:00Z", ["05"]),
        # 23:30 in London, on the day before in UTC.
        ("Europe/London", "2026-06-04T23:30Z", "2026-06-05T22:59Z", ["05"]),
        ("Europe/London", "2026-06-04T22:30Z", "2026-06-05T23:30Z", ["04", "05", "06"]),
        ("America/Los_Angeles", "2026-06-05T06:59Z", "2026-06-05T07:01Z", ["04", "05"]),
        # The end is part of the hire.
        ("UTC", "2026-06-05T10:00Z", "2026-06-06T00:00Z", ["05", "06"]),
    ],
)
def test_an_opportunity_is_out_on_each_local_day_that_its_hire_touches(
    london: Database, zone: str, starts: str, ends: str, days: list[str]
) -> None:
    set_time_zone(london, zone)
    insert_opportunities(
        london, {"opportunity_status": "Reserved", "starts_at": starts, "ends_at": ends}
    )
    assert days_of(london) == [f"2026-06-{day}" for day in days]
    for day in days:
        # What an index serves says the same.
        assert query(
            london, "SELECT id FROM opportunities WHERE hire && rms_local_day(%s)", f"2026-06-{day}"
        ) == [(1,)]
    outside = query(
        london,
        "SELECT count(*) FROM generate_series('2026-06-01'::date, '2026-06-15', '1 day') d"
        " JOIN opportunities ON hire && rms_local_day(d::date)",
    )
    assert outside == [(len(days),)]


def test_a_day_of_23_hours_is_a_day_and_so_is_one_of_25(london: Database) -> None:
    insert_opportunities(
        london,
        {"starts_at": "2026-03-28T12:00Z", "ends_at": "2026-03-30T12:00Z"},
        {"starts_at": "2026-10-24T12:00Z", "ends_at": "2026-10-26T12:00Z"},
    )
    assert days_of(london, 1) == ["2026-03-28", "2026-03-29", "2026-03-30"]
    assert days_of(london, 2) == ["2026-10-24", "2026-10-25", "2026-10-26"]
    assert query(
        london,
        "SELECT upper(d) - lower(d) FROM (VALUES (rms_local_day('2026-03-29')),"
        " (rms_local_day('2026-10-25'))) v (d)",
    ) == [(23 * HOUR,), (25 * HOUR,)]


# Days that begin at the first of two midnights, or at a change that skips midnight; one that never
# was; and one on which clocks change later.
ODD_DAYS = [
    ("America/Havana", "2026-11-01"),
    ("Atlantic/Azores", "2026-10-25"),
    ("America/Scoresbysund", "2023-10-29"),
    ("Asia/Amman", "2021-10-29"),
    ("Asia/Beirut", "2026-03-29"),
    ("Asia/Beirut", "2026-10-25"),
    ("Africa/Cairo", "2026-04-24"),
    ("Africa/Cairo", "2026-10-30"),
    ("America/Asuncion", "2023-10-01"),
    ("America/Asuncion", "2023-03-26"),
    ("America/Sao_Paulo", "2018-11-04"),
    ("America/Sao_Paulo", "2018-02-18"),
    ("Pacific/Apia", "2011-12-30"),
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Europe/London", "2026-10-25"),
]


def test_a_day_in_sql_begins_when_it_begins_on_the_pages_whatever_clocks_do(
    london: Database,
) -> None:
    asked = [
        (zone, date.fromisoformat(day) + days * DAY)
        for zone, day in ODD_DAYS
        for days in (-1, 0, 1)
    ]
    with london.session() as connection, connection.cursor() as cursor:
        # Of somebody whose session is in a zone of its own, at a change of its clocks.
        cursor.execute("SET TIME ZONE 'America/Havana'")
        cursor.execute(
            "SELECT rms_midnight(day, zone) FROM unnest(%s::text[], %s::date[]) WITH ORDINALITY"
            " AS asked (zone, day, n) ORDER BY n",
            ([zone for zone, _ in asked], [day for _, day in asked]),
        )
        begins = [moment for (moment,) in cursor.fetchall()]
    assert begins == [Day(day, zone).starts for zone, day in asked]
    assert query(
        london, "SELECT isfinite(rms_midnight('infinity', 'UTC')), rms_midnight(NULL, 'UTC')"
    ) == [(False, None)]


def test_what_is_out_between_two_midnights_is_out_on_the_day_that_they_begin(
    london: Database,
) -> None:
    set_time_zone(london, "America/Havana")
    # From 00:15 to 00:45. A quarter of an hour later it is midnight again.
    insert_opportunities(london, {"starts_at": "2026-11-01T04:15Z", "ends_at": "2026-11-01T04:45Z"})
    assert days_of(london) == ["2026-11-01"]
    asked = "SELECT id FROM opportunities WHERE hire && rms_local_day(%s)"
    assert query(london, asked, "2026-11-01") == [(1,)]
    assert query(london, asked, "2026-10-31") == []


def test_no_day_is_no_range_and_an_index_serves_one(london: Database) -> None:
    """As of any function in SQL. All of time would find every hire, from one empty parameter."""
    insert_opportunities(london, {"starts_at": "2026-06-05T10:00Z", "ends_at": "2026-06-06T10:00Z"})
    assert query(london, "SELECT rms_local_day(NULL)") == [(None,)]
    asked = "SELECT id FROM opportunities WHERE hire && rms_local_day(%s)"
    assert query(london, asked, None) == []
    with london.session() as connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {asked}", ("2026-06-06",))
        assert "Index Cond: (hire &&" in str(cursor.fetchall())
        # Inlined, so that it costs no call for each row.
        cursor.execute("EXPLAIN (VERBOSE) SELECT rms_local_day(starts_at::date) FROM opportunities")
        assert "rms_local_day" not in str(cursor.fetchall())


def test_what_is_lost_is_never_out_and_what_is_open_says_so(london: Database) -> None:
    hire = {"starts_at": "2026-06-05T10:00Z", "ends_at": "2026-06-06T10:00Z"}
    insert_opportunities(
        london,
        hire | {"opportunity_status": "Reserved"},
        hire | {"opportunity_status": "Provisional"},
        hire | {"opportunity_status": "Dead"},
        hire | {"opportunity_status": "Never heard of"},
        hire,
        {"opportunity_status": "Reserved", "starts_at": "2026-06-05T10:00Z"},
    )
    assert query(
        london,
        "SELECT opportunity_id, phase, goes_out, comes_back FROM hire_days"
        " WHERE day = '2026-06-05' ORDER BY 1",
    ) == [
        (1, "confirmed", True, False),
        (2, "open", True, False),
        (4, "open", True, False),
        (5, "open", True, False),
    ]
    assert query(
        london, "SELECT goes_out, comes_back FROM hire_days WHERE day = '2026-06-06' LIMIT 1"
    ) == [(False, True)]


def test_an_open_ended_hire_goes_on_for_a_year_and_no_hire_for_thousands(
    london: Database,
) -> None:
    insert_opportunities(
        london,
        {"starts_at": NOW - 10 * DAY, "open_ended_rental": True},
        {"starts_at": NOW + 900 * DAY, "open_ended_rental": True},
        {"starts_at": "2020-01-01T12:00Z", "ends_at": "9999-12-31T12:00Z"},
    )
    zone = ZoneInfo("Europe/London")
    began, far = ((NOW + days * DAY).astimezone(zone).date() for days in (-10, 900))
    a_year_on = query(
        london, "SELECT (now() AT TIME ZONE 'Europe/London' + interval '1 year')::date"
    )[0][0]
    assert query(
        london,
        "SELECT opportunity_id, count(*), max(day), bool_or(comes_back) FROM hire_days"
        " GROUP BY 1 ORDER BY 1",
    ) == [
        (1, (a_year_on - began).days + 1, a_year_on, False),
        (2, 1, far, False),
        (3, 3_660, date(2030, 1, 7), False),
    ]


# month_value


def test_a_month_is_the_companys_and_its_value_is_told_by_phase_customer_owner_and_venue(
    london: Database,
) -> None:
    ann = {"organisation_id": 7, "organisation_name": "Acme", "owner_id": 1, "owner_name": "Ann"}
    hall = {"venue_id": 9, "venue_name": "Hall", "opportunity_status": "Reserved"}
    insert_opportunities(
        london,
        # In London it is June already.
        ann | hall | {"starts_at": "2026-05-31T23:30Z", "charge_total": "100.10",
                      "total_value": "120.12", "provisional_cost_total": "40"},
        ann | hall | {"starts_at": "2026-06-30T22:30Z", "charge_total": "1.05"},
        ann | hall | {"starts_at": "2026-06-30T23:30Z", "charge_total": "7"},
        # Delivered in June already; the customer is another by name only.
        ann | hall | {"starts_at": "2026-07-01T12:00Z", "deliver_starts_at": "2026-06-29T12:00Z",
                      "charge_total": None, "organisation_name": "ACME Ltd"},
        ann | hall | {"opportunity_status": "Lost", "starts_at": "2026-06-02T12:00Z",
                      "charge_total": 5},
        ann | hall | {"venue_id": None, "starts_at": "2026-06-02T12:00Z", "charge_total": 3},
        {"charge_total": 11},
        {"organisation_name": "Walk-in", "charge_total": 12},
    )  # fmt: skip
    columns = "month, phase, organisation_name, owner_id, venue_id, opportunities, charge_total"
    june, july = date(2026, 6, 1), date(2026, 7, 1)
    assert query(
        london,
        f"SELECT {columns} FROM month_value"
        " ORDER BY month NULLS LAST, phase, venue_id NULLS LAST, charge_total",
    ) == [
        (june, "confirmed", "Acme", 1, 9, 3, Decimal("101.15")),
        (june, "confirmed", "Acme", 1, None, 1, 3),
        (june, "lost", "Acme", 1, 9, 1, 5),
        (july, "confirmed", "Acme", 1, 9, 1, 7),
        (None, "open", None, None, None, 1, 11),
        (None, "open", "Walk-in", None, None, 1, 12),
    ]
    assert query(
        london, "SELECT total_value, provisional_cost_total, profit FROM month_value"
        " WHERE month = '2026-06-01' AND phase = 'confirmed' AND venue_id = 9"
    ) == [(Decimal("120.12"), 40, Decimal("60.10"))]  # fmt: skip
    assert query(london, "SELECT sum(opportunities), sum(charge_total) FROM month_value") == [
        (8, Decimal("139.15"))
    ]


# funnel and conversions


def test_the_funnel_says_how_long_each_stage_took(london: Database) -> None:
    began = datetime(2026, 5, 1, 12, tzinfo=UTC)
    query(
        london,
        "UPDATE mirror_state SET value = %s WHERE name = 'history_began'",
        (began - DAY).isoformat(),
    )
    made = {"created_at_rms": began, "updated_at_rms": began + 99 * DAY}
    insert_opportunities(
        london,
        made | {"state_name": "Order", "opportunity_status": "Completed",
                "ordered_at": began + 4 * DAY, "confirmed_at": began + 5 * DAY},
        # It was reserved while it was a quotation.
        made | {"state_name": "Order", "opportunity_status": "Active",
                "ordered_at": began + 6 * DAY, "confirmed_at": began + 3 * DAY},
        made | {"state_name": "Quotation", "opportunity_status": "Dead"},
        made | {"state_name": "Quotation", "opportunity_status": "Open"},
        made | {"state_name": "Enquiry", "opportunity_status": "Open"},
        # From before this mirror looked.
        made | {"created_at_rms": began - 9 * DAY, "state_name": "Quotation",
                "opportunity_status": "Lost"},
        made | {"state_name": "Order", "opportunity_status": "Open",
                "ordered_at": began + 4 * DAY},
    )  # fmt: skip
    insert(
        london,
        "opportunity_changes",
        [
            change(1, "state_name", "Enquiry", "Quotation", began + 1 * DAY),
            change(1, "state_name", "Quotation", "Enquiry", began + 2 * DAY),
            change(1, "state_name", "Enquiry", "Quotation", began + 3 * DAY),
            change(1, "state_name", "Quotation", "Order", began + 4 * DAY),
            change(1, "opportunity_status", "Open", "Reserved", began + 5 * DAY),
            change(1, "opportunity_status", "Reserved", "Completed", began + 9 * DAY),
            change(2, "state_name", "Quotation", "Order", began + 6 * DAY),
            change(3, "opportunity_status", "Open", "Lost", began + 2 * DAY),
            change(3, "opportunity_status", "Lost", "Dead", began + 8 * DAY),
            change(3, "opportunity_status", "Open", "Provisional", began + 1 * DAY),
        ],
    )

    def days(*, of: str) -> list[float | None]:
        columns = f"round(extract(epoch FROM {of}) / 86400, 3)::float"
        return [row[0] for row in query(london, f"SELECT {columns} FROM funnel ORDER BY "
                                        "opportunity_id")]  # fmt: skip

    so_far = pytest.approx((datetime.now(UTC) - began) / DAY, abs=0.01)
    so_far_ordered = pytest.approx((datetime.now(UTC) - began) / DAY - 4, abs=0.01)
    so_far_confirmed = pytest.approx((datetime.now(UTC) - began) / DAY - 3, abs=0.01)
    assert [
        row[0] for row in query(london, "SELECT stage FROM funnel ORDER BY opportunity_id")
    ] == [*("completed", "confirmed", "lost", "quotation", "created", "lost", "order")]
    assert days(of="quotation_at - created_at") == [1, 0, 0, 0, None, None, None]
    assert days(of="order_at - created_at") == [4, 6, None, None, None, None, 4]
    assert days(of="completed_at - created_at") == [9, None, None, None, None, None, None]
    assert days(of="lost_at - created_at") == [None, None, 2, None, None, None, None]
    assert days(of="time_as_enquiry") == [1, 0, 0, 0, so_far, None, 4]
    assert days(of="time_as_quotation") == [3, 3, 2, so_far, None, None, None]
    assert days(of="time_as_order") == [1, None, None, None, None, None, so_far_ordered]
    assert days(of="time_confirmed") == [4, so_far_confirmed, None, None, None, None, None]


@pytest.mark.parametrize(
    ("states", "created", "quotation"),
    [
        # It came back. The first time counts, also where it was created as one.
        (["Quotation", "Order", "Quotation"], 1, 1),
        (["Quotation", "Order", "Quotation", "Order"], 1, 1),
        (["Quotation", "Enquiry"], 1, 1),
        (["Enquiry", "Quotation", "Order", "Quotation"], 1, 2),
        (["Order", "Quotation"], 1, 2),
        # It was one before this mirror looked, and nobody knows since when.
        (["Quotation", "Order", "Quotation"], -9, None),
        # What it was before is not known.
        ([None, "Quotation"], 1, 2),
        ([None, "Order"], 1, None),
    ],
)
def test_it_became_a_quotation_the_first_time(
    london: Database, states: list[str | None], created: int, quotation: int | None
) -> None:
    began = datetime(2026, 5, 1, 12, tzinfo=UTC)
    query(
        london,
        "UPDATE mirror_state SET value = %s WHERE name = 'history_began'",
        began.isoformat(),
    )
    row = {"created_at_rms": began + created * DAY, "state_name": states[-1]}
    insert_opportunities(london, row | {"opportunity_status": "Open"})
    insert(
        london,
        "opportunity_changes",
        [
            change(1, "state_name", old, new, began + n * DAY)
            for n, (old, new) in enumerate(pairwise(states), 2)
        ],
    )
    at = None if quotation is None else began + quotation * DAY
    assert query(london, "SELECT quotation_at FROM funnel") == [(at,)]


def test_no_time_in_the_funnel_is_negative_where_clocks_disagree(london: Database) -> None:
    ago = {days: NOW - days * DAY for days in (40, 30, 20, 10)}
    ahead = NOW + HOUR
    lost = {"opportunity_status": "Lost", "state_name": "Order"}
    insert_opportunities(
        london,
        # Lost by the clock of Current RMS, before the mirror saw that it was confirmed.
        lost | {"created_at_rms": ago[40], "ordered_at": ago[10], "confirmed_at": ago[20]},
        lost | {"created_at_rms": ago[20], "ordered_at": ago[40], "confirmed_at": ago[40]},
        # The clock of Current RMS is ahead.
        {"opportunity_status": "Open", "state_name": "Enquiry", "created_at_rms": ahead},
        {"opportunity_status": "Open", "state_name": "Quotation", "created_at_rms": ahead},
        {"opportunity_status": "Open", "state_name": "Order", "ordered_at": ahead},
        {"opportunity_status": "Reserved", "state_name": "Order", "confirmed_at": ahead},
    )
    insert(
        london,
        "opportunity_changes",
        [change(i, "opportunity_status", "Reserved", "Lost", ago[30]) for i in (1, 2)],
    )
    zero = timedelta(0)
    assert query(
        london,
        "SELECT time_as_enquiry, time_as_quotation, time_as_order, time_confirmed FROM funnel"
        " ORDER BY opportunity_id",
    ) == [
        (10 * DAY, None, None, None),
        (None, None, zero, 10 * DAY),
        (zero, None, None, None),
        (zero, zero, None, None),
        (None, None, zero, None),
        (None, None, None, zero),
    ]


def test_conversions_count_what_was_won_and_lost_in_the_month_that_decided_it(
    london: Database,
) -> None:
    ann = {"owner_id": 1, "owner_name": "Ann", "state_name": "Quotation", "charge_total": 10}
    order = ann | {"state_name": "Order", "opportunity_status": "Open"}
    # In London it is June already.
    june, may = "2026-05-31T23:30:00Z", "2026-05-31T22:30:00Z"
    insert_opportunities(
        london,
        order | {"ordered_at": june, "created_at_rms": "2026-05-30T23:30:00Z"},
        order | {"ordered_at": may},
        # Reserved before it was an order.
        order | {"ordered_at": june, "confirmed_at": may, "opportunity_status": "Completed"},
        ann | {"opportunity_status": "Reserved", "confirmed_at": june},
        ann | {"opportunity_status": "Lost", "updated_at_rms": may},
        order | {"opportunity_status": "Cancelled", "ordered_at": may},
        ann | {"opportunity_status": "Lost", "state_name": "Enquiry", "updated_at_rms": june},
        ann | {"opportunity_status": "Provisional"},
        ann | {"opportunity_status": "Active", "owner_id": 2, "owner_name": "Bob"},
    )
    insert(
        london,
        "opportunity_changes",
        [change(6, "opportunity_status", "Reserved", "Cancelled", datetime.fromisoformat(june))],
    )
    assert query(
        london,
        "SELECT month, owner_name, decided, won, lost, lost_orders, percent_won, won_charge_total,"
        " lost_charge_total, time_to_decision FROM conversions ORDER BY month NULLS LAST",
    ) == [
        (date(2026, 5, 1), "Ann", 3, 2, 1, 0, Decimal("66.7"), 20, 10, None),
        (date(2026, 6, 1), "Ann", 3, 2, 1, 1, Decimal("66.7"), 20, 10, DAY),
        (None, "Bob", 1, 1, 0, 0, 100, 10, 0, None),
    ]


# customer_value


def test_a_customers_value_is_held_against_that_of_the_year_before(london: Database) -> None:
    def of(
        customer: int, days_ago: float, charge: int, status: str = "Completed"
    ) -> dict[str, Any]:
        return {
            "organisation_id": customer, "organisation_name": f"Customer {customer}",
            "starts_at": NOW - days_ago * DAY, "charge_total": charge,
            "opportunity_status": status,
        }  # fmt: skip

    insert_opportunities(
        london,
        of(1, 10, 30), of(1, 300, 10), of(1, 400, 100), of(1, 700, 60), of(1, 900, 1_000),
        of(1, -30, 5, "Reserved"), of(1, 10, 77, "Lost"), of(1, -9, 8, "Provisional"),
        of(2, 20, 50), of(2, 380, 20),
        of(3, 20, 50),
        of(4, 20, 9, "Lost"),
        of(5, 20, 50), of(5, 400, -20),
        {"organisation_name": "Walk-in", "starts_at": NOW - DAY, "charge_total": 4,
         "opportunity_status": "Completed"},
        {"charge_total": 4},
    )  # fmt: skip
    columns = (
        "opportunities, opportunities_before, value, value_before, trend, trend_percent,"
        " coming_value, open_value"
    )
    assert query(london, f"SELECT organisation_name, {columns} FROM customer_value ORDER BY 1") == [
        ("Customer 1", 2, 2, 40, 160, -120, Decimal("-75.0"), 5, 8),
        ("Customer 2", 1, 1, 50, 20, 30, Decimal("150.0"), 0, 0),
        ("Customer 3", 1, 0, 50, 0, 50, None, 0, 0),
        ("Customer 4", 0, 0, 0, 0, 0, None, 0, 0),
        # Of what was paid back there is no share.
        ("Customer 5", 1, 1, 50, -20, 70, None, 0, 0),
        ("Walk-in", 1, 0, 4, 0, 4, None, 0, 0),
    ]
    assert query(london, "SELECT organisation_id FROM customer_value WHERE trend < 0") == [(1,)]
    assert query(
        london, "SELECT first_start, last_start FROM customer_value WHERE organisation_id = 1"
    ) == [(NOW - 900 * DAY, NOW + 30 * DAY)]


# customer_names, venue_names, owner_names

PARTIES = (
    ("organisation_id", "organisation_name", "customer"),
    ("venue_id", "venue_name", "venue"),
    ("owner_id", "owner_name", "owner"),
)


@pytest.mark.parametrize(("id_", "name", "kind"), PARTIES)
def test_the_newest_name_is_that_of_the_row_that_was_changed_last(
    london: Database, id_: str, name: str, kind: str
) -> None:
    def row(of: int | None, called: str | None, days_ago: int | None) -> dict[str, Any]:
        updated = None if days_ago is None else NOW - days_ago * DAY
        return {id_: of, name: called, "updated_at_rms": updated}

    insert_opportunities(
        london,
        row(1, "Zenith", 9), row(1, "Acme", 2), row(1, "Middle", 5), row(1, None, 1),
        # Two people of one name.
        row(2, "Ann", 3), row(3, "Ann", 3), row(3, "Anna", 1),
        # Nobody knows when these were changed: the higher id is the later one.
        row(4, "Last", None), row(4, "First", None), row(5, "Known", 9), row(5, "Unknown", None),
        row(6, "Before", 3), row(7, "After", 3), row(8, "Never dated", None),
        row(None, "No id", 1), row(9, None, 1), row(10, "Kept", 3),
    )  # fmt: skip
    member = {"membership_type": "Organisation"}
    insert(
        london,
        "members",
        [
            member | {"id": 6, "name": "Renamed", "updated_at_rms": NOW - 2 * DAY},
            member | {"id": 7, "name": "Older", "updated_at_rms": NOW - 4 * DAY},
            member | {"id": 8, "name": "Its member", "updated_at_rms": NOW},
            member | {"id": 10, "name": "", "updated_at_rms": NOW},
            member | {"id": 99, "name": "In no opportunity", "updated_at_rms": NOW},
        ],
    )
    assert query(london, f"SELECT {id_}, {name} FROM {kind}_names ORDER BY 1") == [
        (1, "Acme"), (2, "Ann"), (3, "Anna"), (4, "First"), (5, "Known"), (6, "Renamed"),
        (7, "After"), (8, "Its member"), (10, "Kept"),
    ]  # fmt: skip


@pytest.mark.parametrize("view", ["customer_names", "venue_names", "owner_names"])
def test_the_names_of_all_are_found_in_one_reading_of_the_table(
    london: Database, view: str
) -> None:
    # A look at the rows of each customer took 1.3 s of 100,000 rows, where many had two names.
    plan = [line for (line,) in query(london, f"EXPLAIN SELECT * FROM {view}")]
    assert len([line for line in plan if "on opportunities" in line]) == 1, plan


def test_every_view_that_adds_up_shows_the_newest_name_and_merges_nobody(
    london: Database,
) -> None:
    def row(of: int, called: str, starts: str, days_ago: int) -> dict[str, Any]:
        named = {key: value for i, n, _ in PARTIES for key, value in ((i, of), (n, called))}
        order = {"state_name": "Order", "opportunity_status": "Reserved", "charge_total": 1}
        return named | order | {
            "starts_at": starts, "ordered_at": starts, "updated_at_rms": NOW - days_ago * DAY
        }  # fmt: skip

    insert_opportunities(
        london,
        row(1, "Zenith", "2026-05-02T12:00Z", 9),
        row(1, "Acme", "2026-06-02T12:00Z", 2),
        row(2, "Acme", "2026-05-02T12:00Z", 2),
        {"organisation_name": "Acme", "owner_name": "Acme", "venue_name": "Acme"},
    )
    may, june = date(2026, 5, 1), date(2026, 6, 1)
    rows = [(may, 1, "Acme", 1), (may, 2, "Acme", 1), (june, 1, "Acme", 1)]
    for id_, name, _ in PARTIES:
        found = query(
            london,
            f"SELECT month, {id_}, {name}, opportunities FROM month_value ORDER BY 1, 2",
        )
        assert found == [*rows, (None, None, "Acme", 1)], name
    assert (
        query(london, "SELECT month, owner_id, owner_name, won FROM conversions ORDER BY 1, 2")
        == rows
    )
    assert query(
        london, "SELECT organisation_id, organisation_name FROM customer_value ORDER BY 1"
    ) == [(1, "Acme"), (2, "Acme"), (None, "Acme")]


# venue_overlaps


def test_two_at_one_venue_at_a_time_overlap_unless_one_ends_as_the_other_begins(
    london: Database,
) -> None:
    def at(first: int, last: int | None, venue: int | None = 9, **more: Any) -> dict[str, Any]:
        starts = datetime(2090, 6, first, 12, tzinfo=UTC)
        ends = None if last is None else datetime(2090, 6, last, 12, tzinfo=UTC)
        told = {"venue_id": venue, "starts_at": starts, "ends_at": ends}
        return told | {"opportunity_status": "Reserved", "venue_name": "Hall"} | more

    insert_opportunities(
        london,
        at(1, 4),
        at(3, 6),
        at(6, 8),
        at(2, 3, 10),
        at(2, 9, opportunity_status="Lost"),
        at(7, 7, opportunity_status="Provisional"),
        at(20, None, open_ended_rental=True),
        at(25, 26),
        at(1, 4, None),
        at(1, 4, None, venue_name=" hall"),
        at(1, 4, None, venue_name=None),
        at(1, 4, None, venue_name="  "),
        at(1, 4, None, venue_name=" "),
        at(1, 4) | {"starts_at": NOW - 9 * DAY, "ends_at": NOW - 2 * DAY},
        at(1, 4) | {"starts_at": NOW - 9 * DAY, "ends_at": NOW - 2 * DAY},
    )
    found = query(
        london,
        "SELECT opportunity_id, other_id, both_confirmed, lower(overlap), upper(overlap)"
        " FROM venue_overlaps ORDER BY 1",
    )
    june = [datetime(2090, 6, day, 12, tzinfo=UTC) for day in range(1, 31)]
    assert found == [
        (1, 2, True, june[2], june[3]),
        (3, 6, False, june[6], june[6]),
        (7, 8, True, june[24], june[25]),
        (9, 10, True, june[0], june[3]),
    ]
