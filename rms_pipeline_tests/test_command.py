"""The command as people run it: real processes, a real Dagster instance, a real sandbox."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import requests
import typer
from typer.testing import CliRunner

from rms_pipeline.cli.main import app
from rms_pipeline.mirror.database import lock_if_free
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.web.dagster_api import answers, is_up
from rms_pipeline_tests.cases import some_in_drills
from rms_pipeline_tests.conftest import database_at
from rms_pipeline_tests.forks import Child
from rms_pipeline_tests.mirror.test_merge import fetch_all
from rms_pipeline_tests.processes import (
    COMMAND,
    PROJECT,
    SECRET_KEY,
    SECRET_PASSWORD,
    SECRET_TOKEN,
    command,
    environment_for,
    free_port,
    query,
    started,
    stop_schedules,
    wait_until,
)
from rms_pipeline_tests.sandbox.holding import held
from rms_pipeline_tests.test_doctor import examined


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(300), api_key=SECRET_KEY) as server:
        yield server


@pytest.fixture
def environment(each_empty_url: str, sandbox: SandboxServer) -> dict[str, str]:
    return environment_for(each_empty_url, sandbox)


def everything_stored(environment: dict[str, str]) -> str:
    """All rows of all tables, Dagster's and ours, as text."""
    tables = query(
        environment,
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
        " WHERE schemaname IN ('dagster', 'public')",
    )
    texts: list[str] = []
    for (table,) in tables:
        texts += [str(r[0]) for r in query(environment, f"SELECT t::text FROM {table} t")]
    return "\n".join(texts)


def commands(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Where every command is in the tree, groups too."""
    yield path
    for name, found in getattr(group, "commands", {}).items():
        yield from commands(found, *path, name)


@contextlib.contextmanager
def suppress_refusal(words: str) -> Iterator[None]:
    try:
        yield
    except psycopg2.errors.InvalidParameterValue as refused:
        if words not in str(refused):
            raise


def test_every_command_shows_its_help() -> None:
    paths = list(commands(typer.main.get_command(app)))
    assert {("up",), ("sync", "initial"), ("webhooks", "register")} <= set(paths)
    for path in paths:
        shown = CliRunner().invoke(app, [*path, "--help"])
        assert shown.exit_code == 0, (path, shown.output, shown.exception)
        assert "Usage: " in shown.output


@pytest.mark.parametrize(
    "each_empty_url",
    some_in_drills(["embedded", "postgresql-15"], "embedded".__eq__),
    indirect=True,
)
def test_a_sync_in_the_foreground_answers_in_json_and_is_in_the_history(
    environment: dict[str, str],
) -> None:
    """Beside it: other applications' tables stay as they are, and no secret is kept anywhere."""
    connection = psycopg2.connect(environment["POSTGRES_URL"])
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE alembic_version (version_num text)")
        cursor.execute("INSERT INTO alembic_version VALUES ('of another application')")
        cursor.execute("CREATE TABLE opportunities (id text PRIMARY KEY, charge numeric(10,2))")
        cursor.execute("INSERT INTO opportunities VALUES ('old', 1)")
        cursor.execute("CREATE TABLE sync_metadata (id serial PRIMARY KEY, sync_type text)")
        cursor.execute("INSERT INTO sync_metadata (sync_type) VALUES ('old')")
    connection.close()

    first = command("sync", "initial", "--json", environment=environment)
    assert first.returncode == 0, first.stderr
    answer = json.loads(first.stdout)
    assert set(answer) == {
        *("success", "syncId", "runId", "syncType", "recordsSynced", "recordsFailed", "duration")
    }
    assert answer["success"] is True
    assert answer["syncType"] == "initial_sync"
    count = query(environment, "SELECT count(*) FROM opportunities")[0][0]
    assert answer["recordsSynced"] == count
    assert answer["recordsFailed"] == 0

    second = command("sync", "initial", environment=environment)
    assert second.returncode == 0, second.stderr
    assert f"({count} unchanged, 0 failed)" in second.stdout
    assert f": {count} of {count}" in second.stdout

    columns = "id, run_id, sync_type, status, records_synced, records_failed, error"
    history = query(environment, f"SELECT {columns} FROM sync_metadata ORDER BY started_at")
    ids = (answer["syncId"], answer["runId"])
    assert history[0] == (*ids, "initial_sync", "completed", count, 0, None)
    assert isinstance(answer["syncId"], int)
    assert len(history) == 2
    metadata = query(environment, "SELECT metadata FROM sync_metadata ORDER BY started_at")[1][0]
    assert isinstance(metadata, dict)
    assert metadata["unchanged"] == count
    assert (metadata["counted_by_api"], metadata["complete"]) == (count, True)
    assert {"pages", "bytes", "api_calls", "throttled_calls", "window_start"} <= metadata.keys()

    assert query(environment, "SELECT * FROM alembic_version") == [("of another application",)]
    assert query(environment, "SELECT id FROM opportunities_before_rms_pipeline") == [("old",)]
    assert query(environment, "SELECT sync_type FROM sync_metadata_before_rms_pipeline") == [
        ("old",)
    ]
    assert query(environment, "SELECT to_regclass('public.runs')") == [(None,)]
    summed = query(environment, "SELECT sum(opportunities) FROM status_counts")[0][0]
    assert summed == count

    shown = command("status", environment=environment)
    assert shown.returncode == 0
    assert "initial_sync" in shown.stdout
    assert command("migrate", environment=environment).returncode == 0
    assert len(query(environment, "SELECT 1 FROM sync_metadata")) == 2

    for page in ("README.md", "docs/how-to/analyse.md", "docs/tutorial.md"):
        blocks = re.findall(r"^```sql\n(.*?)^```", (PROJECT / page).read_text(), re.DOTALL | re.M)
        statements = [s for block in blocks for s in block.split(";")[:-1] if "SELECT" in s]
        assert statements, page
        for statement in statements:
            # Of roles for analysts, which the page makes too: this server's user grants nothing.
            if "GRANT" in statement:
                continue
            # A mirror that is some seconds old refuses what is asked about last month.
            with suppress_refusal("The history of this mirror begins on"):
                query(environment, statement)

    kept = everything_stored(environment)
    assert len(kept) > 10_000
    for secret in (SECRET_KEY, SECRET_PASSWORD):
        for text in (kept, first.stdout, first.stderr, second.stdout, second.stderr, shown.stdout):
            assert secret not in text


def test_a_refused_key_is_a_failed_sync_with_advice_and_exit_code_1(
    ready_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox, CURRENT_RMS_API_KEY="planted-wrong-key")
    done = command("sync", "initial", "--json", environment=environment)
    assert done.returncode == 1
    assert json.loads(done.stdout)["success"] is False
    assert "401" in done.stderr
    assert "CURRENT_RMS_API_KEY" in done.stderr
    status, error = query(environment, "SELECT status, error FROM sync_metadata")[0]
    assert status == "failed"
    assert "401" in str(error)
    kept = everything_stored(environment)
    assert "planted-wrong-key" not in kept + done.stderr + done.stdout


def test_half_an_account_is_a_configuration_error_with_exit_code_2(
    empty_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(empty_url, sandbox, CURRENT_RMS_API_KEY=None)
    done = command("sync", "initial", environment=environment)
    assert done.returncode == 2
    assert "CURRENT_RMS_API_KEY is missing" in done.stderr


def test_an_unknown_option_is_a_usage_error_with_exit_code_2(
    empty_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(empty_url, sandbox)
    assert command("sync", "initial", "--jsn", environment=environment).returncode == 2


def test_status_before_any_sync_says_what_to_run(empty_url: str, sandbox: SandboxServer) -> None:
    done = command("status", environment=environment_for(empty_url, sandbox))
    assert done.returncode == 1
    assert "rms-pipeline sync initial" in done.stderr


@pytest.mark.parametrize("arguments", [("status",), ("status", "--json"), ("--help",)])
def test_a_full_disk_under_what_a_command_prints_is_one_sentence(
    ready_url: str, sandbox: SandboxServer, arguments: tuple[str, ...]
) -> None:
    with (
        Path("/dev/full").open("w") as full,
        Child(
            *(COMMAND, *arguments),
            env=environment_for(ready_url, sandbox),
            stdout=full,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        _, stderr = process.communicate(60)
    assert process.returncode == 1
    assert stderr.startswith("Error: No space left on device: what this command prints.")
    assert "Free some disk space" in stderr
    assert "Traceback" not in stderr


def test_a_command_whose_standard_streams_are_closed_does_its_work() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -m rms_pipeline.cli --version <&- >&- 2>&-', sys.executable],
        check=False,
    )
    assert done.returncode == 0


def test_status_shows_totals_and_prints_every_text_as_it_is(
    ready_url: str, sandbox: SandboxServer
) -> None:
    """Brackets, names of colours and of emoji, a backslash at the end: all of it is text."""
    environment = environment_for(ready_url, sandbox)
    assert command("migrate", environment=environment).returncode == 0
    error = "[red]boom[/red] [/] :warning: [link=x]y \\"
    statuses = {"[bold]Odd[/bold]": 3, "[/]": 2, ":smile:": 1, "end \\": 1, "Open": 5}
    connection = psycopg2.connect(environment["POSTGRES_URL"])
    with connection, connection.cursor() as cursor:
        for name, count in statuses.items():
            cursor.execute(
                "INSERT INTO status_counts VALUES (%s, %s, 0, 1234.5, '2026-06-01T12:00:00Z')",
                (name, count),
            )
        cursor.execute(
            "INSERT INTO sync_runs (run_id, sync_type, status, ended_at, error)"
            " VALUES ('bad', '[b]typed :x:', 'failed', now(), %s)",
            (error,),
        )
        cursor.execute(
            "INSERT INTO proofs (collection, run, scan, as_of, content, window_start, window_end,"
            " shown, reason, closed_at) VALUES ('opportunities', 'bad', 1, now(), 1, now(), now(),"
            " false, '[why] :x:', now())"
        )
    connection.close()
    done = command("status", environment=environment)
    assert done.returncode == 0, done.stderr
    for text in (error, *statuses, "[b]typed :x:", "[why] :x:"):
        assert text in done.stdout, done.stdout
    assert "counted 2026-06-01 12:00:00 UTC" in " ".join(done.stdout.split())
    (total,) = (
        line for line in done.stdout.splitlines() if "Total" in line and "value" not in line
    )
    assert re.findall(r"[\d,.]+", total) == ["12", "6,172.50"]
    (opened,) = (line for line in done.stdout.splitlines() if "Open " in line)
    assert re.findall(r"[\d,.]+", opened) == ["5", "1,234.50"]
    told = json.loads(command("status", "--json", environment=environment).stdout)
    assert (told["total"], told["total_value"]) == (12, "6172.5")
    assert {s["status"]: s["opportunities"] for s in told["statuses"]} == statuses
    assert [(s["run_id"], s["error"]) for s in told["sync"]["history"]] == [("bad", error)]


def test_a_long_error_leaves_the_table_of_syncs_its_width(
    ready_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox) | {"COLUMNS": "80"}
    failed = command("sync", "incremental", environment=environment)
    assert failed.returncode == 1
    shown = command("status", environment=environment).stdout
    assert re.search(
        r"│ incremental_sync │ failed │ \d{4}-\d\d-\d\d \d\d:\d\d:\d\d │ +0 │ +0 │", shown
    ), shown
    assert "an incremental sync needs one" in " ".join(shown.split())


def test_a_narrow_terminal_cuts_no_figure_and_a_pipe_no_sentence(
    ready_url: str, sandbox: SandboxServer
) -> None:
    connection = psycopg2.connect(ready_url)
    with contextlib.closing(connection), connection, connection.cursor() as c:
        c.execute("INSERT INTO status_counts VALUES ('Provisional', 1234, 0, 2345678.9, now())")
    narrow = environment_for(ready_url, sandbox, COLUMNS="40")
    shown = command("status", environment=narrow).stdout
    assert max(map(len, shown.splitlines())) <= 40, shown
    assert re.search(r"1,234 +2,345,678\.90", shown), shown
    no_account = dict.fromkeys(("CURRENT_RMS_SUBDOMAIN", "CURRENT_RMS_API_KEY"))
    piped = environment_for(ready_url, sandbox, COLUMNS=None, **no_account)
    told = command("status", environment=piped).stderr
    assert "the bundled sandbox is used. Its records are invented.\n" in told


def test_an_interrupt_while_the_command_is_imported_is_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "rms_pipeline.cli", "--help"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.endswith(" rms_pipeline.errors\n"))
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert "Traceback" not in told
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("way", ["by itself", "code", "words", "error", "interrupt"])
def test_a_fork_of_the_tests_ends_as_a_process_of_its_own_would(way: str) -> None:
    words = ["rms_pipeline_tests.ways_to_end", way]
    real = subprocess.run(
        [sys.executable, "-m", *words], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    with Child(*words, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        stdout, stderr = process.communicate(60)
    assert "a thread has ended\nat exit" in stdout
    assert (process.returncode, stdout) == (real.returncode, real.stdout)
    assert stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


def test_the_version_is_told_by_a_process_that_starts_from_nothing() -> None:
    told = subprocess.run(
        [sys.executable, "-m", COMMAND, "--version"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["rms-pipeline", version("rms-pipeline")]


def test_an_error_text_with_nul_does_not_break_the_history(
    ready_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox, CURRENT_RMS_API_KEY="wrong")
    command("sync", "initial", environment=environment)
    connection = psycopg2.connect(environment["POSTGRES_URL"])
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE dagster.event_logs SET event = replace(event, 'Current RMS answered',"
            " 'Current RMS \\u0000 \\ud800 answered') WHERE dagster_event_type = 'STEP_FAILURE'"
        )
        assert cursor.rowcount > 0
    connection.close()
    error = query(environment, "SELECT error FROM sync_metadata")[0][0]
    assert "answered 401" in str(error)


def test_ctrl_c_in_mid_sync_leaves_a_failed_sync_and_whole_rows(
    ready_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox)
    with started("sync", "initial", environment=environment, stderr=subprocess.PIPE) as child:
        with held(sandbox) as waits:
            assert waits.wait(60)
            child.send_signal(signal.SIGINT)
            # Long enough that it is told before the API answers.
            time.sleep(0.3)
        _, stderr = child.communicate(timeout=60)
    assert child.returncode == 1, stderr
    assert query(environment, "SELECT status FROM sync_metadata") == [("failed",)]


def test_a_database_that_drops_the_sync_fails_it_with_a_reason(
    ready_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox)
    with started("sync", "initial", environment=environment, stderr=subprocess.PIPE) as child:
        with held(sandbox, after=1) as waits:
            assert waits.wait(60)
            query(
                environment,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'rms_pipeline'",
            )
        _, stderr = child.communicate(timeout=60)
    assert child.returncode == 1, stderr
    assert "run the sync again" in stderr
    assert query(environment, "SELECT status FROM sync_metadata") == [("failed",)]
    assert command("sync", "initial", environment=environment).returncode == 0


def test_up_makes_everything_ready_and_leaves_nothing_running(
    empty_url: str, sandbox: SandboxServer, tmp_path: Path
) -> None:
    """With --host, other machines reach the web service and never Dagster."""
    environment = environment_for(empty_url, sandbox, RMS_API_TOKEN=SECRET_TOKEN)
    port, web_port = free_port(), free_port()
    log = tmp_path / "up.log"
    ports = ["--dagster-port", str(port), "--port", str(web_port)]
    with (
        log.open("wb") as out,
        started(
            *("up", "--host", "0.0.0.0", *ports),
            environment=environment,
            stdout=out,
            stderr=out,
            warm=True,
        ) as up,
    ):
        dagster_url = f"http://127.0.0.1:{port}"
        wait_until(
            lambda: stop_schedules(dagster_url, SECRET_TOKEN) or up.poll() is not None, timeout=180
        )
        wait_until(lambda: "Ready" in log.read_text() or up.poll() is not None, timeout=180)
        text = log.read_text()
        assert "Ready" in text, text
        count = query(environment, "SELECT count(*) FROM opportunities")[0][0]
        assert f"{count} opportunities" in text
        assert SECRET_PASSWORD not in text
        assert SECRET_TOKEN not in text
        assert f"http://127.0.0.1:{web_port}/, the API token is in RMS_API_TOKEN" in text
        assert "without TLS" in text
        assert requests.get(f"http://127.0.0.1:{port}/server_info", timeout=30).ok
        assert requests.get(f"http://127.0.0.2:{web_port}/healthz", timeout=30).ok
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.2:{port}/server_info", timeout=30)
        synced = requests.post(
            f"http://127.0.0.1:{web_port}/api/sync/incremental",
            headers={"Authorization": f"Bearer {SECRET_TOKEN}"},
            timeout=60,
        )
        assert (synced.status_code, synced.json()["success"]) == (200, True)
        taken = command("up", "--dagster-port", str(port), environment=environment)
        assert taken.returncode == 1
        assert "--dagster-port" in taken.stderr
        status = command("status", environment=environment)
        assert SECRET_TOKEN not in status.stdout + status.stderr
        wait_until(lambda: examined(environment, healthy=True)["daemon"][0] == "ok", timeout=60)
        up.send_signal(signal.SIGTERM)
        assert up.wait(timeout=90) == 0
        assert not is_up(dagster_url)
        left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        wait_until(lambda: query(environment, left) == [(1,)], timeout=60)
    fetch_all(
        database_at(empty_url),
        "UPDATE dagster.daemon_heartbeats SET timestamp = timestamp - interval '5 min', body ="
        " regexp_replace(body, '\"timestamp\": [0-9.]+', '\"timestamp\": 1.0') RETURNING 1",
    )
    assert "sent its last heartbeat" in examined(environment, healthy=True)["daemon"][1]


def test_a_second_up_on_one_database_is_refused_and_starts_nothing(
    ready_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox, RMS_API_TOKEN=SECRET_TOKEN)
    web_port = str(free_port())
    ports = ["--dagster-port", str(free_port()), "--port", web_port]
    # As a living one has it.
    with lock_if_free(database_at(ready_url), "up") as free:
        assert free
        second = command("up", *ports, environment=environment)
    assert second.returncode == 1
    assert "Another `rms-pipeline up` uses this database" in " ".join(second.stderr.split())
    assert "Starting" not in second.stdout
    assert not answers(f"http://127.0.0.1:{web_port}/healthz")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_link_that_lets_a_browser_in_is_printed_on_a_terminal_only(
    ready_url: str, sandbox: SandboxServer, terminal: bool
) -> None:
    environment = environment_for(
        ready_url, sandbox, RMS_API_TOKEN=SECRET_TOKEN, FORCE_COLOR="1", TERM="xterm"
    )
    port = free_port()
    reader, writer = pty.openpty() if terminal else os.pipe()
    try:
        with started(
            *("web", "--port", str(port)),
            environment=environment,
            stdout=writer,
            stderr=subprocess.DEVNULL,
        ):
            os.close(writer)
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/healthz"))
            printed = os.read(reader, 10_000).decode()
    finally:
        os.close(reader)
    link = f"http://127.0.0.1:{port}/?token={SECRET_TOKEN}"
    assert (link in printed) == terminal
    assert (SECRET_TOKEN in printed) == terminal
    assert ("RMS_API_TOKEN" in printed) != terminal


def test_a_sync_tells_of_each_collection_and_a_refresh_of_what_nobody_has_that_it_did_nothing(
    ready_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox, RMS_COLLECTIONS="members")
    done = command("sync", "initial", "--confirm-deletions", "--fresh", environment=environment)
    assert done.returncode == 0, done.stderr
    assert "opportunities and members" in done.stdout
    assert "Of these members: " in done.stdout
    assert done.stdout.count("complete as of") == 2
    done = command("refresh", "99999999", environment=environment)
    assert (done.returncode, "Nothing was refreshed" in done.stdout) == (0, True), done.stderr


def test_mirroring_further_back_says_what_it_costs_and_then_does_it(
    ready_url: str, sandbox: SandboxServer
) -> None:
    environment = environment_for(ready_url, sandbox)
    old = "2020-05-01T10:00:00.000Z"
    id_ = sandbox.store.create({"subject": "Of old", "starts_at": old, "ends_at": old})
    asked = command(
        "sync", "further-back", "2020-01-01", "--cost", "--json", environment=environment
    )
    told = json.loads(asked.stdout)
    assert told["exact"]
    assert told["more"] == told["records"] > 100
    stored = "SELECT days_back FROM mirrored_windows"
    assert query(environment, stored) == []
    done = command("sync", "further-back", "2020-01-01", environment=environment)
    assert done.returncode == 0, done.stderr
    assert f"{told['calls']:,} calls" in " ".join(done.stderr.split())
    assert query(environment, stored) == [(told["days_back"],)]
    assert query(environment, f"SELECT name FROM opportunities WHERE id = {id_}") == [("Of old",)]
    for wrong in (["soon"], [], ["2020-01-01", "--as-set"], ["2999-01-01"]):
        refused = command("sync", "further-back", *wrong, environment=environment)
        assert refused.returncode == 2, wrong
    assert command("sync", "further-back", "--as-set", environment=environment).returncode == 0
    assert query(environment, stored) == [(None,)]
