"""However `up` is ended, nothing that it started is left: by people without patience, too."""

import signal
import time

from rms_pipeline_tests.test_up import Up, assert_nothing_is_left_by
from rms_pipeline_tests.test_up import up as up


def terminate_impatiently(up: Up) -> None:
    for _ in range(4):
        up.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)


def test_when_it_is_told_to_end_again_and_again_nothing_is_left_running(up: Up) -> None:
    assert_nothing_is_left_by(up, terminate_impatiently)
