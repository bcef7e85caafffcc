"""The doctor on webhooks: whether they are told, taken, and worked off."""

import json
from collections.abc import Iterator

import pytest

from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import SandboxServer, Store, WebhookSwitches
from rms_pipeline_tests.conftest import database_at, new_database, with_all_tables
from rms_pipeline_tests.copies import copy_of
from rms_pipeline_tests.mirror.test_merge import fetch_all
from rms_pipeline_tests.processes import SECRET_KEY, command, environment_for, wait_until
from rms_pipeline_tests.sandbox.receiver import Receiver
from rms_pipeline_tests.test_doctor import finding

TOKEN = "planted-token-77ab31"
OLD_TOKEN = "planted-token-before"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    quick = WebhookSwitches(backoff=0.01, attempts=1)
    with SandboxServer(Store(12), api_key=SECRET_KEY, webhooks=quick) as server:
        yield server


@pytest.fixture
def environment(ready_url: str, sandbox: SandboxServer) -> dict[str, str]:
    return environment_for(ready_url, sandbox, RMS_WEBHOOK_TOKEN=TOKEN)


@pytest.fixture(scope="module")
def synced(embedded_url: str, sandbox: SandboxServer) -> Iterator[str]:
    """The name of a database that has had its first full sync, to be copied."""
    with copy_of(embedded_url, with_all_tables(embedded_url)) as url:
        run("sync", "initial", environment=environment_for(url, sandbox))
        yield url.partition("?")[0].rpartition("/")[2]


@pytest.fixture
def synced_url(embedded_url: str, synced: str) -> Iterator[str]:
    with new_database(embedded_url, synced) as url:
        yield url


def run(*arguments: str, environment: dict[str, str]) -> None:
    done = command(*arguments, environment=environment)
    assert done.returncode == 0, done.stderr


def told(check: str, environment: dict[str, str]) -> tuple[str, str, str]:
    """Level, what was found, what to do, as the command prints it."""
    done = command("doctor", "--json", environment=environment)
    for secret in (TOKEN, OLD_TOKEN, SECRET_KEY):
        assert secret not in done.stdout + done.stderr
    found = {f["check"]: f for f in json.loads(done.stdout)["findings"]}[check]
    return found["level"], found["found"], found["advice"]


def test_each_state_of_the_subscriptions_is_told_with_what_to_do(
    environment: dict[str, str], sandbox: SandboxServer
) -> None:
    level, found, advice = finding("webhooks", environment)
    assert (level, "No webhook is registered" in found) == ("warning", True)
    assert "rms-pipeline webhooks register" in advice
    with Receiver() as receiver:
        earlier = {**environment, "RMS_WEBHOOK_TOKEN": OLD_TOKEN}
        run("webhooks", "register", receiver.url, environment=earlier)
        level, found, advice = told("webhooks", environment)
        assert level == "warning"
        assert (
            "20 of 20 are missing, inactive, registered twice or sent to another address" in found
        )
        assert "Correct them all" in advice
        run("webhooks", "register", receiver.url, environment=environment)
        level, found, advice = finding("webhooks", environment)
        assert (level, advice) == ("ok", "")
        assert f"All 20 events are sent to {receiver.url}" in found
    # Nobody listens there any more.
    sandbox.store.edit(sandbox.store.ids()[0], {"subject": "Edited"})
    wait_until(lambda: "no answer" in finding("webhooks", environment)[1])
    level, found, advice = finding("webhooks", environment)
    assert (level, "not accepted at the last delivery" in found) == ("warning", True)
    assert "web service runs" in advice


def test_more_unknown_opportunities_than_are_asked_for_is_told_with_what_to_do(
    synced_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(synced_url, sandbox, RMS_WEBHOOK_TOKEN=TOKEN)
    database: Database = database_at(synced_url)
    level, found, advice = finding("intake", environment)
    assert (level, "Webhook events of the last day: 0" in found, advice) == ("ok", True, "")
    fetch_all(
        database,
        "INSERT INTO webhook_absences (collection, id, asked_at, settled)"
        " SELECT 'opportunities', n, now() + interval '10 s', true FROM generate_series(1, 300) n"
        " RETURNING 1",
    )
    fetch_all(database, "UPDATE webhook_absences SET asked_at = now() RETURNING 1")
    level, found, advice = finding("intake", environment)
    assert (level, "does not have: 300" in found) == ("warning", True)
    assert "Change RMS_WEBHOOK_TOKEN" in advice


def test_dead_letters_and_a_queue_that_nobody_works_off_are_told_with_what_to_do(
    synced_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(synced_url, sandbox, RMS_WEBHOOK_TOKEN=TOKEN)
    database: Database = database_at(synced_url)
    assert finding("queue", environment)[0] == "ok"
    insert = "INSERT INTO webhook_events (subject_type, opportunity_id, received_at, dead_at)"
    old = f"{insert} VALUES ('Opportunity', 1, now() - interval '90 min', NULL) RETURNING 1"
    fetch_all(database, old)
    level, found, advice = finding("queue", environment)
    assert (level, found) == ("warning", "Webhook events waiting: 1, the oldest for 90 min.")
    assert "rms-pipeline up" in advice
    fetch_all(database, f"{insert} VALUES ('Opportunity', 2, now(), now()) RETURNING 1")
    level, found, advice = finding("queue", environment)
    assert (level, "Dead letters: 1 " in found) == ("warning", True)
    assert "rms-pipeline webhooks replay" in advice
