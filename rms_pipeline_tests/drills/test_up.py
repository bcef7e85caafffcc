"""However `up` is ended, nothing that it started is left, the embedded PostgreSQL included: by
people without patience, too. What ends under it is started again."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.test_up import Up


@pytest.fixture
def up() -> Iterator[Up]:
    # Not below pytest's own temporary folder: the server's system user must reach it.
    folder = Path(tempfile.mkdtemp(prefix="rms-test-up-"))
    started = Up(folder)
    try:
        started.wait_until_ready()
        yield started
    finally:
        for process in started.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        started.process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def assert_nothing_is_left_by(up: Up, end: Callable[[Up], None]) -> None:
    running = " ".join(up.alive().values())
    parts = ("dagster._daemon run", "rms_pipeline.dagster_ui", "cli web", "cli sandbox")
    for part in (*parts, "postgres -D"):
        assert part in running, running
    end(up)
    # Four groups, each with twenty seconds to end by itself.
    up.process.wait(timeout=100)
    wait_until(lambda: not up.alive(), timeout=10)


def close_the_terminal(up: Up) -> None:
    os.close(up.terminal)
    up.process.send_signal(signal.SIGHUP)


def terminate_impatiently(up: Up) -> None:
    for _ in range(4):
        up.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)


def test_when_it_is_told_to_end_again_and_again_nothing_is_left_running(up: Up) -> None:
    assert_nothing_is_left_by(up, terminate_impatiently)


def test_when_its_database_is_killed_all_go_on_and_end_when_its_terminal_is_closed(up: Up) -> None:
    os.kill(up.postgres, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{up.postgres}").exists())
    up.wait_until_it_prints("It runs again.")
    up.note_postgres()
    # Longer than a process takes to end that does not bear the loss of its connections.
    time.sleep(15)
    assert up.process.poll() is None
    assert_nothing_is_left_by(up, close_the_terminal)
