"""Members are a declaration: all that is done for opportunities is done for them."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from pydantic import SecretStr

from rms_pipeline.collections import COLLECTIONS
from rms_pipeline.collections.members import MEMBERS
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.deliveries import read_delivery
from rms_pipeline.current_rms.subscriptions import create, listed
from rms_pipeline.current_rms.webhooks import events_of, overview, register, remove
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.deletions import held_back
from rms_pipeline.mirror.proofs import standing
from rms_pipeline.mirror.queue import Event, store_event
from rms_pipeline.mirror.walks import has_full_sync, watermarks
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.sync.queued import work_off
from rms_pipeline.sync.rebuilding import rebuild
from rms_pipeline.sync.refreshing import refresh
from rms_pipeline_tests.core import full_sync, proved_sync
from rms_pipeline_tests.rows import query

MakeClient = Callable[..., CurrentRmsClient]


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(3)) as server:
        yield server


@pytest.fixture
def client(sandbox: SandboxServer, client_for: MakeClient, emptied: Database) -> CurrentRmsClient:
    client = client_for(sandbox.url, collection=MEMBERS)
    client.now = emptied.clock()
    return client


def mirrored(database: Database) -> dict[int, dict[str, Any]]:
    return dict(query(database, "SELECT id, data FROM members"))


def in_the_account(sandbox: SandboxServer) -> dict[int, dict[str, Any]]:
    return {record["id"]: record for record in sandbox.store.members.all()}


def since(database: Database) -> list[datetime]:
    with database.session() as connection:
        return watermarks(connection, MEMBERS)


def test_a_full_sync_brings_every_member_and_proves_it(
    emptied: Database, sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    done = full_sync(emptied, client, None)
    assert mirrored(emptied) == in_the_account(sandbox)
    assert {"User", "Vehicle", "Organisation", "Venue", "Contact"} == {
        kind for (kind,) in query(emptied, "SELECT DISTINCT membership_type FROM members")
    }
    assert done.settled.certificate.shown, done.settled.certificate.sentence
    assert "all members" in done.settled.certificate.notes[0]
    # Those that only the right filtermode reaches.
    assert query(emptied, "SELECT count(*) > 0 FROM members WHERE NOT active") == [(True,)]
    assert query(emptied, "SELECT count(*) FROM sync_faults") == [(0,)]
    with emptied.session() as connection:
        assert standing(connection, MEMBERS).state == "green"
        assert standing(connection, OPPORTUNITIES).state == "none"
        assert has_full_sync(connection, MEMBERS)
        assert not has_full_sync(connection, OPPORTUNITIES)


def test_each_field_becomes_its_column(
    emptied: Database, sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    full_sync(emptied, client, None)
    columns = ", ".join(c.name for c in MEMBERS.columns if not c.name.endswith("_at_rms"))
    contact = next(m for m in sandbox.store.members.all() if m["membership_type"] == "Contact")
    (row,) = query(emptied, f"SELECT {columns} FROM members WHERE id = %s", contact["id"])
    address, membership = contact["primary_address"], contact["membership"]
    assert row == (
        contact["name"],
        "Contact",
        contact["active"],
        contact["bookable"],
        contact["description"],
        membership["title"],
        membership["department"] or None,
        membership["owned_by"],
        address["street"],
        address["postcode"],
        address["city"],
        address["county"] or None,
        address["country_name"],
        contact["emails"],
        contact["phones"],
        contact["tag_list"],
        contact["custom_fields"],
    )


def test_edits_and_new_ones_come_incrementally_and_a_deletion_is_noticed(
    emptied: Database, sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    full_sync(emptied, client, None)
    members = sandbox.store.members
    edited, gone, *_ = sorted(in_the_account(sandbox))
    members.edit(edited, {"name": "Renamed"})
    new = members.create({"name": "New here"})["id"]
    members.delete(gone)
    _, merged, proof = proved_sync(emptied, client, since(emptied))
    assert proof is not None
    assert proof.shown, proof.sentence
    assert mirrored(emptied) == in_the_account(sandbox)
    assert query(emptied, "SELECT name FROM members WHERE id = ANY(%s) ORDER BY id",
                 [edited, new]) == [("Renamed",), ("New here",)]  # fmt: skip
    assert query(emptied, "SELECT id FROM deleted_members") == [(gone,)]
    assert (merged.result.created, merged.result.updated) == (1, 1)
    quiet = client.counts.calls
    _, _, proof = proved_sync(emptied, client, since(emptied))
    assert proof is not None
    assert proof.shown
    assert client.counts.calls - quiet <= 5


def test_too_many_deletions_at_once_wait_for_a_person(
    emptied: Database, sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    full_sync(emptied, client, None)
    members = sandbox.store.members
    for id_ in sorted(in_the_account(sandbox))[:60]:
        members.delete(id_)
    full_sync(emptied, client, None, "again")
    with emptied.session() as connection:
        assert held_back(connection, MEMBERS)
        assert not held_back(connection, OPPORTUNITIES)
    assert query(emptied, "SELECT count(*) FROM deleted_members") == [(0,)]
    full_sync(emptied, client, None, "confirmed", confirm_deletions=True, reverify_calls=10)
    assert mirrored(emptied) == in_the_account(sandbox)


def test_members_and_opportunities_of_one_id_do_not_touch_each_other(
    emptied: Database, sandbox: SandboxServer, client: CurrentRmsClient, client_for: MakeClient
) -> None:
    full_sync(emptied, client, None)
    shared = max(in_the_account(sandbox))
    other = client_for(sandbox.url)
    other.now = emptied.clock()
    refresh(emptied, other, [shared], "run")
    assert shared in mirrored(emptied)
    assert query(emptied, "SELECT deleted FROM opportunity_versions WHERE id = %s", shared) == [
        (True,)
    ]
    assert query(emptied, "SELECT deleted FROM member_versions WHERE id = %s", shared) == [(False,)]


def told(sandbox: SandboxServer, action: str, id_: int) -> bytes:
    return json.dumps(
        {"action": {"id": 900 + id_, "subject_id": id_, "subject_type": "Member",
                    "action_type": action, "member_id": 1, "member": {"name": "Ida Castle"},
                    "created_at": sandbox.store.now().isoformat()}}
    ).encode()  # fmt: skip


def deliver(database: Database, body: bytes) -> None:
    event = read_delivery(body, COLLECTIONS)
    with database.session() as connection:
        store_event(
            connection,
            Event(
                event.action_id, event.action_type, event.subject_type, event.collection,
                event.record, event.member_id, event.member_name, event.happened_at,
                event.payload, event.payload, event.because,
            ),
        )  # fmt: skip


def test_a_webhook_of_a_member_refreshes_it_and_no_opportunity_of_its_id(
    emptied: Database, sandbox: SandboxServer, client: CurrentRmsClient, client_for: MakeClient
) -> None:
    full_sync(emptied, client, None)
    edited, gone, *_ = sorted(in_the_account(sandbox))
    sandbox.store.members.edit(edited, {"name": "Told of"})
    sandbox.store.members.delete(gone)
    deliver(emptied, told(sandbox, "update", edited))
    deliver(emptied, told(sandbox, "destroy", gone))
    other = client_for(sandbox.url)
    other.now = emptied.clock()
    sandbox.requests.clear()
    with emptied.session() as connection:
        assert work_off(emptied, connection, other, "opportunities' lane").claimed == 0
        assert not sandbox.requests
        done = work_off(emptied, connection, client, "members' lane")
    assert (done.settled, done.refreshed.deleted, done.refreshed.result.updated) == (2, 1, 1)
    assert mirrored(emptied) == in_the_account(sandbox)
    found = query(emptied, "SELECT collection, opportunity_id, record_id FROM webhook_events")
    assert sorted(found) == [("members", None, edited), ("members", None, gone)]
    refreshed = "SELECT last_webhook_at IS NOT NULL FROM members WHERE id = %s"
    assert query(emptied, refreshed, edited) == [(True,)]


def test_rows_are_made_again_from_what_is_stored(
    emptied: Database, client: CurrentRmsClient
) -> None:
    full_sync(emptied, client, None)
    before = query(emptied, "SELECT * FROM members ORDER BY id")
    calls = client.counts.calls
    query(emptied, "UPDATE members SET name = 'damaged', tags = NULL")
    query(emptied, "DELETE FROM members WHERE id < 20")
    done = rebuild(emptied, MEMBERS, "rebuild")
    assert query(emptied, "SELECT * FROM members ORDER BY id") == before
    assert done.redecoded.rows == len(before)
    assert client.counts.calls == calls


def test_an_event_whose_subject_is_of_no_collection_that_is_on_refreshes_nothing() -> None:
    body = b'{"action": {"id": 1, "subject_id": 7, "subject_type": "Member"}}'
    assert read_delivery(body, [OPPORTUNITIES]).record is None
    assert read_delivery(body, COLLECTIONS).collection is MEMBERS


def test_only_events_of_what_is_on_are_subscribed_to_and_all_of_ours_are_removed(
    sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    token = SecretStr("a-token-of-sixteen-letters")
    alone, both = events_of(COLLECTIONS[:1]), events_of([OPPORTUNITIES, MEMBERS])
    assert register(client, "https://rms.example.com", token, alone).created == alone
    assert set(both) - set(alone) == {"member_create", "member_update", "member_destroy"}
    assert set(register(client, "https://rms.example.com", token, both).created) == {*both} - {
        *alone
    }
    assert [s.event for s in overview(client, token, both) if s.is_right] == list(both)
    assert sorted(remove(client)) == sorted(both)


def test_those_of_a_collection_that_was_switched_off_are_removed_and_no_others(
    sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    token, url = SecretStr("a-token-of-sixteen-letters"), "https://rms.example.com"
    alone, every = events_of(COLLECTIONS[:1]), events_of(COLLECTIONS)
    theirs = {"name": "of another program", "event": "member_update", "active": True}
    theirs["target_url"] = "https://elsewhere.example.com"
    create(client, theirs, token)
    register(client, url, token, every)
    done = register(client, url, token, events_of([OPPORTUNITIES, MEMBERS]))
    assert set(done.removed) == {"invoice_create", "invoice_update", "invoice_destroy"}
    assert not done.created
    assert set(register(client, url, token, alone).removed) == {*every} - {*alone} - {*done.removed}
    assert not register(client, url, token, alone).changed
    assert [w.event for w in listed(client) if w.name == theirs["name"]] == ["member_update"]
    remove(client)
