"""Telling subscribers: real HTTP POSTs from threads of their own, repeated until they are taken."""

import heapq
import itertools
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Annotated

import msgspec
import requests

from rms_pipeline.sandbox.events import Event
from rms_pipeline.sandbox.switches import Number, Seconds
from rms_pipeline.sandbox.webhooks import Webhooks

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]

_HEADERS = {"Content-Type": "application/json", "User-Agent": "rms-sandbox"}
# A thread with nothing to deliver keeps its connection for a while, then both go.
_LINGER = 5.0
_JOIN = 2.0
_QUOTED = 500


@dataclass(slots=True)
class WebhookSwitches:
    """How deliveries go. Probabilities are 0 to 1, times are seconds.

    `duplicated`: an event is delivered twice. `lost`: it is not delivered. Both are drawn for each
    event, the same way for the same `seed`. `delay`: between the change and its first delivery.
    `attempts` are made for each delivery, all with the same `action.id`; the wait between them
    starts at `backoff` and doubles, or is what `Retry-After` says, `longest_wait` at most. As they
    are, six repeats come within 13 hours; `speed` 60 makes minutes of these hours. `in_order`: what
    is to be repeated holds up later events of the same opportunity; else they overtake it.
    `timeout`: for an answer. `in_flight`: how many deliveries of one subscription are under way at
    a time; those of one opportunity begin in their order, and with 1 all do.
    """

    duplicated: Probability = 0.0
    lost: Probability = 0.0
    seed: int = 1
    delay: Seconds = 0.0
    attempts: Number = 7
    backoff: Seconds = 13 * 3_600 / (2**6 - 1)
    longest_wait: Seconds = 24 * 3_600.0
    speed: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    in_order: bool = False
    timeout: Seconds = 10.0
    in_flight: Number = 4


@dataclass(frozen=True, slots=True)
class _Delivery:
    webhook_id: int
    subject_id: int
    body: bytes
    due: float
    attempt: int = 1


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
        self._repeats: list[tuple[float, int, _Delivery]] = []
        self._repeating: threading.Thread | None = None
        self._numbers = itertools.count()
        self._closing = threading.Event()

    def deliver(self, event: Event) -> None:
        """Queues `event` for all its subscribers, and returns at once."""
        switches = self.switches
        ids = self._webhooks.subscribers(event.name)
        with self._lock:
            lost = self._random.random() < switches.lost
            twice = self._random.random() < switches.duplicated
            if lost or not ids or self._closing.is_set():
                return
            body, due = event.body(), time.monotonic() + switches.delay
            for id_ in ids:
                queue = self._queue(self._lane(id_, event.subject_id))
                for _ in range(2 if twice else 1):
                    queue.put(_Delivery(id_, event.subject_id, body, due))
                    self._pending += 1

    def wait_until_idle(self, timeout: float) -> bool:
        """True once every delivery was taken or given up; False when `timeout` seconds passed."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._pending, timeout)

    def close(self) -> None:
        """Ends the threads; what is not delivered yet never will be."""
        with self._lock:
            self._closing.set()
            self._lock.notify_all()
            for queue in self._queues.values():
                queue.put(None)
            threads = [*self._threads.values(), *filter(None, [self._repeating])]
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
                repeated = False
                try:
                    repeated = self._carry_out(session, delivery)
                finally:
                    if not repeated:
                        with self._lock:
                            self._pending -= 1
                            self._lock.notify_all()

    def _carry_out(self, session: requests.Session, delivery: _Delivery) -> bool:
        """True when it is to be repeated later, among what comes meanwhile."""
        self._closing.wait(max(delivery.due - time.monotonic(), 0))
        attempt = delivery.attempt
        while not self._closing.is_set():
            target = self._webhooks.target(delivery.webhook_id)
            if target is None:
                return False
            wait = self._try(session, target, delivery, attempt)
            if wait is None or attempt >= self.switches.attempts:
                return False
            attempt += 1
            if not self.switches.in_order:
                self._repeat(replace(delivery, attempt=attempt, due=time.monotonic() + wait))
                return True
            self._closing.wait(wait)
        return False

    def _repeat(self, delivery: _Delivery) -> None:
        with self._lock:
            heapq.heappush(self._repeats, (delivery.due, next(self._numbers), delivery))
            if self._repeating is None:
                self._repeating = threading.Thread(
                    target=self._put_back, name="webhook repeats", daemon=True
                )
                self._repeating.start()
            self._lock.notify_all()

    def _put_back(self) -> None:
        """Queues again what is due, until there is nothing to be repeated."""
        with self._lock:
            while self._repeats and not self._closing.is_set():
                due, _, delivery = self._repeats[0]
                wait = due - time.monotonic()
                if wait > 0:
                    self._lock.wait(wait)
                    continue
                heapq.heappop(self._repeats)
                self._queue(self._lane(delivery.webhook_id, delivery.subject_id)).put(delivery)
            self._repeating = None

    def _lane(self, webhook_id: int, subject_id: int) -> _Lane:
        return webhook_id, subject_id % self.switches.in_flight

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
        wait = switches.backoff * 2.0 ** (attempt - 1) / switches.speed if asked is None else asked
        return min(wait, switches.longest_wait / switches.speed)


def _describe(error: requests.RequestException) -> str:
    return type(error).__name__


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, where the header is a number of them."""
    said = headers.get("Retry-After", "")
    return float(said) if said.isdigit() else None
