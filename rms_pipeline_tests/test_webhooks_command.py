"""`rms-pipeline webhooks` as people run it, against a real sandbox."""

import subprocess
from collections.abc import Iterator

import pytest

from rms_pipeline.current_rms.webhooks import EVENTS
from rms_pipeline.mirror.database import Database
from rms_pipeline.sandbox import SandboxServer, Store, WebhookSwitches
from rms_pipeline_tests.processes import SECRET_KEY, command, environment_for, free_port, query
from rms_pipeline_tests.sandbox.receiver import Receiver

TOKEN = "planted-token-5d1e9b"


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    quick = WebhookSwitches(backoff=0.01, attempts=2)
    with SandboxServer(Store(3), api_key=SECRET_KEY, webhooks=quick) as server:
        yield server


@pytest.fixture
def environment(empty_url: str, sandbox: SandboxServer) -> dict[str, str]:
    return environment_for(empty_url, sandbox, RMS_WEBHOOK_TOKEN=TOKEN)


def webhooks(
    *arguments: str, environment: dict[str, str], code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = command("webhooks", *arguments, environment=environment)
    assert done.returncode == code, done.stderr
    for secret in (TOKEN, SECRET_KEY):
        assert secret not in done.stdout + done.stderr
    return done


def test_replay_says_when_there_is_nothing_to_replay_and_when_there_is_no_mirror(
    environment: dict[str, str],
) -> None:
    without = webhooks("replay", environment=environment, code=1).stderr
    assert "holds no mirror yet" in without
    assert "Traceback" not in without
    assert command("migrate", environment=environment).returncode == 0
    assert "There are no dead letters" in webhooks("replay", environment=environment).stdout
    assert (
        "None of these is a dead letter" in webhooks("replay", "7", environment=environment).stdout
    )


def test_webhooks_are_listed_registered_and_removed(
    environment: dict[str, str], sandbox: SandboxServer
) -> None:
    empty = webhooks("list", environment=environment).stdout
    assert empty.count("│ missing") == len(EVENTS)
    assert "webhooks register URL" in empty
    with Receiver() as receiver:
        made = webhooks("register", receiver.url, environment=environment).stdout
        assert f"{len(EVENTS)} created, 0 corrected, 0 removed" in made
        assert f"{receiver.url}/api/webhook/***" in made
        again = webhooks("register", receiver.url, environment=environment).stdout
        assert "Nothing changed" in again
        sandbox.store.create({})
        assert sandbox.deliveries.wait_until_idle(10)
        assert [r.path for r in receiver.received] == [f"/api/webhook/{TOKEN}"]
    shown = webhooks("list", environment=environment).stdout
    assert shown.count("│ registered") == len(EVENTS)
    assert shown.count("none known") == len(EVENTS) - 1
    (line,) = (line for line in shown.splitlines() if "opportunity_create " in line)
    assert " 200, 20" in line
    assert f"They post to {receiver.url}/api/webhook/***" in shown
    removed = webhooks("remove", environment=environment).stdout
    assert f"{len(EVENTS)} webhooks removed" in removed
    assert "no webhooks of this mirror" in webhooks("remove", environment=environment).stdout


def test_calls_count_in_the_budget_that_syncs_share(
    database: Database, sandbox: SandboxServer
) -> None:
    url = database.url.get_secret_value()
    environment = environment_for(url, sandbox, RMS_WEBHOOK_TOKEN=TOKEN)
    webhooks("list", environment=environment)
    calls = "SELECT (SELECT sum(n) FROM unnest(sent) AS n) FROM api_budget"
    assert query(environment, calls) == [(1,)]


def test_a_url_that_will_not_do_is_a_configuration_error(environment: dict[str, str]) -> None:
    done = webhooks("register", "http://rms.example.com", environment=environment, code=2)
    assert "https" in done.stderr
    webhooks("register", environment=environment, code=2)


def test_a_database_that_is_down_does_not_keep_webhooks_from_being_managed(
    sandbox: SandboxServer,
) -> None:
    url = f"postgresql://postgres:@127.0.0.1:{free_port()}/nowhere"
    environment = environment_for(url, sandbox, RMS_WEBHOOK_TOKEN=TOKEN)
    done = webhooks("remove", environment=environment)
    assert "does not share the limit of calls with running syncs" in " ".join(done.stderr.split())
    advice = "Connection refused. Check that the server is up, and the port in POSTGRES_URL."
    assert advice in " ".join(done.stderr.split())


def test_a_refused_key_is_an_error_with_advice(
    environment: dict[str, str], sandbox: SandboxServer
) -> None:
    sandbox.api_key = "another"
    done = webhooks("list", environment=environment, code=1)
    assert "CURRENT_RMS_API_KEY" in done.stderr


def test_a_token_that_will_not_do_is_a_configuration_error(environment: dict[str, str]) -> None:
    environment["RMS_WEBHOOK_TOKEN"] = "too-short"
    done = webhooks("list", environment=environment, code=2)
    assert "RMS_WEBHOOK_TOKEN" in done.stderr
