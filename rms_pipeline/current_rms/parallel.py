"""Several requests at a time, one consumer: threads put what they fetch into one outbox."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """Where lanes put results for the one consumer. It is full while the consumer is behind."""

    def __init__(self, size: int) -> None:
        self._queue: queue.Queue[T | BaseException | None] = queue.Queue(size)
        self.stopped = threading.Event()

    def put(self, item: T | BaseException | None) -> None:
        """Put `item`, waiting while the outbox is full. Raises Stopped if the consumer has gone."""
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
    """Run `lane(index, outbox)` in a thread for each index below `count`. Yield what the lanes put.

    The first error of a lane stops the others. It is raised here, after the results before it.
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
