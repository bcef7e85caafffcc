"""The receiver: what is acknowledged is kept, and what cannot be kept is not acknowledged."""

import collections
import itertools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rms_pipeline.mirror import intake
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.rows import query
from rms_pipeline_tests.web.conftest import API_TOKEN, BEARER, WEBHOOK_TOKEN, Web, delivery

Serve = Callable[..., Web]


def test_an_event_is_kept_whole_before_it_is_acknowledged(web: Web) -> None:
    body = delivery(91, 1234, action_type="convert_to_order", anything={"else": ["é", 1.5, None]})
    answer = web.post(body)
    assert answer.status_code == 200
    kept = web.query(
        "SELECT id, action_id, action_type, subject_type, opportunity_id, member_id, member_name,"
        " raw_payload, attempts, processed_at FROM webhook_events"
    )
    assert answer.json() == {"success": True, "eventId": kept[0][0], "message": "Stored."}
    assert kept[0][1:] == (
        *(91, "convert_to_order", "Opportunity", 1234, 7, "Somebody"),
        *(body, 0, None),
    )


def test_a_repeat_of_an_action_is_acknowledged_and_kept_once(web: Web) -> None:
    first, second = web.post(delivery(5, 1)), web.post(delivery(5, 1))
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json()["eventId"] == second.json()["eventId"]
    assert web.query("SELECT count(*) FROM webhook_events") == [(1,)]


@pytest.mark.parametrize(
    "other",
    [
        {"subject_id": 2},
        {"action_type": "mark_as_lost"},
        {"created_at": "2026-11-20T10:00:02.000Z"},
        {"member": {"id": 8, "name": "Somebody else"}},
        {"subject_type": "Invoice"},
    ],
)
def test_the_same_id_with_another_subject_or_content_is_another_event(
    web: Web, other: dict[str, Any]
) -> None:
    first = delivery(5, 1)
    changed = delivery(5, other.pop("subject_id", 1), **other)
    messages = [web.post(body).json()["message"][:7] for body in (first, changed, first, changed)]
    assert messages == ["Stored.", "Stored.", "Stored ", "Stored "]
    assert web.query("SELECT count(*) FROM webhook_events") == [(2,)]


def test_a_repeat_is_known_however_it_is_written_and_whichever_of_many_comes_first(
    web: Web,
) -> None:
    body = delivery(5, 1, name="Gala, é", price=1.50)
    turned = {"action": dict(reversed(body["action"].items()))}
    bodies = [
        json.dumps(body).encode(),
        json.dumps(turned, ensure_ascii=False, indent=1).encode(),
    ] * 8
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(web.post, bodies))
    assert {a.status_code for a in answers} == {200}
    assert len({a.json()["eventId"] for a in answers}) == 1
    assert sum(a.json()["message"] == "Stored." for a in answers) == 1


def test_repeats_of_a_body_too_long_to_keep_are_known_and_its_short_fields_are_kept(
    serve: Serve,
) -> None:
    web = serve(fast_lane=False)
    body = delivery(5, 1, description="x" * 3_000_000)
    other = delivery(5, 1, description="x" * 2_999_999 + "y")
    assert [web.post(b).json()["message"] for b in (body, body, other)] == [
        *("Stored.", "Stored before.", "Stored.")
    ]
    kept = web.query(
        "SELECT pg_column_size(raw_payload), raw_payload -> 'action' ->> 'subject_id',"
        " raw_payload ->> 'shortened' FROM webhook_events ORDER BY id LIMIT 1"
    )[0]
    assert kept[0] < 1_000
    assert kept[1] == "1"
    assert "bytes" in kept[2]


def test_more_than_people_can_do_in_a_minute_is_refused_for_now(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MOST_A_MINUTE", 3)
    web = serve(fast_lane=False)
    codes = [web.post(delivery(n, 1)).status_code for n in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    answer = web.post(delivery(9, 1))
    assert int(answer.headers["Retry-After"]) > 0
    assert "within a minute" in answer.json()["error"]
    assert web.query("SELECT count(*) FROM webhook_events") == [(3,)]


def test_unknown_opportunities_fill_their_part_of_the_queue_and_known_ones_come_in(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MOST_STRANGERS", 2)
    monkeypatch.setattr(intake, "_MEASURED_EVERY", 0.0)
    web = serve(fast_lane=False)
    query(web.database, "INSERT INTO opportunity_versions (id) VALUES (7)")
    codes = [web.post(delivery(n, n)).status_code for n in range(1, 9)]
    assert codes == [200, 200, 429, 429, 429, 429, 200, 429]


def test_beyond_so_many_bytes_a_minute_only_short_fields_are_kept(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MOST_BYTES_A_MINUTE", 50_000)
    web = serve(fast_lane=False)
    for n in range(6):
        assert web.post(delivery(n, 1, description="x" * 20_000)).status_code == 200
    kept = web.query("SELECT length(raw_payload -> 'action' ->> 'description') FROM webhook_events")
    assert sum(row[0] is not None for row in kept) == 3


@pytest.mark.parametrize(
    ("fields", "opportunity"),
    [
        ({}, 37),
        ({"subject_type": "opportunity"}, 37),
        ({"subject_type": " OPPORTUNITY "}, 37),
        ({"subject_type": "Opportunities"}, 37),
        ({"subject_type": "CurrentRms::Opportunity"}, 37),
        ({"subject_type": None}, 37),
        ({"subject_type": ""}, 37),
        ({"subject_type": 5}, 37),
        ({"subject_id": "37"}, 37),
        ({"subject_id": " 37 "}, 37),
        ({"subject_id": 37.0}, 37),
        ({"subject_type": "OpportunityItem", "source_type": "Opportunity", "source_id": 4}, 4),
        ({"subject_type": "opportunity_item", "source_type": "opportunity", "source_id": "4"}, 4),
        ({"subject_type": "Opportunity Item", "opportunity_id": 4}, 4),
        ({"subject_type": "OpportunityItem", "subject": {"opportunity_id": "4"}}, 4),
        ({"subject_type": "Attachment", "source_type": "Opportunity", "source_id": 4}, 4),
        ({"subject_type": "OpportunityItem"}, None),
        ({"subject_type": "OpportunityItem", "source_type": "Member", "source_id": 4}, None),
        ({"subject_type": "Invoice"}, None),
        ({"subject_type": "Member"}, None),
    ],
)
def test_whatever_may_be_an_opportunity_is_refreshed(
    web: Web, fields: dict[str, Any], opportunity: int | None
) -> None:
    body = delivery(1, 37)
    body["action"] |= fields
    assert web.post(body).status_code == 200
    kept = web.query("SELECT opportunity_id, processed_at IS NULL, error FROM webhook_events")
    assert kept[0][:2] == (opportunity, opportunity is not None)
    if opportunity is None:
        assert fields["subject_type"] in kept[0][2]
    else:
        assert kept[0][2] is None


def test_an_event_without_a_subject_type_is_refreshed(web: Web) -> None:
    body = delivery(1, 37, action_type="Opportunity_Update")
    del body["action"]["subject_type"]
    web.post(body)
    kept = web.query("SELECT opportunity_id, action_type, happened_at FROM webhook_events")
    assert kept == [(37, "update", None)]


def test_the_token_may_come_as_a_parameter(web: Web) -> None:
    where = f"{web.url}/api/webhook"
    assert requests.post(f"{where}?token={WEBHOOK_TOKEN}", json=delivery(1, 1), timeout=5).ok
    assert requests.post(where, json=delivery(2, 1), timeout=5).status_code == 401


def test_a_subject_that_is_no_opportunity_is_kept_marked_and_refreshes_nothing(
    serve: Serve,
) -> None:
    web = serve()
    web.sandbox.requests.clear()
    answer = web.post(delivery(1, 77, subject_type="Invoice"))
    assert answer.status_code == 200
    assert "no opportunity" in answer.json()["message"]
    row = web.query("SELECT opportunity_id, processed_at IS NULL, error FROM webhook_events")
    assert row == [(None, False, "not an opportunity: Invoice")]
    assert len(web.sandbox.requests) == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b"{}", b'{"action": 5}', b'{"action": {}}', b"\xff\xfe",
     b'{"action": {"subject_id": null}}', b'{"action": {"subject_id": 1.5}}',
     b'{"action": {"subject_id": true}}', b'{"action": {"subject_id": "x"}}',
     b'{"action": {"subject_id": 9007199254740993.0}}',
     b'{"action": {"subject_id": 99999999999999999999}}', b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_delivery_is_refused_with_400_and_a_reason(web: Web, body: bytes) -> None:
    answer = web.post(body)
    assert answer.status_code == 400
    assert answer.json()["success"] is False
    assert "action" in answer.json()["error"]


ODD_FIELDS = {
    "no number": b'"rate": NaN',
    "an endless number": b'"rate": -Infinity',
    "a number beyond all": b'"rate": 1e400',
    "a number that PostgreSQL does not hold": b'"rate": 1e-200000',
    "thousands of digits": b'"rate": ' + b"9" * 5_000,
    "control characters": b'"description": "a\x01\n\tb"',
    "an escape of another language": b'"description": "it\\\'s"',
    "bytes that are no text": b'"description": "\xff\xfe"',
    "half a character": b'"description": "\\ud800"',
    "a thousand lists in one another": b'"subject": ' + b"[" * 2_000 + b"]" * 2_000,
    "a comma too many": b'"rate": 1,',
}


@pytest.mark.parametrize("field", ODD_FIELDS.values(), ids=ODD_FIELDS)
def test_what_is_wrong_with_one_field_of_an_event_loses_no_event(web: Web, field: bytes) -> None:
    body = json.dumps(delivery(91, 1234)).encode()[:-2] + b", " + field + b"}}"
    answers = [web.post(body), web.post(body)]
    assert [a.status_code for a in answers] == [200, 200], answers[0].text
    assert [a.json()["message"] for a in answers] == ["Stored.", "Stored before."]
    assert web.query(
        "SELECT action_id, opportunity_id, action_type, member_name, processed_at,"
        " raw_payload #> '{action,subject_id}' FROM webhook_events"
    ) == [(91, 1234, "update", "Somebody", None, 1234)]


def test_a_wrong_token_is_refused_before_the_body_is_read(serve: Serve) -> None:
    web = serve(fast_lane=False)
    answer = web.post(b"x" * 9 * 1024 * 1024, token="wrong")
    assert answer.status_code == 401
    assert web.query("SELECT count(*) FROM webhook_events") == [(0,)]


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_8_mib_is_refused_with_413(web: Web, declared: bool) -> None:
    body = json.dumps(delivery(1, 1, filler="x" * 8 * 1024 * 1024)).encode()

    def chunks() -> Any:
        yield from (body[i : i + 65_536] for i in range(0, len(body), 65_536))

    where = f"{web.url}/api/webhook/{WEBHOOK_TOKEN}"
    try:
        answer = requests.post(where, data=body if declared else chunks(), timeout=30)
    except requests.ConnectionError:
        # The service hung up while the rest was still being sent.
        pass
    else:
        assert answer.status_code == 413
    assert web.query("SELECT count(*) FROM webhook_events") == [(0,)]


def test_without_its_database_it_answers_503_and_when_to_come_again(serve: Serve) -> None:
    web = serve(fast_lane=False)
    assert web.post(delivery(1, 1)).status_code == 200
    name = web.query("SELECT current_database()")[0][0]
    server = web.database.url.get_secret_value().replace(f"/{name}", "/postgres")
    admin = psycopg2.connect(server)
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        cursor.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                       f" WHERE datname = '{name}'")  # fmt: skip
        down = web.post(delivery(2, 1))
        ready = requests.get(f"{web.url}/healthz", timeout=30)
        alive = requests.get(f"{web.url}/healthz?live=true", timeout=5)
        cursor.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    admin.close()
    assert (down.status_code, ready.status_code, alive.status_code) == (503, 503, 200)
    assert int(down.headers["Retry-After"]) > 0
    assert "Deliver it again" in down.json()["error"]
    assert web.post(delivery(2, 1)).json()["message"] == "Stored."


def test_a_nul_in_a_payload_is_kept_as_a_replacement_character(web: Web) -> None:
    assert web.post(delivery(1, 1, name="a\u0000b")).status_code == 200
    kept = web.query("SELECT raw_payload -> 'action' ->> 'name' FROM webhook_events")
    assert kept == [("a\ufffdb",)]


def test_both_tokens_are_taken_while_one_replaces_the_other(serve: Serve) -> None:
    web = serve(fast_lane=False, previous_token="the-one-of-before-0123")
    for action, token in enumerate((WEBHOOK_TOKEN, "the-one-of-before-0123"), start=1):
        assert web.post(delivery(action, 1), token=token).status_code == 200
    assert web.post(delivery(3, 1), token="the-one-of-before").status_code == 401
    assert web.post(delivery(3, 1), token="").status_code in (401, 404, 405)
    assert web.query("SELECT count(*) FROM webhook_events") == [(2,)]


def test_metrics_need_the_api_token_and_healthz_does_not(serve: Serve) -> None:
    web = serve(fast_lane=False)
    web.post(delivery(1, 1))
    web.post(delivery(1, 1))
    web.post(b"no")
    assert requests.get(f"{web.url}/healthz", timeout=5).status_code == 200
    assert requests.get(f"{web.url}/metrics", timeout=5).status_code == 401
    text = requests.get(f"{web.url}/metrics", headers=BEARER, timeout=5).text
    for line in (
        "rms_webhooks_received_total 3.0",
        "rms_webhooks_stored_total 1.0",
        "rms_webhooks_repeated_total 1.0",
        'rms_webhooks_refused_total{status="400"} 1.0',
        "rms_webhook_queue_depth 1.0",
        "rms_webhook_acknowledgement_seconds_count 2.0",
    ):
        assert line in text


@pytest.mark.parametrize("bodies_in_all", some_in_drills((100, 300), lambda few: few == 100))
def test_no_body_whatever_makes_it_fail(serve: Serve, bodies_in_all: int) -> None:
    web = serve(fast_lane=False)
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
    fields = ["id", "subject_id", "subject_type", "action_type", "member_id", "member"]
    actions = st.dictionaries(st.sampled_from(fields) | st.text(), anything)
    bodies = (
        st.binary(max_size=200)
        | anything.map(lambda v: json.dumps(v).encode())
        | actions.map(lambda a: json.dumps({"action": {"subject_id": 3, **a}}).encode())
    )

    @settings(max_examples=bodies_in_all, deadline=None, suppress_health_check=list(HealthCheck))
    @given(bodies)
    def try_it(body: bytes) -> None:
        answer = web.post(body)
        assert answer.status_code in (200, 400), (body, answer.text)
        assert "Traceback" not in answer.text

    try_it()


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("requests_in_all", some_in_drills((200, 400), lambda few: few == 200))
def test_requests_made_from_its_own_description_never_make_it_fail(
    serve: Serve, requests_in_all: int
) -> None:
    # A minute passes whenever the clock is looked at, so that no wrong token closes the door.
    web = serve(fast_lane=False, clock=itertools.count(step=61).__next__)
    assert requests.get(f"{web.url}/openapi.json", timeout=5).status_code == 401
    described = requests.get(f"{web.url}/openapi.json", headers=BEARER, timeout=5).json()
    schema = schemathesis.openapi.from_dict(described)
    operations: list[Any] = [
        found.ok()  # type: ignore[union-attr]
        for found in schema.get_all_operations()
    ]
    paths = {o.path for o in operations}
    assert {
        *("/api/webhook/{token}", "/api/webhook", "/healthz", "/metrics"),
        *("/api/sync/initial", "/api/sync/incremental", "/api/sync/status"),
    } <= paths
    answered = collections.Counter[tuple[str, int]]()

    # The few are the same each time, so that none of them misses what has to be reached.
    @settings(
        max_examples=requests_in_all,
        derandomize=requests_in_all < 400,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of([o.as_strategy() for o in operations]), st.booleans())
    def try_it(case: Any, right_token: bool) -> None:
        if right_token and case.path_parameters:
            case.path_parameters["token"] = WEBHOOK_TOKEN
        answer = case.call(base_url=web.url, headers=BEARER if right_token else {})
        answered[case.path, answer.status_code] += 1
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        for secret in ("Traceback", WEBHOOK_TOKEN, API_TOKEN):
            assert secret not in answer.text

    try_it()

    # It got past the door: Dagster is not there, so no sync is ever launched.
    for reached in (("/api/sync/status", 200), ("/api/sync/initial", 503), ("/metrics", 200)):
        assert answered[reached] > 0, answered
    kept = web.query("SELECT string_agg(e::text, '') FROM webhook_events e")[0][0] or ""
    assert WEBHOOK_TOKEN not in kept
    assert API_TOKEN not in kept
