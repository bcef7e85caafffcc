"""The account's request limit."""

import threading
import time

_BURST = 10


class Limit:
    """A token bucket of `per_minute` requests, 0 for none; the real limit's shape is not known."""

    def __init__(self, per_minute: int) -> None:
        self._rate = per_minute / 60
        self._tokens, self._at = float(_BURST), time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> float | None:
        """None when a request may pass now, else the seconds until one may."""
        if not self._rate:
            return None
        with self._lock:
            now = time.monotonic()
            self._tokens = min(_BURST, self._tokens + (now - self._at) * self._rate)
            self._at = now
            if self._tokens >= 1:
                self._tokens -= 1
                return None
            return (1 - self._tokens) / self._rate
