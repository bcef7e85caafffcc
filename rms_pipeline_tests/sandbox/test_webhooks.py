"""Webhooks of the sandbox: subscriptions over HTTP, and deliveries to a real receiver."""

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from rms_pipeline.sandbox import (
    SANDBOX_API_KEY,
    SANDBOX_SUBDOMAIN,
    Churn,
    Faults,
    SandboxServer,
    Store,
    WebhookSwitches,
)
from rms_pipeline.sandbox.events import EVENTS
from rms_pipeline.sandbox.world.invoices import INVOICES_AN_OPPORTUNITY
from rms_pipeline_tests.processes import free_port, wait_until
from rms_pipeline_tests.sandbox.receiver import Received, Receiver

HEADERS = {"X-SUBDOMAIN": SANDBOX_SUBDOMAIN, "X-AUTH-TOKEN": SANDBOX_API_KEY}


def quick(**changes: Any) -> WebhookSwitches:
    return WebhookSwitches(**{"backoff": 0.01, "longest_wait": 0.1, "timeout": 2.0, **changes})


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(60), webhooks=quick()) as server:
        yield server


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


def call(
    sandbox: SandboxServer, method: str, path: str, **fields: object
) -> tuple[int, dict[str, Any]]:
    body = {"webhook": fields} if fields else None
    answer = requests.request(
        method, f"{sandbox.url}{path}", json=body, headers=HEADERS, timeout=10
    )
    return answer.status_code, answer.json() if answer.content else {}


def subscribe(sandbox: SandboxServer, url: str, *events: str) -> list[int]:
    made = []
    for event in events or sorted(EVENTS):
        fields = {"name": f"ours: {event}", "event": event, "target_url": url, "active": True}
        status, body = call(sandbox, "POST", "/webhooks", **fields)
        assert status == 201, body
        made.append(body["webhook"]["id"])
    return made


def logs(sandbox: SandboxServer, query: str = "per_page=100") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call(sandbox, "GET", f"/webhook_logs?{query}")[1]["webhook_logs"]
    return found


def settle(sandbox: SandboxServer, timeout: float = 50) -> None:
    assert sandbox.deliveries.wait_until_idle(timeout)


def test_a_subscription_is_made_read_changed_and_removed(sandbox: SandboxServer) -> None:
    fields = {"name": "Ours", "event": "opportunity_update", "target_url": "https://a.example/x"}
    status, made = call(sandbox, "POST", "/webhooks", **fields)
    assert status == 201
    assert made["webhook"].items() >= {**fields, "active": True}.items()
    one = f"/webhooks/{made['webhook']['id']}"
    assert call(sandbox, "GET", one) == (200, made)
    status, changed = call(sandbox, "PUT", one, active=False)
    assert status == 200
    assert changed["webhook"].items() >= {**fields, "active": False}.items()
    assert call(sandbox, "DELETE", one)[0] == 204
    for method in ("GET", "DELETE"):
        assert call(sandbox, method, one)[0] == 404
    assert call(sandbox, "PUT", one, name="Again")[0] == 404


def test_lists_of_webhooks_come_in_pages(sandbox: SandboxServer) -> None:
    ids = subscribe(sandbox, "http://127.0.0.1:9/")
    _, first = call(sandbox, "GET", "/webhooks?per_page=15")
    _, second = call(sandbox, "GET", "/webhooks?per_page=15&page=2")
    assert first["meta"] == {"total_row_count": 20, "row_count": 15, "page": 1, "per_page": 15}
    assert [w["id"] for w in first["webhooks"] + second["webhooks"]] == ids
    assert call(sandbox, "GET", "/webhook_logs")[1]["meta"]["total_row_count"] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"event": "opportunity_explode"},
        {"event": "opportunity_"},
        {"event": "invoice_explode"},
        {"target_url": "nowhere"},
        {"target_url": "http://["},
        {"name": ""},
        {"active": "perhaps"},
    ],
)
def test_a_subscription_that_cannot_be_is_a_422(
    sandbox: SandboxServer, wrong: dict[str, object]
) -> None:
    right = {"name": "Ours", "event": "opportunity_create", "target_url": "https://a.example/"}
    status, body = call(sandbox, "POST", "/webhooks", **{**right, **wrong})
    assert status == 422
    assert body["errors"]
    (id_,) = subscribe(sandbox, "https://a.example/", "opportunity_create")
    assert call(sandbox, "PUT", f"/webhooks/{id_}", **wrong)[0] == 422
    answer = requests.post(f"{sandbox.url}/webhooks", data=b"[", headers=HEADERS, timeout=10)
    assert answer.status_code == 422


def test_every_change_raises_its_events_whoever_makes_it(
    sandbox: SandboxServer, receiver: Receiver
) -> None:
    sandbox.deliveries.switches.in_flight = 1
    subscribe(sandbox, receiver.url)
    store = sandbox.store
    id_ = store.create({"subject": "Gala", "owned_by": 13})
    url = f"{sandbox.url}/opportunities/{id_}"
    changes: list[dict[str, object]] = [
        {"subject": "Ball"},
        {"state": 2},
        {"state": 3, "status": 5},
        {"state": 2, "status": 1},
        {"status": 60},
        {"status": 70},
        {"status": 50},
        {"status": 40},
        {"reference": "silent", "updated_at": "2026-01-01T00:00:00.000Z"},
        {"status": 40},
    ]
    raised = [
        *(["update"], ["update", "convert_to_quotation"]),
        ["update", "convert_to_order", "mark_as_reserved"],
        ["update", "revert_to_quotation", "mark_as_provisional"],
        *(["update", "mark_as_lost"], ["update", "mark_as_dead"], ["update", "cancel"]),
        *(["update", "complete"], [], ["update"]),
    ]
    settle(sandbox)
    assert receiver.types == ["create"]
    for change, expected in zip(changes, raised, strict=True):
        before = len(receiver.received)
        requests.put(url, json={"opportunity": change}, headers=HEADERS, timeout=10)
        settle(sandbox)
        assert sorted(receiver.types[before:]) == sorted(expected), change
    requests.delete(url, headers=HEADERS, timeout=10)
    assert not store.edit(id_, {"subject": "gone"})
    assert not store.delete(id_)
    settle(sandbox)
    assert receiver.types[-1] == "destroy"
    assert sorted(receiver.ids) == sorted(set(receiver.ids))
    assert {r.action["subject_id"] for r in receiver.received} == {id_}
    assert {r.content_type for r in receiver.received} == {"application/json"}


def test_planting_a_record_raises_nothing_and_churn_does(
    sandbox: SandboxServer, receiver: Receiver
) -> None:
    subscribe(sandbox, receiver.url)
    sandbox.store.put(5, {"id": 5, "subject": "planted"})
    settle(sandbox)
    assert receiver.received == []
    churn = Churn(sandbox.store, seed=4)
    made = [churn.step() for _ in range(40)]
    settle(sandbox)
    loud = [id_ for change, id_ in made if change != "silent_edit"]
    base = [r.action["subject_id"] for r in receiver.received
            if r.action["action_type"] in ("create", "update", "destroy")]  # fmt: skip
    assert sorted(base) == sorted(loud)


def test_a_delivery_has_the_shape_of_the_real_ones(
    sandbox: SandboxServer, receiver: Receiver
) -> None:
    subscribe(sandbox, receiver.url, "opportunity_create")
    id_ = sandbox.store.create({"subject": "Gala 🎶", "owned_by": 13})
    settle(sandbox)
    (received,) = receiver.received
    action = received.action
    assert received.keys == {"action"}
    example = {
        *("id", "subject_id", "subject_type", "source_id", "source_type", "member_id", "name"),
        *("description", "action_type", "created_at", "updated_at", "member"),
    }
    assert set(action) == example
    assert set(action["member"]) == {"id", "name"}
    assert action["member"]["id"] == action["member_id"] == 13
    assert (action["subject_id"], action["subject_type"]) == (id_, "Opportunity")
    assert action["name"] == "Gala 🎶"


def test_a_failed_delivery_comes_again_with_the_same_id_and_is_logged(
    sandbox: SandboxServer, receiver: Receiver
) -> None:
    answers = iter([500, 302, 404, 204])
    receiver.answer = lambda _: (next(answers), {"Location": "/elsewhere"})
    (hook,) = subscribe(sandbox, f"{receiver.url}/a?token=b", "opportunity_create")
    sandbox.store.create({})
    settle(sandbox)
    assert len(set(receiver.ids)) == 1
    assert {r.path for r in receiver.received} == {"/a?token=b"}
    logged = logs(sandbox)
    assert [(e["webhook_id"], e["response_code"]) for e in logged] == [
        (hook, code) for code in (204, 404, 302, 500)
    ]
    assert all(e["created_at"].endswith("Z") and isinstance(e["response"], str) for e in logged)
    assert logs(sandbox, "per_page=1&page=4") == logged[3:]


def test_a_receiver_that_is_down_gets_its_events_in_order_once_it_is_up(
    sandbox: SandboxServer,
) -> None:
    sandbox.deliveries.switches.attempts = 1_000
    sandbox.deliveries.switches.in_order = True
    port = free_port()
    subscribe(sandbox, f"http://127.0.0.1:{port}", "opportunity_update")
    id_ = sandbox.store.ids()[0]
    for number in range(5):
        sandbox.store.edit(id_, {"subject": f"{number}"})
    assert not sandbox.deliveries.wait_until_idle(0.3)
    assert {e["response_code"] for e in logs(sandbox)} == {None}
    with Receiver(port=port) as receiver:
        settle(sandbox)
    assert [r.action["name"] for r in receiver.received] == list("01234")
    assert receiver.ids == sorted(receiver.ids)


def test_retry_after_is_honoured_up_to_a_cap(sandbox: SandboxServer, receiver: Receiver) -> None:
    sandbox.deliveries.switches.longest_wait = 1.2
    answers = iter([(429, {"Retry-After": "1"}), (503, {"Retry-After": "3600"}), (200, {})])
    receiver.answer = lambda _: next(answers)
    subscribe(sandbox, receiver.url, "opportunity_create")
    sandbox.store.create({})
    settle(sandbox)
    first, second, third = (r.at for r in receiver.received)
    assert 1 <= second - first < 9
    assert 1.2 <= third - second < 9


def test_after_the_last_attempt_a_delivery_is_given_up(receiver: Receiver) -> None:
    receiver.answer = lambda r: (500 if r.action["action_type"] == "create" else 200, {})
    with SandboxServer(Store(), webhooks=quick(attempts=3)) as sandbox:
        subscribe(sandbox, receiver.url)
        sandbox.store.delete(sandbox.store.create({}))
        settle(sandbox)
    assert receiver.types.count("create") == 3
    assert receiver.types.count("destroy") == 1


def test_a_delivery_to_be_repeated_is_overtaken_by_later_ones(receiver: Receiver) -> None:
    refused = iter([500, 500])
    receiver.answer = lambda r: (next(refused, 200) if r.action["name"] == "0" else 200, {})
    with SandboxServer(Store(1), webhooks=quick(backoff=0.5, longest_wait=5)) as sandbox:
        subscribe(sandbox, receiver.url, "opportunity_update")
        id_ = sandbox.store.ids()[0]
        for number in range(3):
            sandbox.store.edit(id_, {"subject": f"{number}"})
        settle(sandbox)
    assert [r.action["name"] for r in receiver.received] == ["0", "1", "2", "0", "0"]
    assert len({r.action["id"] for r in receiver.received if r.action["name"] == "0"}) == 1


def test_six_repeats_come_within_thirteen_hours_or_as_much_sooner_as_is_switched(
    receiver: Receiver,
) -> None:
    receiver.answer = lambda _: (500, {})
    real = WebhookSwitches()
    waits = [real.backoff * 2**n for n in range(real.attempts - 1)]
    assert len(waits) == 6
    assert sum(waits) == pytest.approx(13 * 3_600)
    with SandboxServer(Store(), webhooks=WebhookSwitches(speed=100_000)) as sandbox:
        subscribe(sandbox, receiver.url, "opportunity_create")
        sandbox.store.create({})
        settle(sandbox)
        assert len(logs(sandbox)) == 7
    assert len(receiver.ids) == 7
    assert len(set(receiver.ids)) == 1
    gaps = [b.at - a.at for a, b in itertools.pairwise(receiver.received)]
    assert gaps[-1] > gaps[0]
    assert sum(gaps) >= 13 * 3_600 / 100_000


@pytest.mark.parametrize("event", ["member_update", "invoice_create", "opportunity_discuss"])
def test_events_that_never_happen_here_may_be_subscribed_to(
    sandbox: SandboxServer, event: str
) -> None:
    assert len(subscribe(sandbox, "https://a.example/", event)) == 1


def test_a_slow_subscription_keeps_neither_the_store_nor_the_others_waiting(
    sandbox: SandboxServer, receiver: Receiver
) -> None:
    release = threading.Event()

    def wait(_: Received) -> tuple[int, dict[str, str]]:
        release.wait(10)
        return 200, {}

    with Receiver(wait) as slow:
        subscribe(sandbox, slow.url, "opportunity_create")
        subscribe(sandbox, receiver.url, "opportunity_create")
        began = time.monotonic()
        for _ in range(50):
            sandbox.store.create({})
        # Two seconds are lost on each that goes to the slow one.
        assert time.monotonic() - began < 9
        wait_until(lambda: len(receiver.received) == 50, timeout=9)
        assert not sandbox.deliveries.wait_until_idle(0)
        release.set()
        settle(sandbox)


def test_an_inactive_or_removed_subscription_is_told_nothing_more(
    sandbox: SandboxServer, receiver: Receiver
) -> None:
    one, other = subscribe(sandbox, receiver.url, "opportunity_create", "opportunity_create")
    sandbox.store.create({})
    settle(sandbox)
    assert len(set(receiver.ids)) == 1
    assert len(receiver.received) == 2
    call(sandbox, "PUT", f"/webhooks/{one}", active=False)
    call(sandbox, "DELETE", f"/webhooks/{other}")
    sandbox.store.create({})
    settle(sandbox)
    assert len(receiver.received) == 2


def test_events_are_duplicated_lost_and_delayed_when_told_to() -> None:
    def told(**switches: Any) -> tuple[list[int], float]:
        with Receiver() as receiver, SandboxServer(Store(), webhooks=quick(**switches)) as sandbox:
            subscribe(sandbox, receiver.url, "opportunity_create")
            began = time.monotonic()
            for _ in range(40):
                sandbox.store.create({})
            settle(sandbox)
            first = receiver.received[0].at - began if receiver.received else 0.0
            return [r.action["subject_id"] for r in receiver.received], first

    twice, _ = told(duplicated=1.0)
    assert len(twice) == 80
    assert len(set(twice)) == 40
    assert told(lost=1.0)[0] == []
    some = sorted(told(lost=0.5, seed=3)[0])
    assert 5 < len(some) < 35
    assert sorted(told(lost=0.5, seed=3)[0]) == some
    assert told(delay=0.4)[1] >= 0.4


def test_an_answer_that_is_lost_leaves_the_subscription_made() -> None:
    with SandboxServer(Store(), faults=Faults(queue=["broken_off"])) as sandbox:
        with pytest.raises(requests.RequestException):
            subscribe(sandbox, "https://a.example/", "opportunity_create")
        assert len(call(sandbox, "GET", "/webhooks")[1]["webhooks"]) == 1


def test_ids_of_actions_grow_from_one_store_to_the_next(receiver: Receiver) -> None:
    for _ in range(2):
        with SandboxServer(Store(), webhooks=quick()) as sandbox:
            subscribe(sandbox, receiver.url, "opportunity_create")
            sandbox.store.create({})
            settle(sandbox)
    assert receiver.ids == sorted(set(receiver.ids))


def test_the_threads_of_deliveries_end_with_the_server(receiver: Receiver) -> None:
    store = Store()
    with SandboxServer(store, webhooks=quick(backoff=60, longest_wait=60)) as sandbox:
        subscribe(sandbox, "http://127.0.0.1:9/", "opportunity_create")
        subscribe(sandbox, receiver.url, "opportunity_create")
        for _ in range(8):
            store.create({})
        assert any(t.name.startswith("webhook ") for t in threading.enumerate())
    assert not any(t.name.startswith("webhook ") for t in threading.enumerate())
    before = len(receiver.received)
    store.create({})
    assert len(receiver.received) == before


def test_a_thousand_deliveries_to_one_subscription_arrive_once_and_in_order(
    receiver: Receiver,
) -> None:
    with SandboxServer(Store(200), webhooks=quick(timeout=30.0)) as sandbox:
        subscribe(sandbox, receiver.url, "opportunity_update")
        ids = sandbox.store.ids()
        for number in range(1_000):
            sandbox.store.edit(ids[number % 200], {"subject": f"{number}"})
        settle(sandbox, 120)
    assert len(set(receiver.ids)) == len(receiver.received) == 1_000
    by_opportunity: dict[int, list[int]] = defaultdict(list)
    for received in receiver.received:
        by_opportunity[received.action["subject_id"]].append(received.action["id"])
    assert all(found == sorted(found) for found in by_opportunity.values())
    assert receiver.connections <= 8


def told(receiver: Receiver) -> list[tuple[str, int, str]]:
    """Of what kind, of which record, and what was done to it."""
    actions = [received.action for received in receiver.received]
    return [(a["subject_type"], a["subject_id"], a["action_type"]) for a in actions]


def send(sandbox: SandboxServer, method: str, path: str, fields: dict[str, Any]) -> Any:
    single = {"members": "member", "invoices": "invoice"}[path.split("/")[1]]
    answer = requests.request(
        method, f"{sandbox.url}{path}", json={single: fields}, headers=HEADERS, timeout=10
    )
    assert answer.status_code in (200, 201, 204), answer.text
    return answer.json()[single] if answer.content else None


@pytest.mark.parametrize(("name", "kind"), [("member", "Member"), ("invoice", "Invoice")])
def test_edits_of_members_and_invoices_through_the_api_are_told_of(
    sandbox: SandboxServer, receiver: Receiver, name: str, kind: str
) -> None:
    events = [f"{name}_{action}" for action in ("create", "update", "destroy")]
    subscribe(sandbox, receiver.url, *events)
    made = send(sandbox, "POST", f"/{name}s", {"name": "New", "number": "N-1"})
    one = f"/{name}s/{made['id']}"
    send(sandbox, "PATCH", one, {"name": "Renamed", "number": "N-2"})
    send(sandbox, "PUT", one, {"name": "Silent", "updated_at": made["updated_at"]})
    send(sandbox, "DELETE", one, {})
    settle(sandbox)
    assert sorted(told(receiver)) == sorted(
        (kind, made["id"], action) for action in ("create", "update", "destroy")
    )
    names = {received.action["name"] for received in receiver.received}
    assert names & {"Renamed", made.get("subject")}


def test_what_becomes_of_an_opportunitys_invoices_is_told_of(
    sandbox: SandboxServer, receiver: Receiver
) -> None:
    store = sandbox.store
    id_ = store.create({"subject": "Ball", "invoiced": False, "charge_total": "10.0"})
    subscribe(sandbox, receiver.url, "invoice_create", "invoice_update", "invoice_destroy")
    first = ("Invoice", id_ * INVOICES_AN_OPPORTUNITY)
    for fields, action in (
        ({"invoiced": True}, "create"),
        ({"charge_total": "12.0"}, "update"),
        ({"invoiced": False}, "destroy"),
    ):
        store.edit(id_, fields)
        settle(sandbox)
        assert told(receiver)[-1] == (*first, action)
    store.edit(id_, {"charge_total": "13.0"})
    store.edit(id_, {"invoiced": True})
    store.delete(id_)
    settle(sandbox)
    assert sorted(told(receiver)[3:]) == [(*first, "create"), (*first, "destroy")]


def test_an_edited_invoice_is_shown_as_it_is_and_a_deleted_one_no_more() -> None:
    store = Store(400)
    invoice, other, *_ = store.invoices.all()
    edited = store.invoices.edit(invoice["id"], {"status": 40})
    assert store.invoices.get(invoice["id"]) == edited
    assert store.invoices.all()[0] == edited
    created = store.invoices.create({"number": "X"})
    assert store.invoices.all()[-1] == created
    assert store.invoices.delete(other["id"])
    assert not store.invoices.delete(other["id"])
    assert store.invoices.edit(other["id"], {}) is None
    assert other["id"] not in [i["id"] for i in store.invoices.all()]
