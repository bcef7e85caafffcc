"""The fast lane: the service that received a webhook refreshes its record at once.

PostgreSQL notifies it of each new event, from any writer. It waits a moment, so that many events
need few calls, and then processes the queue. The sensor processes what it leaves. A worker takes as
many opportunities as one page holds. If a worker takes long, because of the API or a lock, another
one starts beside it.
"""

import logging
import select
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack

import psycopg2

from rms_pipeline.collections.base import Collection
from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient, Patience
from rms_pipeline.errors import in_one_line
from rms_pipeline.mirror.database import Database, DatabaseError, lock_key
from rms_pipeline.mirror.postgres_errors import OutdatedError
from rms_pipeline.mirror.queue import FAST_LANE_LOCK, channel
from rms_pipeline.mirror.statements import Connection
from rms_pipeline.sync.queued import WorkedOff, work_off
from rms_pipeline.web.background import Background
from rms_pipeline.web.metrics import Metrics

logger = logging.getLogger(__name__)

# The first attempt is short, because a connection may be dead. The second one takes as long as in a
# sync: no event may be left to an API that is never that fast.
PATIENCE = Patience(connect=5, at_first=20, read=60, answer=90, attempts=2, throttled=20)
# At a time; each has two connections to the database while it works.
WORKERS = 4
_TAKES_LONG = 1.0
_GATHER, _BURST = 0.03, 10
# In a burst each call serves more events the longer they gather, and calls are scarce: until none
# has come for a moment.
_GATHER_IN_A_BURST, _QUIET = 0.8, 0.35
# What the threads that refresh are called.
WORKER = "refresh"
_LOOK_ANYWAY = 1.0
# While the API serves nobody, each rest is twice as long as the one before, up to this.
_LONGEST_REST = 10.0
# Only a restart in the newer version ends it, so there is nothing to look for more often.
_OUTDATED_REST = 60.0
RUN = "fast lane"

ClientFactory = Callable[[], AbstractContextManager[CurrentRmsClient]]


class FastLane(Background):
    """Threads that process the queue until `stop`, with one client for each collection. They call
    `report` after every batch. `stop` does not wait for a call that takes too long."""

    def __init__(
        self,
        database: Database,
        clients: Sequence[ClientFactory],
        metrics: Metrics,
        report: Callable[[Collection, WorkedOff], None],
    ) -> None:
        super().__init__("fast-lane")
        self._database, self._clients = database, clients
        self._metrics, self._report = metrics, report

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._work()
            except OutdatedError as error:
                logger.warning("Fast lane: %s", error)
                self._stopped.wait(_OUTDATED_REST)
            except (psycopg2.Error, DatabaseError) as error:
                logger.warning("Fast lane: %s; trying again", in_one_line(error))
                self._stopped.wait(1)
            except Exception:
                # Whatever it is, the next event deserves another try; the sensor has the rest.
                logger.exception("Fast lane: unexpected")
                self._stopped.wait(5)

    def _work(self) -> None:
        with self._database.session(session=True) as ear, ExitStack() as opened:
            clients = [opened.enter_context(client()) for client in self._clients]
            ear.autocommit = True
            with ear.cursor() as cursor:
                # Shared: there may be several receivers, and the sensor asks whether one lives.
                schema = self._database.schema
                key = lock_key(FAST_LANE_LOCK, schema)
                cursor.execute("SELECT pg_advisory_lock_shared(%s)", (key,))
                cursor.execute(f"LISTEN {channel(schema)}")
            hands = _Hands(self._database)
            # The last to enter, so that no worker is at work when what it needs is closed.
            with hands, ThreadPoolExecutor(WORKERS, thread_name_prefix=WORKER) as pool:
                self._keep_at_work(ear, pool, lambda: self._turn(hands, clients))

    def _keep_at_work(
        self, ear: Connection, pool: ThreadPoolExecutor, turn: Callable[[], WorkedOff]
    ) -> None:
        busy: set[Future[WorkedOff]] = set()
        rest = _LOOK_ANYWAY
        while not self._stopped.is_set():
            busy.add(pool.submit(turn))
            ended, busy = wait(busy, _TAKES_LONG, FIRST_COMPLETED)
            while len(busy) >= WORKERS and not self._stopped.is_set():
                more, busy = wait(busy, _TAKES_LONG, FIRST_COMPLETED)
                ended |= more
            done = [each.result() for each in ended]
            if any(each.blameless for each in done):
                # Giving back notifies too, and however much waits, one claim tells enough.
                self._stopped.wait(rest)
                rest = min(2 * rest, _LONGEST_REST)
                continue
            if any(each.claimed for each in done):
                rest = _LOOK_ANYWAY
            elif done:
                self._listen(ear, _LOOK_ANYWAY)
            if any(each.records + each.waiting >= _BURST for each in done):
                self._gather(ear)
            else:
                self._stopped.wait(_GATHER)

    def _turn(self, hands: "_Hands", clients: Sequence[CurrentRmsClient]) -> WorkedOff:
        hand = hands.take()
        total = WorkedOff()
        try:
            for client in clients:
                last = work_off(self._database, hand, client, RUN, most=client.page_size)
                if last.claimed:
                    now = client.now()
                    seconds = [(now - r).total_seconds() for r in last.received_at]
                    self._note(client.collection, last, seconds)
                total += last
        except BaseException:
            hand.close()
            raise
        hands.give_back(hand)
        return total

    def _listen(self, ear: Connection, seconds: float) -> bool:
        """Waits until an event is written, and returns whether one was. Also returns now and then,
        because events that were postponed become due."""
        deadline = time.monotonic() + seconds
        while not ear.notifies and not self._stopped.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            select.select([ear], [], [], min(left, 0.5))
            ear.poll()
        ear.notifies.clear()
        return True

    def _gather(self, ear: Connection) -> None:
        """Waits until no event has arrived for a moment, but not for long."""
        deadline = time.monotonic() + _GATHER_IN_A_BURST
        ear.poll()
        ear.notifies.clear()
        while (left := deadline - time.monotonic()) > 0 and not self._stopped.is_set():
            if not self._listen(ear, min(left, _QUIET)):
                return
            # A notification for each event need not be looked at one by one.
            self._stopped.wait(min(max(left, 0.0), 0.05))

    def _note(self, collection: Collection, done: WorkedOff, seconds: list[float]) -> None:
        if collection is OPPORTUNITIES:
            self._metrics.refreshed.inc(done.records)
        self._metrics.records_refreshed.labels(collection.name).inc(done.records)
        self._metrics.settled.inc(done.settled)
        self._metrics.failed.inc(done.failed + done.dead)
        for value in seconds:
            self._metrics.end_to_end.observe(value)
        if done.error:
            logger.warning("Fast lane: %d events went back: %s", done.failed, done.error)
        self._report(collection, done)


class _Hands:
    """The connections of the workers. Each is used by one worker at a time and kept for the
    next."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._idle: list[Connection] = []

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        for connection in self._idle:
            connection.close()

    def take(self) -> Connection:
        """An idle connection, or a new one."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._database.connect()

    def give_back(self, connection: Connection) -> None:
        self._idle.append(connection)
