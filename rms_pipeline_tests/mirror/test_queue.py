"""The queue of webhooks by itself, without an API."""

import pytest

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.postgres_errors import OutdatedError
from rms_pipeline.mirror.queue import (
    ATTEMPTS,
    claim,
    give_back,
    put_off,
    renew,
    replay,
    settle,
)
from rms_pipeline_tests.rows import insert, query


def test_a_replayed_dead_letter_has_all_its_attempts_again(emptied: Database) -> None:
    event = {"subject_type": "Opportunity", "opportunity_id": 7, "attempts": ATTEMPTS - 1}
    insert(emptied, "webhook_events", [event])
    dead = "SELECT dead_at IS NOT NULL FROM webhook_events"
    with emptied.session() as connection:
        assert (
            give_back(connection, claim(connection, OPPORTUNITIES, "a"), [7], "no", blameless=False)
            == 1
        )
        assert query(emptied, dead) == [(True,)]
        assert replay(connection) == 1
        assert ATTEMPTS == 8, "docs/how-to/webhooks.md says so"
        for attempt in range(1, ATTEMPTS + 1):
            query(emptied, "UPDATE webhook_events SET next_attempt_at = now()")
            died = give_back(
                connection, claim(connection, OPPORTUNITIES, "a"), [7], "no", blameless=False
            )
            assert died == (attempt == ATTEMPTS)


def test_a_process_whose_claim_was_taken_over_settles_events_and_returns_none(
    emptied: Database,
) -> None:
    told_of(emptied, 7, 8)
    held = "SELECT left(claimed_by, 1), claimed_until > now(), attempts, waits, dead_at, error"
    held += " FROM webhook_events ORDER BY id"
    with emptied.session() as connection:
        late = claim(connection, OPPORTUNITIES, "a")
        query(emptied, "UPDATE webhook_events SET claimed_until = now(), attempts = %s", ATTEMPTS)
        taken = claim(connection, OPPORTUNITIES, "b")
        assert taken.records == [7, 8]
        before = query(emptied, held)
        assert put_off(connection, late, {7: "not yet"}) == 0
        assert give_back(connection, late, [7, 8], "no", blameless=False) == 0
        query(emptied, "UPDATE webhook_events SET claimed_until = now() + interval '9 s'")
        renew(connection, late)
        assert query(emptied, held) == before
        soon = "SELECT bool_and(claimed_until < now() + interval '10 s') FROM webhook_events"
        assert query(emptied, soon) == [(True,)]
        renew(connection, taken)
        assert query(emptied, soon) == [(False,)]
        # They are older than its refresh, whoever holds them now.
        assert settle(connection, late, [7]) == 1
        assert settle(connection, taken, [7, 8]) == 1
        renew(connection, taken)
    assert query(emptied, "SELECT count(claimed_until) FROM webhook_events") == [(0,)]


def test_what_a_process_has_returned_is_no_longer_leased_by_it(emptied: Database) -> None:
    told_of(emptied, 7, 8)
    with emptied.session() as connection:
        claimed = claim(connection, OPPORTUNITIES, "a")
        put_off(connection, claimed, {7: "not yet"})
        give_back(connection, claimed, [8], "no", blameless=True)
        renew(connection, claimed)
    assert query(emptied, "SELECT count(claimed_until) FROM webhook_events") == [(0,)]


def told_of(database: Database, first: int, last: int, count: int = 1) -> None:
    """`count` events of each of the opportunities `first` to `last`."""
    query(
        database,
        "INSERT INTO webhook_events (collection, opportunity_id) SELECT 'opportunities', i"
        " FROM generate_series(%s, %s) i, generate_series(1, %s) RETURNING 1",
        first, last, count,
    )  # fmt: skip


def test_thousands_of_events_of_unknown_records_hold_up_none_of_a_known_one(
    emptied: Database,
) -> None:
    told_of(emptied, 1, 6_000)
    insert(emptied, "opportunity_versions", [{"id": 7_000}, {"id": 7_001, "deleted": True}])
    told_of(emptied, 7_000, 7_001)
    with emptied.session() as connection:
        claimed = claim(connection, OPPORTUNITIES, "a", strangers=False)
        assert claimed.records == [7_000]
        # When there is room again, those that have waited longest come first.
        claimed = claim(connection, OPPORTUNITIES, "a", most=10)
        assert claimed.records == list(range(1, 11))
        assert claimed.strangers == {*range(1, 11)}


def test_thousands_of_events_that_wait_with_another_hold_up_nobody(emptied: Database) -> None:
    told_of(emptied, 1, 1)
    with emptied.session() as connection:
        assert claim(connection, OPPORTUNITIES, "a").records == [1]
        told_of(emptied, 1, 1, 6_000)
        told_of(emptied, 2, 2)
        assert claim(connection, OPPORTUNITIES, "b").records == [2]


@pytest.mark.parametrize("name", ["mapping_version", "mapping_writers"])
@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda c: c.name)
def test_an_older_program_claims_no_events_beside_a_newer_one(
    emptied: Database, collection: Collection, name: str
) -> None:
    event = {"collection": collection.name, collection.event_column: 7}
    insert(emptied, "webhook_events", [event])
    by = (
        "INSERT INTO mirror_state VALUES (%s, %s)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    )
    query(emptied, by, name + collection.mark, str(collection.version + 1))
    with emptied.session() as connection, pytest.raises(OutdatedError, match="Restart"):
        claim(connection, collection, "an older program")
    # Releases before 0034 look for nothing before they claim.
    as_they_did = "UPDATE webhook_events SET claimed_by = 'a release before' RETURNING id"
    assert query(emptied, as_they_did) == []
    query(emptied, by, name + collection.mark, str(collection.version))
    with emptied.session() as connection:
        claimed = claim(connection, collection, "this program")
        assert len(claimed.events) == 1
        # Whoever claimed may still settle, whatever has taken over meanwhile.
        assert settle(connection, claimed, [7]) == 1


def test_a_release_before_goes_on_until_rows_are_written_by_a_newer_mapping(
    emptied: Database,
) -> None:
    query(emptied, "DELETE FROM mirror_state WHERE name LIKE 'mapping_%%'")
    insert(emptied, "webhook_events", [{"subject_type": "Opportunity", "opportunity_id": 7}])
    as_they_did = (
        "UPDATE webhook_events SET claimed_by = 'a release before' RETURNING opportunity_id"
    )
    assert query(emptied, as_they_did) == [(7,)]
