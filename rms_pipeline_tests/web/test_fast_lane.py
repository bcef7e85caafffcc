"""From a webhook to the row, by the fast lane and by the run behind it."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from rms_pipeline.mirror.queue import ATTEMPTS, replay
from rms_pipeline.sandbox import Faults, Store
from rms_pipeline.sandbox.faults import FaultKind
from rms_pipeline.web.fast_lane import PATIENCE
from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.web.conftest import Web, delivery

Serve = Callable[..., Web]
WAITING = "SELECT count(*) FROM webhook_events WHERE processed_at IS NULL"


def settled(web: Web) -> bool:
    return web.query(WAITING) == [(0,)]


def test_an_edit_told_by_webhook_is_brought_into_the_row_by_the_lane_alone(serve: Serve) -> None:
    web = serve()
    id_ = web.sandbox.store.ids()[0]
    web.sandbox.store.edit(id_, {"subject": "Told by webhook"})
    web.post(delivery(1, id_))
    wait_until(lambda: settled(web))
    # Its row is marked after the event is settled.
    rows = "SELECT name, last_webhook_at IS NOT NULL FROM opportunities"
    wait_until(lambda: web.query(rows) == [("Told by webhook", True)])


def test_fifty_events_on_one_opportunity_are_one_refresh(serve: Serve) -> None:
    web = serve()
    id_ = web.sandbox.store.ids()[0]
    with web.database.session() as connection, connection.cursor() as cursor:
        for action in range(50):
            cursor.execute(
                "INSERT INTO webhook_events (action_id, subject_type, opportunity_id)"
                " VALUES (%s, 'Opportunity', %s)",
                (action, id_),
            )
    wait_until(lambda: settled(web))
    assert len(web.sandbox.requests) == 1
    assert web.query("SELECT count(*) FROM opportunities") == [(1,)]


def test_an_event_that_arrives_during_the_refresh_causes_another(serve: Serve) -> None:
    web = serve()
    id_ = web.sandbox.store.ids()[0]
    web.sandbox.latency = 0.5
    web.post(delivery(1, id_))
    wait_until(lambda: web.query("SELECT sum(attempts) FROM webhook_events") == [(1,)])
    time.sleep(0.2)
    web.sandbox.store.edit(id_, {"subject": "Edited meanwhile"})
    web.post(delivery(2, id_))
    wait_until(lambda: settled(web))
    assert len(web.sandbox.requests) == 2
    assert web.query("SELECT name FROM opportunities") == [("Edited meanwhile",)]


def test_a_destroyed_opportunity_leaves_by_the_same_way(serve: Serve) -> None:
    web = serve()
    id_ = web.sandbox.store.ids()[0]
    web.post(delivery(1, id_))
    wait_until(lambda: settled(web))
    web.sandbox.store.delete(id_)
    web.post(delivery(2, id_, action_type="destroy"))
    wait_until(lambda: settled(web))
    assert web.query("SELECT count(*) FROM opportunities") == [(0,)]
    assert web.query("SELECT id FROM deleted_opportunities") == [(id_,)]


@pytest.mark.parametrize("fault", ["error_502", "redirect"])
def test_an_api_that_is_down_costs_no_event_an_attempt(serve: Serve, fault: FaultKind) -> None:
    web = serve()
    id_ = web.sandbox.store.ids()[0]
    web.sandbox.faults = Faults(probabilities={fault: 1.0})
    web.post(delivery(1, id_))
    given_back = "SELECT attempts, dead_at FROM webhook_events WHERE error IS NOT NULL"
    assert wait_until(lambda: web.query(f"{given_back} AND claimed_until IS NULL")) == [(0, None)]
    web.sandbox.faults = Faults()
    wait_until(lambda: settled(web))
    assert web.query("SELECT id FROM opportunities") == [(id_,)]


def test_an_api_that_refuses_everything_is_asked_now_and_then_however_much_waits(
    serve: Serve,
) -> None:
    web = serve()
    web.sandbox.faults = Faults(probabilities={"redirect": 1.0})
    query(
        web.database,
        "INSERT INTO webhook_events (subject_type, opportunity_id)"
        " SELECT 'Opportunity', n FROM generate_series(1, 2000) AS n",
    )
    time.sleep(6)
    # For each claim, the list by id and one that shows that it was not for the ids.
    assert 2 <= len(web.sandbox.requests) <= 8
    web.sandbox.faults = Faults()
    started = time.monotonic()
    wait_until(lambda: web.query("SELECT count(*) FROM webhook_events WHERE error IS NULL"
                                 " AND processed_at IS NOT NULL") != [(0,)])  # fmt: skip
    assert time.monotonic() - started < 12


def test_an_api_that_is_always_late_is_waited_for_by_the_lane_itself(
    serve: Serve,
) -> None:
    # A fiftieth of the real times: answers come after 29 s.
    fiftieth = {
        name: getattr(PATIENCE, name) / 50 for name in ("connect", "at_first", "read", "answer")
    }
    web = serve(Store(40), patience=replace(PATIENCE, backoff=0.005, **fiftieth))
    web.sandbox.latency = 29 / 50
    first, *others = ids = web.sandbox.store.ids()[:30]
    web.post(delivery(1, first))
    wait_until(lambda: settled(web))
    # The first attempt ends before the answer. From then on none does.
    assert len(web.sandbox.requests) == 2
    for number, id_ in enumerate(others):
        web.post(delivery(10 + number, id_))
    wait_until(lambda: settled(web))
    assert web.query("SELECT array_agg(id ORDER BY id) FROM opportunities") == [(ids,)]
    attempts = "SELECT max(attempts), count(error), count(dead_at) FROM webhook_events"
    assert web.query(attempts) == [(1, 0, 0)]


def test_an_event_whose_refresh_is_refused_dies_alone_and_can_be_replayed(serve: Serve) -> None:
    web = serve(Store(20))
    good, poison = web.sandbox.store.ids()[:2]
    refused = {"on": True}

    def refuse(path: str) -> None:
        if refused["on"] and (f"={poison}" in path or f"/{poison}?" in path):
            web.sandbox.faults.queue = ["error_400"]

    web.sandbox.before_request = refuse
    with web.database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO webhook_events (action_id, subject_type, opportunity_id, attempts)"
            " VALUES (1, 'Opportunity', %s, 0), (2, 'Opportunity', %s, %s)",
            (good, poison, ATTEMPTS - 1),
        )
    wait_until(
        lambda: web.query("SELECT count(*) FROM webhook_events WHERE dead_at IS NOT NULL") == [(1,)]
    )
    assert web.query("SELECT id FROM opportunities") == [(good,)]
    error = web.query("SELECT error FROM webhook_events WHERE dead_at IS NOT NULL")[0][0]
    assert "answered 400" in error
    refused["on"] = False
    with web.database.session() as connection:
        assert replay(connection) == 1
    wait_until(lambda: settled(web))
    assert web.query("SELECT count(*) FROM opportunities") == [(2,)]


def test_a_row_that_somebody_has_locked_holds_up_no_other_event(serve: Serve) -> None:
    web = serve()
    locked, *others = ids = web.sandbox.store.ids()[:6]
    for number, id_ in enumerate(ids):
        web.post(delivery(number, id_))
    wait_until(lambda: settled(web))
    with web.database.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT FROM opportunities WHERE id = %s FOR UPDATE", (locked,))
        for round_ in range(1, 4):
            for number, id_ in enumerate(ids):
                web.sandbox.store.edit(id_, {"subject": f"Round {round_}"})
                web.post(delivery(100 * round_ + number, id_))
            there = ("SELECT count(*) FROM opportunities WHERE name = %s", f"Round {round_}")
            while query(web.database, *there) != [(len(others),)]:
                time.sleep(0.1)
        waits = "SELECT DISTINCT opportunity_id FROM webhook_events WHERE processed_at IS NULL"
        wait_until(lambda: web.query(waits) == [(locked,)])
    wait_until(lambda: settled(web))
    assert web.query("SELECT DISTINCT name FROM opportunities") == [("Round 3",)]


def test_a_claim_of_a_dead_process_is_taken_over_when_its_lease_ends(serve: Serve) -> None:
    web = serve()
    id_ = web.sandbox.store.ids()[0]
    with web.database.session() as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO webhook_events (action_id, subject_type, opportunity_id, claimed_by,"
            " claimed_until) VALUES (1, 'Opportunity', %s, 'dead', now() + interval '60 s')",
            (id_,),
        )
    # The lane looks every second.
    time.sleep(2)
    assert not settled(web)
    query(web.database, "UPDATE webhook_events SET claimed_until = now()")
    wait_until(lambda: settled(web))


def test_a_terminated_database_connection_does_not_end_the_fast_lane(serve: Serve) -> None:
    web = serve()
    id_ = web.sandbox.store.ids()[0]
    web.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
              " WHERE datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip
    web.post(delivery(1, id_))
    wait_until(lambda: settled(web))
