"""Working off the queue when something else goes wrong than the API."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient, ListAnswer
from rms_pipeline.current_rms.errors import ApiUnavailable, CurrentRmsError, Forbidden, NotFound
from rms_pipeline.mirror import queue
from rms_pipeline.mirror.database import DatabaseError
from rms_pipeline.mirror.ownership import claim_mirror
from rms_pipeline.mirror.queue import ATTEMPTS, claim
from rms_pipeline.sandbox import SANDBOX_SUBDOMAIN, Store
from rms_pipeline.sync import queued
from rms_pipeline.sync.queued import WorkedOff, work_off
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.sandbox.holding import held
from rms_pipeline_tests.sync.conftest import Mirror

MakeMirror = Callable[..., Mirror]


def tell(mirror: Mirror, *ids: int, attempts: int = 0) -> None:
    with mirror.database.session() as connection, connection.cursor() as cursor:
        for id_ in ids:
            cursor.execute(
                "INSERT INTO webhook_events (subject_type, opportunity_id, attempts)"
                " VALUES ('Opportunity', %s, %s)",
                (id_, attempts),
            )


def run_query(mirror: Mirror, statement: str) -> list[tuple[Any, ...]]:
    with mirror.database.session() as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def work(mirror: Mirror, client: CurrentRmsClient | None = None) -> WorkedOff:
    with mirror.database.session() as connection:
        return work_off(mirror.database, connection, client or mirror.client(), "run")


@pytest.mark.parametrize("hours", [-8, 8])
def test_a_client_that_has_lived_through_a_change_of_clocks_is_put_right(
    mirror_of: MakeMirror, hours: int
) -> None:
    mirror = mirror_of(Store(5))
    id_ = mirror.store.ids()[0]
    client = mirror.client()
    mirror.full_sync()
    client = mirror.client()
    wrong = datetime.now(UTC) + timedelta(hours=hours)
    client.now = lambda: wrong
    mirror.store.edit(id_, {"subject": "Edited"})
    tell(mirror, id_)
    assert work(mirror, client).refreshed.result.updated == 1
    assert mirror.rows()[id_]["name"] == "Edited"
    mirror.store.edit(id_, {"subject": "Edited again"})
    mirror.full_sync()
    assert mirror.rows()[id_]["name"] == "Edited again"


class Stumbling(CurrentRmsClient):
    """Fails over one opportunity, by default in a way that nobody has foreseen."""

    stumbles_over = 0
    error: Exception = RuntimeError("nobody has foreseen this")

    def list_records(self, params: Any, **options: Any) -> ListAnswer:
        if ("q[id_in][]", str(self.stumbles_over)) in params:
            raise self.error
        return super().list_records(params, **options)

    def get_record(self, id_: int, **options: Any) -> ListAnswer | None:
        if id_ == self.stumbles_over:
            raise self.error
        return super().get_record(id_, **options)


def test_what_nobody_has_foreseen_costs_its_own_event_only(
    mirror_of: MakeMirror, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = mirror_of(Store(40))
    good, bad = mirror.store.ids()[:7], mirror.store.ids()[7]
    tell(mirror, *good)
    tell(mirror, bad, attempts=ATTEMPTS - 1)
    client = mirror.client()
    client.__class__ = Stumbling
    assert isinstance(client, Stumbling)
    client.stumbles_over = bad
    done = work(mirror, client)
    assert (done.settled, done.failed, done.dead) == (len(good), 0, 1)
    assert set(mirror.rows()) == set(good)
    assert "nobody has foreseen this" in caplog.text
    dead = "SELECT opportunity_id, error FROM webhook_events WHERE dead_at IS NOT NULL"
    assert run_query(mirror, dead) == [(bad, "nobody has foreseen this")]


@pytest.mark.parametrize("kind", [ApiUnavailable, Forbidden, NotFound])
def test_an_opportunity_that_the_api_cannot_give_keeps_no_other_waiting_and_dies_in_the_end(
    mirror_of: MakeMirror, kind: type[CurrentRmsError]
) -> None:
    mirror = mirror_of(Store(40))
    bad, *good = mirror.store.ids()[:8]
    tell(mirror, bad, *good)
    client = mirror.client()
    client.__class__ = Stumbling
    assert isinstance(client, Stumbling)
    client.stumbles_over, client.error = bad, kind("not this one")
    done = work(mirror, client)
    assert (done.settled, done.failed, done.blameless) == (len(good), 1, False)
    assert set(mirror.rows()) == set(good)
    for attempt in range(2, ATTEMPTS + 1):
        run_query(mirror, "UPDATE webhook_events SET next_attempt_at = now()")
        assert work(mirror, client).dead == (attempt == ATTEMPTS)
    dead = "SELECT opportunity_id, error FROM webhook_events WHERE dead_at IS NOT NULL"
    assert run_query(mirror, dead) == [(bad, "not this one")]


def test_an_api_that_refuses_everything_is_asked_little_and_costs_no_event_an_attempt(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(40))
    tell(mirror, *mirror.store.ids()[:30])
    mirror.sandbox.faults.probabilities = {"redirect": 1.0}
    done = work(mirror)
    assert (done.settled, done.failed, done.dead, done.blameless) == (0, 30, 0, True)
    assert run_query(mirror, "SELECT DISTINCT attempts FROM webhook_events") == [(0,)]
    assert len(mirror.sandbox.requests) == 2


def test_a_database_that_fails_in_the_middle_keeps_no_event_waiting_for_the_lease(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(5))
    tell(mirror, mirror.store.ids()[0])
    run_query(mirror, "ALTER TABLE opportunities RENAME TO hidden")
    with pytest.raises(psycopg2.Error):
        work(mirror)
    run_query(mirror, "ALTER TABLE hidden RENAME TO opportunities")
    waits = "SELECT claimed_until, attempts, next_attempt_at < now() + interval '15 s'"
    assert run_query(mirror, f"{waits} FROM webhook_events") == [(None, 0, True)]


def test_an_event_stamped_by_a_clock_that_was_ahead_is_taken_up_all_the_same(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(5))
    tell(mirror, mirror.store.ids()[0])
    run_query(
        mirror,
        "UPDATE webhook_events SET received_at = now() + interval '9 h', next_attempt_at ="
        " now() + interval '9 h', claimed_until = now() + interval '9 h'",
    )
    assert work(mirror).settled == 1


def test_a_client_of_an_account_that_had_to_make_room_writes_nothing(
    mirror_of: MakeMirror,
) -> None:
    mirror = mirror_of(Store(5))
    claim_mirror(mirror.database, SANDBOX_SUBDOMAIN, sandbox=SANDBOX_SUBDOMAIN)
    claim_mirror(mirror.database, "acme", sandbox=SANDBOX_SUBDOMAIN)
    tell(mirror, mirror.store.ids()[0], 999_999)
    with pytest.raises(DatabaseError, match="mirrors the account acme"):
        work(mirror)
    assert mirror.rows() == {}
    assert run_query(mirror, "SELECT count(*) FROM opportunity_versions") == [(0,)]
    settled = "SELECT count(*) FROM webhook_events WHERE processed_at IS NOT NULL OR dead_at IS"
    assert run_query(mirror, f"{settled} NOT NULL") == [(0,)]


def test_events_are_claimed_once_however_long_the_api_takes(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sensor's run works without a fast lane here: its claims are those of a hundred."""
    for module in (queue, queued):
        monkeypatch.setattr(module, "LEASE", timedelta(seconds=0.3))
    mirror = mirror_of(Store(40))
    ids = mirror.store.ids()[:30]
    tell(mirror, *ids)
    client, found = mirror.client(), list[WorkedOff]()
    # Two pages by id, and each of them outlasts the lease.
    with held(mirror.sandbox) as waits:
        slow = threading.Thread(target=lambda: found.append(work(mirror, client)))
        slow.start()
        assert waits.wait(30)
        another = mirror.another_client()
        for _ in range(3):
            time.sleep(0.3)
            assert work(mirror, another).claimed == 0
    slow.join(30)
    assert [(done.claimed, done.settled, done.error) for done in found] == [(30, 30, None)]
    assert set(mirror.rows()) == set(ids)
    assert run_query(mirror, "SELECT DISTINCT attempts FROM webhook_events") == [(1,)]
    assert len(mirror.sandbox.requests) == 2


@pytest.mark.parametrize(("action", "waits"), [("destroy", 0), ("update", len(queue.PATIENCE))])
def test_an_absence_that_events_witness_is_asked_for_once(
    mirror_of: MakeMirror, action: str, waits: int
) -> None:
    mirror = mirror_of(Store(5))
    mirror.full_sync()
    gone, there = mirror.store.ids()[:2]
    tell(mirror, gone, there)
    run_query(mirror, f"UPDATE webhook_events SET action_type = '{action}', waits = {waits}")
    mirror.store.delete(gone)
    client = mirror.client()
    # From now on it need not doubt what it asks for when a record is not found.
    client.get_record(there)
    mirror.sandbox.requests.clear()
    work(mirror, client)
    assert gone in mirror.deleted()
    paths = [path for _, path, _ in mirror.sandbox.requests]
    assert sum(f"/opportunities/{gone}" in path for path in paths) == 1


def leased(thread: threading.Thread) -> bool:
    return thread.name == "lease" and thread.is_alive()


def test_a_lease_that_could_not_be_renewed_once_is_renewed_the_next_time(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in (queue, queued):
        monkeypatch.setattr(module, "LEASE", timedelta(seconds=0.6))
    mirror = mirror_of(Store(5))
    tell(mirror, mirror.store.ids()[0])
    client, found = mirror.client(), list[WorkedOff]()
    with held(mirror.sandbox) as waits:
        slow = threading.Thread(target=lambda: found.append(work(mirror, client)))
        slow.start()
        assert waits.wait(30)
        run_query(mirror, "ALTER TABLE webhook_events RENAME TO hidden")
        wait_until(lambda: "was not renewed" in caplog.text)
        run_query(mirror, "ALTER TABLE hidden RENAME TO webhook_events")
        before = run_query(mirror, "SELECT claimed_until FROM webhook_events")
        wait_until(lambda: run_query(mirror, "SELECT claimed_until FROM webhook_events") > before)
    slow.join(30)
    assert [(done.settled, done.error) for done in found] == [(1, None)]
    assert not any(map(leased, threading.enumerate()))


def test_a_process_that_gets_no_further_keeps_its_events_from_others_for_a_while_only(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own connection to the database may be dead without a word while others are made."""
    for module in (queue, queued):
        monkeypatch.setattr(module, "LEASE", timedelta(seconds=0.2))
    monkeypatch.setattr(queued, "_RENEWED_FOR", timedelta(seconds=0.4))
    mirror = mirror_of(Store(5))
    tell(mirror, mirror.store.ids()[0])
    client = mirror.client()
    with held(mirror.sandbox) as waits:
        stuck = threading.Thread(target=lambda: work(mirror, client))
        stuck.start()
        assert waits.wait(30)
        wait_until(lambda: not any(map(leased, threading.enumerate())), 20)
        with mirror.database.session() as connection:
            wait_until(lambda: claim(connection, OPPORTUNITIES, "another").events)
    stuck.join(30)


def test_nobody_waits_for_a_renewal_that_waits_itself(
    mirror_of: MakeMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a lock, or for a pooler that has no connection left: that of this process is the last."""
    for module in (queue, queued):
        monkeypatch.setattr(module, "LEASE", timedelta(seconds=0.3))
    monkeypatch.setattr(queued, "_LAST_RENEWAL", 0.1)
    mirror = mirror_of(Store(5))
    tell(mirror, mirror.store.ids()[0])
    waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    waiting += " AND wait_event_type = 'Lock'"

    class Stopped(BaseException):
        """Somebody ends the process."""

    with mirror.database.session() as other, other.cursor() as cursor:

        class Stopping(CurrentRmsClient):
            def get_record(self, id_: int, **options: Any) -> ListAnswer | None:
                cursor.execute("SELECT FROM webhook_events FOR UPDATE")
                wait_until(lambda: run_query(mirror, waiting))
                raise Stopped

        client = mirror.client()
        client.__class__ = Stopping
        began = time.monotonic()
        with pytest.raises(Stopped):
            work(mirror, client)
        # The lock would be waited for for a minute.
        assert time.monotonic() - began < 30
    wait_until(lambda: not any(map(leased, threading.enumerate())))
