"""`status_counts` and `week_counts` against the rows they sum up."""

import random
import threading
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.overview import read_statuses
from rms_pipeline.mirror.summary import NO_STATUS, count_rows, refresh_status_counts
from rms_pipeline_tests.rows import insert_opportunities, query

LONDON = "Europe/London"
SUNDAY_NIGHT = datetime(2026, 6, 14, 23, 30, tzinfo=UTC)


@pytest.fixture
def database(emptied: Database) -> Database:
    return emptied


def weeks_kept(database: Database) -> list[tuple[Any, ...]]:
    return query(
        database,
        "SELECT week, opportunity_status, opportunities, charge_total, total_value"
        ' FROM week_counts ORDER BY week, opportunity_status COLLATE "C"',
    )


def statuses_kept(database: Database) -> dict[str, tuple[int, Decimal, Decimal]]:
    found = query(
        database,
        "SELECT opportunity_status, opportunities, charge_total, total_value FROM status_counts",
    )
    return {row[0]: row[1:] for row in found}


def local_weeks(rows: Sequence[tuple[Any, ...]], zone: str) -> list[tuple[Any, ...]]:
    """The weeks as Python counts them, of rows (status, starts_at, charge, value)."""
    sums: dict[tuple[date, str], list[Any]] = {}
    for status, starts_at, charge, value in rows:
        if starts_at is not None:
            day = starts_at.astimezone(ZoneInfo(zone)).date()
            monday = day - timedelta(days=day.weekday())
            found = sums.setdefault((monday, status or NO_STATUS), [0, Decimal(0), Decimal(0)])
            found[0] += 1
            found[1] += charge or 0
            found[2] += value or 0
    return [(*key, *found) for key, found in sorted(sums.items())]


def counted(database: Database, zone: str) -> None:
    """Recounts, and compares with the rows counted one by one."""
    found = refresh_status_counts(database, zone)
    rows = query(
        database,
        "SELECT opportunity_status, starts_at, charge_total, total_value FROM opportunities",
    )
    expected: dict[str, tuple[int, Decimal, Decimal]] = {}
    for status, _, charge, value in rows:
        n, c, v = expected.get(status or NO_STATUS, (0, Decimal(0), Decimal(0)))
        expected[status or NO_STATUS] = (n + 1, c + (charge or 0), v + (value or 0))
    assert statuses_kept(database) == expected
    assert weeks_kept(database) == local_weeks(rows, zone)
    with database.session() as connection:
        assert (
            sum(c.opportunities for c in found)
            == len(rows)
            == count_rows(connection, OPPORTUNITIES)
        )
    assert {row[0]: tuple(row[1:]) for row in found} == expected


@pytest.mark.parametrize("zone", ["UTC", LONDON, "America/New_York", "Pacific/Kiritimati"])
def test_counts_agree_with_the_rows_after_inserts_updates_and_deletes(
    database: Database, zone: str
) -> None:
    chance = random.Random(17)
    statuses = ["Open", "Reserved", "Lost", None, "Dead", "[odd] <status>"]

    def row() -> dict[str, Any]:
        start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=chance.randrange(525_600))
        return {
            "opportunity_status": chance.choice(statuses),
            "starts_at": chance.choice([start, start, start, None]),
            "charge_total": chance.choice([Decimal(chance.randrange(10**9)) / 100, None]),
            "total_value": chance.choice([Decimal(chance.randrange(10**9)) / 100, None]),
        }

    counted(database, zone)
    insert_opportunities(database, *(row() for _ in range(400)))
    counted(database, zone)
    query(
        database,
        "UPDATE opportunities SET opportunity_status = 'Active', total_value = total_value * 2,"
        " starts_at = starts_at + interval '3 days' WHERE id % 7 = 0",
    )
    counted(database, zone)
    query(database, "UPDATE opportunities SET opportunity_status = NULL WHERE id % 5 = 0")
    query(database, "UPDATE opportunities SET starts_at = NULL WHERE id % 11 = 0")
    counted(database, zone)
    query(database, "DELETE FROM opportunities WHERE id % 2 = 0 OR opportunity_status = 'Lost'")
    counted(database, zone)
    query(database, "DELETE FROM opportunities")
    counted(database, zone)
    assert statuses_kept(database) == {}
    assert weeks_kept(database) == []


def test_a_hire_late_on_sunday_belongs_to_the_week_that_has_begun_there(
    database: Database,
) -> None:
    insert_opportunities(
        database,
        {"starts_at": SUNDAY_NIGHT, "total_value": 10, "opportunity_status": "Open"},
        # In winter London is at UTC, and Sunday is Sunday.
        {"starts_at": datetime(2026, 1, 11, 23, 30, tzinfo=UTC), "opportunity_status": "Open"},
    )
    refresh_status_counts(database, LONDON)
    assert [row[0] for row in weeks_kept(database)] == [date(2026, 1, 5), date(2026, 6, 15)]
    refresh_status_counts(database, "UTC")
    assert [row[0] for row in weeks_kept(database)] == [date(2026, 1, 5), date(2026, 6, 8)]
    refresh_status_counts(database, "America/New_York")
    assert [row[0] for row in weeks_kept(database)] == [date(2026, 1, 5), date(2026, 6, 8)]


def test_the_first_and_the_last_moment_of_time_have_a_week(database: Database) -> None:
    insert_opportunities(
        database,
        {"starts_at": datetime.min.replace(tzinfo=UTC)},
        {"starts_at": datetime.max.replace(tzinfo=UTC)},
    )
    for zone in ("UTC", "America/New_York", "Pacific/Kiritimati"):
        refresh_status_counts(database, zone)
        found = query(database, "SELECT sum(opportunities), count(*) FROM week_counts")
        assert found == [(2, 2)], zone


def test_an_absent_status_is_named_and_absent_dates_have_no_week(database: Database) -> None:
    insert_opportunities(
        database,
        {"charge_total": 3, "total_value": Decimal("3.60")},
        {"opportunity_status": "Open", "total_value": None},
    )
    found = refresh_status_counts(database, "UTC")
    assert statuses_kept(database) == {
        NO_STATUS: (1, Decimal(3), Decimal("3.60")),
        "Open": (1, Decimal(0), Decimal(0)),
    }
    assert weeks_kept(database) == []
    assert [c.opportunity_status for c in found] == [NO_STATUS, "Open"]


def test_the_most_frequent_status_comes_first(database: Database) -> None:
    insert_opportunities(
        database, *({"opportunity_status": s} for s in ("B", "A", "C", "C", "D", "C", "D"))
    )
    found = refresh_status_counts(database, "UTC")
    assert [c.opportunity_status for c in found] == ["C", "D", "A", "B"]
    with database.session() as connection:
        as_of, statuses = read_statuses(connection)
    assert [s.status for s in statuses] == ["C", "D", "A", "B"]
    assert as_of is not None
    assert abs((datetime.now(UTC) - as_of).total_seconds()) < 60


def test_weeks_that_did_not_change_are_not_written_again(database: Database) -> None:
    insert_opportunities(
        database,
        *(
            {"starts_at": SUNDAY_NIGHT + timedelta(weeks=i), "opportunity_status": "Open"}
            for i in range(10)
        ),
    )
    written = "SELECT week, xmin::text, ctid::text FROM week_counts ORDER BY week"
    refresh_status_counts(database, "UTC")
    before = query(database, written)
    assert len(before) == 10
    refresh_status_counts(database, "UTC")
    assert query(database, written) == before
    query(database, "UPDATE opportunities SET total_value = 5 WHERE id = 4")
    refresh_status_counts(database, "UTC")
    after = query(database, written)
    assert [b[0] for b, a in zip(before, after, strict=True) if b != a] == [before[3][0]]


def test_a_reader_during_a_recount_sees_the_old_or_the_new_counts_and_never_half(
    database: Database,
) -> None:
    insert_opportunities(database, *({"opportunity_status": s} for s in "ABCDEFGH" * 10))
    refresh_status_counts(database, "UTC")
    seen: set[int] = set()
    stopped = threading.Event()

    def watch() -> None:
        with database.session() as connection:
            while not stopped.is_set():
                _, statuses = read_statuses(connection)
                seen.add(sum(s.opportunities for s in statuses))

    watcher = threading.Thread(target=watch)
    watcher.start()
    failures: list[BaseException] = []

    def recount() -> None:
        try:
            for _ in range(15):
                refresh_status_counts(database, "UTC")
        except BaseException as error:
            failures.append(error)

    both = [threading.Thread(target=recount) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    stopped.set()
    watcher.join()
    assert failures == []
    assert seen == {80}


def recounted(database: Database, zone: str = "UTC") -> bool:
    """Whether a summary that counts only if something changed read the rows. It counts right."""
    query(database, "UPDATE status_counts SET as_of = '2020-01-01', charge_total = -1")
    found = refresh_status_counts(database, zone, only_if_changed=True)
    kept = query(database, "SELECT charge_total, as_of > '2020-01-02' FROM status_counts")
    assert all(is_new for _, is_new in kept)
    assert sorted(c.charge_total for c in found) == sorted(charge for charge, _ in kept)
    wrong = [charge for charge, _ in kept if charge == -1]
    assert wrong in ([], [-1] * len(kept))
    if wrong:
        refresh_status_counts(database, zone)
    return not wrong


def test_rows_are_read_again_only_if_the_mirror_wrote_some(database: Database) -> None:
    insert_opportunities(database, *({"opportunity_status": s} for s in ("Open", "Lost")))
    assert recounted(database)
    assert not recounted(database)
    for statement in (
        "UPDATE opportunities SET opportunity_status = 'Dead', data = data WHERE id % 2 = 0",
        "UPDATE opportunities SET starts_at = now()",
        "DELETE FROM opportunities WHERE opportunity_status = 'Dead'",
    ):
        query(database, statement)
        assert recounted(database), statement
        assert not recounted(database), statement
    insert_opportunities(database, {"id": 9, "opportunity_status": "Open"})
    assert recounted(database)
    assert recounted(database, LONDON)
    assert not recounted(database, LONDON)
    # When a record was asked for is no content.
    query(database, "UPDATE opportunities SET synced_at = now()")
    assert not recounted(database, LONDON)


def test_what_was_being_written_during_a_count_is_counted_next_time(database: Database) -> None:
    insert_opportunities(database, {"opportunity_status": "Open"})
    with database.session() as writer:
        writer.cursor().execute(
            "UPDATE opportunities SET opportunity_status = 'Lost', data = data RETURNING id"
        )
        refresh_status_counts(database, "UTC", only_if_changed=True)
        assert list(statuses_kept(database)) == ["Open"]
        writer.commit()
    refresh_status_counts(database, "UTC", only_if_changed=True)
    assert list(statuses_kept(database)) == ["Lost"]
    assert not recounted(database)
