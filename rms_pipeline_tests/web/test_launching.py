"""What became of a launched run that never wrote a row of its own."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import pytest
from fastapi import Request

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.sync_runs import NEVER_BEGAN, TERMINATED, begin_run, end_run, note_launch
from rms_pipeline.web import sync_api
from rms_pipeline.web.launching import Launched, Launcher, LaunchWatch
from rms_pipeline_tests.rows import query

NEVER, RUNNING = ("failed", NEVER_BEGAN), ("running", None)
CANCELED = ("failed", TERMINATED)


class SaysOf(BaseHTTPRequestHandler):
    """What Dagster's GraphQL answers about the one run."""

    answer: ClassVar[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = f'{{"data": {{"runOrError": {self.answer}}}}}'.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


@contextmanager
def launcher_of(database: Database, answer: str) -> Iterator[Launcher]:
    handler = type("Says", (SaysOf,), {"answer": answer})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as dagster:
        Thread(target=dagster.serve_forever, args=(0.01,), daemon=True).start()
        yield Launcher(database, f"http://127.0.0.1:{dagster.server_address[1]}")
        dagster.shutdown()


def told(database: Database, answer: str) -> tuple[str, str | None]:
    """The status and the error of the sync `run` after Dagster was asked about it."""
    with launcher_of(database, answer) as launcher:
        launcher.end_if_it_never_began("run")
    ((status, error),) = query(database, "SELECT status, error FROM sync_metadata")
    return status, error


def run_is(status: str) -> str:
    return f'{{"__typename": "Run", "status": "{status}"}}'


@pytest.mark.parametrize(
    ("answer", "becomes"),
    [
        (run_is("FAILURE"), NEVER),
        (run_is("CANCELED"), CANCELED),
        # It is ending: its launcher may yet fail to end it.
        (run_is("CANCELING"), RUNNING),
        ('{"__typename": "RunNotFoundError"}', NEVER),
        (run_is("QUEUED"), RUNNING),
        (run_is("STARTING"), RUNNING),
        ('{"__typename": "PythonError", "message": "Its database is away."}', RUNNING),
    ],
)
def test_a_run_that_ended_in_dagster_before_its_first_step_is_no_longer_waited_for(
    emptied: Database, answer: str, becomes: tuple[str, str | None]
) -> None:
    with emptied.session() as connection:
        note_launch(connection, "run", "initial_sync")
    assert told(emptied, answer) == becomes


def test_a_run_that_has_begun_tells_itself_how_it_ended(emptied: Database) -> None:
    with emptied.session() as connection:
        begin_run(connection, "run", "initial_sync")
        end_run(connection, "run", is_over=True)
    assert told(emptied, run_is("FAILURE")) == ("completed", None)


class Waits(Request):
    """A client that does not hang up."""

    def __init__(self) -> None:
        super().__init__({"type": "http"})

    async def is_disconnected(self) -> bool:
        return False


def test_who_waits_for_such_a_run_hears_of_it_long_before_the_time_is_over(
    emptied: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_api, "_ASKS_DAGSTER_SECONDS", 0.0)
    with emptied.session() as connection:
        launched = Launched(note_launch(connection, "run", "initial_sync"), "run")
    with launcher_of(emptied, run_is("FAILURE")) as launcher:
        sync = asyncio.run(
            sync_api._wait_for(emptied, Waits(), launcher, launched, 60, lambda: False)
        )
    assert (sync.status, sync.error) == NEVER


@pytest.mark.parametrize(
    ("seconds_ago", "answer", "becomes"),
    [
        (20, run_is("FAILURE"), NEVER),
        (20, run_is("CANCELED"), CANCELED),
        (20, run_is("QUEUED"), RUNNING),
        (20, '{"__typename": "RunNotFoundError"}', NEVER),
        # A sync of the command line, of which this Dagster knows nothing.
        (0, '{"__typename": "RunNotFoundError"}', RUNNING),
    ],
)
def test_a_launched_run_that_never_began_is_ended_although_nobody_waits_for_it(
    emptied: Database, seconds_ago: int, answer: str, becomes: tuple[str, str | None]
) -> None:
    with emptied.session() as connection:
        note_launch(connection, "run", "initial_sync")
    query(emptied, "UPDATE sync_runs SET launched_at = now() - %s * interval '1 s' RETURNING 1",
          seconds_ago)  # fmt: skip
    with launcher_of(emptied, answer) as launcher:
        LaunchWatch(emptied, launcher).look()
    assert query(emptied, "SELECT status, error FROM sync_metadata") == [becomes]
