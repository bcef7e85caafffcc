"""The sandbox as a client of Current RMS meets it."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from rms_pipeline.sandbox import (
    SANDBOX_API_KEY,
    SANDBOX_SUBDOMAIN,
    PortInUseError,
    SandboxServer,
    Store,
    Switches,
)

HEADERS = {"X-SUBDOMAIN": SANDBOX_SUBDOMAIN, "X-AUTH-TOKEN": SANDBOX_API_KEY}


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(400), switches=Switches(api="v1")) as server:
        yield server


def get(sandbox: SandboxServer, query: str = "") -> requests.Response:
    return requests.get(f"{sandbox.url}/opportunities{query}", headers=HEADERS, timeout=10)


def listed(sandbox: SandboxServer, query: str) -> list[dict[str, Any]]:
    answer = get(sandbox, f"?filtermode=all&per_page=100&{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["opportunities"]
    return found


def test_the_same_seed_gives_the_same_records_and_another_seed_others() -> None:
    assert list(Store(50, 3).truth()) == list(Store(50, 3).truth())
    assert list(Store(50, 3).truth()) != list(Store(50, 4).truth())


def test_a_page_is_small_by_default_and_a_hundred_at_most(sandbox: SandboxServer) -> None:
    assert get(sandbox).json()["meta"]["per_page"] == 20
    meta = get(sandbox, "?filtermode=all&per_page=500&page=4").json()["meta"]
    assert meta == {"total_row_count": 400, "row_count": 100, "page": 4, "per_page": 100}


def test_since_june_a_page_of_opportunities_has_twenty_five_at_most() -> None:
    with SandboxServer(Store(60)) as sandbox:
        meta = get(sandbox, "?filtermode=all&per_page=100&page=3").json()["meta"]
        assert meta == {"total_row_count": 60, "row_count": 10, "page": 3, "per_page": 25}
        assert get(sandbox).json()["meta"]["per_page"] == 20
        assert get(sandbox, "?q[nonsense_eq]=1").status_code == 200


def test_lost_and_completed_ones_come_only_with_filtermode_all(sandbox: SandboxServer) -> None:
    live = get(sandbox, "?per_page=100").json()
    assert live["meta"]["total_row_count"] < 400
    assert not {"Lost", "Completed"} & {o["status_name"] for o in live["opportunities"]}


def test_nested_objects_come_when_asked_for(sandbox: SandboxServer) -> None:
    assert "member" not in listed(sandbox, "page=1")[0]
    asked = listed(sandbox, "include[]=member&include[]=venue")[0]
    assert asked["member"]["id"] == asked["member_id"]
    assert "owner" not in asked


def test_predicates_filter_and_a_null_satisfies_no_comparison(sandbox: SandboxServer) -> None:
    everything = list(sandbox.store.truth())
    bound = "2026-12-01T00:00:00.000Z"
    later = {o["id"] for o in everything if o["starts_at"] and o["starts_at"] >= bound}
    total = get(sandbox, f"?filtermode=all&q[starts_at_gteq]={bound}").json()["meta"]
    assert total["total_row_count"] == len(later)
    undated = {o["id"] for o in everything if not o["starts_at"]}
    assert {o["id"] for o in listed(sandbox, "q[starts_at_null]=1")} == undated != set()
    ids = [o["id"] for o in everything][:3]
    query = "&".join(f"q[id_in][]={i}" for i in ids)
    assert [o["id"] for o in listed(sandbox, f"{query}&q[s]=id%20desc")] == ids[::-1]


@pytest.mark.parametrize("query", ["?page=0", "?per_page=x", "?q[nonsense_eq]=1", "?filtermode=no"])
def test_a_parameter_it_does_not_know_is_a_422(sandbox: SandboxServer, query: str) -> None:
    answer = get(sandbox, query)
    assert answer.status_code == 422
    assert answer.json()["errors"]


def test_without_the_right_key_it_answers_401(sandbox: SandboxServer) -> None:
    answer = requests.get(f"{sandbox.url}/opportunities", timeout=10)
    assert answer.status_code == 401
    assert answer.json()["errors"]


def test_an_opportunity_is_created_read_edited_and_deleted(sandbox: SandboxServer) -> None:
    url = f"{sandbox.url}/opportunities"
    body = {"opportunity": {"subject": "Gala"}}
    made = requests.post(url, json=body, headers=HEADERS, timeout=10)
    assert made.status_code == 201
    before = made.json()["opportunity"]
    one = f"{url}/{before['id']}"
    body = {"opportunity": {"subject": "Ball"}}
    after = requests.put(one, json=body, headers=HEADERS, timeout=10).json()["opportunity"]
    assert after["subject"] == "Ball"
    assert after["updated_at"] >= before["updated_at"]
    assert requests.delete(one, headers=HEADERS, timeout=10).status_code == 204
    assert requests.get(one, headers=HEADERS, timeout=10).status_code == 404


def test_beyond_the_limit_it_answers_429_and_says_when_to_come_back() -> None:
    with SandboxServer(Store(1), requests_per_minute=60) as sandbox:
        answers = [get(sandbox) for _ in range(14)]
    refused = [a for a in answers if a.status_code == 429]
    assert refused
    assert int(refused[0].headers["Retry-After"]) >= 1


def test_a_port_in_use_is_an_error_that_names_the_option(sandbox: SandboxServer) -> None:
    with pytest.raises(PortInUseError, match="--port"):
        SandboxServer(Store(), port=sandbox.port)


def test_it_misbehaves_when_told_to_over_http(sandbox: SandboxServer) -> None:
    faults = sandbox.url.replace("/api/v1", "/sandbox/faults")
    told = requests.put(faults, json={"queue": ["error_503"]}, headers=HEADERS, timeout=10)
    assert told.status_code == 204
    assert [get(sandbox).status_code, get(sandbox).status_code] == [503, 200]
    unknown = requests.put(faults, json={"queue": ["flood"]}, headers=HEADERS, timeout=10)
    assert unknown.status_code == 422
