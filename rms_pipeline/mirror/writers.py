"""Several connections that write at the same time: each does the next piece of a long work.

One piece is then decoded while PostgreSQL stores another. Each piece is a transaction of its own,
and the order of the pieces may change nothing.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from threading import Lock
from typing import TypeVar

from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.statements import Connection

Piece = TypeVar("Piece")
Result = TypeVar("Result")

# More would only wait for a processor.
WRITERS = 2


def by_writers(
    database: Database, work: Callable[[Connection, Piece], Result], pieces: Iterable[Piece]
) -> Generator[Result]:
    """Yield the result of `work` for each of `pieces`, in their order.

    `work` commits. It runs in WRITERS threads, each with its own connection, which is opened when
    it is first needed. `pieces` are taken a few ahead of what was yielded, in the caller's thread.
    After an error, which is raised in the place of its result, no further piece is begun.
    Whoever may stop before the end closes the generator (`contextlib.closing`).
    """
    idle: SimpleQueue[Connection] = SimpleQueue()
    opening = Lock()
    with ExitStack() as sessions:

        def write(piece: Piece) -> Result:
            try:
                connection = idle.get_nowait()
            except Empty:
                with opening:
                    connection = sessions.enter_context(database.session())
            try:
                return work(connection, piece)
            finally:
                idle.put(connection)

        # Entered last, so that no writer works when its connection is closed.
        with ThreadPoolExecutor(WRITERS, thread_name_prefix="writer") as pool:
            waiting: deque[Future[Result]] = deque()
            try:
                for piece in pieces:
                    waiting.append(pool.submit(write, piece))
                    if len(waiting) > 2 * WRITERS:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                # Somebody ended it, or a piece failed. Nothing new is begun.
                pool.shutdown(wait=False, cancel_futures=True)
