"""What the web service does beside its requests: each piece of work has a thread of its own."""

import threading

# How long the end of the service waits for each piece of work, such as for calls in flight. All of
# them, and the requests that uvicorn waits for, end within what operate.md says.
END_SECONDS = 4.0


class Background:
    """A thread, called `name`, that does `_run` from `start` until `stop`.

    Each kind of work overrides `_run`, which returns soon after the event `_stopped` is set. One
    that also waits for something else overrides `_wake`, which ends that wait.
    """

    # In seconds. 0 for work that may be cut off anywhere, because it only looks.
    ends_within = END_SECONDS

    def __init__(self, name: str) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Tells the work to end, and waits for that, for at most `ends_within` seconds."""
        self._stopped.set()
        self._wake()
        self._thread.join(timeout=self.ends_within)

    def _run(self) -> None:
        raise NotImplementedError

    def _wake(self) -> None:
        pass
