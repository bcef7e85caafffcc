"""The fast lane: what a webhook told is refreshed at once, by the service that received it.

It waits for PostgreSQL's word that an event was written, by whomever; gathers for a moment, so that
a burst becomes one call; and works off the queue. What it leaves behind is for the sensor.
"""

import logging
import select
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812

from rms_pipeline.current_rms.client import CurrentRmsClient, Patience
from rms_pipeline.mirror.database import Database, DatabaseError, lock_key
from rms_pipeline.mirror.queue import CHANNEL, FAST_LANE_LOCK
from rms_pipeline.sync.queued import WorkedOff, work_off
from rms_pipeline.web.metrics import Metrics

logger = logging.getLogger(__name__)

# Shorter together than the lease of a claim, which an API that keeps silent may outlast.
PATIENCE = Patience(connect=5, read=20, answer=25, attempts=2, throttled=20)
_GATHER, _GATHER_IN_A_BURST, _BURST = 0.03, 0.6, 10
_LOOK_ANYWAY = 1.0
# While the API serves nobody, each rest is twice as long as the one before, up to this.
_LONGEST_REST = 10.0
RUN = "fast lane"

ClientFactory = Callable[[], AbstractContextManager[CurrentRmsClient]]


class FastLane:
    """A thread that works off the queue until `stop`. `report` is told of every batch."""

    def __init__(
        self,
        database: Database,
        client: ClientFactory,
        metrics: Metrics,
        report: Callable[[WorkedOff], None],
    ) -> None:
        self._database, self._client = database, client
        self._metrics, self._report = metrics, report
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fast-lane", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._work()
            except (psycopg2.Error, DatabaseError) as error:
                logger.warning("Fast lane: %s; trying again", " ".join(str(error).split()))
                self._stopped.wait(1)
            except Exception:
                # Whatever it is, the next event deserves another try; the sensor has the rest.
                logger.exception("Fast lane: unexpected")
                self._stopped.wait(5)

    def _work(self) -> None:
        with (
            self._database.session(session=True) as ear,
            self._database.session() as hand,
            self._client() as client,
        ):
            ear.autocommit = True
            with ear.cursor() as cursor:
                # Shared: there may be several receivers, and the sensor asks whether one lives.
                cursor.execute("SELECT pg_advisory_lock_shared(%s)", (lock_key(FAST_LANE_LOCK),))
                cursor.execute(f"LISTEN {CHANNEL}")
            rest = _LOOK_ANYWAY
            while not self._stopped.is_set():
                last = work_off(self._database, hand, client, RUN)
                if last.claimed:
                    now = client.now()
                    self._note(last, [(now - r).total_seconds() for r in last.received_at])
                if last.blameless:
                    # Giving back notifies too, and however much waits, one claim tells enough.
                    self._stopped.wait(rest)
                    rest = min(2 * rest, _LONGEST_REST)
                    continue
                if last.claimed:
                    rest = _LOOK_ANYWAY
                else:
                    self._wait(ear)
                burst = last.opportunities >= _BURST
                self._stopped.wait(_GATHER_IN_A_BURST if burst else _GATHER)

    def _wait(self, ear: Connection) -> None:
        """Until an event is written; and now and then anyway, for attempts that come due."""
        deadline = time.monotonic() + _LOOK_ANYWAY
        while not ear.notifies and not self._stopped.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            select.select([ear], [], [], min(left, 0.5))
            ear.poll()
        ear.notifies.clear()

    def _note(self, done: WorkedOff, seconds: list[float]) -> None:
        self._metrics.refreshed.inc(done.opportunities)
        self._metrics.settled.inc(done.settled)
        self._metrics.failed.inc(done.failed + done.dead)
        for value in seconds:
            self._metrics.end_to_end.observe(value)
        if done.error:
            logger.warning("Fast lane: %d events went back: %s", done.failed, done.error)
        self._report(done)
