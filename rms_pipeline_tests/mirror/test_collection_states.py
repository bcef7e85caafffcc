"""How each collection stands: those that are on, and those that were."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rms_pipeline.collections import COLLECTIONS, Collection, NoSuchCollection, collection_named
from rms_pipeline.collections.invoices import INVOICES
from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.collection_states import CollectionState, RowCounts, read_collection_states
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline_tests.rows import insert, insert_opportunities, insert_proof, query

NOW = datetime.now(UTC)


def states(database: Database, on: Sequence[Collection]) -> dict[str, CollectionState]:
    with database.session() as connection:
        return {state.name: state for state in read_collection_states(connection, on)}


def insert_walk(
    database: Database, collection: str, kind: str = "full", ago: float = 0.0, **columns: Any
) -> datetime:
    """A sync that ended `ago` seconds before now; when that was."""
    at = datetime.now(UTC) - timedelta(seconds=ago)
    row = {"collection": collection, "kind": kind, "runs": ["run"], "started_at": at, **columns}
    insert(database, "walks", [row | {"watermark": at, "completed_at": at, "settled_at": at}])
    return at


def test_what_is_on_is_told_of_and_what_never_was_is_not(emptied: Database) -> None:
    insert_opportunities(emptied, {}, {})
    found = states(emptied, [OPPORTUNITIES, MEMBERS])
    assert list(found) == ["opportunities", "members"]
    assert (found["opportunities"].rows, found["members"].rows) == (2, 0)
    assert found["members"].is_on
    assert found["members"].synced_at is None
    assert "next sync reads all" in found["members"].sentence
    assert list(states(emptied, [OPPORTUNITIES])) == ["opportunities"]


def test_parts_are_said_to_be_read_with_what_they_belong_to(emptied: Database) -> None:
    (items,) = (c for c in COLLECTIONS if c.parts is not None)
    found = states(emptied, [OPPORTUNITIES, items])[items.name]
    assert "those of opportunities that are out soon" in found.sentence


def test_what_was_on_and_is_off_is_said_to_be_no_longer_kept_up_to_date(emptied: Database) -> None:
    insert(emptied, "invoices", [{"id": 1}])
    read_at = insert_walk(emptied, "invoices")
    insert_proof(emptied, collection="invoices")
    found = states(emptied, [OPPORTUNITIES])
    assert list(found) == ["opportunities", "invoices"]
    assert not found["invoices"].is_on
    assert found["invoices"].rows == 1
    assert "not kept up to date any more" in found["invoices"].sentence
    assert f"{read_at:%Y-%m-%d %H:%M} UTC" in found["invoices"].sentence
    assert "complete" in states(emptied, [OPPORTUNITIES, INVOICES])["invoices"].sentence


def test_each_collection_has_its_own_proof_faults_and_deletions_that_wait(
    emptied: Database,
) -> None:
    insert(emptied, "members", [{"id": id_, "name": "Somebody"} for id_ in (7, 8, 9)])
    versions = [{"id": id_, "asked_at": NOW - timedelta(hours=1)} for id_ in (7, 8, 9)]
    insert(emptied, "member_versions", versions)
    insert_walk(emptied, "members", ago=7_200)
    changed_at = insert_walk(emptied, "members", "changes", ago=60)
    # Of one that asked for single records, and of one that ended in vain.
    insert_walk(emptied, "members", "refresh")
    vain = {"collection": "members", "kind": "changes", "runs": ["vain"]}
    insert(emptied, "walks", [vain | {"started_at": NOW - timedelta(hours=1)}])
    whole = {"window_start": None, "window_end": None, "counted": 3, "mirrored": 3}
    insert_proof(emptied, collection="members", **whole)
    fault = {"opportunity_id": 7, "field": "emails", "problem": "x", "run": "run"}
    old = {"seen_at": NOW - timedelta(days=2)}
    insert(
        emptied,
        "sync_faults",
        [
            fault | {"collection": "members"},
            fault | {"collection": "members", "run": "again"},
            fault | {"collection": "members", "field": "name"} | old,
            fault | {"collection": "invoices"},
        ],
    )
    held = {"collection": "members", "asked_at": NOW, "answered_at": NOW, "because": "gone"}
    insert(emptied, "held_deletions", [held | {"id": 8}, held | {"id": 9}])
    unreadable = {"collection": "members", "id": 5, "reason": "500", "run": "run"}
    insert(emptied, "unreadable_records", [unreadable])
    members = states(emptied, [OPPORTUNITIES, MEMBERS])["members"]
    assert (members.rows, members.faults, members.unreadable, members.held_back) == (3, 1, 1, 2)
    assert members.synced_at == changed_at
    assert members.has_full_sync
    assert members.is_proved
    assert "3 of 3" in members.sentence
    opportunities = states(emptied, [OPPORTUNITIES, MEMBERS])["opportunities"]
    assert opportunities.is_proved is None
    assert (opportunities.faults, opportunities.unreadable, opportunities.held_back) == (0, 0, 0)


def test_rows_are_not_counted_again_for_each_look(emptied: Database) -> None:
    now = [0.0]
    count = RowCounts(lambda: now[0])
    with emptied.session() as connection:
        assert count(connection, MEMBERS) == 0
        query(emptied, "INSERT INTO members (id, name) VALUES (1, 'New')")
        assert count(connection, MEMBERS) == 0
        assert count(connection, INVOICES) == 0
        now[0] = 1.5
        assert count(connection, MEMBERS) == 1


def test_what_is_counted_by_status_is_not_counted_again(emptied: Database) -> None:
    count = RowCounts(lambda: 0.0)
    insert_opportunities(emptied, {}, {})
    with emptied.session() as connection:
        assert count(connection, OPPORTUNITIES) == 2
        refresh_status_counts(emptied, "UTC")
        query(emptied, "DELETE FROM opportunities WHERE id = 1")
        assert count(connection, OPPORTUNITIES) == 2
        refresh_status_counts(emptied, "UTC")
        assert count(connection, OPPORTUNITIES) == 1


def test_a_collection_is_found_by_its_name_or_the_names_there_are_told() -> None:
    assert [collection_named(c.name) for c in COLLECTIONS] == list(COLLECTIONS)
    with pytest.raises(NoSuchCollection, match=r"unicorns.*opportunities, members"):
        collection_named("unicorns")
