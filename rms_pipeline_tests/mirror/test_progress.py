"""How far a sync has come, how the queue stands, and all of it at once."""

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror import progress as progress_module
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.progress import (
    Pace,
    Progress,
    ProgressNotes,
    forget_old_progress,
    note_progress,
    read_progress,
)
from rms_pipeline.mirror.queue import (
    dead_letters,
    events_of,
    queue_state,
    replay,
)
from rms_pipeline.mirror.sync_state import read_sync_state
from rms_pipeline_tests.rows import (
    insert,
    insert_dagsters_run,
    insert_proof,
    insert_sync,
    query,
)

NOW = datetime.now(UTC)


@pytest.fixture
def database(emptied: Database) -> Database:
    return emptied


def pace(pages: int, expected: int, *, began: int = 0, took: float, idle: float = 0.0) -> Pace:
    return Pace("fetching", pages, expected, pages * 100, expected * 100, began, took, idle)


@pytest.mark.parametrize(
    ("so_far", "left"),
    [
        (pace(0, 10, took=0), None),
        (pace(0, 10, took=5), None),
        (pace(5, 10, took=0), None),
        (pace(5, 10, took=20), 20.0),
        (pace(1, 100, took=2), 198.0),
        # What an unfinished sync had already took this one no time.
        (pace(60, 100, began=50, took=10), 40.0),
        (pace(50, 100, began=50, took=10), None),
        # More pages came than were expected.
        (pace(12, 10, took=5), 0.0),
        (pace(10, 10, took=5), 0.0),
        # A page is on its way, and is part of what was left.
        (pace(5, 10, took=20, idle=3), 17.0),
        (pace(5, 10, took=20, idle=500), 0.0),
        # The stage has started over with fewer pages.
        (pace(3, 10, began=5, took=10), None),
    ],
)
def test_the_time_left_is_that_of_the_pages_left_at_the_pace_so_far(
    so_far: Pace, left: float | None
) -> None:
    assert so_far.seconds_left == left


def test_a_stage_is_timed_from_its_own_beginning(database: Database) -> None:
    with database.session() as connection:
        assert read_progress(connection, "run") is None
        note_progress(connection, "run", Progress("fetching", 40, 100, 4_000, 10_000))
        first = read_progress(connection, "run")
        assert first is not None
        assert (first.stage_began_at, first.stage_seconds, first.seconds_left) == (40, 0, None)
        time.sleep(0.1)
        note_progress(connection, "run", Progress("fetching", 50, 100, 5_000, 10_000))
        second = read_progress(connection, "run")
        assert second is not None
        assert (second.pages, second.stage_began_at) == (50, 40)
        assert 0.1 <= second.stage_seconds < 30
        # Ten pages in that time, fifty to go.
        assert second.seconds_left == pytest.approx(
            max(5 * second.stage_seconds - second.idle_seconds, 0), abs=0.01
        )
        note_progress(connection, "run", Progress("storing", 0, 80, 0, 8_000))
        third = read_progress(connection, "run")
        assert third is not None
        assert (third.stage, third.stage_began_at, third.stage_seconds) == ("storing", 0, 0)
        assert third.seconds_left is None
        assert read_progress(connection, "another") is None


def test_idle_time_counts_down(database: Database) -> None:
    with database.session() as connection:
        note_progress(connection, "run", Progress("fetching", 0, 100, 0, 1))
        query(
            database,
            "UPDATE sync_progress SET stage_started_at = now() - interval '30 s',"
            " pages = 10, updated_at = now() - interval '20 s'",
        )
        found = read_progress(connection, "run")
    assert found is not None
    assert found.stage_seconds == pytest.approx(10, abs=0.01)
    assert 20 <= found.idle_seconds < 60
    assert found.seconds_left == pytest.approx(90 - found.idle_seconds)


def test_notes_are_kept_at_once_then_seldom_and_at_the_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now))
    with database.session() as connection, database.session() as reading:

        def noted() -> int:
            found = read_progress(reading, "run")
            assert found is not None
            return found.pages

        notes = ProgressNotes(connection, "run")
        notes.finish()
        assert read_progress(reading, "run") is None
        notes.note(Progress("fetching", 1, 9, 1, 9))
        assert noted() == 1
        notes.note(Progress("fetching", 2, 9, 2, 9))
        assert noted() == 1
        notes.finish()
        assert noted() == 2
        notes.note(Progress("fetching", 3, 9, 3, 9))
        assert noted() == 2
        now += 0.3
        notes.note(Progress("fetching", 4, 9, 4, 9))
        assert noted() == 4


def test_progress_of_long_ago_is_forgotten(database: Database) -> None:
    with database.session() as connection:
        for run in ("old", "new"):
            note_progress(connection, run, Progress("fetching", 1, 1, 1, 1))
        query(
            database,
            "UPDATE sync_progress SET updated_at = now() - interval '31 days' WHERE run = 'old'",
        )
        forget_old_progress(connection)
        assert read_progress(connection, "old") is None
        assert read_progress(connection, "new") is not None


def event(opportunity: int | None, **columns: Any) -> dict[str, Any]:
    return {"opportunity_id": opportunity, "action_type": "update", "received_at": NOW, **columns}


@pytest.fixture
def queue(database: Database) -> Database:
    """Eight events: 1 settled, 2 and 3 waiting, 4 to 6 dead, 7 of no opportunity, 8 dead."""
    dead: dict[str, Any] = {"dead_at": NOW, "attempts": 8, "error": "refused <b>"}
    insert(
        database,
        "webhook_events",
        [
            event(11, processed_at=NOW, received_at=NOW - timedelta(hours=5)),
            event(11, received_at=NOW - timedelta(seconds=90), member_name="Ann"),
            event(12),
            event(11, **dead),
            event(12, **dead),
            event(13, **dead),
            event(None, processed_at=NOW, error="not an opportunity: Member"),
            event(14, **dead),
        ],
    )
    return database


def test_dead_letters_are_told_the_latest_first(queue: Database) -> None:
    with queue.session() as connection:
        found = dead_letters(connection)
        assert [(e.id, e.opportunity_id) for e in found] == [(8, 14), (6, 13), (5, 12), (4, 11)]
        assert {e.error for e in found} == {"refused <b>"}
        assert all(e.dead_at is not None and e.processed_at is None for e in found)
        assert [e.id for e in dead_letters(connection, most=1)] == [8]


def test_events_of_an_opportunity_are_told_whatever_became_of_them(queue: Database) -> None:
    with queue.session() as connection:
        found = events_of(connection, 11)
        assert [e.id for e in found] == [4, 2, 1]
        assert [(e.processed_at is None, e.dead_at is None) for e in found] == [
            (True, False),
            (True, True),
            (False, True),
        ]
        assert found[1].member_name == "Ann"
        assert [e.id for e in events_of(connection, 11, most=2)] == [4, 2]
        assert events_of(connection, 99) == []


def test_replaying_takes_those_named_or_all_and_only_dead_ones(queue: Database) -> None:
    with queue.session() as connection:
        assert replay(connection, [4]) == 1
        assert replay(connection, [4, 1, 2, 7, 999, 0, -1, 2**63, 10**30]) == 0
        assert replay(connection, []) == 0
        assert [e.id for e in dead_letters(connection)] == [8, 6, 5]
        assert queue_state(connection).depth == 3
        assert replay(connection) == 3
        assert dead_letters(connection) == []
        assert queue_state(connection).depth == 6


def test_the_pace_of_the_next_collection_begins_anew(database: Database) -> None:
    """Or its first page would be told to have taken as long as all of the one before."""
    with database.session() as connection:
        for pages in (1, 20, 48):
            note_progress(connection, "now", Progress("fetching", pages, 48, pages, 48))
        query(database, "UPDATE sync_progress SET stage_started_at = now() - interval '1 h'")
        note_progress(connection, "now", Progress("fetching", 1, 5, 100, 446))
        first = read_progress(connection, "now")
        note_progress(connection, "now", Progress("fetching", 2, 5, 200, 446))
        second = read_progress(connection, "now")
    assert first is not None
    assert first.seconds_left is None
    assert second is not None
    assert second.seconds_left is not None
    assert second.seconds_left < 60


@pytest.mark.usefixtures("history")
def test_the_state_before_any_sync_is_empty(database: Database) -> None:
    with database.session() as connection:
        state = read_sync_state(connection, OPPORTUNITIES)
    assert (state.has_full_sync, state.running, state.pace, state.last) == (False, None, None, None)
    assert (state.history, state.dead, state.certificate) == ([], [], None)
    assert (state.queue.depth, state.queue.dead) == (0, 0)


@pytest.mark.usefixtures("history")
def test_the_state_has_the_sync_under_way_its_pace_and_the_dead_letters(queue: Database) -> None:
    for run, sync_type, status, ago in (
        ("old", "initial_sync", "completed", 300),
        ("bad", "incremental_sync", "failed", 200),
        ("now", "incremental_sync", "running", 100),
    ):
        insert_sync(queue, run, sync_type, status, ago=ago)
    insert_dagsters_run(queue, "other", "housekeeping", "running", NOW, None)
    with queue.session() as connection:
        # A run alone is no mirror.
        assert not read_sync_state(connection, OPPORTUNITIES).has_full_sync
    settled = {"kind": "full", "completed_at": NOW, "settled_at": NOW, "window_start": NOW}
    insert(queue, "walks", [settled | {"runs": ["old"], "watermark": NOW}])
    insert_proof(queue, counted=9, mirrored=9)
    with queue.session() as connection:
        note_progress(connection, "old", Progress("storing", 9, 9, 9, 9))
        assert read_sync_state(connection, OPPORTUNITIES).pace is None
        note_progress(connection, "now", Progress("fetching", 1, 9, 1, 9))
        state = read_sync_state(connection, OPPORTUNITIES, syncs=2, dead=3)
    assert state.has_full_sync
    assert state.running is not None
    assert state.running.run_id == "now"
    assert state.pace is not None
    assert state.pace.pages_expected == 9
    assert [s.run_id for s in state.history] == ["now", "bad"]
    assert state.last == state.history[0]
    assert [e.id for e in state.dead] == [8, 6, 5]
    assert (state.queue.depth, state.queue.dead) == (2, 4)
    waited = 90 + (datetime.now(UTC) - NOW).total_seconds()
    assert abs(state.queue.oldest_seconds - waited) < 30
    assert state.certificate is not None
    assert (state.certificate["state"], state.certificate["counted"]) == ("green", 9)
