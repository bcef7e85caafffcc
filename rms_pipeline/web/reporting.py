"""Telling Dagster what the fast lane did, so that lineage and freshness show it.

Gathered for some seconds: an event of Dagster's for every webhook would drown the others.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rms_pipeline.collections.base import Collection
from rms_pipeline.mirror.database import Database
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.web.fast_lane import RUN

if TYPE_CHECKING:
    import pandas as pd
    from dagster import DagsterInstance

logger = logging.getLogger(__name__)

_SECONDS = 10.0


class Reporter:
    """Call it with what was done; it recounts `status_counts`, reports what was refreshed, and
    evaluates the checks.

    Dagster is imported, and its instance asked for, when there is something to report: the pages
    must not wait for that.
    """

    def __init__(
        self, database: Database, instance: "Callable[[], DagsterInstance]", time_zone: str
    ) -> None:
        self._database, self._instance = database, instance
        self._time_zone = time_zone
        self._lock = threading.Lock()
        self._done: dict[Collection, WorkedOff] = {}
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

    def __call__(self, collection: Collection, done: WorkedOff) -> None:
        with self._lock:
            self._done.setdefault(collection, WorkedOff())
            self._done[collection] += done

    def _run(self) -> None:
        while True:
            ended = self._stopped.wait(_SECONDS)
            with self._lock:
                done, self._done = self._done, {}
            refreshed = {c: each for c, each in done.items() if each.opportunities}
            if refreshed:
                try:
                    self._report(refreshed)
                except Exception:
                    count = sum(each.opportunities for each in refreshed.values())
                    logger.exception("%d refreshes could not be reported to Dagster", count)
            if ended:
                return

    def _report(self, refreshed: Mapping[Collection, WorkedOff]) -> None:
        from dagster import AssetMaterialization

        from rms_pipeline.defs.asset_checks import report_checks
        from rms_pipeline.defs.metadata import refresh_metadata, status_metadata
        from rms_pipeline.mirror.summary import count_rows, refresh_status_counts

        instance = self._instance()
        frame = refresh_status_counts(self._database, self._time_zone)
        for collection, done in refreshed.items():
            with self._database.session() as connection:
                rows = count_rows(connection, collection)
            instance.report_runless_asset_event(
                AssetMaterialization(
                    collection.name,
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
        report_checks(
            instance, self._database, list(refreshed), RUN, seconds=time.monotonic() - self._since
        )
        self._since = time.monotonic()
