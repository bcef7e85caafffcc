"""Reports the work of the fast lane to Dagster, so that lineage and freshness show it.

Reports are collected for a minute, because an event for every webhook would hide the others. A
materialization discards earlier results of checks, so all checks have to run again. Therefore the
report is a materialization only if a check has a new result. Otherwise it is an observation. So the
freshness, which looks at materializations, depends on syncs only.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.postgres_errors import OutdatedError
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.web.background import Background
from rms_pipeline.web.fast_lane import RUN

if TYPE_CHECKING:
    from dagster import AssetKey, DagsterInstance

    from rms_pipeline.mirror.summary import StatusCount

logger = logging.getLogger(__name__)

# Between two looks at what there is to report, and two reports.
_LOOKS, _REPORTS = 10.0, 60.0


class Reporter(Background):
    """Call it with what was done. It recounts `status_counts`, reports the refreshed rows and
    evaluates the checks. At its end it reports what is left.

    `prefix` are the first parts of the asset keys. Dagster is imported when there is something to
    report, because the pages must not wait for the import.
    """

    def __init__(
        self,
        database: Database,
        instance: "Callable[[], DagsterInstance]",
        time_zone: str,
        prefix: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("reporting")
        self._database, self._instance = database, instance
        self._time_zone, self._prefix = time_zone, tuple(prefix)
        self._lock = threading.Lock()
        self._done: dict[Collection, WorkedOff] = {}
        self._counted: list[StatusCount] | None = None
        self._clock = clock
        self._since, self._reported = clock(), float("-inf")
        # What each check, by its asset and name, said last: whether it passed, else how bad it is.
        self._said: dict[tuple[AssetKey, str], tuple[bool, str]] = {}

    def __call__(self, collection: Collection, done: WorkedOff) -> None:
        with self._lock:
            self._done.setdefault(collection, WorkedOff())
            self._done[collection] += done

    def _run(self) -> None:
        while True:
            ended = self._stopped.wait(_LOOKS)
            self._look(at_once=ended)
            if ended:
                return

    def _look(self, *, at_once: bool = False) -> None:
        """Reports what was done since the last report, unless that was a short time ago."""
        if not at_once and self._clock() - self._reported < _REPORTS:
            return
        with self._lock:
            done, self._done = self._done, {}
        refreshed = {c: each for c, each in done.items() if each.records}
        if not refreshed:
            return
        try:
            self._report(refreshed)
        except OutdatedError as error:
            logger.error("%s", error)
        except Exception:
            count = sum(each.records for each in refreshed.values())
            logger.exception("%d refreshes could not be reported to Dagster", count)
        self._reported = self._clock()

    def _report(self, refreshed: Mapping[Collection, WorkedOff]) -> None:
        from dagster import AssetMaterialization, AssetObservation

        from rms_pipeline.defs.asset_checks import evaluations
        from rms_pipeline.defs.data_versions import tagged, version_of_counts, version_of_table
        from rms_pipeline.defs.metadata import refresh_metadata, status_metadata
        from rms_pipeline.defs.naming import Naming
        from rms_pipeline.mirror.statuses import read_colours
        from rms_pipeline.mirror.summary import count_rows, refresh_status_counts

        instance, naming = self._instance(), Naming(self._prefix)
        counts = refresh_status_counts(self._database, self._time_zone, only_if_changed=True)
        now = self._clock()
        answers = evaluations(
            self._database, list(refreshed), RUN, naming=naming, seconds=now - self._since
        )
        self._since = now
        said = {(e.asset_key, e.check_name): (e.passed, e.severity.value) for e in answers}
        news = {key for (key, name), what in said.items() if self._said.get((key, name)) != what}
        self._said |= said
        for collection, done in refreshed.items():
            with self._database.session() as connection:
                rows = count_rows(connection, collection)
                version = version_of_table(connection, collection)
            key = naming.key(collection.name)
            instance.report_runless_asset_event(
                (AssetMaterialization if key in news else AssetObservation)(
                    key,
                    description="Refreshed by webhooks as they arrived.",
                    metadata=refresh_metadata(done, rows),
                    tags=tagged(version),
                )
            )
        counted = naming.key("status_counts")
        # If its table alone were materialized, Dagster would show the counts as out of date.
        is_due = not news.isdisjoint({counted, naming.key(OPPORTUNITIES.name)})
        if is_due or counts != self._counted:
            with self._database.session() as connection:
                colours = read_colours(connection)
            instance.report_runless_asset_event(
                AssetMaterialization(
                    counted,
                    description="Recounted after webhooks.",
                    metadata=status_metadata(counts, colours),
                    tags=tagged(version_of_counts(counts)),
                )
            )
            self._counted = counts
            news.add(counted)
        for answer in answers:
            if answer.asset_key in news:
                instance.report_runless_asset_event(answer)
