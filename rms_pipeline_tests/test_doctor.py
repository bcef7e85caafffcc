"""The doctor on healthy and on sick mirrors: the right line, what to do, and the exit code."""

import contextlib
import json
import subprocess
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg2
import pytest

from rms_pipeline.doctor import examine
from rms_pipeline.doctor.accounts import odd_clock
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.settings import settings
from rms_pipeline_tests.conftest import database_at, new_database, with_all_tables
from rms_pipeline_tests.copies import copy_of
from rms_pipeline_tests.forks import Child
from rms_pipeline_tests.mirror.test_merge import fetch_all
from rms_pipeline_tests.pooler import transaction_pooler
from rms_pipeline_tests.processes import (
    PROJECT,
    SECRET_KEY,
    SECRET_PASSWORD,
    command,
    dagster_webserver,
    environment_for,
    query,
    with_password,
)

WRONG_KEY = "planted-wrong-key-5d0e"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(120), api_key=SECRET_KEY) as server:
        yield server


@pytest.fixture(scope="module")
def synced(embedded_url: str, sandbox: SandboxServer) -> Iterator[str]:
    """The name of a database that has had its first full sync, to be copied."""
    with copy_of(embedded_url, with_all_tables(embedded_url)) as url:
        done = command("sync", "initial", environment=environment_for(url, sandbox))
        assert done.returncode == 0, done.stderr
        yield url.partition("?")[0].rpartition("/")[2]


@pytest.fixture(scope="module")
def mirror(embedded_url: str, synced: str) -> Iterator[str]:
    """The URL of such a database. Tests that share it leave it as it was."""
    with new_database(embedded_url, synced) as url:
        yield url


@pytest.fixture
def own_mirror(embedded_url: str, synced: str) -> Iterator[str]:
    """The same, for one test."""
    with new_database(embedded_url, synced) as url:
        yield url


def examined(environment: dict[str, str], *, healthy: bool) -> dict[str, tuple[str, str, str]]:
    """Level, what was found and what to do, by check; the exit code has to agree."""
    done = command("doctor", "--json", environment=environment)
    assert "Traceback" not in done.stderr, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["healthy"], done.returncode) == (healthy, 0 if healthy else 1), done.stdout
    for secret in (SECRET_KEY, SECRET_PASSWORD, WRONG_KEY):
        assert secret not in done.stdout + done.stderr
    found = {f["check"]: (f["level"], f["found"], f["advice"]) for f in answer["findings"]}
    for level, text, advice in found.values():
        assert text
        assert level != "warning" or advice
        assert level != "ok" or not advice
    return found


def finding(check: str, environment: dict[str, str]) -> tuple[str, str, str]:
    """Level, what one check found and what to do, asked for in this process.

    The checks after it are not made: those of Dagster take most of the time of the command.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        settings.cache_clear()
        for found in examine(settings):
            for secret in (SECRET_KEY, SECRET_PASSWORD, WRONG_KEY):
                assert secret not in found.found + found.advice
            if found.check == check:
                break
        else:
            raise AssertionError(f"there is no check {check}")
    settings.cache_clear()
    return found.level, found.found, found.advice


def dagster(*arguments: str, environment: dict[str, str]) -> None:
    with Child(
        *("dagster", *arguments, "-w", "workspace.yaml"),
        env={**environment, "DAGSTER_HOME": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        warm=True,
    ) as process:
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr


def levels(found: dict[str, tuple[str, str, str]], level: str) -> set[str]:
    return {check for check, finding in found.items() if finding[0] == level}


def test_a_healthy_mirror_is_all_well_but_for_the_daemon_that_nobody_started(
    mirror: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(
        mirror, sandbox, CURRENT_RMS_REQUESTS_PER_MINUTE="120", RMS_WEBHOOK_TOKEN="a" * 16
    )
    url = "https://rms.example.com"
    assert command("webhooks", "register", url, environment=environment).returncode == 0
    found = examined(environment, healthy=True)
    assert levels(found, "warning") == {"daemon"}
    assert "rms-pipeline up" in found["daemon"][2]
    assert "account sandbox" in found["settings"][1]
    assert "120 opportunities" in found["credentials"][1]
    assert "agree within" in found["clock"][1]
    assert "120 calls a minute" in found["budget"][1]
    assert "complete as of" in found["completeness"][1]
    assert "schedules and sensors are on" in found["automation"][1]
    done = command("doctor", environment=environment)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == len(found)
    assert {line[0] for line in lines} == {"✔", "!"}


def test_a_database_without_a_mirror_is_said_to_be_so_and_left_alone(
    empty_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(empty_url, sandbox)
    found = examined(environment, healthy=True)
    assert found["tables"][0] == "warning"
    assert "rms-pipeline sync initial" in found["tables"][2]
    assert found["runs"][1:] == ("Not checked: it needs the tables.", "See tables.")
    assert levels(found, "ok") >= {"settings", "database", "rights", "pooler", "credentials"}
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname IN ('public', 'dagster')"
    assert query(environment, tables) == [(0,)]


def test_tables_of_another_version_are_named(ready_url: str, sandbox: SandboxServer) -> None:
    environment = environment_for(ready_url, sandbox)
    version = "UPDATE rms_pipeline_alembic_version SET version_num = %s RETURNING 1"
    fetch_all(database_at(ready_url), version.replace("%s", "'0001'"))
    assert "rms-pipeline migrate" in finding("tables", environment)[2]
    fetch_all(database_at(ready_url), version.replace("%s", "'9999'"))
    assert (
        "Install that version or a later one" in examined(environment, healthy=False)["tables"][2]
    )


def test_a_wrong_key_is_told_from_an_api_that_is_not_there(
    mirror: str, sandbox: SandboxServer
) -> None:
    refused = environment_for(mirror, sandbox, CURRENT_RMS_API_KEY=WRONG_KEY)
    found = examined(refused, healthy=False)
    assert levels(found, "problem") == {"credentials"}
    assert "answered 401" in found["credentials"][1]
    assert "CURRENT_RMS_API_KEY" in found["credentials"][1]
    nowhere = environment_for(mirror, sandbox, CURRENT_RMS_BASE_URL="http://127.0.0.1:9/api/v1")
    found = examined(nowhere, healthy=False)
    assert levels(found, "problem") == {"credentials"}
    assert "check the network" in found["credentials"][1]


def test_a_database_that_does_not_answer_stops_no_other_check(sandbox: SandboxServer) -> None:
    url = with_password("postgresql://postgres@127.0.0.1:9/nowhere")
    environment = environment_for(url, sandbox)
    found = examined(environment, healthy=False)
    assert levels(found, "problem") == {"database"}
    assert "Check that the server is up, and the port in POSTGRES_URL" in found["database"][1]
    assert levels(found, "ok") >= {"settings", "credentials", "clock"}
    assert found["syncs"][1:] == ("Not checked: it needs the tables.", "See database.")


def test_wrong_settings_are_named_line_by_line(mirror: str, sandbox: SandboxServer) -> None:
    environment = environment_for(
        mirror, sandbox, RMS_SYNC_DAYS_BACK="soon", CURRENT_RMS_REQUESTS_PER_MINUTE="-1"
    )
    done = command("doctor", environment=environment)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line[0] for line in lines] == ["✘", "✘"]
    assert "RMS_SYNC_DAYS_BACK" in done.stdout
    assert "CURRENT_RMS_REQUESTS_PER_MINUTE" in done.stdout
    assert "Example:" in done.stdout


def test_a_password_that_is_not_percent_encoded_is_no_part_of_any_line(
    sandbox: SandboxServer,
) -> None:
    environment = environment_for("", sandbox)
    environment["POSTGRES_URL"] = f"postgresql://rms:first@{SECRET_PASSWORD}@127.0.0.1:9/rms"
    found = examined(environment, healthy=False)
    assert "%40" in found["settings"][1]
    environment["POSTGRES_URL"] = f"postgresql://127.0.0.1:9/rms?user=a&password={SECRET_PASSWORD}"
    found = examined(environment, healthy=False)
    assert "127.0.0.1:9/rms?user=a" in found["settings"][1]


@contextlib.contextmanager
def poor_role(url: str) -> Iterator[str]:
    """The URL of a user who may connect, and no more."""
    name = f"poor_{uuid.uuid4().hex[:8]}"
    admin = psycopg2.connect(url)
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN")
        yield url.replace("postgres:@", f"{name}:{SECRET_PASSWORD}@").replace(
            "//postgres@", f"//{name}:{SECRET_PASSWORD}@"
        )
        cursor.execute(f"DROP OWNED BY {name}")
        cursor.execute(f"DROP ROLE {name}")
    admin.close()


def test_a_user_without_rights_is_told_what_an_administrator_has_to_grant(
    each_empty_url: str, sandbox: SandboxServer
) -> None:
    with poor_role(each_empty_url) as url:
        environment = {**environment_for(url, sandbox), "POSTGRES_URL": url}
        level, _, advice = examined(environment, healthy=False)["rights"]
        assert level == "problem"
        assert "GRANT CREATE ON SCHEMA public" in advice
        assert "GRANT CREATE ON DATABASE" in advice
        fetch_all(database_at(each_empty_url), f"{advice.partition('database: ')[2]} SELECT 1")
        assert finding("rights", environment)[0] == "ok"


def test_a_transaction_pooler_is_found_out(mirror: str, sandbox: SandboxServer) -> None:
    with transaction_pooler(mirror) as pooler:
        environment = {**environment_for(mirror, sandbox), "POSTGRES_URL": pooler.url}
        found = examined(environment, healthy=False)
        assert found["pooler"][0] == "problem"
        assert "POSTGRES_URL_NON_POOLING" in found["pooler"][2]
        # What Dagster asks for as it connects is refused.
        assert found["history"][0] == "problem"
        assert "POSTGRES_URL_NON_POOLING" in found["history"][1]
        direct = {**environment, "POSTGRES_URL_NON_POOLING": mirror}
        assert finding("pooler", direct)[0] == "ok"


def test_the_stand_in_is_said_to_be_invented(mirror: str, sandbox: SandboxServer) -> None:
    environment = environment_for(
        mirror,
        sandbox,
        CURRENT_RMS_SUBDOMAIN=None,
        CURRENT_RMS_API_KEY=None,
        CURRENT_RMS_BASE_URL=None,
    )
    level, text, _ = finding("credentials", environment)
    assert level == "warning"
    assert "invented" in text


@pytest.mark.parametrize(
    ("ahead", "level"), [(timedelta(seconds=60), "warning"), (timedelta(hours=-2), "problem")]
)
def test_a_clock_that_is_wrong_is_named_with_what_suffers(
    mirror: str, ahead: timedelta, level: str
) -> None:
    with SandboxServer(Store(5, ahead=ahead), api_key=SECRET_KEY) as odd:
        found = finding("clock", environment_for(mirror, odd))
    assert found[0] == level
    assert "Current RMS is" in found[1]
    assert "lose nothing" in found[2]


def test_of_three_clocks_the_one_that_two_contradict_is_the_odd_one() -> None:
    def clocks(*seconds: float) -> dict[str, timedelta]:
        names = ("this machine", "Current RMS", "the database")
        return {n: timedelta(seconds=s) for n, s in zip(names, seconds, strict=False)}

    assert odd_clock(clocks(0, 100, 101)) == "this machine"
    assert odd_clock(clocks(0, 1, 100)) == "the database"
    assert odd_clock(clocks(0, 100, 300)) is None
    assert odd_clock(clocks(0, 100)) is None


def test_the_limit_of_calls_is_told_when_there_is_none_and_when_it_was_reached(
    mirror: str, sandbox: SandboxServer
) -> None:
    level, text, advice = finding("budget", environment_for(mirror, sandbox))
    assert (level, "No limit" in text) == ("warning", True)
    assert "CURRENT_RMS_REQUESTS_PER_MINUTE" in advice
    environment = environment_for(mirror, sandbox, CURRENT_RMS_REQUESTS_PER_MINUTE="120")
    pause = "UPDATE api_budget SET paused_until = now() + interval '{}' RETURNING 1"
    fetch_all(database_at(mirror), pause.format("10 min"))
    level, text, _ = finding("budget", environment)
    assert (level, "All calls wait until" in text) == ("warning", True)
    fetch_all(database_at(mirror), pause.format("-1 h"))


def test_a_schedule_that_was_switched_off_is_named(mirror: str, sandbox: SandboxServer) -> None:
    environment = environment_for(mirror, sandbox)
    dagster("schedule", "stop", "incremental_sync", environment=environment)
    level, text, advice = examined(environment, healthy=True)["automation"]
    assert (level, text) == ("warning", "Switched off: schedule incremental_sync.")
    assert "dagster schedule start" in advice
    dagster("schedule", "start", "incremental_sync", environment=environment)
    assert examined(environment, healthy=True)["automation"][0] == "ok"


def test_a_dead_run_and_a_forgotten_queued_one_are_problems(
    own_mirror: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(own_mirror, sandbox)
    fetch_all(
        database_at(own_mirror),
        "UPDATE dagster.runs SET status = 'STARTED', end_time = NULL,"
        " start_time = extract(epoch FROM now()) - 60 RETURNING 1",
    )
    # Its process ended without a word.
    fetch_all(database_at(own_mirror), "UPDATE run_workers SET ended_at = NULL RETURNING 1")
    examined(environment, healthy=True)
    fetch_all(
        database_at(own_mirror),
        "UPDATE run_workers SET lost_at = lost_at - interval '9 s' RETURNING 1",
    )
    level, text, advice = examined(environment, healthy=False)["runs"]
    assert level == "problem"
    assert "initial_sync" in text
    assert "died" in text
    assert "rms-pipeline sync" in advice
    dagster("job", "launch", "-j", "initial_sync", environment=environment)
    fetch_all(
        database_at(own_mirror),
        "UPDATE dagster.runs SET create_timestamp = create_timestamp - interval '1 hour'"
        " WHERE status = 'QUEUED' RETURNING 1",
    )
    level, text, advice = examined(environment, healthy=False)["runs"]
    assert level == "problem"
    assert "queued for more than 10 minutes" in text
    assert "The daemon, which starts queued runs, is not running" in advice


def test_dead_and_queued_runs_of_a_dagster_elsewhere_are_told_too(
    own_mirror: str, sandbox: SandboxServer, tmp_path: Path
) -> None:
    environment = environment_for(own_mirror, sandbox)
    dagster("job", "launch", "-j", "initial_sync", environment=environment)
    fetch_all(
        database_at(own_mirror),
        "UPDATE dagster.runs SET create_timestamp = create_timestamp - interval '1 hour',"
        " update_timestamp = update_timestamp - interval '1 hour' WHERE status = 'QUEUED'"
        " RETURNING 1",
    )
    fetch_all(
        database_at(own_mirror),
        "UPDATE dagster.runs SET status = 'STARTED', end_time = NULL WHERE status = 'SUCCESS'"
        " RETURNING 1",
    )
    # Its process ended without a word, a while ago.
    fetch_all(
        database_at(own_mirror),
        "UPDATE run_workers SET ended_at = NULL, lost_at = now() - interval '9 s' RETURNING 1",
    )
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dagster_webserver(environment) as url:
        here = environment | {"DAGSTER_HOME": str(tmp_path), "RMS_DAGSTER_URL": url}
        done = command("doctor", "--json", environment=here)
    told = [f for f in json.loads(done.stdout)["findings"] if f["check"] == "runs"]
    assert [f["level"] for f in told] == ["problem", "problem"], done.stdout
    died, queued = told
    assert "the process died" in died["found"]
    assert f"the Dagster at {url}" in died["advice"]
    assert "queued for more than 10 minutes" in queued["found"]
    assert "The daemon, which starts queued runs, is not running" in queued["advice"]


def test_old_and_failed_syncs_and_a_mirror_not_shown_to_be_whole_are_told(
    own_mirror: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(own_mirror, sandbox)
    fetch_all(
        database_at(own_mirror),
        "UPDATE dagster.runs SET start_time = start_time - 100000,"
        " end_time = end_time - 100000 RETURNING 1",
    )
    fetch_all(
        database_at(own_mirror),
        "UPDATE proofs SET shown = false, reason = 'Not today.' RETURNING 1",
    )
    fetch_all(
        database_at(own_mirror),
        "INSERT INTO held_deletions (collection, id, because, asked_at, answered_at)"
        " SELECT 'opportunities', id, 'gone', now(), now() FROM opportunities LIMIT 31"
        " RETURNING 1",
    )
    refused = {**environment, "CURRENT_RMS_API_KEY": WRONG_KEY}
    assert command("sync", "incremental", environment=refused).returncode == 1
    found = examined(environment, healthy=False)
    assert levels(found, "problem") == {"completeness"}
    assert found["full sync"][:2] == ("warning", "The last completed 28 h ago.")
    assert found["incremental sync"][:2] == ("warning", "None has completed yet.")
    assert "incremental_sync failed at" in found["failures"][1]
    assert "answered 401" in found["failures"][1]
    assert "--confirm-deletions" in found["deletions"][2]
    assert command("sync", "incremental", environment=environment).returncode == 0
    # It ends with a proof of its own.
    found = examined(environment, healthy=True)
    assert found["incremental sync"][0] == found["completeness"][0] == "ok"
    assert "A later sync completed" in found["failures"][1]
