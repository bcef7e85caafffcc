"""Telling Dagster what the fast lane did, so that lineage and freshness show it.

Gathered for some seconds: an event of Dagster's for every webhook would drown the others.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rms_pipeline.mirror.database import Database
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.web.fast_lane import RUN

if TYPE_CHECKING:
    import pandas as pd
    from dagster import DagsterInstance

logger = logging.getLogger(__name__)

_SECONDS = 10.0


class Reporter:
    """Call it with what was done; it recounts `status_counts`, reports both assets, and evaluates
    their checks.

    Dagster is imported, and its instance asked for, when there is something to report: the pages
    must not wait for that.
    """

    def __init__(
        self, database: Database, instance: "Callable[[], DagsterInstance]", time_zone: str
    ) -> None:
        self._database, self._instance = database, instance
        self._time_zone = time_zone
        self._lock = threading.Lock()
        self._done = WorkedOff()
        self._counted: pd.DataFrame | None = None
        self._since = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporting", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Reports what is left, and ends."""
        self._stopped.set()
        self._thread.join(timeout=30)

    def __call__(self, done: WorkedOff) -> None:
        with self._lock:
            self._done += done

    def _run(self) -> None:
        while True:
            ended = self._stopped.wait(_SECONDS)
            with self._lock:
                done, self._done = self._done, WorkedOff()
            if done.opportunities:
                try:
                    self._report(done)
                except Exception:
                    logger.exception(
                        "%d refreshes could not be reported to Dagster", done.opportunities
                    )
            if ended:
                return

    def _report(self, done: WorkedOff) -> None:
        from dagster import AssetMaterialization

        from rms_pipeline.defs.asset_checks import report_checks
        from rms_pipeline.defs.metadata import refresh_metadata, status_metadata
        from rms_pipeline.mirror.summary import count_rows, refresh_status_counts

        instance = self._instance()
        frame = refresh_status_counts(self._database, self._time_zone)
        with self._database.session() as connection:
            rows = count_rows(connection)
        instance.report_runless_asset_event(
            AssetMaterialization(
                "opportunities",
                description="Refreshed by webhooks, as they came.",
                metadata=refresh_metadata(done, rows),
            )
        )
        if self._counted is None or not frame.equals(self._counted):
            instance.report_runless_asset_event(
                AssetMaterialization(
                    "status_counts",
                    description="Recounted after webhooks.",
                    metadata=status_metadata(frame),
                )
            )
            self._counted = frame
        report_checks(instance, self._database, RUN, seconds=time.monotonic() - self._since)
        self._since = time.monotonic()
