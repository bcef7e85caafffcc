"""Registration of webhooks against the sandbox: one of ours for each event, others' alone."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import (
    ApiUnavailable,
    Unauthorized,
    Unprocessable,
    WebhooksNotKept,
)
from rms_pipeline.current_rms.subscriptions import change, listed
from rms_pipeline.current_rms.webhooks import (
    EVENTS,
    overview,
    register,
    remove,
    target_url,
    without_secret,
)
from rms_pipeline.sandbox import (
    SANDBOX_API_KEY,
    SANDBOX_SUBDOMAIN,
    SandboxServer,
    Store,
    Switches,
    WebhookSwitches,
)
from rms_pipeline.sandbox import events as sandbox_events
from rms_pipeline.sandbox.api import routes
from rms_pipeline.sandbox.api.answers import Answer, Request
from rms_pipeline.sandbox.faults import FaultKind
from rms_pipeline.settings import SettingsError
from rms_pipeline_tests.sandbox.receiver import Receiver

pytestmark = pytest.mark.slow

MakeClient = Callable[..., CurrentRmsClient]

HEADERS = {"X-SUBDOMAIN": SANDBOX_SUBDOMAIN, "X-AUTH-TOKEN": SANDBOX_API_KEY}
TOKEN = SecretStr("planted-token-5d1e9b")
BASE = "https://rms.example.com"
TARGET = f"{BASE}/api/webhook/{TOKEN.get_secret_value()}"


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    quick = WebhookSwitches(backoff=0.01, longest_wait=0.1, attempts=2)
    with SandboxServer(Store(3), webhooks=quick) as server:
        yield server


@pytest.fixture
def client(sandbox: SandboxServer, client_for: MakeClient) -> CurrentRmsClient:
    return client_for(sandbox.url)


def shown(sandbox: SandboxServer) -> list[dict[str, Any]]:
    url = f"{sandbox.url}/webhooks?per_page=100"
    answer = requests.get(url, headers=HEADERS, timeout=10).json()
    assert answer["meta"]["total_row_count"] == len(answer["webhooks"])
    found: list[dict[str, Any]] = answer["webhooks"]
    return found


def plant(sandbox: SandboxServer, **fields: object) -> int:
    right = {"name": "Theirs", "event": "opportunity_update", "target_url": "https://a.example/x"}
    body = {"webhook": {**right, **fields}}
    answer = requests.post(f"{sandbox.url}/webhooks", json=body, headers=HEADERS, timeout=10)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["webhook"]["id"])


def writes(sandbox: SandboxServer) -> Counter[str]:
    return Counter(method for method, _, _ in sandbox.requests if method != "GET")


def assert_registered(sandbox: SandboxServer, target: str = TARGET) -> None:
    ours = [w for w in shown(sandbox) if w["name"].startswith("rms_pipeline: ")]
    assert sorted(w["name"] for w in ours) == sorted(f"rms_pipeline: {e}" for e in EVENTS)
    assert all(w["name"] == f"rms_pipeline: {w['event']}" for w in ours)
    assert {(w["target_url"], w["active"]) for w in ours} == {(target, True)}


def test_one_subscription_for_each_event_is_made_and_a_second_run_changes_nothing(
    sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    assert set(EVENTS) == sandbox_events.EVENTS
    first = register(client, BASE, TOKEN)
    assert first.created == EVENTS
    assert_registered(sandbox)
    before = shown(sandbox)
    second = register(client, f"{BASE}/", TOKEN)
    assert not second.changed
    assert shown(sandbox) == before
    assert writes(sandbox) == {"POST": len(EVENTS)}


def test_a_wrong_target_an_inactive_one_a_wrong_event_and_doubles_are_mended(
    sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    planted: dict[str, dict[str, object]] = {
        "opportunity_create": {"target_url": "https://old.example/api/webhook/older-token-1234567"},
        "opportunity_update": {"active": False, "target_url": TARGET},
        "opportunity_cancel": {"event": "opportunity_confirm", "target_url": TARGET},
        "opportunity_destroy": {"target_url": TARGET},
    }
    for event, fields in planted.items():
        plant(sandbox, **{"name": f"rms_pipeline: {event}", "event": event, **fields})
    for _ in range(2):
        plant(sandbox, name="rms_pipeline: opportunity_destroy", target_url=TARGET)
    kept = [w["id"] for w in shown(sandbox)][:4]
    done = register(client, BASE, TOKEN)
    assert_registered(sandbox)
    assert set(done.mended) == {"opportunity_create", "opportunity_update", "opportunity_cancel"}
    assert done.removed == ("opportunity_destroy",) * 2
    assert len(done.created) == len(EVENTS) - 4
    assert set(kept) <= {w["id"] for w in shown(sandbox)}


def test_the_subscriptions_of_others_are_never_touched(
    sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    for name in ("Theirs", "rms_pipeline", "rms_pipeline: our own", "my rms_pipeline: x"):
        plant(sandbox, name=name, target_url=TARGET, active=False)
    theirs = shown(sandbox)
    register(client, BASE, TOKEN)
    register(client, "https://elsewhere.example.com", TOKEN)
    assert shown(sandbox)[: len(theirs)] == theirs
    assert sorted(remove(client)) == sorted(EVENTS)
    assert shown(sandbox) == theirs
    assert remove(client) == ()


def test_ours_are_found_on_every_page_of_the_list(client_for: MakeClient) -> None:
    with SandboxServer(Store(), switches=Switches(max_per_page=7)) as sandbox:
        for _ in range(10):
            plant(sandbox)
        client = client_for(sandbox.url)
        register(client, BASE, TOKEN)
        plant(sandbox, name=f"rms_pipeline: {EVENTS[0]}")
        assert register(client, BASE, TOKEN).removed == (EVENTS[0],)
        assert not register(client, BASE, TOKEN).changed
        assert len(listed(client)) == 10 + len(EVENTS)
        assert writes(sandbox)["POST"] == 11 + len(EVENTS)


def test_ours_are_found_on_every_page_although_the_list_counts_none(
    client_for: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = routes.answer

    def answer(account: Any, request: Request) -> Answer:
        said = truth(account, request)
        if request.method != "GET" or request.path != "/webhooks":
            return said
        listed = json.loads(said.body) | {"meta": {"total_row_count": 0}}
        return replace(said, body=json.dumps(listed).encode())

    with SandboxServer(Store(3), switches=Switches(max_per_page=4)) as sandbox:
        client = client_for(sandbox.url)
        monkeypatch.setattr(routes, "answer", answer)
        register(client, BASE, TOKEN)
        assert not register(client, BASE, TOKEN).changed
        assert writes(sandbox) == {"POST": len(EVENTS)}


@pytest.mark.parametrize("fault", ["broken_off", "truncated", "dropped", "error_502", "html_200"])
def test_a_subscription_is_not_made_twice_when_the_answer_is_lost(
    fault: FaultKind, sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    """The first call lists; the second makes, and its answer does not arrive."""

    def spoil_writes(path: str) -> None:
        if path == "/api/v1/webhooks" and len(sandbox.requests) in (1, 9, 20):
            sandbox.faults.queue.append(fault)

    sandbox.before_request = spoil_writes
    register(client, BASE, TOKEN)
    assert client.counts.retried == 3
    assert_registered(sandbox)
    assert writes(sandbox)["DELETE"] == 0


def test_any_mixture_of_faults_ends_with_exactly_one_for_each_event(
    sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    kinds: tuple[FaultKind, ...] = ("broken_off", "truncated", "dropped", "error_503", "error_500")
    sandbox.faults.probabilities = dict.fromkeys(kinds, 0.05)
    plant_faults = sandbox.faults.probabilities
    register(client, BASE, TOKEN)
    register(client, "https://moved.example.com", TOKEN)
    sandbox.faults.probabilities = {}
    assert_registered(sandbox, TARGET.replace(BASE, "https://moved.example.com"))
    sandbox.faults.probabilities = plant_faults
    remove(client)
    sandbox.faults.probabilities = {}
    assert shown(sandbox) == []
    assert client.counts.retried > 3


def test_two_that_register_at_the_same_time_end_with_one_for_each_event(
    sandbox: SandboxServer, client_for: MakeClient
) -> None:
    clients = [client_for(sandbox.url) for _ in range(2)]
    threads = [threading.Thread(target=register, args=(c, BASE, TOKEN)) for c in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_registered(sandbox)


def test_a_429_is_waited_out_while_registering(
    sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    sandbox.faults.queue = ["rate_limited", "rate_limited"]
    register(client, BASE, TOKEN)
    assert client.counts.throttled == 2
    assert writes(sandbox)["POST"] == len(EVENTS)
    assert_registered(sandbox)


def test_a_refusal_is_final_and_does_not_tell_the_token(
    sandbox: SandboxServer, client: CurrentRmsClient, client_for: MakeClient
) -> None:
    register(client, BASE, TOKEN)
    (first, *_) = listed(client)
    wanted = {"target_url": f"nowhere/{'x' * 110}/{TOKEN.get_secret_value()}"}
    before = len(sandbox.requests)
    with pytest.raises(Unprocessable, match=r"PUT /webhooks/\d+.*\*\*\*") as caught:
        change(client, first, wanted, TOKEN)
    assert "planted" not in str(caught.value)
    assert len(sandbox.requests) == before + 1
    assert TOKEN.get_secret_value() not in repr(listed(client))
    with pytest.raises(Unauthorized):
        register(client_for(sandbox.url, api_key="wrong"), BASE, TOKEN)


def test_an_api_that_fails_for_ever_is_an_error_that_says_so(
    sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    sandbox.faults.probabilities = {"error_503": 1}
    with pytest.raises(ApiUnavailable, match="8 attempts"):
        register(client, BASE, TOKEN)


def test_a_program_that_undoes_the_registration_is_an_error_that_names_the_event(
    sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    register(client, BASE, TOKEN)
    (first, *_) = shown(sandbox)

    def undo(path: str) -> None:
        if path.startswith("/api/v1/webhooks?"):
            url, body = f"{sandbox.url}/webhooks/{first['id']}", {"webhook": {"active": False}}
            requests.put(url, json=body, headers=HEADERS, timeout=10)

    sandbox.before_request = undo
    with pytest.raises(WebhooksNotKept, match=f"3 times.*: {first['event']}"):
        register(client, BASE, TOKEN)


def test_deliveries_reach_what_was_registered_and_the_overview_shows_them(
    sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    with Receiver() as receiver:
        register(client, f"{receiver.url}/hooks/", TOKEN)
        for stands in overview(client, TOKEN):
            assert (stands.count, stands.active, stands.is_ours) == (1, True, True)
            assert stands.last_delivery is None
        receiver.answer = lambda r: (500 if r.action["action_type"] == "destroy" else 200, {})
        sandbox.store.delete(sandbox.store.create({}))
        assert sandbox.deliveries.wait_until_idle(10)
        path = f"/hooks/api/webhook/{TOKEN.get_secret_value()}"
        assert {r.path for r in receiver.received} == {path}
        last = {s.event: s.last_delivery for s in overview(client, TOKEN)}
    codes = {event: d.response_code for event, d in last.items() if d is not None}
    assert codes == {"opportunity_create": 200, "opportunity_destroy": 500}
    assert all(d.at is not None and d.at.tzinfo for d in last.values() if d is not None)


def test_the_overview_tells_what_is_missing_inactive_or_aimed_elsewhere(
    sandbox: SandboxServer, client: CurrentRmsClient
) -> None:
    plant(sandbox, name="rms_pipeline: opportunity_create", event="opportunity_create")
    plant(sandbox, name="rms_pipeline: opportunity_update", target_url=TARGET, active=False)
    plant(sandbox, name="rms_pipeline: opportunity_update", target_url=TARGET)
    stands = {s.event: s for s in overview(client, TOKEN)}
    assert tuple(stands) == EVENTS
    assert stands["opportunity_cancel"].count == 0
    create, update = stands["opportunity_create"], stands["opportunity_update"]
    assert (create.count, create.active, create.is_ours) == (1, True, False)
    assert (update.count, update.active, update.is_ours) == (2, False, True)
    assert update.target == f"{BASE}/api/webhook/***"


@pytest.mark.parametrize(
    ("base", "target"),
    [
        ("https://rms.example.com", "https://rms.example.com"),
        ("https://rms.example.com:8443/", "https://rms.example.com:8443"),
        (" https://example.com/rms/ ", "https://example.com/rms"),
        ("http://127.0.0.1:8400", "http://127.0.0.1:8400"),
        ("http://[::1]:8400/", "http://[::1]:8400"),
        ("http://localhost:8400", "http://localhost:8400"),
    ],
)
def test_a_base_url_keeps_its_path_and_loses_a_trailing_slash(base: str, target: str) -> None:
    made = target_url(base, TOKEN).get_secret_value()
    assert made == f"{target}/api/webhook/{TOKEN.get_secret_value()}"
    assert without_secret(made) == f"{target}/api/webhook/***"


@pytest.mark.parametrize(
    "base",
    [
        "http://rms.example.com",
        "rms.example.com",
        "ftp://rms.example.com",
        "https://",
        "https://rms.example.com:port",
        "https://rms.example.com/?a=b",
        "https://user:pass@rms.example.com",
        "https://rms.example.com/api/webhook/pasted-secret",
    ],
)
def test_a_base_url_that_will_not_do_is_an_error_with_an_example(base: str) -> None:
    with pytest.raises(SettingsError, match="Example: rms-pipeline webhooks register") as caught:
        target_url(base, TOKEN)
    assert "pasted-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://u:p@a.example/in?token=abc", "https://a.example/***"),
        ("https://a.example/x/api/webhook?token=abc", "https://a.example/x/api/webhook/***"),
        ("https://[", "***"),
        (None, ":///***"),
    ],
)
def test_whatever_may_be_a_secret_in_a_url_is_stars(url: str | None, told: str) -> None:
    assert without_secret(url) == told
