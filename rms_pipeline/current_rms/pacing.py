"""The request budget: when the next call may be sent.

Calls are spread over time instead of sent in bursts, because the company's other integrations share
the limit. A walk takes at most its share, so that a live refresh always finds room.
"""

import threading
import time
from enum import Enum
from typing import Protocol


class Lane(Enum):
    """Who is asking. A live refresh takes the next slot. A walk leaves room for it."""

    LIVE = "live"
    INCREMENTAL = "incremental"
    WALK = "walk"
    PARTS = "parts"


# Shares of the account's limit. What a lane leaves is room for the lanes above it. While a walk
# takes its whole share, none is left for the lists of parts, which come last.
SHARES = {Lane.LIVE: 1.0, Lane.INCREMENTAL: 0.95, Lane.WALK: 0.9, Lane.PARTS: 0.75}


class Budget(Protocol):
    """Where calls wait for their slot. All threads (or processes) of one account share it."""

    requests_per_minute: int

    def acquire(self, lane: Lane) -> None:
        """Wait until the call may be sent."""
        ...

    def pause(self, seconds: float) -> float:
        """Let no one send for `seconds` or longer, because the API said that the limit is reached.

        Returns for how many seconds.
        """
        ...

    def answered(self) -> None:
        """Note that the API answered a call, so that it does not refuse all calls."""
        ...


class ProcessBudget:
    """A budget for the threads of this process. `requests_per_minute` 0 means no limit."""

    def __init__(self, requests_per_minute: int) -> None:
        self.requests_per_minute = requests_per_minute
        self._lock = threading.Lock()
        self._next_slot = dict.fromkeys(SHARES, 0.0)
        self._paused_until = 0.0

    def acquire(self, lane: Lane) -> None:
        # A call takes a slot of its own lane and of the lanes below, so that their sum is limited
        # too.
        taken = list(SHARES)[list(SHARES).index(lane) :]
        limit = self.requests_per_minute
        while True:
            with self._lock:
                now = time.monotonic()
                slot = max(now, self._paused_until, self._next_slot[lane])
                for other in taken if limit else ():
                    interval = 60 / (limit * SHARES[other])
                    self._next_slot[other] = max(self._next_slot[other], slot) + interval
            if slot > now:
                time.sleep(slot - now)
            # A pause that began while this call waited for its slot applies to it too.
            if time.monotonic() >= self._paused_until:
                return

    def answered(self) -> None:
        pass

    def pause(self, seconds: float) -> float:
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)
            for lane, slot in self._next_slot.items():
                self._next_slot[lane] = max(slot, self._paused_until)
        return seconds
