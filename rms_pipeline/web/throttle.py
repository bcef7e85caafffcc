"""Slows down guesses of the token, for each address."""

import ipaddress
import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

MOST_FAILURES = 10
WITHIN_SECONDS = 60.0
_HELD_SECONDS = 1.0
# Each answer that is held back is an open connection, so their number is limited.
_MOST_HELD = 20
_MOST_ADDRESSES = 10_000


class Throttle:
    """Counts wrong tokens. For use in one thread, that of the event loop. `clock` gives seconds,
    and `sleep` waits."""

    def __init__(
        self, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._held = 0

    async def slow_down(self, address: str) -> int:
        """Counts a wrong token from `address`, and delays the answer if there were many. Returns
        the whole seconds until wrong tokens from there are answered at once again, 0 if they are
        now."""
        seconds = self._wait(address)
        self._note_failure(address)
        if seconds and self._held < _MOST_HELD:
            self._held += 1
            try:
                await self._sleep(_HELD_SECONDS)
            finally:
                self._held -= 1
        return seconds

    def _wait(self, address: str) -> int:
        times = self._failures.get(_network(address))
        if times is None or len(times) < MOST_FAILURES:
            return 0
        return max(math.ceil(times[0] + WITHIN_SECONDS - self._clock()), 0)

    def _note_failure(self, address: str) -> None:
        """Forgets the address that was not seen for the longest time."""
        network = _network(address)
        self._failures.setdefault(network, deque(maxlen=MOST_FAILURES)).append(self._clock())
        self._failures.move_to_end(network)
        if len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)


def _network(address: str) -> str:
    """An IPv6 customer owns at least a /64, and can send from all of it. So the /64 counts as one
    address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6:
        return str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return str(parsed)
