"""Counts the statuses again after the fast lane has refreshed rows.

Counting reads every row. So it never takes more than a small share of the time, however many
webhooks arrive and however large the mirror is.
"""

import logging
import threading
import time

from rms_pipeline.errors import in_one_line
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.summary import refresh_status_counts
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.web.background import Background

logger = logging.getLogger(__name__)

_GATHER = 0.5
_SHARE = 10


class Recounter(Background):
    """Call it with what was done. It counts again about half a second later."""

    def __init__(self, database: Database, time_zone: str) -> None:
        super().__init__("recounting")
        self._database, self._time_zone = database, time_zone
        self._wanted = threading.Event()

    def __call__(self, done: WorkedOff) -> None:
        if done.records:
            self._wanted.set()

    def _wake(self) -> None:
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if self._stopped.wait(_GATHER):
                return
            self._wanted.clear()
            began = time.monotonic()
            try:
                refresh_status_counts(self._database, self._time_zone, only_if_changed=True)
            except Exception as error:
                logger.warning("The statuses could not be counted again: %s", in_one_line(error))
                self._wanted.set()
            self._stopped.wait(_SHARE * (time.monotonic() - began))
