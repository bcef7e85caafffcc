"""Requests to the sandbox that wait until a test lets them continue."""

import contextlib
import itertools
import threading
from collections.abc import Iterator

from rms_pipeline.sandbox import SandboxServer


@contextlib.contextmanager
def held(sandbox: SandboxServer, *, after: int = 0) -> Iterator[threading.Event]:
    """Requests after the first `after` wait for the end of the block. The event is set once one
    waits.

    Faster than a slow API, because no test waits for the rest of its delay.
    """
    number, waits, over = itertools.count(), threading.Event(), threading.Event()

    def hold(_: str) -> None:
        if next(number) >= after:
            waits.set()
            over.wait(120)

    sandbox.before_request = hold
    try:
        yield waits
    finally:
        sandbox.before_request = None
        over.set()
