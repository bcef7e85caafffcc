"""/api/sync: real runs of a real Dagster, started and waited for over HTTP."""

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import requests

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.sync_runs import note_launch
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.web.dagster_api import launch
from rms_pipeline_tests.conftest import database_at, with_all_tables
from rms_pipeline_tests.copies import copy_of
from rms_pipeline_tests.processes import (
    SECRET_KEY,
    Dagster,
    command,
    dagster_webserver,
    environment_for,
    stop_sensors,
    wait_until,
)
from rms_pipeline_tests.sandbox.holding import held
from rms_pipeline_tests.web.conftest import BEARER, Web, delivery, serving


def post(web: Web, kind: str, **params: Any) -> requests.Response:
    where = f"{web.url}/api/sync/{kind}"
    return requests.post(where, params=params, headers=BEARER, timeout=120)


def status(web: Web, **params: Any) -> requests.Response:
    where = f"{web.url}/api/sync/status"
    return requests.get(where, params=params, headers=BEARER, timeout=30)


@pytest.mark.usefixtures("history")
def test_before_any_sync_the_status_is_empty_and_an_incremental_one_is_refused(
    serve: Callable[..., Web],
) -> None:
    web = serve(fast_lane=False)
    web.post(delivery(1, 5))
    answer = status(web)
    assert answer.status_code == 200
    told = answer.json()
    assert 0 <= told["queue"].pop("oldestWaitingSeconds") < 30
    assert told == {
        "success": True,
        "lastSync": None,
        "history": [],
        "progress": None,
        "queue": {"waiting": 1, "deadLetters": 0},
        "certificate": None,
    }
    refused = post(web, "incremental")
    assert refused.status_code == 409
    assert set(refused.json()) == {"success", "error"}
    assert "POST /api/sync/initial" in refused.json()["error"]


@pytest.mark.parametrize(
    "hostile",
    [{"wait": "perhaps"}, {"timeout": "0"}, {"timeout": "-1"}, {"timeout": "3601"},
     {"timeout": "9" * 400}, {"timeout": "1.5"}, {"timeout": "1;DROP TABLE walks"},
     {"timeout": "\x00"}, {"timeout": ""}],
)  # fmt: skip
def test_what_is_no_parameter_is_refused_by_name_and_starts_nothing(
    standing: Web, hostile: dict[str, str]
) -> None:
    answer = post(standing, "initial", **hostile)
    assert answer.status_code == 422
    assert next(iter(hostile)) in answer.json()["error"]
    for limit in ("0", "101", "x", "1e9"):
        assert status(standing, limit=limit).status_code == 422


@pytest.mark.usefixtures("history")
def test_without_dagster_it_says_what_to_start(serve: Callable[..., Web]) -> None:
    web = serve(fast_lane=False)
    answer = post(web, "initial")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert "rms-pipeline up" in answer.json()["error"]
    assert "RMS_DAGSTER_URL" in answer.json()["error"]


@pytest.mark.usefixtures("history")
def test_something_else_in_dagsters_place_is_called_that(serve: Callable[..., Web]) -> None:
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(SandboxServer(Store(1)))
        web = serve(fast_lane=False, dagster_url=other.url)
        answer = post(web, "initial")
    assert answer.status_code == 503
    assert "Dagster" in answer.json()["error"]
    assert "Traceback" not in answer.text


@pytest.mark.usefixtures("history")
def test_a_dagster_that_keeps_silent_holds_up_no_webhook(serve: Callable[..., Web]) -> None:
    silent = socket.create_server(("127.0.0.1", 0), backlog=128)
    web = serve(fast_lane=False, dagster_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
    with ThreadPoolExecutor(60) as pool:
        posts = [pool.submit(post, web, "initial") for _ in range(60)]
        first, _ = silent.accept()
        began = time.monotonic()
        for action in range(20):
            assert web.post(delivery(action, 1)).status_code == 200
        # Behind those who wait for Dagster it would be its patience of thirty seconds.
        assert time.monotonic() - began < 25
        assert not any(p.done() for p in posts)
        silent.close()
        first.close()
        assert {p.result().status_code for p in posts} == {503}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Store(150), api_key=SECRET_KEY) as server:
        yield server


@pytest.fixture(scope="module")
def synced(
    embedded_url: str, sandbox: SandboxServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, str]]:
    """A database that has had a full sync, with a Dagster over it, and that Dagster's address."""
    with copy_of(embedded_url, with_all_tables(embedded_url)) as url:
        environment = environment_for(url, sandbox)
        assert command("sync", "initial", environment=environment).returncode == 0
        log = tmp_path_factory.mktemp("dagster") / "dagster.log"
        dagster = Dagster(environment, log, warm=True)
        try:
            dagster.wait_until_quiet()
            wait_until(lambda: stop_sensors(dagster.url))
            yield database_at(url), dagster.url
        finally:
            sandbox.latency = 0.0
            dagster.end(signal.SIGTERM)


@pytest.fixture
def web(synced: tuple[Database, str], sandbox: SandboxServer) -> Iterator[Web]:
    with serving(synced[0], sandbox, dagster_url=synced[1]) as served:
        yield served
    sandbox.latency = 0.0
    sandbox.api_key = SECRET_KEY
    running = "SELECT 1 FROM sync_metadata WHERE status = 'running'"
    # Dagster's own word comes a moment later, and `has_begun` goes by it.
    begun = "SELECT 1 FROM dagster.runs WHERE status IN ('QUEUED', 'STARTING', 'STARTED')"
    wait_until(lambda: served.query(running) == served.query(begun) == [])


def has_begun(web: Web) -> bool:
    return bool(web.query("SELECT 1 FROM dagster.runs WHERE status = 'STARTED'"))


def test_a_sync_is_run_waited_for_and_told_in_the_documented_words(web: Web) -> None:
    answer = post(web, "initial")
    assert answer.status_code == 200, answer.text
    said = answer.json()
    rows = web.query("SELECT count(*) FROM opportunities")[0][0]
    assert said.pop("duration") > 0
    id_ = said.pop("syncId")
    run = said.pop("runId")
    assert said == {
        "success": True,
        "syncType": "initial_sync",
        "recordsSynced": rows,
        "recordsFailed": 0,
    }
    assert rows > 0
    assert post(web, "incremental").json()["syncType"] == "incremental_sync"

    told = status(web).json()
    assert [s["sync_type"] for s in told["history"]][:2] == ["incremental_sync", "initial_sync"]
    assert told["lastSync"] == told["history"][0]
    found = told["history"][1]
    columns = "id, run_id, sync_type, status, records_synced, records_failed, error, metadata"
    row = web.query(f"SELECT {columns} FROM sync_metadata WHERE id = {id_}")[0]
    assert row[:2] == (id_, run)
    assert web.query(f"SELECT count(*) FROM dagster.runs WHERE run_id = '{run}'") == [(1,)]
    assert tuple(found[c] for c in columns.split(", ")) == row
    assert datetime.fromisoformat(found["started_at"]).tzinfo is not None
    assert found["completed_at"] > found["started_at"]
    assert told["certificate"]["sentence"].startswith("complete as of")
    assert len(status(web, limit=1).json()["history"]) == 1


def test_two_posts_at_the_same_moment_launch_one_run(web: Web, sandbox: SandboxServer) -> None:
    before = web.query("SELECT count(*) FROM dagster.runs")[0][0]
    with ThreadPoolExecutor(6) as pool:
        with held(sandbox):
            posts = [pool.submit(post, web, "initial") for _ in range(6)]
            wait_until(lambda: sum(p.done() for p in posts) == 5)
        answers = [p.result() for p in posts]
    assert sorted(a.status_code for a in answers) == [200] + 5 * [409], [a.text for a in answers]
    assert web.query("SELECT count(*) FROM dagster.runs")[0][0] == before + 1
    done = next(a.json() for a in answers if a.status_code == 200)
    for refused in (a.json() for a in answers if a.status_code == 409):
        assert refused["success"] is False
        assert refused["running"]["id"] == done["syncId"]
        assert refused["running"]["status"] == "running"
        assert refused["running"]["run_id"] == done["runId"]
        assert f"sync {done['syncId']}, run {done['runId']}" in refused["error"]


def test_without_waiting_it_answers_202_and_shows_the_progress(
    web: Web, sandbox: SandboxServer
) -> None:
    sandbox.latency = 3.0
    answer = post(web, "initial", wait="false")
    assert answer.status_code == 202
    id_ = answer.json()["syncId"]
    assert answer.json() == {
        "success": True,
        "syncId": id_,
        "runId": answer.json()["runId"],
        "syncType": "initial_sync",
        "status": "running",
    }
    told = status(web).json()
    assert (told["lastSync"]["id"], told["lastSync"]["status"]) == (id_, "running")
    # The other kind is free to run meanwhile.
    assert post(web, "incremental", wait="false").status_code == 202
    shown = wait_until(lambda: status(web).json()["progress"])
    assert shown["stage"] in ("fetching", "storing")


def test_a_reconciliation_under_way_is_a_full_sync(
    web: Web, synced: tuple[Database, str], sandbox: SandboxServer
) -> None:
    sandbox.latency = 1.0
    run = launch(synced[1], "reconciliation")
    refused = post(web, "initial")
    assert refused.status_code == 409
    assert refused.json()["running"]["run_id"] == run
    assert refused.json()["running"]["sync_type"] == "reconciliation"


def test_a_sync_that_somebody_deleted_in_the_queue_keeps_no_other_from_starting(
    web: Web, synced: tuple[Database, str]
) -> None:
    with synced[0].session() as connection:
        note_launch(connection, "deleted", "initial_sync")
    # Until later it may be a sync of the command, which this Dagster does not know.
    refused = post(web, "initial").json()["error"]
    assert "run deleted. It waits in Dagster's queue" in refused
    web.query("UPDATE sync_runs SET launched_at = launched_at - interval '11 s'"
              " WHERE run_id = 'deleted' RETURNING 1")  # fmt: skip
    answer = post(web, "initial", wait="false")
    assert answer.status_code == 202, answer.text


def test_waiting_too_long_is_told_with_the_id_and_the_sync_goes_on(
    web: Web, sandbox: SandboxServer
) -> None:
    sandbox.latency = 1.5
    answer = post(web, "initial", timeout=1)
    assert answer.status_code == 504
    said = answer.json()
    assert (said["success"], said["status"]) == (False, "running")
    assert "1 second" in said["error"]
    sandbox.latency = 0.0
    ended = f"SELECT status FROM sync_metadata WHERE id = {said['syncId']}"
    wait_until(lambda: web.query(ended) == [("completed",)])


def test_a_failed_sync_is_500_with_the_reason_a_person_can_act_on(
    web: Web, sandbox: SandboxServer
) -> None:
    sandbox.api_key = "another"
    answer = post(web, "initial")
    assert answer.status_code == 500
    said = answer.json()
    assert said["success"] is False
    assert (said["recordsSynced"], said["recordsFailed"]) == (0, 0)
    assert "401" in said["error"]
    assert "CURRENT_RMS_API_KEY" in said["error"]
    row = web.query(f"SELECT error FROM sync_metadata WHERE id = {said['syncId']}")
    assert row == [(said["error"],)]
    assert SECRET_KEY not in answer.text


def test_a_client_that_hangs_up_is_waited_for_no_longer(web: Web, sandbox: SandboxServer) -> None:
    with held(sandbox):
        client = HTTPConnection(web.url.removeprefix("http://"))
        client.request("POST", "/api/sync/initial", headers=BEARER)
        wait_until(lambda: has_begun(web))
        wait_until(lambda: web.server.server_state.tasks)
        client.close()
        wait_until(lambda: not web.server.server_state.tasks, timeout=30)
        assert has_begun(web)


def test_a_service_that_stops_tells_who_waits_at_once(web: Web, sandbox: SandboxServer) -> None:
    with ThreadPoolExecutor(1) as pool, held(sandbox):
        waiting: Future[requests.Response] = pool.submit(post, web, "initial")
        wait_until(lambda: has_begun(web))
        web.server.should_exit = True
        answer = waiting.result(timeout=30)
    assert answer.status_code == 503
    assert answer.json()["status"] == "running"
    assert "goes on" in answer.json()["error"]


def test_code_that_cannot_be_loaded_is_told_as_that(
    serve: Callable[..., Web], database: Database, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text(
        "load_from:\n"
        "  - python_module: {module_name: no_such_module, location_name: rms_pipeline}\n"
    )
    with SandboxServer(Store(1), api_key=SECRET_KEY) as sandbox:
        environment = environment_for(database.url.get_secret_value(), sandbox)
        with dagster_webserver(environment, workspace=workspace) as url:
            answer = post(serve(fast_lane=False, dagster_url=url), "initial")
    assert answer.status_code == 503
    assert "No module named 'no_such_module'" in answer.json()["error"]
    assert "reload it under Deployment" in answer.json()["error"]
