"""Guessing a token made slow, address by address."""

import ipaddress
import math
from collections import OrderedDict, deque
from collections.abc import Callable

MOST_FAILURES = 10
WITHIN_SECONDS = 60.0
_MOST_ADDRESSES = 10_000


class Throttle:
    """Counts wrong tokens. For one thread: the event loop's. `clock` tells seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, address: str) -> int:
        """Whole seconds until `address` may try again, 0 when it may now."""
        times = self._failures.get(_network(address))
        if times is None or len(times) < MOST_FAILURES:
            return 0
        return max(math.ceil(times[0] + WITHIN_SECONDS - self._clock()), 0)

    def note_failure(self, address: str) -> None:
        """`address` sent a wrong token. The address not heard of for longest is forgotten first."""
        network = _network(address)
        self._failures.setdefault(network, deque(maxlen=MOST_FAILURES)).append(self._clock())
        self._failures.move_to_end(network)
        if len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)


def _network(address: str) -> str:
    """An IPv6 customer owns a /64 at least, and may guess from all of it."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6:
        return str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return str(parsed)
