"""The invented account as the answers see it: its records, its switches, what was asked of it."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from rms_pipeline.sandbox.deliveries import Deliveries, WebhookSwitches
from rms_pipeline.sandbox.events import Event
from rms_pipeline.sandbox.faults import Faults
from rms_pipeline.sandbox.limit import Limit
from rms_pipeline.sandbox.store import Store
from rms_pipeline.sandbox.switches import Switches
from rms_pipeline.sandbox.webhooks import Webhooks

SANDBOX_SUBDOMAIN = "sandbox"
SANDBOX_API_KEY = "sandbox-key"


class InventedAccount:
    """`requests_per_minute` 0 means no limit; `latency_ms` delays every answer.

    `requests` holds the last calls as (method, path with query, status). `before_request` is called
    before each, to move the world while a client is reading. `connections` counts those accepted.
    `deliveries` tells the subscriptions of `webhooks` what happens to the store, until `close`.
    `switches` may be replaced at any time.
    """

    def __init__(
        self,
        store: Store,
        *,
        switches: Switches | None = None,
        faults: Faults | None = None,
        webhooks: WebhookSwitches | None = None,
        requests_per_minute: int = 0,
        latency_ms: float = 0,
        api_key: str = SANDBOX_API_KEY,
    ) -> None:
        self.store = store
        self.switches = self.first_switches = switches or Switches()
        self.faults = faults or Faults()
        self.requests: deque[tuple[str, str, int]] = deque(maxlen=100_000)
        self.before_request: Callable[[str], object] | None = None
        self.connections = 0
        self.api_key = api_key
        self.latency = latency_ms / 1000
        self.closing = threading.Event()
        self._limit = Limit(requests_per_minute)
        self.webhooks = Webhooks(store.now)
        self.deliveries = Deliveries(self.webhooks, webhooks)
        self.first_deliveries = replace(self.deliveries.switches)
        self._stop_listening = store.listen(self._raise)

    @property
    def switches(self) -> Switches:
        return self._switches

    @switches.setter
    def switches(self, switches: Switches) -> None:
        self._switches = switches
        self.store.remember(max(switches.lists_lag, switches.singles_lag))

    def _raise(self, event: Event) -> None:
        if self.switches.webhooks_enabled:
            self.deliveries.deliver(event)

    def throttled(self) -> float | None:
        """Seconds until the limit lets the next request through; None when it does now."""
        return self._limit.take()

    def close(self) -> None:
        """Ends deliveries, and releases all requests that wait for an answer."""
        self.closing.set()
        self._stop_listening()
        self.deliveries.close()
