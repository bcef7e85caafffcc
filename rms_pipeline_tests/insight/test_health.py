"""The one line of health: what it says in each situation, and that green is never a guess."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.collections.opportunity_items import OPPORTUNITY_ITEMS
from rms_pipeline.current_rms.errors import refusal
from rms_pipeline.current_rms.transport import Failure
from rms_pipeline.insight.health import Health, read_health
from rms_pipeline.mirror.api_troubles import NotedTroubles, read_trouble
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import HELD_BACK, HELD_BACK_ADVICE, words_of_held_back
from rms_pipeline_tests.rows import insert, insert_proof, insert_sync, query

NOW = datetime.now(UTC)


def moment(when: datetime) -> str:
    return f"{when:%H:%M:%S}"


def read(database: Database, *collections: Collection) -> Health:
    with database.session() as connection:
        return read_health(connection, collections or (OPPORTUNITIES,))


def synced(database: Database, *, ago: float = 60, collection: str = "opportunities") -> None:
    """A full sync that stored all it read, and the proof at its end."""
    began = NOW - timedelta(seconds=ago)
    walk = {"kind": "full", "runs": ["full"], "started_at": began, "collection": collection}
    walk |= {"completed_at": began, "settled_at": began, "watermark": began}
    insert(database, "walks", [walk])
    insert_sync(database, f"full {collection} {ago}", ago=ago, took=1)
    insert_proof(database, collection=collection, as_of=began + timedelta(seconds=1))


def test_a_mirror_that_is_proven_and_fresh_is_green_and_asks_for_nothing(emptied: Database) -> None:
    synced(emptied)
    health = read(emptied)
    assert (health.state, health.advice, health.problems(moment)) == ("green", "", [])
    assert health.fresh_at == NOW - timedelta(seconds=60)
    told = health.sentence(moment)
    assert told.startswith(f"Fresh as of {moment(health.fresh_at)}. Complete as of ")
    assert told.endswith("5,012 of 5,012.")


def test_an_empty_mirror_says_so_and_what_to_do(emptied: Database) -> None:
    health = read(emptied)
    assert health.state == "none"
    assert health.sentence(moment) == "Nothing has been read yet. Run the initial sync."
    insert_sync(emptied, "first", status="launched")
    assert read(emptied).sentence(moment) == "The initial sync is running."


@pytest.mark.parametrize("then", ["completed", "failed"])
def test_syncs_of_a_clock_that_was_ahead_do_not_stand_for_those_of_now(
    emptied: Database, then: str
) -> None:
    synced(emptied, ago=-86_400)
    insert_sync(emptied, "then", "incremental_sync", then, ago=-80_000, error="It failed then.")
    synced(emptied, ago=7_000, collection="opportunities")
    health = read(emptied)
    assert (health.state, health.problems(moment)) == ("green", [])
    assert health.fresh_at == NOW - timedelta(seconds=7_000)
    insert_sync(emptied, "now", "incremental_sync", "failed", ago=30, error="It failed now.")
    assert "It failed now." in read(emptied).sentence(moment)


def trouble(database: Database) -> None:
    noted = NotedTroubles(database, "acme", OPPORTUNITIES)
    for attempt in (1, 2, 3):
        noted(Failure(attempt, 8, "status 503", 4.0))


def dead_letter(database: Database) -> None:
    insert(database, "webhook_events", [{"opportunity_id": 1, "dead_at": NOW, "error": "x"}])


def old_event(database: Database) -> None:
    event = {"opportunity_id": 1, "received_at": datetime.now(UTC) - timedelta(minutes=7)}
    insert(database, "webhook_events", [event])


def failed_syncs(database: Database) -> None:
    for n, error in enumerate(("Current RMS answered 401: check the key.\nMore", "Earlier")):
        kind = "incremental_sync" if n else "reconciliation"
        insert_sync(database, f"failed {n}", kind, "failed", ago=20 + n * 10, error=error)


def held_deletion(database: Database) -> None:
    hour = NOW - timedelta(hours=1)
    insert(database, "opportunities", [{"id": 8, "name": "Gone"}])
    insert(database, "opportunity_versions", [{"id": 8, "asked_at": hour, "answered_at": hour}])
    held = {"collection": "opportunities", "id": 8, "because": "gone"}
    insert(database, "held_deletions", [held | {"asked_at": NOW, "answered_at": NOW}])


SPEAKS_AGAINST: list[tuple[Callable[[Database], None], str, str]] = [
    (trouble, "Attempt 3 of 8 failed, the next is at", "tries again by itself"),
    (dead_letter, "1 webhook was given up", "Replay"),
    (old_event, "1 change waits to be fetched, the oldest for 7 min", "doctor"),
    (failed_syncs, "Current RMS answered 401: check the key.", "Correct the cause"),
    (held_deletion, "At least 1 opportunity no longer exists", "--confirm-deletions"),
]


@pytest.mark.parametrize(("happen", "words", "advice"), SPEAKS_AGAINST)
def test_whatever_speaks_against_it_takes_the_green_away_and_says_what_to_do(
    emptied: Database, happen: Callable[[Database], None], words: str, advice: str
) -> None:
    synced(emptied)
    happen(emptied)
    health = read(emptied)
    assert health.state == "amber"
    assert words in health.problems(moment)[0]
    assert advice in health.advice


def test_how_soon_the_next_attempt_is_made_is_told_until_its_time_has_come(
    emptied: Database,
) -> None:
    synced(emptied)
    trouble(emptied)
    health = read(emptied)
    assert health.trouble is not None
    soon = replace(health, now=health.trouble.next_at - timedelta(seconds=12))
    assert soon.problems(moment)[0].endswith(f"{moment(health.trouble.next_at)}, in 12 s.")
    for late in (0, 3):
        now = health.trouble.next_at + timedelta(seconds=late)
        told = replace(health, now=now).problems(moment)[0]
        assert told.endswith(f"the next is at {moment(health.trouble.next_at)}.")


@pytest.mark.parametrize(
    ("proof", "begins"),
    [
        ({}, "Not shown to be complete at "),
        ({"unreadable": [5]}, "Not shown to be complete: 0 of 0, 1 that Current RMS cannot"),
        ({"counted": 3}, "Not shown to be complete: 0 of 3 at "),
        ({"mirrored": 3}, "Not shown to be complete: 3 of 0 at "),
        ({"parents": 12}, "Not shown to be complete for 12 records at "),
        ({"parents": 12, "counted": 3}, "Not shown to be complete: 0 of 3, of 12 records, at "),
    ],
)
def test_a_proof_that_counted_nothing_does_not_say_that_nothing_was_there(
    emptied: Database, proof: dict[str, Any], begins: str
) -> None:
    synced(emptied)
    failed = {"counted": 0, "mirrored": 0, "shown": False, "reason": "It was refused."}
    insert_proof(emptied, as_of=NOW, **(failed | proof))
    assert read(emptied).proven(moment).startswith(begins)


def test_items_are_called_as_people_call_them(emptied: Database) -> None:
    both = (OPPORTUNITIES, OPPORTUNITY_ITEMS)
    for collection in both:
        synced(emptied, collection=collection.name)
    failed = {"shown": False, "reason": "It was refused.", "parents": 12}
    insert_proof(emptied, collection=OPPORTUNITY_ITEMS.name, as_of=NOW, **failed)
    health = read(emptied, *both)
    assert health.proven(moment).startswith("Opportunity items: not shown to be complete: ")
    for count, words in ((1, "1 opportunity item no longer"), (2, "2 opportunity items no longer")):
        assert words in words_of_held_back(OPPORTUNITY_ITEMS, count)
    assert "opportunity_item" not in health.sentence(moment)


def test_syncs_fail_since_the_first_that_failed_after_the_last_good_one(emptied: Database) -> None:
    insert_sync(emptied, "long ago", status="failed", ago=900)
    synced(emptied)
    assert read(emptied).failing_since is None
    failed_syncs(emptied)
    insert_sync(emptied, "refresh", "webhook_refresh", ago=1)
    ((first,),) = query(emptied, "SELECT started_at FROM sync_runs WHERE run_id = 'failed 1'")
    assert read(emptied).failing_since == first
    insert_sync(emptied, "good again", "incremental_sync", ago=0)
    assert read(emptied).failing_since is None


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 406, 418, 422])
def test_what_to_do_is_whole_at_the_end_of_every_refusal(emptied: Database, status: int) -> None:
    error = str(refusal(status, "GET /opportunity_items", "Invalid subdomain or API key"))
    synced(emptied)
    insert_sync(emptied, "refused", "incremental_sync", status="failed", ago=1, error=error)
    (problem,) = read(emptied).problems(moment)
    assert problem.endswith(error.strip())


@pytest.mark.parametrize(
    ("proof", "state"),
    [
        ({"shown": False, "reason": "3 are missing.", "mirrored": 5_009}, "red"),
        ({"as_of": NOW - timedelta(days=2)}, "amber"),
    ],
)
def test_it_is_never_greener_than_the_proof(
    emptied: Database, proof: dict[str, Any], state: str
) -> None:
    synced(emptied)
    insert_proof(emptied, **proof)
    health = read(emptied)
    assert health.state == state
    assert "incremental sync" in health.advice


def test_where_deletions_wait_no_proof_is_advised_that_could_not_be_shown(
    emptied: Database,
) -> None:
    synced(emptied)
    held_deletion(emptied)
    insert_proof(emptied, shown=False, reason=HELD_BACK, mirrored=5_013)
    insert_sync(emptied, "now", "incremental_sync", status="launched")
    health = read(emptied)
    assert (health.state, health.advice) == ("red", HELD_BACK_ADVICE)


def test_a_mirror_whose_syncs_have_stopped_is_behind(emptied: Database) -> None:
    synced(emptied, ago=3 * 3600)
    health = read(emptied)
    assert health.state == "amber"
    assert "No sync has completed since" in health.problems(moment)[0]
    assert "schedules" in health.advice


def test_one_collection_that_was_never_read_takes_the_green_of_all(emptied: Database) -> None:
    synced(emptied)
    health = read(emptied, OPPORTUNITIES, MEMBERS)
    assert (health.state, health.collection) == ("none", "members")
    assert "Members: not compared with Current RMS yet" in health.sentence(moment)
    assert "The next sync reads all members." in health.sentence(moment)
    synced(emptied, collection="members", ago=300)
    health = read(emptied, OPPORTUNITIES, MEMBERS)
    assert (health.state, health.collection) == ("green", None)
    assert health.fresh_at == NOW - timedelta(seconds=300)


def test_trouble_ends_with_an_answer_or_when_nobody_has_spoken_of_it_for_long(
    emptied: Database,
) -> None:
    noted = NotedTroubles(emptied, "acme", OPPORTUNITIES)
    trouble(emptied)
    with emptied.session() as connection:
        found = read_trouble(connection)
    assert found is not None
    assert (found.attempt, found.attempts, found.reason) == (3, 8, "status 503")
    assert found.since < found.next_at
    noted(None)
    with emptied.session() as connection:
        assert read_trouble(connection) is None
    trouble(emptied)
    by = "interval '10 minutes'"
    query(emptied, f"UPDATE api_troubles SET noted_at = noted_at - {by}, next_at = next_at - {by}")
    with emptied.session() as connection:
        assert read_trouble(connection) is None
    # And the next one does not begin in the time of that one.
    trouble(emptied)
    assert query(emptied, "SELECT since > now() - interval '1 minute' FROM api_troubles") == [
        (True,)
    ]


def test_a_nul_in_what_the_api_said_is_noted_all_the_same(emptied: Database) -> None:
    NotedTroubles(emptied, "acme", OPPORTUNITIES)(Failure(1, 8, "status 500 (a\0b)", 1.0))
    assert read(emptied).trouble is not None
