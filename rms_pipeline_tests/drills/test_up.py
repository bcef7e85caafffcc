"""However `up` is ended, nothing that it started is left: by people without patience, too. What
ends under it is started again."""

import os
import signal
import time
from pathlib import Path

from rms_pipeline_tests.processes import wait_until
from rms_pipeline_tests.test_up import Up, assert_nothing_is_left_by
from rms_pipeline_tests.test_up import up as up


def terminate_impatiently(up: Up) -> None:
    for _ in range(4):
        up.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)


def test_when_it_is_told_to_end_again_and_again_nothing_is_left_running(up: Up) -> None:
    assert_nothing_is_left_by(up, terminate_impatiently)


def test_when_its_database_is_killed_it_is_started_again_and_all_go_on(up: Up) -> None:
    os.kill(up.postgres, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{up.postgres}").exists())
    up.wait_until_it_prints("It runs again.")
    up.note_postgres()
    # Longer than a process takes to end that does not bear the loss of its connections.
    time.sleep(15)
    assert up.process.poll() is None
    assert_nothing_is_left_by(up, terminate_impatiently)
