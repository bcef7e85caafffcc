"""What the dashboard shows at first sight, against the rows it stands for."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.overview import (
    WEBHOOK_DAYS,
    WEEKS,
    ActiveOpportunity,
    Overview,
    RecentEdit,
    read_overview,
)
from rms_pipeline.mirror.summary import NO_STATUS, refresh_status_counts
from rms_pipeline_tests.rows import insert, insert_opportunities

NOW = datetime.now(UTC).replace(microsecond=0)
ZONES = ["UTC", "Europe/London", "America/Los_Angeles", "Pacific/Kiritimati"]


@pytest.fixture
def database(emptied: Database) -> Database:
    return emptied


def overview(database: Database, zone: str = "UTC", **options: Any) -> Overview:
    with database.session() as connection:
        return read_overview(connection, zone, **options)


@pytest.mark.parametrize("zone", ZONES)
def test_of_an_empty_mirror_everything_is_there_and_nothing_in_it(
    database: Database, zone: str
) -> None:
    view = overview(database, zone)
    assert view.as_of is None
    assert (view.total, view.total_value) == (0, Decimal(0))
    assert (view.statuses, view.weeks, view.recent, view.most_active) == ([], [], [], [])
    assert [d.received for d in view.webhook_days] == [0] * WEBHOOK_DAYS


def test_totals_are_the_sums_of_the_statuses(database: Database) -> None:
    insert_opportunities(
        database,
        {"opportunity_status": "Open", "total_value": Decimal("10.10"), "charge_total": 9},
        {"opportunity_status": "Open", "total_value": Decimal("0.05")},
        {"total_value": Decimal("-3.15")},
    )
    refresh_status_counts(database, "UTC")
    view = overview(database)
    assert (view.total, view.total_value) == (3, Decimal("7.00"))
    assert [(s.status, s.opportunities, int(s.charge_total)) for s in view.statuses] == [
        ("Open", 2, 9),
        (NO_STATUS, 1, 0),
    ]
    assert view.as_of is not None


def test_the_total_of_a_value_out_of_all_proportion_is_to_the_penny(database: Database) -> None:
    insert_opportunities(
        database,
        {"opportunity_status": "Open", "total_value": Decimal(10**40)},
        {"opportunity_status": "Lost", "total_value": Decimal("0.01")},
    )
    refresh_status_counts(database, "UTC")
    assert overview(database).total_value == Decimal(f"{10**40}.01")


@pytest.mark.parametrize("zone", ZONES)
def test_weeks_go_from_this_one_on_for_half_a_year(database: Database, zone: str) -> None:
    today = datetime.now(ZoneInfo(zone))
    monday = (today - timedelta(days=today.weekday())).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    last = monday + timedelta(weeks=WEEKS)
    minute = timedelta(minutes=1)
    # Wall-clock arithmetic, so that a change of the clocks in between moves nothing.
    insert_opportunities(
        database,
        {"starts_at": (monday - minute).astimezone(UTC), "total_value": 1},
        {"starts_at": monday.astimezone(UTC), "total_value": 2},
        {"starts_at": (last - minute).astimezone(UTC), "total_value": 4},
        {"starts_at": last.astimezone(UTC), "total_value": 8},
    )
    refresh_status_counts(database, zone)
    view = overview(database, zone)
    assert [(w.week, int(w.total_value)) for w in view.weeks] == [
        (monday.date(), 2),
        ((last - timedelta(weeks=1)).date(), 4),
    ]
    assert view.total == 4


def test_recent_edits_come_newest_first_and_tell_a_moved_status_only_of_that_edit(
    database: Database,
) -> None:
    edited = [NOW - timedelta(minutes=i) for i in range(4)]
    insert_opportunities(
        database,
        {"name": "A", "updated_at_rms": edited[3], "opportunity_status": "Open"},
        {"name": "B", "updated_at_rms": edited[1], "opportunity_status": "Lost"},
        {"name": "C", "updated_at_rms": edited[0], "organisation_name": "Acme"},
        {"name": "Undated"},
        {"name": "D", "updated_at_rms": edited[2]},
    )

    def change(id_: int, at: datetime, **columns: Any) -> dict[str, Any]:
        row = {"opportunity_id": id_, "field": "opportunity_status", "old_value": "Open"}
        return {**row, "changed_at": at, "changed_by": "Ann", **columns}

    insert(
        database,
        "opportunity_changes",
        [
            change(2, edited[1], old_value="Provisional"),
            # An edit of before, and one of another field: neither is what was edited last.
            change(5, edited[3]),
            change(3, edited[0], field="state_name"),
        ],
    )
    view = overview(database)
    assert view.recent == [
        RecentEdit(3, "C", None, "Acme", edited[0], None, None),
        RecentEdit(2, "B", "Lost", None, edited[1], "Provisional", "Ann"),
        RecentEdit(5, "D", None, None, edited[2], None, None),
        RecentEdit(1, "A", "Open", None, edited[3], None, None),
    ]
    assert [e.name for e in overview(database, most=2).recent] == ["C", "B"]


@pytest.mark.parametrize("zone", ZONES)
def test_webhooks_are_counted_by_day_of_the_time_zone(database: Database, zone: str) -> None:
    midnight = datetime.now(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0)
    second = timedelta(seconds=1)

    def event(at: datetime, **columns: Any) -> dict[str, Any]:
        return {"opportunity_id": 1, "received_at": at.astimezone(UTC), **columns}

    first = midnight - timedelta(days=WEBHOOK_DAYS - 1)
    insert(
        database,
        "webhook_events",
        [
            event(midnight, processed_at=NOW),
            event(midnight + second, dead_at=NOW),
            event(midnight + second),
            event(midnight - second, processed_at=NOW),
            event(first, processed_at=NOW),
            event(first - second, processed_at=NOW),
            # What is about no opportunity is not counted.
            event(midnight, opportunity_id=None, processed_at=NOW),
        ],
    )
    days = overview(database, zone).webhook_days
    assert [d.day for d in days] == [
        midnight.date() - timedelta(days=i) for i in reversed(range(WEBHOOK_DAYS))
    ]
    assert [(d.received, d.settled, d.dead) for d in days] == [
        (1, 1, 0),
        *[(0, 0, 0)] * (WEBHOOK_DAYS - 3),
        (1, 1, 0),
        (3, 1, 1),
    ]


def test_a_webhook_between_two_midnights_counts_for_the_day_that_they_begin(
    database: Database,
) -> None:
    """Clocks went back from 1:00 to 0:00 yesterday, by the rule of a zone made for that."""
    yesterday = (NOW - timedelta(hours=29)).date()
    # Days of the rule are counted without 29 February, from 1 to 365.
    last = yesterday.replace(year=2025, day=min(yesterday.day, 28)).timetuple().tm_yday
    last += yesterday.day - min(yesterday.day, 28)
    zone = f"STD5DST,J{(last + 181) % 365 + 1}/0,J{last}/1"
    quarter_past = datetime(yesterday.year, yesterday.month, yesterday.day, 4, 15, tzinfo=UTC)
    insert(database, "webhook_events", [{"opportunity_id": 1, "received_at": quarter_past}])
    assert [d.day for d in overview(database, zone).webhook_days if d.received] == [yesterday]


def test_webhooks_are_counted_whichever_collection_they_tell_of(database: Database) -> None:
    told: list[dict[str, Any]] = [
        {"collection": "members", "record_id": 7, "processed_at": NOW},
        {"collection": "invoices", "record_id": 7, "dead_at": NOW},
        {"opportunity_id": 1},
        # Of what is not mirrored, and of nothing at all.
        {"collection": "members"},
    ]
    insert(database, "webhook_events", [{"received_at": NOW, **event} for event in told])
    view = overview(database)
    today = view.webhook_days[-1]
    assert (today.received, today.settled, today.dead) == (3, 1, 1)
    assert [(one.id, one.webhooks) for one in view.most_active] == [(1, 1)]


def test_the_most_active_come_first_and_one_that_is_gone_is_still_called_by_its_name(
    database: Database,
) -> None:
    insert_opportunities(database, {"opportunity_status": "Open"}, {})

    def events(id_: int, count: int, ago: timedelta) -> list[dict[str, Any]]:
        return [{"opportunity_id": id_, "received_at": NOW - ago} for _ in range(count)]

    hour = timedelta(hours=1)
    gone = {"id": 3, "name": "Regatta", "opportunity_status": "Lost", "synced_at": NOW}
    gone |= {"deleted_at": NOW, "deleted_because": "not found"}
    insert(database, "deleted_opportunities", [gone])
    insert(
        database,
        "webhook_events",
        [
            *events(1, 3, hour),
            *events(2, 1, 2 * hour),
            *events(3, 5, 3 * hour),
            *events(4, 1, hour),
            *events(2, 50, timedelta(days=WEBHOOK_DAYS + 1)),
        ],
    )
    assert overview(database).most_active == [
        ActiveOpportunity(3, "Regatta", "Lost", 5, NOW - 3 * hour, True),
        ActiveOpportunity(1, "Opportunity 1", "Open", 3, NOW - hour, False),
        ActiveOpportunity(4, None, None, 1, NOW - hour, False),
        ActiveOpportunity(2, "Opportunity 2", None, 1, NOW - 2 * hour, False),
    ]
    assert [a.id for a in overview(database, most=2).most_active] == [3, 1]
