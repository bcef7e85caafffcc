"""Telling subscribers: real HTTP POSTs from threads of their own, repeated until they are taken."""

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import requests

from rms_pipeline.sandbox.events import Event
from rms_pipeline.sandbox.webhooks import Webhooks

_HEADERS = {"Content-Type": "application/json", "User-Agent": "rms-sandbox"}
# A thread with nothing to deliver keeps its connection for a while, then both go.
_LINGER = 5.0
_JOIN = 2.0
_QUOTED = 500


@dataclass(slots=True)
class WebhookSwitches:
    """How deliveries go. Probabilities are 0 to 1, times are seconds.

    `duplicated`: an event is delivered twice. `lost`: nobody is told of it. Both are drawn for each
    event, the same way for the same `seed`. `delay`: between the change and its first delivery.
    `attempts` are made for each delivery; the wait between them starts at `backoff` and doubles, or
    is what `Retry-After` says, `longest_wait` at most. `timeout`: for an answer. `in_flight`: how
    many deliveries of one subscription are under way at a time; those of one opportunity keep their
    order, and with 1 all do.
    """

    duplicated: float = 0.0
    lost: float = 0.0
    seed: int = 1
    delay: float = 0.0
    attempts: int = 20
    backoff: float = 1.0
    longest_wait: float = 30.0
    timeout: float = 10.0
    in_flight: int = 4


@dataclass(frozen=True, slots=True)
class _Delivery:
    webhook_id: int
    body: bytes
    due: float


_Lane = tuple[int, int]
_Queue = SimpleQueue[_Delivery | None]


class Deliveries:
    """Delivers events to the subscriptions of `webhooks`. `switches` may change at any time."""

    def __init__(self, webhooks: Webhooks, switches: WebhookSwitches | None = None) -> None:
        self.switches = switches or WebhookSwitches()
        self._webhooks = webhooks
        self._random = random.Random(self.switches.seed)
        self._lock = threading.Condition()
        self._queues: dict[_Lane, _Queue] = {}
        self._threads: dict[_Lane, threading.Thread] = {}
        self._pending = 0
        self._closing = threading.Event()

    def deliver(self, event: Event) -> None:
        """Queues `event` for whoever has subscribed to it, and returns at once."""
        switches = self.switches
        ids = self._webhooks.subscribers(event.name)
        with self._lock:
            lost = self._random.random() < switches.lost
            twice = self._random.random() < switches.duplicated
            if lost or not ids or self._closing.is_set():
                return
            body, due = event.body(), time.monotonic() + switches.delay
            for id_ in ids:
                queue = self._queue((id_, event.subject_id % switches.in_flight))
                for _ in range(2 if twice else 1):
                    queue.put(_Delivery(id_, body, due))
                    self._pending += 1

    def wait_until_idle(self, timeout: float) -> bool:
        """True once every delivery was taken or given up; False when `timeout` seconds passed."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._pending, timeout)

    def close(self) -> None:
        """Ends the threads; what is not delivered yet never will be."""
        with self._lock:
            self._closing.set()
            for queue in self._queues.values():
                queue.put(None)
            threads = list(self._threads.values())
        deadline = time.monotonic() + _JOIN
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _queue(self, lane: _Lane) -> _Queue:
        queue = self._queues.get(lane)
        if queue is None:
            queue = self._queues[lane] = SimpleQueue()
            thread = threading.Thread(
                target=self._work, args=(lane, queue), name=f"webhook {lane[0]}", daemon=True
            )
            self._threads[lane] = thread
            thread.start()
        return queue

    def _work(self, lane: _Lane, queue: _Queue) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while True:
                try:
                    delivery = queue.get(timeout=_LINGER)
                except Empty:
                    with self._lock:
                        if not queue.empty():
                            continue
                        del self._queues[lane], self._threads[lane]
                        return
                if delivery is None:
                    return
                try:
                    self._carry_out(session, delivery)
                finally:
                    with self._lock:
                        self._pending -= 1
                        self._lock.notify_all()

    def _carry_out(self, session: requests.Session, delivery: _Delivery) -> None:
        self._closing.wait(max(delivery.due - time.monotonic(), 0))
        attempt = 1
        while not self._closing.is_set():
            target = self._webhooks.target(delivery.webhook_id)
            if target is None:
                return
            wait = self._try(session, target, delivery, attempt)
            if wait is None or attempt >= self.switches.attempts:
                return
            attempt += 1
            self._closing.wait(wait)

    def _try(
        self, session: requests.Session, target: str, delivery: _Delivery, attempt: int
    ) -> float | None:
        """Seconds to wait before the next attempt; None when this one was taken."""
        switches = self.switches
        asked: float | None = None
        try:
            answer = session.post(
                target,
                data=delivery.body,
                headers=_HEADERS,
                timeout=switches.timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            self._webhooks.log(delivery.webhook_id, None, _describe(error))
        else:
            said = answer.content[:_QUOTED].decode(errors="replace")
            self._webhooks.log(delivery.webhook_id, answer.status_code, said)
            if 200 <= answer.status_code < 300:
                return None
            asked = _retry_after(answer.headers)
        backoff = switches.backoff * 2.0 ** (attempt - 1)
        return min(backoff if asked is None else asked, switches.longest_wait)


def _describe(error: requests.RequestException) -> str:
    return type(error).__name__


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, where the header is a number of them."""
    said = headers.get("Retry-After", "")
    return float(said) if said.isdigit() else None
