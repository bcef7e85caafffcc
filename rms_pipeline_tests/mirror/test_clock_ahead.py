"""What was written while the database's clock was ahead, after it was set right.

Nothing waits until those times come, and none of it stands for the newest.
"""

from datetime import UTC, datetime, timedelta

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.terms import TRIED_AGAIN_AFTER, Terms
from rms_pipeline.current_rms.transport import Failure
from rms_pipeline.mirror.api_troubles import NotedTroubles, read_trouble
from rms_pipeline.mirror.collection_states import read_collection_states
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import GUARDED_COUNT, move_to_deleted
from rms_pipeline.mirror.housekeeping import oldest_to_keep, purge
from rms_pipeline.mirror.proofs import standing
from rms_pipeline.mirror.run_workers import forget_workers, lost_runs
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.mirror.sync_metadata import find_sync, last_completed, latest_syncs
from rms_pipeline.mirror.sync_runs import forget_runs, runs_at_work, seconds_since_failures
from rms_pipeline.mirror.walks import watermarks
from rms_pipeline_tests.rows import insert, insert_opportunities, insert_proof, insert_sync, query

# How far the clock was ahead, in seconds.
AHEAD = pytest.mark.parametrize("ahead", [600.0, 3 * 3600.0, 366 * 86_400.0])
MINUTE = timedelta(minutes=1)


def in_(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def walked(database: Database, settled: datetime, watermark: datetime) -> None:
    walk = {"kind": "changes", "runs": ["run"], "started_at": settled, "watermark": watermark}
    walk |= {"completed_at": settled, "settled_at": settled, "collection": "opportunities"}
    insert(database, "walks", [walk])


@AHEAD
def test_a_sync_goes_on_where_the_one_before_it_began(emptied: Database, ahead: float) -> None:
    walked(emptied, in_(ahead), in_(-900))
    walked(emptied, in_(-60), in_(-300))
    with emptied.session() as connection:
        first, second = watermarks(connection, OPPORTUNITIES)
        states = read_collection_states(connection, [OPPORTUNITIES])
    assert first > second
    assert states[0].synced_at is not None
    assert states[0].synced_at < in_(0)


@AHEAD
def test_a_run_that_never_began_is_not_waited_for(emptied: Database, ahead: float) -> None:
    # After an hour the view gives a run up that waits in a queue; up to then it may be there.
    insert_sync(emptied, "lost", status="launched", ago=-ahead)
    insert_sync(emptied, "between steps", "reconciliation", status="running", ago=-ahead)
    with emptied.session() as connection:
        assert runs_at_work(connection, ["initial_sync", "reconciliation"]) == set()
        found = [find_sync(connection, run) for run in ("lost", "between steps")]
    assert [sync.status for sync in found if sync] == (
        ["running", "failed"] if ahead < 3600 else ["failed", "failed"]
    )


@AHEAD
def test_nobody_rests_after_failures_of_then(emptied: Database, ahead: float) -> None:
    insert_sync(emptied, "then", "webhook_refresh", "failed", ago=-ahead, took=0)
    with emptied.session() as connection:
        assert seconds_since_failures(connection, "webhook_refresh") == []
    insert_sync(emptied, "now", "webhook_refresh", "failed", ago=5, took=0)
    with emptied.session() as connection:
        assert len(seconds_since_failures(connection, "webhook_refresh")) == 1


@AHEAD
def test_the_newest_syncs_are_those_that_began_last(emptied: Database, ahead: float) -> None:
    insert_sync(emptied, "then", ago=-ahead)
    insert_sync(emptied, "now", "incremental_sync", ago=20)
    with emptied.session() as connection:
        assert [sync.run_id for sync in latest_syncs(connection, 1)] == ["now"]
        assert [sync.run_id for sync in latest_syncs(connection)] == ["now", "then"]
        assert last_completed(connection, ["initial_sync"]) is None
        assert last_completed(connection, ["initial_sync", "incremental_sync"]) is not None


@AHEAD
def test_a_proof_of_then_does_not_hold_until_then(emptied: Database, ahead: float) -> None:
    insert_proof(emptied, as_of=in_(ahead))
    with emptied.session() as connection:
        known = standing(connection, OPPORTUNITIES)
    assert known.state == "amber"
    assert "That time has not come yet" in known.sentence
    insert_proof(emptied, as_of=in_(-60))
    with emptied.session() as connection:
        assert standing(connection, OPPORTUNITIES).state == "green"


@AHEAD
def test_a_worker_that_was_found_dead_then_is_dead(emptied: Database, ahead: float) -> None:
    insert(emptied, "run_workers", [{"run": "run", "lock_key": 7, "lost_at": in_(ahead)}])
    with emptied.session() as connection:
        assert lost_runs(connection, ["run"], for_longer_than=MINUTE) == {"run"}


def is_guarded(database: Database) -> bool:
    """Whether one more deletion would be too many."""
    now = datetime.now(UTC)
    with database.session() as connection:
        return move_to_deleted(connection, OPPORTUNITIES, {1: (now, now)}, "gone", "run").held == [
            1
        ]


@pytest.mark.parametrize(("days", "counts"), [(-2, False), (-0.5, True), (2, False), (366, False)])
def test_deletions_of_then_do_not_hold_back_those_of_now(
    emptied: Database, days: float, counts: bool
) -> None:
    insert_opportunities(emptied, {}, {})
    deleted = {"deleted_at": in_(days * 86_400), "deleted_because": "gone", "name": "Gone"}
    rows = [{"id": 100 + n, **deleted} for n in range(GUARDED_COUNT)]
    insert(emptied, "deleted_opportunities", rows)
    assert is_guarded(emptied) == counts


@pytest.mark.parametrize(("seconds", "counts"), [(-60, True), (0, False), (366 * 86_400, True)])
def test_who_confirmed_deletions_then_did_not_confirm_all_until_then(
    emptied: Database, seconds: float, counts: bool
) -> None:
    insert_opportunities(emptied, {}, {})
    deleted = {"deleted_at": in_(-30), "deleted_because": "gone", "name": "Gone"}
    rows = [{"id": 100 + n, **deleted} for n in range(GUARDED_COUNT)]
    insert(emptied, "deleted_opportunities", rows)
    confirmed = {"collection": "opportunities", "confirmed_at": in_(seconds)}
    insert(emptied, "deletions_confirmed", [confirmed])
    assert is_guarded(emptied) == counts


@pytest.mark.parametrize(
    ("noted", "is_asked"),
    [
        (timedelta(0), False),
        (TRIED_AGAIN_AFTER - MINUTE, False),
        (TRIED_AGAIN_AFTER, True),
        # By a clock that was ahead.
        (-MINUTE, False),
        (timedelta(days=-366), True),
    ],
)
def test_what_the_api_refused_is_tried_again_after_a_while(
    noted: timedelta, is_asked: bool
) -> None:
    terms, now = Terms(), datetime.now(UTC)
    terms.note("include", "venue", 422, now - noted)
    assert terms.is_to_be_asked("include", "venue", now) == is_asked


def test_the_counts_tell_the_time_at_which_they_were_looked_at(emptied: Database) -> None:
    insert_opportunities(emptied, {"opportunity_status": "Open"})
    refresh_status_counts(emptied, "UTC")
    query(emptied, "UPDATE status_counts SET as_of = as_of + interval '1 year' RETURNING 1")
    refresh_status_counts(emptied, "UTC", only_if_changed=True)
    [(as_of,)] = query(emptied, "SELECT as_of FROM status_counts")
    assert as_of <= in_(0)


@AHEAD
def test_trouble_of_then_that_nobody_took_back_is_over(emptied: Database, ahead: float) -> None:
    noted = {"account": "acme", "collection": "opportunities", "attempt": 3, "reason": "status 503"}
    noted |= {"noted_at": in_(ahead), "next_at": in_(ahead), "since": in_(ahead)}
    insert(emptied, "api_troubles", [noted])
    with emptied.session() as connection:
        assert read_trouble(connection) is None
    NotedTroubles(emptied, "acme", OPPORTUNITIES)(Failure(1, 8, "status 503", 4.0))
    with emptied.session() as connection:
        trouble = read_trouble(connection)
    assert trouble is not None
    assert trouble.since <= in_(0)


def old(days: float) -> datetime:
    return in_(-days * 86_400)


@pytest.mark.parametrize(
    ("read", "stays"),
    [
        # Current RMS said that it is as late as the database says.
        (0, False),
        (0.9, False),
        # It said a moment ago that it is 60 days earlier.
        (60, True),
        # Nothing was read yet, so nobody knows better.
        (None, False),
    ],
)
def test_what_is_old_by_the_clock_of_the_database_alone_is_not_deleted(
    emptied: Database, read: float | None, stays: bool
) -> None:
    if read is not None:
        walked(emptied, in_(0), old(read))
    insert(emptied, "sync_faults", [{"opportunity_id": 1, "run": "r", "field": "f", "problem": "p",
                                     "raw_value": "", "seen_at": old(91)}])  # fmt: skip
    event = {"opportunity_id": 1, "received_at": old(91), "processed_at": old(91)}
    insert(emptied, "webhook_events", [event])
    insert_sync(emptied, "first", ago=93 * 86_400)
    insert_sync(emptied, "old", status="failed", ago=91 * 86_400)
    insert(emptied, "run_workers", [{"run": "old", "lock_key": 7, "announced_at": old(91)}])
    with emptied.session() as connection:
        gone = purge(connection, faults_days=90, webhook_events_days=90, walks_days=90)
        found = [gone["sync_faults"], gone["webhook_events"]]
        found += [forget_runs(connection, days=90), forget_workers(connection, days=90)]
        kept_from = oldest_to_keep(connection, days=90)
    assert found == [0 if stays else 1] * 4
    assert abs(kept_from - old(149 if stays else 90)) < MINUTE
