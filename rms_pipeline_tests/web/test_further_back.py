"""Mirroring further back: what it costs, who is refused, and what full syncs then read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import requests

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.mirrored_windows import Reach, ask_for_days_back, read_reach
from rms_pipeline.mirror.run_workers import announced
from rms_pipeline.sandbox import SandboxServer, Store
from rms_pipeline.web import dagster_api
from rms_pipeline.web.launching import DagsterUnavailable
from rms_pipeline_tests.conftest import dagsters_tables
from rms_pipeline_tests.core import full_sync
from rms_pipeline_tests.rows import insert_sync, query
from rms_pipeline_tests.web.conftest import BEARER, Web, clients_of, serving
from rms_pipeline_tests.web.page import get, visit

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


def year_ago() -> date:
    return (NOW - 400 * DAY).date()


@pytest.fixture(scope="module")
def old_store() -> Store:
    store = Store()
    for days in (5, 50, 200, 350, 390, 500, 900):
        when = (NOW - days * DAY).isoformat()
        store.create({"subject": f"{days} days ago", "starts_at": when, "ends_at": when})
    store.create({"subject": "No date", "starts_at": None, "ends_at": None})
    return store


@pytest.fixture(scope="module")
def asked(migrated: Database, old_store: Store) -> Iterator[tuple[Web, Callable[[], Any]]]:
    """The pages over a mirror of 30 days back, with a way to ask its account."""
    with dagsters_tables(migrated), SandboxServer(old_store) as sandbox:
        client = clients_of(sandbox, migrated)
        with serving(migrated, sandbox, client=client) as web:
            yield web, client


@pytest.fixture
def mirrored(asked: tuple[Web, Callable[[], Any]], emptied: Database) -> tuple[Web, Any]:
    web, client = asked
    query(emptied, "DELETE FROM mirrored_windows RETURNING collection")
    with client() as reading:
        full_sync(emptied, reading, Window.around(NOW, days_back=30, days_ahead=365))
    return web, client


def reach(database: Database) -> Reach:
    with database.session() as connection:
        return read_reach(connection, OPPORTUNITIES)


def press(web: Web, since: object, path: str = "/further-back") -> requests.Response:
    return requests.post(
        f"{web.url}{path}",
        data={"since": str(since)},
        headers={**BEARER, "Accept": "text/html"},
        timeout=30,
        allow_redirects=False,
    )


def test_the_page_says_what_it_costs_before_anything_is_done(mirrored: tuple[Web, Any]) -> None:
    web, client = mirrored
    told = get(web, f"/further-back.json?since={year_ago()}").json()
    # 5, 50, 200, 350 and 390 days ago, and the one without a date.
    assert (told["cost"]["records"], told["cost"]["mirrored"]) == (6, 2)
    assert told["cost"]["more"] == 4
    assert told["cost"]["exact"]
    assert told["cost"]["calls_spent"] == 1
    assert told["days_asked"] == 401
    page = visit(web, f"/further-back?since={year_ago()}")
    assert "about 9" in page.text
    assert "Mirror back to" in page.text
    assert reach(web.database).days_back is None
    # The full sync costs what was said, but for a few calls of lists without dates.
    window = Window.around(NOW, days_back=401, days_ahead=365)
    with client() as reading:
        before = reading.counts.calls
        full_sync(web.database, reading, window)
        assert abs(reading.counts.calls - before - told["cost"]["calls"]) <= 4
    assert query(web.database, "SELECT count(*) FROM opportunities") == [(6,)]


def test_what_was_counted_a_moment_ago_costs_no_call(mirrored: tuple[Web, Any]) -> None:
    web, _ = mirrored
    address = f"/further-back.json?since={year_ago() - DAY}"
    first, second = (get(web, address).json()["cost"]["counted_at"] for _ in range(2))
    assert first == second


def test_a_launch_that_fails_changes_nothing_and_says_so(mirrored: tuple[Web, Any]) -> None:
    web, _ = mirrored
    with web.database.session() as connection:
        ask_for_days_back(connection, OPPORTUNITIES, 100, "command")
    answer = press(web, year_ago())
    assert answer.status_code == 503
    assert "has not been changed" in answer.text
    now = reach(web.database)
    assert (now.days_back, now.asked_by) == (100, "command")


@pytest.mark.parametrize("kind", ["initial_sync", "reconciliation"])
def test_while_a_full_sync_runs_it_is_refused_in_words_and_nothing_changes(
    mirrored: tuple[Web, Any], kind: str
) -> None:
    web, _ = mirrored
    insert_sync(web.database, "running", kind, "running", ago=5)
    with announced(web.database, "running"):
        answer = press(web, year_ago())
    assert answer.status_code == 409
    assert f"({kind})" in answer.text
    assert "has not been changed" in answer.text
    assert reach(web.database).days_back is None


def test_of_two_who_press_one_is_refused(
    mirrored: tuple[Web, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    web, _ = mirrored
    monkeypatch.setattr(dagster_api, "unfinished_runs", lambda *_, **__: [])
    monkeypatch.setattr(dagster_api, "launch", lambda *_, **__: "the first")
    assert press(web, year_ago()).status_code == 303
    assert reach(web.database).days_back == 401

    def refuse(*_: object, **__: object) -> str:
        raise DagsterUnavailable("Dagster does not answer.")

    monkeypatch.setattr(dagster_api, "launch", refuse)
    assert press(web, year_ago() - 100 * DAY).status_code in (409, 503)
    assert reach(web.database).days_back == 401


@pytest.mark.parametrize(
    "since", ["", "yesterday", "2025-13-01", "9999-01-01", "0001-01-01", str(NOW.date()), "\x00"]
)
def test_a_day_that_is_none_is_refused(mirrored: tuple[Web, Any], since: str) -> None:
    web, _ = mirrored
    assert press(web, since).status_code == 422
    assert reach(web.database).days_back is None


def test_a_day_within_the_setting_is_refused(mirrored: tuple[Web, Any]) -> None:
    web, _ = mirrored
    answer = press(web, (NOW - 10 * DAY).date())
    assert answer.status_code == 422
    assert "RMS_SYNC_DAYS_BACK" in answer.text


@pytest.mark.parametrize("path", ["/further-back", "/further-back/as-set"])
def test_without_the_token_or_from_another_page_nothing_happens(
    mirrored: tuple[Web, Any], path: str
) -> None:
    web, _ = mirrored
    where, form = f"{web.url}{path}", {"since": str(year_ago())}
    assert requests.post(where, data=form, timeout=30).status_code == 401
    foreign = {**BEARER, "Origin": "https://elsewhere.example"}
    assert requests.post(where, data=form, headers=foreign, timeout=30).status_code == 403
    assert reach(web.database).days_back is None


def test_an_account_that_refuses_the_key_is_told_in_words(mirrored: tuple[Web, Any]) -> None:
    web, client = mirrored

    @contextmanager
    def refused() -> Iterator[CurrentRmsClient]:
        with client() as made:
            made._session.headers["X-AUTH-TOKEN"] = "revoked"
            yield made

    with serving(web.database, web.sandbox, client=refused) as other:
        page = visit(other, f"/further-back?since={year_ago()}")
        assert get(other, f"/further-back.json?since={year_ago()}").status_code == 503
    assert "Current RMS could not be asked" in page.text
    assert "CURRENT_RMS_API_KEY" in page.text
    assert not page.all("input", type="hidden", name="since")


def test_going_back_to_the_setting_keeps_the_rows(mirrored: tuple[Web, Any]) -> None:
    web, client = mirrored
    with web.database.session() as connection:
        ask_for_days_back(connection, OPPORTUNITIES, 400, "page")
    with client() as reading:
        full_sync(web.database, reading, Window.around(NOW, days_back=400, days_ahead=365))
    covered = reach(web.database).reaches_back_to
    assert covered is not None
    assert covered < NOW - 399 * DAY
    assert press(web, "", "/further-back/as-set").status_code == 303
    with client() as reading:
        done = full_sync(web.database, reading, Window.around(NOW, days_back=30, days_ahead=365))
    assert done.settled.certificate.shown
    assert done.settled.deleted == 0
    assert query(web.database, "SELECT count(*) FROM opportunities") == [(6,)]
    # What was covered stays covered: rows stay, and changes of them are fetched.
    assert reach(web.database) == Reach(None, reach(web.database).asked_at, "page", covered)
    assert "Go back to the setting" not in visit(web, "/further-back").text


def test_a_launch_that_a_full_disk_refuses_says_so_at_once_and_without_statements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = (
        "sqlalchemy.exc.OperationalError: (psycopg2.errors.DiskFull) could not extend file: No "
        "space left on device\n[SQL: INSERT INTO event_logs (run_id, event) VALUES (%(run_id)s)]"
    )
    there = dagster_api.CodeLocation(True, "", {"r": ["incremental_sync"]}, frozenset())
    monkeypatch.setattr(dagster_api, "code_locations", lambda *_: {"ours": there})
    answer = {"launchRun": {"__typename": "PythonError", "message": refused}}
    monkeypatch.setattr(dagster_api, "_ask", lambda *_: answer)
    with pytest.raises(DagsterUnavailable, match="disk of its database is full") as caught:
        dagster_api.launch("http://dagster", "incremental_sync", location="ours")
    assert "SQL" not in str(caught.value)
    answer["launchRun"]["message"] = refused.replace("DiskFull", "OutOfMemory")
    with pytest.raises(DagsterUnavailable, match=r"would not launch .*OutOfMemory") as caught:
        dagster_api.launch("http://dagster", "incremental_sync", location="ours", patience=0)
    assert "event_logs" not in str(caught.value)
