"""Refreshes the parts (such as items) of records that webhooks named, after the fast lane.

The fast lane wakes it, and it also looks now and then. PostgreSQL holds the lists that have to be
read. Its calls come after all others in the request budget. It reads a limited number of lists at a
time.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg2

from rms_pipeline.collections.base import Collection
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.errors import CurrentRmsError
from rms_pipeline.errors import in_one_line
from rms_pipeline.mirror.database import Database, DatabaseError
from rms_pipeline.sync.parts import refresh_told
from rms_pipeline.sync.queued import WorkedOff
from rms_pipeline.web.background import Background
from rms_pipeline.web.fast_lane import RUN

logger = logging.getLogger(__name__)

# Several events of one edit come one after the other, and need one reading.
_GATHER = 2.0
_LOOK_ANYWAY = 60.0
# After a failure, and twice as long after each further one, up to the longest.
_FIRST_REST, _LONGEST_REST = 2.0, 300.0


class PartsLane(Background):
    """A thread that reads the lists of `collection` until `stop`. Call it with what was refreshed.
    It calls `report` after every batch."""

    def __init__(
        self,
        database: Database,
        collection: Collection,
        client: Callable[[], AbstractContextManager[CurrentRmsClient]],
        report: Callable[[Collection, WorkedOff], None],
        *,
        gather: float = _GATHER,
    ) -> None:
        super().__init__(f"lists of {collection.name}")
        self._database, self._collection = database, collection
        self._client, self._report, self._gather = client, report, gather
        self._told = threading.Event()

    def __call__(self, collection: Collection, done: WorkedOff) -> None:
        """Makes it look soon, if `done` are refreshes of its parent collection."""
        parts = self._collection.parts
        if parts is not None and collection is parts.of and done.records:
            self._told.set()

    def _wake(self) -> None:
        self._told.set()

    def _run(self) -> None:
        rest = _FIRST_REST
        while not self._stopped.is_set():
            self._told.clear()
            try:
                self._work()
            except (psycopg2.Error, DatabaseError, CurrentRmsError) as error:
                text = in_one_line(error)
                logger.warning("%s wait: %s", self._collection.name.capitalize(), text)
            except Exception:
                logger.exception("%s: unexpected", self._collection.name.capitalize())
            else:
                rest = _FIRST_REST
                if self._told.wait(_LOOK_ANYWAY):
                    self._stopped.wait(self._gather)
                continue
            self._stopped.wait(rest)
            rest = min(2 * rest, _LONGEST_REST)

    def _work(self) -> None:
        with self._client() as client:
            while not self._stopped.is_set():
                done = refresh_told(self._database, client, RUN)
                if not done.claimed:
                    return
                self._report(self._collection, done)
