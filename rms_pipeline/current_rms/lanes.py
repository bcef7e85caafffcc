"""Several requests in flight, one consumer: threads that put what they fetch into one outbox."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """Where lanes put things for the one consumer; full when the consumer is behind."""

    def __init__(self, size: int) -> None:
        self._queue: queue.Queue[T | BaseException | None] = queue.Queue(size)
        self.stopped = threading.Event()

    def put(self, item: T | BaseException | None) -> None:
        """Waits while the outbox is full. Raises Stopped when nobody will read any more."""
        while not self.stopped.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue
        raise Stopped

    def get(self) -> T | BaseException | None:
        return self._queue.get()


class Stopped(Exception):
    """The consumer has gone, or another lane failed."""


def in_parallel(lane: Callable[[int, Outbox[T]], None], count: int) -> Iterator[T]:
    """Runs `lane(index, outbox)` for each index below `count` in a thread, yielding what they put.

    The first error of a lane stops the others and is raised here, after what came before it.
    """
    out: Outbox[T] = Outbox(count)

    def run(index: int) -> None:
        with contextlib.suppress(Stopped):
            try:
                lane(index, out)
                out.put(None)
            except Stopped:
                raise
            except BaseException as error:
                out.put(error)

    threads = [
        threading.Thread(target=run, args=(i,), name=f"walk-{i}", daemon=True) for i in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        running = count
        while running:
            item = out.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        out.stopped.set()
