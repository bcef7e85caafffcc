"""Writers that waited for others: what they note of the time is of after the wait."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.insight.timeline import read_timeline
from rms_pipeline.mirror import summary
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.merge import merge
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline_tests.mirror.test_merge import T0, merge_at, record
from rms_pipeline_tests.mirror.test_record_history import (
    delete_at,
    demand_a_whole_chain,
    moment,
    moved_back,
    table_as_of,
    table_now,
)
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.rows import query

# Few rows are rewritten one at a time, and many by way of a table.
MANY = range(1, 21)


def edit(*ids: int) -> Callable[[Database], Any]:
    return lambda database: merge_at(database, 8, 9, *(record(id=i, subject="new") for i in ids))


def some_return_and_one_goes(database: Database) -> None:
    edit(17, 15, 101)(database)
    delete_at(database, 10, 15)


@pytest.mark.parametrize(
    "held",
    [
        "SELECT FROM opportunity_versions WHERE id = 15 FOR UPDATE",
        # A program that is about to bring a record of this id.
        "INSERT INTO opportunity_versions (id) VALUES (101)",
        # A person's own transactions, and an index that is being built.
        "SELECT FROM opportunities WHERE id = 15 FOR UPDATE",
        "UPDATE opportunities SET last_webhook_at = now() WHERE id = 15",
        "LOCK opportunities IN SHARE MODE",
    ],
)
@pytest.mark.parametrize(
    "writes",
    [
        edit(15),
        edit(*MANY),
        # Records that are new, beside one that is known.
        edit(15, 100, 101, 102),
        lambda database: delete_at(database, 8, 15, 16),
        some_return_and_one_goes,
    ],
    ids=["one", "many", "new ones", "deletions", "returns"],
)
def test_the_table_as_of_a_moment_lacks_what_still_waited_then(
    emptied: Database, held: str, writes: Callable[[Database], Any]
) -> None:
    merge_at(emptied, 1, 2, *(record(id=i, subject="old") for i in MANY))
    delete_at(emptied, 3, 17)
    with emptied.session() as other, other.cursor() as cursor:
        cursor.execute(held)
        writer = threading.Thread(target=writes, args=(emptied,))
        writer.start()
        wait_until(
            lambda: (
                not writer.is_alive()
                or query(
                    emptied,
                    "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    " AND datname = current_database())",
                )
                == [(True,)]
            )
        )
        at, copy = moment(emptied), table_now(emptied)
        other.commit()
    writer.join(30)
    assert not writer.is_alive()
    assert table_as_of(emptied, at) == copy
    demand_a_whole_chain(emptied)


def test_a_change_is_seen_when_its_version_begins_however_long_its_transaction_waited(
    emptied: Database,
) -> None:
    """Else dates that were moved after the confirmation would seem to be moved before it."""
    first: dict[str, Any] = {"id": 1, "starts_at": "2026-06-01T08:00:00Z", "status_name": "Open"}
    reserved = first | {"status_name": "Reserved"}
    merge_at(emptied, 1, 2, record(**first))
    with emptied.session() as waiting, waiting.cursor() as cursor:
        # Its transaction is older than the confirmation.
        cursor.execute("SELECT now()")
        merge_at(emptied, 3, 4, record(**reserved))
        moved = record(**reserved | {"starts_at": "2026-06-02T08:00:00Z"})
        merge(
            waiting,
            OPPORTUNITIES,
            "run",
            [moved],
            asked_at=T0 + timedelta(seconds=5),
            answered_at=T0 + timedelta(seconds=6),
        )
    assert query(
        emptied,
        "SELECT c.field, c.seen_at = h.valid_from, c.seen_at > o.confirmed_at"
        " FROM opportunity_changes c JOIN opportunities o ON o.id = c.opportunity_id"
        " JOIN opportunity_history h ON h.valid_from = c.seen_at ORDER BY c.id",
    ) == [("opportunity_status", True, False), ("starts_at", True, True)]
    assert query(
        emptied,
        "SELECT says FROM sense_checks WHERE sense_check = 'dates_changed_after_confirmation'",
    ) == [("After the confirmation somebody changed starts_at.",)]
    with emptied.session() as connection:
        moments = read_timeline(connection, 1).moments
    changed = [[line.field for line in m.lines] for m in moments if m.kind == "changed"]
    assert changed == [["starts_at"], ["opportunity_status"]]


def test_dates_that_came_with_the_confirmation_are_not_changed_after_it(emptied: Database) -> None:
    first: dict[str, Any] = {"id": 1, "starts_at": "2026-06-01T08:00:00Z", "status_name": "Open"}
    merge_at(emptied, 1, 2, record(**first))
    later = {"starts_at": "2026-06-02T08:00:00Z", "status_name": "Reserved"}
    merge_at(emptied, 3, 4, record(**first | later))
    checks = "SELECT FROM sense_checks WHERE sense_check = 'dates_changed_after_confirmation'"
    assert query(emptied, checks) == []


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
def test_a_day_that_ended_while_a_writer_was_at_work_is_counted_again(
    database: Database, zone: str
) -> None:
    merge_at(database, 1, 2, record(id=1, status_name="Open"))
    refresh_status_counts(database, zone)
    moved_back(database, 2)
    yesterday = "((now() AT TIME ZONE %s)::date::timestamp AT TIME ZONE %s - interval '1 s')"
    with database.session() as connection, connection.cursor() as cursor:
        # It began before midnight, and what it writes is of then.
        merge_of = "UPDATE opportunity_versions SET valid_from = " + yesterday
        cursor.execute(merge_of, (zone, zone))
        cursor.execute(
            "INSERT INTO opportunity_past (opportunity_id, valid_from, valid_to, deleted,"
            " opportunity_status) SELECT 1, '2020-01-01Z', valid_from, false, 'Open'"
            " FROM opportunity_versions;"
            "UPDATE opportunities SET opportunity_status = 'Lost'"
        )
        # The clock of PostgreSQL cannot be set: this day's midnight has to be after its beginning.
        with patch.object(summary, "_BEGAN", "now() - interval '9 days'"):
            refresh_status_counts(database, zone)
        assert ends_of_days(database)[-2:] == ["Open", "Open"]
    refresh_status_counts(database, zone)
    assert ends_of_days(database)[-2:] == ["Lost", "Lost"]
    # It is not counted for ever.
    query(database, "UPDATE daily_status_counts SET opportunities = 9")
    refresh_status_counts(database, zone)
    assert query(database, "SELECT count(*) FROM daily_status_counts WHERE opportunities = 9") != [
        (0,)
    ]


def ends_of_days(database: Database) -> list[str]:
    statuses = query(database, "SELECT opportunity_status FROM daily_status_counts ORDER BY day")
    return [status for (status,) in statuses]
